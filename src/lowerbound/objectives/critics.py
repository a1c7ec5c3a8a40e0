"""Critics: networks that objectives own, and train to distinguish two sets of latents."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lowerbound.errors import SettingsError, ShapeError
from lowerbound.objectives.schedules import Schedule, check_number


def check_critic(name: str, critic: Any, learning_rate: Any) -> None:
    """Check the critic of an objective, and its learning rate.

    Raises:
        SettingsError: naming the objective and the setting.
    """
    if not isinstance(critic, nn.Module):
        raise SettingsError(
            f"{name}: critic must be a torch.nn.Module from z to a logit, such as "
            f"lb.mlp(10, 256, 256, 1), not {type(critic).__name__}"
        )
    if isinstance(learning_rate, Schedule):
        raise SettingsError(
            f"{name}: learning_rate must be a number; the schedule of fit changes it, too"
        )
    if learning_rate is not None:
        check_number(f"{name}: learning_rate", learning_rate, 0)


def compute_logits(name: str, critic: nn.Module, z: Tensor) -> Tensor:
    """Compute the critic's logit of each draw, ``[K, B]``, from latents ``[K, B, *units]``.

    Raises:
        ShapeError: if the critic cannot take the latents, or does not give one logit for each draw,
            naming the objective.
    """
    flat = z.flatten(2)
    try:
        logits: Tensor = critic(flat)
    except torch.OutOfMemoryError:
        raise
    except (ShapeError, RuntimeError) as error:
        raise ShapeError(
            f"{name}: the critic cannot take draws of {flat.shape[-1]} latents, which have the "
            f"shape {tuple(flat.shape)}; give it that many inputs ({error})"
        ) from None
    if logits.shape != (*z.shape[:2], 1):
        raise ShapeError(
            f"{name}: for latents of shape {tuple(z.shape)} the critic gives the shape "
            f"{tuple(logits.shape)}; it must give one logit for each draw, {(*z.shape[:2], 1)}"
        )
    return logits[..., 0]


def compute_cross_entropy(of_first: Tensor, of_second: Tensor) -> Tensor:
    r"""Compute a critic's loss, ``[B]``, from its logits of two sets of latents, ``[K, B]`` each.

    .. math:: \tfrac12 \mathbb E_{\text{first}}[-\log \sigma(f)] +
              \tfrac12 \mathbb E_{\text{second}}[-\log(1 - \sigma(f))]

    It is log 2 if the critic cannot distinguish them. The critic with the smallest loss gives the
    log ratio of the two densities.
    """
    return 0.5 * (softplus(-of_first) + softplus(of_second)).mean(0)
