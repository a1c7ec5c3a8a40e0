"""Finds where a step became non-finite, the likely cause, and a remedy."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lowerbound.errors import NonFiniteError
from lowerbound.models import Draw, Model


@torch.no_grad()
def diagnose(
    model: Model,
    players: nn.Module,
    optimizer: Optimizer,
    step: int,
    seen: tuple[Tensor, Draw, Tensor],
) -> NonFiniteError:
    """Make the error that names the first non-finite value on the path from data to gradients.

    Args:
        model: the model, with the gradients of the step.
        players: the objective's players, with their gradients.
        optimizer: the optimiser of the parameters.
        step: the number of the refused step, counted from 1.
        seen: the data of the step, their draw, and their mean bound.
    """
    x, draw, bound = seen
    parameters = [*model.named_parameters(), *players.named_parameters()]
    term, tensor = _find_non_finite(parameters, draw, bound, x, model.log_likelihood_name)
    name = type(optimizer).__name__
    rate = max(float(group["lr"]) for group in optimizer.param_groups)
    too_long = f"steps of {name} at learning rate {rate:g} are too long"
    explanation = model.explain_non_finite(draw, too_long)
    if term == "data":
        largest, kind = torch.finfo(x.dtype).max, str(x.dtype).removeprefix("torch.")
        cause = (
            f"the data contain such values, or values beyond ±{largest:.2g}, the limits of {kind}"
        )
        remedy = "drop or fill those rows, or divide the values by a constant"
    elif explanation is not None:
        cause, remedy = explanation
    elif step == 1:
        cause = "the model gives such values before any training"
        remedy = "check its initial weights and the scale of the data (pixels belong in [0, 1])"
    else:
        size, where = max((float(p.abs().max()), name) for name, p in parameters if p.numel())
        cause = (
            f"{too_long} for a bound that sums over {math.prod(x.shape[1:])} dimensions (the "
            f"largest parameter is now {size:.3g}, in {where})"
        )
        remedy = (
            "use optimizer='adam', or a smaller learning_rate, or clip_norm=1.0; a larger "
            "min_scale of the likelihood also helps"
        )
    return NonFiniteError(
        f"step {step}: the {term} is not finite, first in {tensor}. Likely cause: {cause}. "
        f"Remedy: {remedy}. No parameter was changed: the model has its finite values of step "
        f"{step - 1}",
        step=step,
        term=term,
        tensor=tensor,
    )


def _find_non_finite(
    parameters: Iterable[tuple[str, nn.Parameter]],
    draw: Draw,
    bound: Tensor,
    x: Tensor,
    log_likelihood: str,
) -> tuple[str, str]:
    """Find the first term that is not finite: its name, and that of its tensor."""
    q = draw.q
    in_order: list[tuple[str, str, Tensor | None]] = [
        ("data", "x", x),
        ("posterior", "the mean of q(z|x)", getattr(q, "loc", None)),
        ("posterior", "the scale of q(z|x)", getattr(q, "log_scale", None)),
        ("latents", "z", draw.z),
        ("log_likelihood", log_likelihood, draw.log_likelihood),
        ("rate", "KL(q(z|x) || p(z))", draw.rate),
        ("bound", "the objective's bound", bound),
    ]
    for term, tensor, value in in_order:
        if value is not None and not bool(torch.isfinite(value).all()):
            return term, tensor
    for name, parameter in parameters:
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
            return "gradient", name
    return "gradient", "the norm of all gradients together"
