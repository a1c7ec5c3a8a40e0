"""Parts of a model that can say how they were made, so that a saved model is rebuilt without running code from a file.

A describable class keeps each argument of its constructor as an attribute of the same name. :func:`describe` reads them
into plain JSON values, and :func:`build` calls the constructors again. A file can name only classes that registered here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any, TypeVar

from lowerbound.errors import SettingsError, StorageError

KINDS: dict[str, type] = {}

Class = TypeVar("Class", bound=type)


def describable(cls: Class) -> Class:
    """Class decorator: instances can be described, provided that each constructor argument is kept under its own name.

    Raises:
        SettingsError: if another class of that name is registered.
    """
    known = KINDS.setdefault(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise SettingsError(
            f"describable: {known.__module__}.{known.__qualname__} is registered as {cls.__name__!r}; name your class otherwise"
        )
    KINDS[cls.__name__] = cls  # anew where a notebook's cell defines it again
    return cls


def describe(value: Any) -> Any:
    """What ``value`` is made of, in JSON's types; an object of a foreign class is described by its class's name alone.

    Raises:
        StorageError: if a describable object does not keep an argument of its constructor.

    Example:
        >>> import lowerbound as lb
        >>> describe(lb.StandardNormal(2))
        {'kind': 'StandardNormal', 'shape': [2]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [describe(entry) for entry in value]
    cls = type(value)
    if KINDS.get(cls.__name__) is not cls:
        owner = value if inspect.isfunction(value) or inspect.isclass(value) else cls
        return {"foreign": f"{owner.__module__}.{owner.__qualname__}"}
    names = list(inspect.signature(cls).parameters)
    lost = [name for name in names if not hasattr(value, name)]
    if lost:
        raise StorageError(
            f"{cls.__name__} is describable, but keeps no attribute {lost[0]!r}; set self.{lost[0]} = {lost[0]}"
        )
    return {"kind": cls.__name__} | {name: describe(getattr(value, name)) for name in names}


def foreign_parts(description: Any, path: str = "model") -> Iterator[tuple[str, str]]:
    """The places in a description that cannot be rebuilt from it: pairs of a path and a class's name."""
    if isinstance(description, list):
        for position, entry in enumerate(description):
            yield from foreign_parts(entry, f"{path}[{position}]")
    elif isinstance(description, dict):
        if "foreign" in description:
            yield path, description["foreign"]
        for name, entry in description.items():
            yield from foreign_parts(entry, f"{path}.{name}")


def build(description: Any) -> Any:
    """The value that was described.

    Raises:
        StorageError: if the description names a class that is not lowerbound's, or arguments that it does not take.
    """
    if isinstance(description, list):
        return tuple(build(entry) for entry in description)
    if not isinstance(description, dict):
        return description
    arguments = dict(description)
    kind = arguments.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise StorageError(
            f"the description names {kind or description.get('foreign')!r}, which is not a registered part; import the "
            "module that registers it with lowerbound.describable, or pass a constructor"
        )
    try:
        return KINDS[kind](**{name: build(entry) for name, entry in arguments.items()})
    except TypeError as error:
        raise StorageError(
            f"the description of {kind} does not fit this version of lowerbound: {error}"
        ) from None


def completed(description: Any) -> Any:
    """A description with the settings that its parts did not have yet when it was written, at their defaults.

    Example:
        >>> import lowerbound as lb
        >>> completed({"kind": "ELBO", "samples": 7}) == describe(lb.ELBO(samples=7))
        True
    """
    if isinstance(description, list):
        return [completed(entry) for entry in description]
    if not isinstance(description, dict):
        return description
    known = {name: completed(entry) for name, entry in description.items()}
    kind = KINDS.get(str(known.get("kind")))
    parameters = inspect.signature(kind).parameters.values() if kind is not None else ()
    return {
        entry.name: describe(entry.default)
        for entry in parameters
        if entry.default is not entry.empty
    } | known
