"""The device and the floating type of a model."""

from __future__ import annotations

import torch
from torch import nn


def get_device(model: nn.Module) -> torch.device:
    """The device of a model's parameters; the CPU for a model without parameters."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def get_dtype(model: nn.Module) -> torch.dtype:
    """The floating type of a model's data: that of its parameters, but float32 at least."""
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.promote_types(own, torch.float32)


def synchronize(device: torch.device) -> None:
    """Wait for a device, so that time can be measured."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
