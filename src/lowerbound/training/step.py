"""A training step, and what it says when the numbers end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from lowerbound.errors import NonFiniteError
from lowerbound.models import Draw, Model
from lowerbound.objectives import Objective
from lowerbound.scoring import terms_of


@dataclass(eq=False)
class TrainingStep:
    """One step: from parameters, optimiser state and a batch to new ones and the bound's terms, ``[B]`` each.

    The bound and the norm of all gradients are checked before the optimiser sees them, so that it is never fed anything
    that is not a number.

    Args:
        model: is changed in place.
        objective: is maximised, averaged over the batch.
        optimizer: of the model's parameters.
        clip_norm: gradients whose total norm is larger are scaled down to it.
    """

    model: Model
    objective: Objective
    optimizer: Optimizer
    clip_norm: float | None = None
    taken: int = 0

    def __post_init__(self) -> None:
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        # Running statistics, which the forward pass changes, go back to what they were if the step is refused.
        kept = self.model.state_dict(keep_vars=True)
        self.buffers = [buffer for name, buffer in self.model.named_buffers() if name in kept]

    def __call__(self, x: Tensor) -> dict[str, Tensor]:
        """Take the step.

        Raises:
            NonFiniteError: if the bound or a gradient is not finite; no parameter has been touched.
        """
        self.model.zero_grad(set_to_none=True)
        buffers = [buffer.clone() for buffer in self.buffers]
        draw = self.model.draw(x, self.objective.samples, self.objective.gradient)
        bound = self.objective(draw).mean()
        (-bound).backward()
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if not bool(torch.isfinite(bound) & torch.isfinite(norm)):
            for buffer, before in zip(self.buffers, buffers, strict=True):
                buffer.copy_(before)
            raise self._diagnosis(draw, bound, x)
        terms = terms_of(self.objective, draw, len(x))  # what was not read yet must be computed before the update
        if self.clip_norm is not None:
            clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        self.taken += 1  # before the update, so that one cut short is not mistaken for none
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def _diagnosis(self, draw: Draw, bound: Tensor, x: Tensor) -> NonFiniteError:
        """The first quantity on the way from data to gradient that is not finite, and what to do about it."""
        step = self.taken + 1
        term, tensor = _first_non_finite(self.model, draw, bound, x)
        rate = max(float(group["lr"]) for group in self.optimizer.param_groups)
        largest, where = max((float(p.abs().max()), name) for name, p in self.model.named_parameters() if p.numel())
        name = type(self.optimizer).__name__
        dimensions = math.prod(x.shape[1:])
        if term == "data":
            cause, remedy = "the data holds such values", "drop or fill those rows"
        elif step == 1:
            cause = "the model gives such values before any training"
            remedy = "check its initial weights and the scale of the data (pixels belong in [0, 1])"
        else:
            cause = (
                f"steps of {name} at learning rate {rate:g} are too long for a bound that sums over {dimensions} dimensions "
                f"(the largest parameter is now {largest:.3g}, in {where})"
            )
            remedy = "use optimizer='adam', or a smaller learning_rate, or clip_norm=1.0; a larger min_scale of the likelihood also helps"
        return NonFiniteError(
            f"step {step}: the {term} is not finite, first in {tensor}. Likely cause: {cause}. Remedy: {remedy}. "
            f"No parameter was changed: the model has its finite values of step {step - 1}",
            step=step,
            term=term,
            tensor=tensor,
        )


def _first_non_finite(model: nn.Module, draw: Draw, bound: Tensor, x: Tensor) -> tuple[str, str]:
    q = draw.q
    on_the_way: list[tuple[str, str, Tensor | None]] = [
        ("data", "x", x),
        ("posterior", "the mean of q(z given x)", getattr(q, "loc", None)),
        ("posterior", "the scale of q(z given x)", getattr(q, "log_scale", None)),
        ("latents", "z", draw.z),
        ("log_likelihood", "log p(x given z)", draw.log_likelihood),
        ("rate", "KL(q(z given x) || p(z))", draw.rate),
        ("bound", "the objective's bound", bound),
    ]
    for term, tensor, value in on_the_way:
        if value is not None and not bool(torch.isfinite(value).all()):
            return term, tensor
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return "gradient", name
    return "gradient", "the norm of all gradients together"
