"""What a training says when the numbers end."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowerbound.errors import NonFiniteError
from lowerbound.models import Draw, LogJoint


@torch.no_grad()
def diagnose(
    model: nn.Module, optimizer: Optimizer, step: int, seen: tuple[Tensor, Draw, Tensor]
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
    if term == "data":
        cause, remedy = "the data holds such values", "drop or fill those rows"
    elif isinstance(model, LogJoint):
        tensor = tensor.replace("log p(x given z)", "the log joint")
        cause, remedy = _in_a_log_joint(
            model, draw, f"steps of {name} at learning rate {rate:g} are too long"
        )
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


def _in_a_log_joint(model: LogJoint, draw: Draw, too_long: str) -> tuple[str, str]:
    """The variables' values where the log joint is not finite, and what to do about it."""
    broken = ~draw.log_likelihood.isfinite()
    if not bool(broken.any()):
        return (
            too_long,
            "begin with model.start(), or take a smaller learning_rate or clip_norm=1.0",
        )
    values, _ = model.values(draw.z[broken][:1])
    shown = ", ".join(f"{name} = {_short(value[0])}" for name, value in values.items())
    remedy = "look at it there; give variables the supports they have (lb.Variable); begin with model.start(), or take a smaller learning_rate"
    return f"it has no finite value at {shown}", remedy


def _short(value: Tensor) -> str:
    """The first numbers of a value."""
    numbers = [f"{number:.4g}" for number in value.flatten()[:4].tolist()]
    if value.dim() == 0:
        return numbers[0]
    return f"[{', '.join(numbers)}{', ...' if value.numel() > len(numbers) else ''}]"


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
