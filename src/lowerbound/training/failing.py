"""What a training says when the numbers end."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowerbound.errors import NonFiniteError
from lowerbound.models import Draw, Model


@torch.no_grad()
def diagnosis(
    model: Model, optimizer: Optimizer, step: int, seen: tuple[Tensor, Draw, Tensor]
) -> NonFiniteError:
    """The first quantity on the way from data to gradient that is not finite, and what to do about it.

    Args:
        model: with the gradients of the step.
        optimizer: of its parameters.
        step: which one was refused, counted from 1.
        seen: its data, the draw made for them, and the bound averaged over them.
    """
    x, draw, bound = seen
    term, tensor = _first_non_finite(model, draw, bound, x)
    rate = max(float(group["lr"]) for group in optimizer.param_groups)
    largest, where = max(
        (float(p.abs().max()), name) for name, p in model.named_parameters() if p.numel()
    )
    name = type(optimizer).__name__
    dimensions = math.prod(x.shape[1:])
    too_long = f"steps of {name} at learning rate {rate:g} are too long"
    explanation = model.explain_non_finite(draw, too_long)
    if term == "data":
        cause, remedy = "the data holds such values", "drop or fill those rows"
    elif explanation is not None:
        cause, remedy = explanation
    elif step == 1:
        cause = "the model gives such values before any training"
        remedy = "check its initial weights and the scale of the data (pixels belong in [0, 1])"
    else:
        cause = (
            f"{too_long} for a bound that sums over {dimensions} dimensions "
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


def _first_non_finite(model: Model, draw: Draw, bound: Tensor, x: Tensor) -> tuple[str, str]:
    q = draw.q
    on_the_way: list[tuple[str, str, Tensor | None]] = [
        ("data", "x", x),
        ("posterior", "the mean of q(z given x)", getattr(q, "loc", None)),
        ("posterior", "the scale of q(z given x)", getattr(q, "log_scale", None)),
        ("latents", "z", draw.z),
        ("log_likelihood", model.log_likelihood_name, draw.log_likelihood),
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
