"""Renamed public names: an old name works for one version and warns with the new name."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def warn_of_old_name(old: str, new: str, *, stacklevel: int = 3) -> None:
    """Warn that ``old`` is now called ``new``; ``stacklevel`` points at the line that uses it."""
    warnings.warn(
        f"{old} is now called {new}; the old name will be removed in the next version",
        DeprecationWarning,
        stacklevel=stacklevel,
    )


class OldAttribute:
    """The old name of an attribute or a method, which forwards to the new one.

    Example:
        >>> class Draw:
        ...     log_q_stopgrad_z = 1.5
        ...     log_q_at_fixed_z = OldAttribute("log_q_stopgrad_z")
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     Draw().log_q_at_fixed_z
        1.5
        >>> str(caught[0].message).partition(";")[0]
        'Draw.log_q_at_fixed_z is now called Draw.log_q_stopgrad_z'
    """

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.old = name

    def __get__(self, instance: Any, owner: type) -> Any:
        kind = owner.__name__
        warn_of_old_name(f"{kind}.{self.old}", f"{kind}.{self.new}")
        return getattr(owner if instance is None else instance, self.new)


def accept_old_keywords(**renamed: str) -> Callable[[Function], Function]:
    """Decorator: keyword arguments of old names are passed on under their new ones.

    Args:
        renamed: the new name of each old one.

    Example:
        >>> @accept_old_keywords(half="bfloat16")
        ... def step(*, bfloat16=False):
        ...     return bfloat16
        >>> with warnings.catch_warnings():
        ...     warnings.simplefilter("ignore")
        ...     step(half=True)
        True
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            for old in renamed.keys() & named.keys():
                new = renamed[old]
                warn_of_old_name(f"{function.__qualname__}({old}=)", f"{new}=")
                named[new] = named.pop(old)
            return function(*given, **named)

        return call  # type: ignore[return-value]

    return decorate


def forward_old_names(module: str, renamed: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's ``__getattr__`` for names that moved or were renamed.

    Args:
        module: ``__name__`` of the module that had them.
        renamed: the new place of each old name, as ``"package.module.name"``.
    """
    from importlib import import_module

    def get(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        home, _, new = renamed[name].rpartition(".")
        warn_of_old_name(f"{module}.{name}", renamed[name])
        return getattr(import_module(home), new)

    return get
