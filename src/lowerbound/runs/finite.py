"""The one rule for which values a model may have when it is trained further, saved or loaded."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm


def find_non_finite(tensors: Mapping[str, Tensor], buffers: Collection[str] = ()) -> str | None:
    """Find the first tensor with values that it may not have; ``None`` if there is none.

    No value may be NaN. Only a buffer, such as an attention mask, may be infinite, since no
    optimiser changes it.

    Args:
        tensors: The tensors by name.
        buffers: The names of those that are buffers.

    Example:
        >>> values = {"weight": torch.ones(2), "mask": torch.tensor([0.0, -math.inf])}
        >>> find_non_finite(values), find_non_finite(values, buffers={"mask"})
        ('mask', None)
    """
    floating = {
        name: value
        for name, value in tensors.items()
        if value.is_floating_point() and value.numel()
    }
    # One wait for the device, instead of one for each tensor.
    if bool(torch.isfinite(get_total_norm(list(floating.values()), math.inf))):
        return None
    for name, value in floating.items():
        if bool(value.isnan().any()) or (name not in buffers and bool(value.isinf().any())):
            return name
    return None


def list_buffers(*modules: nn.Module) -> set[str]:
    """List the names of the buffers of modules."""
    return {name for module in modules for name, _ in module.named_buffers(remove_duplicate=False)}
