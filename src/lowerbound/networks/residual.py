"""Residual blocks, of fully connected or of convolutional layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowerbound.errors import SettingsError


class Residual(nn.Module):
    """``x + branch(x)`` (He et al. 2016, "Identity mappings in deep residual networks").

    Args:
        branch: layers that keep the shape; the last has a weight, which is scaled once.
        count: the number of blocks in the network. The weights of the last layer are divided by its
            square root, so that the variance of the sum does not grow with the depth (Child 2021).
    """

    def __init__(self, branch: nn.Sequential, count: int) -> None:
        super().__init__()
        self.branch = branch
        last: Any = branch[-1]
        with torch.no_grad():
            last.weight.mul_(count**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, ...]`` to the same shape."""
        y: Tensor = self.branch(x)
        return x + y


def check_blocks(name: str, residual: int) -> int:
    """Return the number of residual blocks after each layer; ``True`` means one.

    Raises:
        SettingsError: if it is not a whole number of at least 0.
    """
    if not isinstance(residual, int) or residual < 0:
        raise SettingsError(
            f"{name}: residual={residual!r} must be True, False, or the number of residual blocks "
            "of each layer"
        )
    return int(residual)


def check_norm(name: str, norm: str | None, known: str) -> None:
    """Check the name of a normalisation.

    Raises:
        SettingsError: if it is neither ``None`` nor the known one.
    """
    if norm not in (None, known):
        raise SettingsError(f"{name}: norm={norm!r} is unknown; choose {known!r} or None")


def count_groups(channels: int) -> int:
    """Count the groups of a group normalisation: up to 8, of at least 4 channels each.

    A group of one channel would remove the channel's mean, and with it the effect of a bias.

    Example:
        >>> count_groups(64), count_groups(16), count_groups(3)
        (8, 4, 1)
    """
    most = max(1, min(8, channels // 4))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)
