"""Named variables of any shape and support, as one vector of real numbers for a posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from lowerbound.conditionals.bijections import find_bijection
from lowerbound.errors import SettingsError, ShapeError
from lowerbound.runtime.renaming import OldAttribute


@dataclass(frozen=True)
class Variable:
    """The shape and the support of a variable.

    Args:
        shape: of one value; ``()`` for a scalar.
        support: the allowed values: any of ``torch.distributions.constraints`` to which torch has a
            bijection, such as ``positive``, ``unit_interval``, ``interval(a, b)``, ``simplex`` or
            ``corr_cholesky``.

    Raises:
        SettingsError: if the shape or the support cannot be used.

    Example:
        >>> Variable((3,), constraints.simplex).free_size  # the third share follows from two
        2
    """

    shape: tuple[int, ...] = ()
    support: Any = constraints.real

    def __post_init__(self) -> None:
        if not isinstance(self.shape, int | tuple | list):
            raise SettingsError(
                f"Variable: shape={self.shape!r} must be a tuple of whole numbers; the support "
                "comes second"
            )
        if not isinstance(self.support, constraints.Constraint):
            raise SettingsError(
                f"Variable: support={self.support!r} must be one of "
                "torch.distributions.constraints, such as constraints.positive"
            )
        if self.support.is_discrete:
            raise SettingsError(
                f"Variable: the support {self.support} is discrete, but a posterior is over real "
                "numbers. Leave the variable out and sum it out of the log joint: compute the log "
                "joint of each of its values, as with mean[:, None] for K draws and all values at "
                "once, and return torch.logsumexp(log_joints, -1) over the values"
            )
        shape = self.shape
        if isinstance(shape, int):
            shape = (shape,)
        object.__setattr__(self, "shape", tuple(shape))
        if not all(
            isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in self.shape
        ):
            raise SettingsError(
                f"Variable: shape={self.shape!r} must be a tuple of whole numbers of at least 1"
            )
        try:
            zeros = torch.zeros(self.free_shape)
            self.transform.log_abs_det_jacobian(zeros, self.transform(zeros))
        except NotImplementedError:
            raise SettingsError(
                f"Variable: torch has no bijection to {self.support}; give a constraint such as "
                "positive, simplex or interval"
            ) from None
        except ValueError as error:
            raise SettingsError(
                f"Variable: the shape {self.shape} does not fit {self.support}: {error}"
            ) from None

    @property
    def transform(self) -> Transform:
        """From real numbers of ``free_shape`` to values."""
        return find_bijection(self.support)

    @property
    def free_shape(self) -> tuple[int, ...]:
        """The shape of the unconstrained real numbers that represent a value."""
        return tuple(self.transform.inverse_shape(self.shape))

    @property
    def free_size(self) -> int:
        """The number of unconstrained real numbers that represent a value."""
        return math.prod(self.free_shape)

    numbers = OldAttribute("free_size")


class Variables:
    """Named variables, represented by one vector of real numbers.

    Args:
        variables: by name, in the order of the vector. A tuple is the shape of a real variable, a
            whole number the length of a real vector.

    Raises:
        SettingsError: if the mapping is empty, if a name cannot be the name of an argument, or if
            a value is not a :class:`Variable`, a tuple or a whole number.

    Example:
        >>> both = Variables({"mean": (2,), "scale": Variable((), constraints.positive)})
        >>> values, log_det = both.values(torch.zeros(5, 3))
        >>> values["mean"].shape, values["scale"], log_det
        (torch.Size([5, 2]), tensor([1., 1., 1., 1., 1.]), tensor([0., 0., 0., 0., 0.]))
    """

    def __init__(self, variables: Mapping[str, Variable | tuple[int, ...] | int]) -> None:
        if not isinstance(variables, Mapping):
            raise SettingsError(
                f"LogJoint: variables={variables!r} must be a dictionary from names to shapes: "
                "{'mean': (2,)}"
            )
        if not variables:
            raise SettingsError(
                "LogJoint needs at least one variable; give names with shapes: {'mean': (2,)}"
            )
        self.parts: dict[str, Variable] = {
            name: _make_variable(name, value) for name, value in variables.items()
        }
        self.sizes = [part.free_size for part in self.parts.values()]
        self.size = sum(self.sizes)

    def values(self, free: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The values that a vector of real numbers represents, and the log determinant of the map.

        Args:
            free: ``[*leading, size]``.

        Returns:
            Values ``[*leading, *shape]`` by name, and the log absolute determinant of the Jacobian,
            ``[*leading]``.
        """
        leading = free.shape[:-1]
        values, log_det = {}, free.new_zeros(leading)
        for (name, part), flat in zip(self.parts.items(), free.split(self.sizes, -1), strict=True):
            free_values = flat.reshape(*leading, *part.free_shape)
            transform = part.transform
            values[name] = transform(free_values)
            if part.support is not constraints.real:
                change = transform.log_abs_det_jacobian(free_values, values[name])
                log_det = log_det + change.reshape(*leading, -1).sum(-1)
        return values, log_det

    def names(self) -> list[str]:
        """A name for each real number: the variable's name and a position, as in ``effect[2]``."""
        return [
            _name_entry(name, position)
            for name, part in self.parts.items()
            for position in product(*map(range, part.free_shape))
        ]

    def point(self, values: Mapping[str, Any]) -> Tensor:
        """The real numbers ``[size]`` that represent one value of each variable.

        Raises:
            SettingsError: if a variable is missing or unknown, or has no such value.
            ShapeError: if one has another shape.
        """
        for name, part in self.parts.items():
            if name in values:
                value = torch.as_tensor(values[name])
                if value.shape != part.shape:
                    raise ShapeError(
                        f"{name} has the shape {tuple(value.shape)}, but needs {part.shape}"
                    )
                _refuse_impossible(name, part, value)
        free = self.free(values)
        for name, part in zip(self.parts, free.split(self.sizes), strict=True):
            if not bool(part.isfinite().all()):
                raise SettingsError(
                    f"{name}: {torch.as_tensor(values[name]).tolist()} lies on the boundary of its "
                    "support; give a value inside"
                )
        return free

    def free(self, values: Mapping[str, Any]) -> Tensor:
        """The vector of real numbers, ``[*leading, size]``, that represents these values.

        Raises:
            SettingsError: if a variable is missing or unknown.
            ShapeError: if one has another shape.
        """
        if values.keys() != self.parts.keys():
            odd = ", ".join(sorted(values.keys() ^ self.parts.keys()))
            raise SettingsError(
                f"give a value for each of {', '.join(self.parts)}; missing or unknown: {odd}"
            )
        pieces = []
        for name, part in self.parts.items():
            value = torch.as_tensor(values[name])
            leading = value.shape[: value.dim() - len(part.shape)]
            if value.shape[len(leading) :] != part.shape:
                raise ShapeError(
                    f"{name} has the shape {tuple(value.shape)}, which does not end in {part.shape}"
                )
            pieces.append(part.transform.inv(value).reshape(*leading, part.free_size))
        return torch.cat(pieces, -1)


def _refuse_impossible(name: str, part: Variable, value: Tensor) -> None:
    if not bool(part.support.check(value).all()) or not bool(value.isfinite().all()):
        raise SettingsError(
            f"{name} cannot have the value {value.tolist()}; give finite values in {part.support}"
        )


def _name_entry(name: str, position: tuple[int, ...]) -> str:
    if not position:
        return name
    return f"{name}[{', '.join(map(str, position))}]"


def _make_variable(name: str, value: Any) -> Variable:
    if not isinstance(name, str) or not name.isidentifier():
        raise SettingsError(
            f"LogJoint: {name!r} cannot be the name of an argument of the log joint; use a Python "
            "identifier"
        )
    if isinstance(value, Variable):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value,)
    if isinstance(value, constraints.Constraint):
        raise SettingsError(
            f"LogJoint: the variable {name} is {value}, a support without a shape; give "
            f"lb.Variable((), {value})"
        )
    if not isinstance(value, tuple | list):
        raise SettingsError(
            f"LogJoint: the variable {name} is {value!r}; give a shape, such as () or (3,), or a "
            "Variable"
        )
    try:
        return Variable(tuple(value))
    except SettingsError as error:
        raise SettingsError(f"LogJoint: {name}: {error}") from None
