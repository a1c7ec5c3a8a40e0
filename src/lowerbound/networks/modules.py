"""A check of the modules that others are made of."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.distributions import Distribution

from lowerbound.errors import SettingsError


def check_module(where: str, value: Any, wanted: str) -> None:
    """Check that a value is a module.

    Args:
        where: what was given the value, and as what: ``"Gaussian: network"``.
        value: any object.
        wanted: an example of a module that would do.

    Raises:
        SettingsError: saying what was given instead.
    """
    if isinstance(value, nn.Module):
        return
    found = f"not {value!r}"
    if isinstance(value, type):
        found = f"not the class {value.__name__}; call it: {value.__name__}(...)"
    elif isinstance(value, Distribution):
        found = f"not the distribution itself, a {type(value).__name__}; let its forward return it"
    raise SettingsError(f"{where} must be a module, such as {wanted}, {found}")
