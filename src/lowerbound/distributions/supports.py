"""Supports of distributions: which values their draws can have, and what has a probability."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

Bound = float | Tensor

# The relative error of a bound in float32, and some more.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Values:
    """The values that the entries of a draw can have.

    Args:
        points: the single values that have a probability; ``None`` if there are none.
        interval: the bounds of the values that have a density; ``None`` if there are none.
        joint: a condition on all entries together, such as the norm 1; ``None`` if there is none.
    """

    points: Grid | None = None
    interval: tuple[Bound, Bound] | None = None
    joint: object = None

    def lie_within(self, others: Values) -> bool:
        """Whether a distribution over these values has a density under one over the others.

        Every value that has a probability must have one there, too. Values that have a density must
        have one with respect to the same measure, which a joint condition changes: unit vectors
        have an area, but not a volume.
        """
        if self.joint != others.joint and (self.interval or others.joint is not None):
            return False
        if self.points and not (others.points and self.points.lies_within(others.points)):
            return False
        return not self.interval or (
            others.interval is not None
            and _is_at_least(self.interval[0], others.interval[0])
            and _is_at_least(others.interval[1], self.interval[1])
        )


@dataclass(frozen=True)
class Grid:
    """Evenly spaced values from one whole number to another.

    Args:
        lower: the smallest.
        upper: the largest.
        per_unit: the number of values from one whole number to the next.
    """

    lower: Bound
    upper: Bound
    per_unit: int = 1

    def lies_within(self, other: Grid) -> bool:
        """Whether each of these values is also one of the others."""
        return (
            other.per_unit % self.per_unit == 0
            and _is_at_least(self.lower, other.lower)
            and _is_at_least(other.upper, self.upper)
        )


def _is_at_least(larger: Bound, smaller: Bound) -> bool:
    """Whether a bound is at least another one, up to rounding in float32."""
    if isinstance(larger, Tensor) or isinstance(smaller, Tensor):
        larger, smaller = torch.as_tensor(larger).double(), torch.as_tensor(smaller).double()
        return bool(((larger >= smaller) | torch.isclose(larger, smaller, rtol=_ROUNDING)).all())
    return larger >= smaller or math.isclose(larger, smaller, rel_tol=_ROUNDING)


class Support(constraints.Constraint):
    """The support of a distribution that torch lacks.

    To write your own: write torch's ``check(value)``, and :attr:`values`, by which the supports of
    a posterior and of a prior are compared.
    """

    @property
    @abstractmethod
    def values(self) -> Values | None:
        """The values that satisfy the constraint, or ``None`` if they are not known."""


class CodeVectors(Support):
    """Vectors from a codebook. The codebook changes in training, so no finite vector is refused.

    Args:
        event_dims: the number of dimensions of an event.
        codebook: what owns the codebook; ``None`` if that is not known.
    """

    is_discrete = True

    def __init__(self, event_dims: int, codebook: object = None) -> None:
        self._event_dims = event_dims
        self.codebook = codebook
        super().__init__()

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """The number of dimensions of an event."""
        return self._event_dims

    def check(self, value: Tensor) -> Tensor:
        """Whether each vector is finite."""
        return value.flatten(value.dim() - self._event_dims).isfinite().all(-1)

    @property
    def values(self) -> Values:
        """The vectors, as points that have no order."""
        return Values(points=Grid(-math.inf, math.inf), joint=CodeVectors)

    def __repr__(self) -> str:
        return "vectors from the codebook"


_VALUES = {
    constraints.real: Values(interval=(-math.inf, math.inf)),
    constraints.boolean: Values(points=Grid(0, 1)),
    constraints.one_hot: Values(points=Grid(0, 1), joint=constraints.one_hot),
    constraints.simplex: Values(interval=(0, 1), joint=constraints.simplex),
}

_BOUNDED = (
    type(constraints.nonnegative_integer),
    constraints.integer_interval,
    constraints.greater_than,
    constraints.greater_than_eq,
    constraints.less_than,
    constraints.interval,
    constraints.half_open_interval,
)


def find_values(support: constraints.Constraint) -> Values | None:
    """Find the values that a support allows an entry, or ``None`` if they are not known.

    Example:
        >>> find_values(constraints.positive)
        Values(points=None, interval=(0.0, inf), joint=None)
    """
    if isinstance(support, Support):
        return support.values
    if support in _VALUES:
        return _VALUES[support]
    if not isinstance(support, _BOUNDED):
        return None
    bounds: Any = (
        getattr(support, "lower_bound", -math.inf),
        getattr(support, "upper_bound", math.inf),
    )
    if support.is_discrete:
        return Values(points=Grid(*bounds))
    return Values(interval=bounds)


def lies_within(inner: constraints.Constraint, outer: constraints.Constraint) -> bool:
    """Whether a distribution over ``inner`` has a density under one that is over ``outer``.

    Both are supports of entries, see :func:`find_entry_support`. Supports of unknown classes must
    be of the same class if one of them restricts several entries together, and if ``inner`` has
    single values with a probability among others with a density.

    Example:
        >>> from torch.distributions.constraints import boolean, nonnegative_integer, real
        >>> lies_within(boolean, nonnegative_integer), lies_within(boolean, real)
        (True, False)
    """
    ours, theirs = find_values(inner), find_values(outer)
    if ours is not None and theirs is not None:
        return ours.lie_within(theirs)
    is_joint = inner.event_dim > 0 or outer.event_dim > 0
    is_wide = inner is constraints.real or inner.is_discrete is None
    return type(inner) is type(outer) or not (is_joint or is_wide)


def is_mass(distribution: Distribution) -> bool | None:
    """Whether a distribution is a probability mass, rather than a density, judged by its support.

    ``None`` if the distribution does not declare its support, or is neither because it gives some
    values a probability and others a density, see :func:`has_point_masses`.

    Example:
        >>> from torch.distributions import Gamma, Poisson
        >>> is_mass(Poisson(torch.ones(2))), is_mass(Gamma(torch.ones(2), torch.ones(2)))
        (True, False)
    """
    support = find_support(distribution)
    if support is None or support.is_discrete is None:
        return None
    return bool(support.is_discrete)


def has_point_masses(distribution: Distribution) -> bool:
    """Whether a distribution gives single values a probability, as far as its support says.

    A probability mass does. So does a mixed distribution, whose support declares that
    ``is_discrete`` is ``None``, such as a hurdle over positive values.
    """
    support = find_support(distribution)
    return support is not None and support.is_discrete is not False


def find_support(distribution: Distribution) -> constraints.Constraint | None:
    """Return the support of a distribution, or ``None`` if it is not known."""
    try:
        return distribution.support
    except NotImplementedError:
        return _find_support_of_flow(distribution)


def _find_support_of_flow(flow: Any) -> constraints.Constraint | None:
    """Find the support of one of zuko's flows, which do not declare it.

    The transform maps its domain one to one to its codomain. So if the base is over all of the
    codomain, the flow is over all of the domain.
    """
    transform: Any = getattr(flow, "transform", None)
    domain: constraints.Constraint | None = getattr(transform, "domain", None)
    base = getattr(flow, "base", None)
    if domain is None or not isinstance(base, Distribution):
        return None
    if find_entry_support(base) is not unwrap_support(transform.codomain):
        return None
    return domain


def find_entry_support(distribution: Distribution) -> constraints.Constraint | None:
    """Return the support of one entry, or of an event if it is not declared for entries."""
    support = find_support(distribution)
    if support is None:
        return None
    return unwrap_support(support)


def unwrap_support(support: constraints.Constraint) -> constraints.Constraint:
    """Return the support of one entry inside of torch's supports of independent entries."""
    while isinstance(support, constraints.independent | constraints.MixtureSameFamilyConstraint):
        support = support.base_constraint
    return support
