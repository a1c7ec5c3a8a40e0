"""Modes that apply within a block, and restore everything afterwards: evaluation, and a seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributions import Distribution


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Within the block models are in evaluation mode, and no gradients are recorded.

    Afterwards the mode of every module is restored.
    """
    training = [module for model in models for module in model.modules() if module.training]
    for model in models:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Within the block torch draws from ``seed``, unless it is ``None``.

    Afterwards torch continues as if nothing had been drawn.
    """
    if seed is None:
        yield
        return
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        # Not torch.manual_seed, which would also seed devices whose state is not restored.
        torch.default_generator.manual_seed(seed)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def without_argument_checks() -> Iterator[None]:
    """Within the block, torch's distributions do not check their arguments.

    So a density at a point outside the support is an impossible value instead of an error.
    """
    before = Distribution._validate_args
    Distribution._validate_args = False
    try:
        yield
    finally:
        Distribution._validate_args = before
