"""A check of the modules that others are made of."""

from __future__ import annotations

import inspect
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


def check_called_without_values(where: str, module: nn.Module, wanted: str) -> None:
    """Check that the forward of a module needs nothing but the fields that the module names.

    Args:
        where: what was given the module, and as what: ``"LatentModel: prior"``.
        module: what is called with fields only, such as a prior.
        wanted: an example of a module that would do.

    Raises:
        SettingsError: naming what the forward needs.
    """
    fields = {*getattr(module, "needs", ()), *getattr(module, "accepts", ())}
    for name, argument in inspect.signature(module.forward).parameters.items():
        is_variadic = argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD)
        if is_variadic or argument.default is not argument.empty or name in fields:
            continue
        raise SettingsError(
            f"{where} is called without values, and must return a distribution, such as {wanted}; "
            f"the forward of {type(module).__name__} needs {name!r}"
        )
