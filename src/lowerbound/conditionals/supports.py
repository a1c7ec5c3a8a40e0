"""Supports of variables in JSON's types, so that a file can say what its numbers mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint

from lowerbound.errors import StorageError

_CLASSES: dict[str, type[Constraint]] = {
    name: value
    for name, value in vars(constraints).items()
    if isinstance(value, type) and issubclass(value, Constraint)
}
_INSTANCES: dict[str, Constraint] = {
    name: value for name, value in vars(constraints).items() if isinstance(value, Constraint)
}


def describe_support(support: Constraint) -> Any:
    """Describe one of ``torch.distributions.constraints``; of any other, its ``repr``.

    Example:
        >>> describe_support(constraints.simplex), describe_support(constraints.greater_than(2.0))
        ('simplex', {'kind': 'greater_than', 'lower_bound': 2.0})
    """
    for name in constraints.__all__:
        if _CLASSES.get(name) is type(support):
            arguments = {key: _describe_argument(value) for key, value in vars(support).items()}
            return {"kind": name} | arguments
    for name in constraints.__all__:
        if _INSTANCES.get(name) is support:
            return name
    return {"foreign": repr(support)}


def build_support(description: Any) -> Constraint:
    """Build the support that was described.

    Raises:
        StorageError: if it is not one of ``torch.distributions.constraints``.
    """
    if isinstance(description, str) and description in _INSTANCES:
        return _INSTANCES[description]
    if isinstance(description, Mapping) and description.get("kind") in constraints.__all__:
        try:
            arguments = {
                name: _build_argument(value)
                for name, value in description.items()
                if name != "kind"
            }
            return _CLASSES[description["kind"]](**arguments)
        except (KeyError, TypeError, ValueError, AttributeError):  # of a damaged file
            pass
    raise StorageError(
        f"the support {describe_in_words(description)} cannot be rebuilt from a file; pass a "
        "function that makes the model as constructor"
    )


def describe_in_words(description: Any) -> str:
    """A described support as it is written in Python.

    Example:
        >>> describe_in_words({"kind": "interval", "lower_bound": 0.0, "upper_bound": 2.0})
        'interval(0.0, 2.0)'
    """
    if isinstance(description, Mapping):
        if "tensor" in description:
            return str(description["tensor"])
        values = [value for name, value in description.items() if name not in ("kind", "foreign")]
        if "kind" not in description:
            return str(description.get("foreign"))
        return f"{description['kind']}({', '.join(map(describe_in_words, values))})"
    return str(description)


def _describe_argument(value: Any) -> Any:
    if isinstance(value, Constraint):
        return describe_support(value)
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, tuple | list):
        return [_describe_argument(entry) for entry in value]
    return value


def _build_argument(value: Any) -> Any:
    if isinstance(value, Mapping) and "tensor" in value:
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
    if _has_floats(value):  # an earlier version wrote tensors as lists
        return torch.tensor(value)
    if isinstance(value, str | Mapping):
        return build_support(value)
    if isinstance(value, list):
        return [_build_argument(entry) for entry in value]
    return value


def _has_floats(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
        if isinstance(value, float):
            return True
    return False
