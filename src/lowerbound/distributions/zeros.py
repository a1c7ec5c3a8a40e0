"""Zero-inflated and hurdle distributions, which have more zeros than the ones that they wrap."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import logsigmoid

from lowerbound.distributions.entries import (
    check_independent_entries,
    entrywise_log_prob,
    move_inside_support,
    tell_observed,
    unwrap_independent,
)
from lowerbound.distributions.supports import (
    Grid,
    Support,
    Values,
    find_entry_support,
    find_values,
    is_mass,
)
from lowerbound.errors import ShapeError, UnsupportedError
from lowerbound.runtime import noise

# A hurdle draws zeros of its base again, at most so often.
_ROUNDS = 1000


class _Gated(Distribution):
    """Independent entries that are 0 where a gate is closed, and else have another distribution.

    Args:
        base: the distribution of entries whose gate is open, with independent entries.
        gate: the logit of the probability that the gate is closed, ``[*batch, *event]`` or a shape
            that broadcasts to it.
    """

    has_rsample = False
    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, base: Distribution, gate: Tensor) -> None:
        check_independent_entries(base)
        event_dims = len(base.event_shape)
        if gate.shape[max(0, gate.dim() - event_dims) :] != base.event_shape:
            raise ShapeError(
                f"the gate has the shape {tuple(gate.shape)}, and the likelihood is over events of "
                f"shape {tuple(base.event_shape)}; let the gate's network give one logit for each "
                "entry of an example"
            )
        self.base = base
        self.gate = gate
        self.event_dims = event_dims
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    @abstractmethod
    def log_share(self) -> Tensor:
        """The log of the factor by which the base's probabilities of values other than 0 change."""

    @property
    @abstractmethod
    def log_zero(self) -> Tensor:
        """The log probability of 0, ``[*batch, *event]``."""

    @property
    def support(self) -> Any:
        """The support of the base, and 0."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """The mean, ``[*batch, *event]``."""
        return self.log_share.exp() * self.base.mean

    @property
    def variance(self) -> Tensor:
        """The variance, ``[*batch, *event]``."""
        # With the share c it is c (v + m^2) - (c m)^2.
        share = self.log_share.exp()
        return share * (self.base.variance + (1 - share) * self.base.mean.square())

    def expand(self, batch_shape: Any, _instance: Any = None) -> Self:
        """The same distribution, repeated over ``batch_shape``."""
        batch_shape = torch.Size(batch_shape)
        gate = self.gate.expand(batch_shape + self.event_shape)
        return type(self)(self.base.expand(batch_shape), gate)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of ``value``, in nats, summed over the event's dimensions."""
        return self.entrywise_log_prob(value).flatten(-self.event_dims).sum(-1)

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each entry of ``value``, in nats, ``[*batch, *event]``."""
        is_zero = value == 0
        base = tell_observed(self.base, ~is_zero)  # which learns from its own values only
        other = entrywise_log_prob(base, move_inside_support(base, value, is_zero))
        return torch.where(is_zero, self.log_zero, self.log_share + other)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``[*sample_shape, *batch, *event]``."""
        size = torch.Size(sample_shape)
        axis = noise.examples_axis(self.batch_shape, size)
        shape, gate = tuple(self._extended_shape(size)), self.gate
        u = noise.uniform(shape, axis, dtype=gate.dtype, device=gate.device)
        with torch.no_grad():
            return self._draw_open(size).masked_fill(u < gate.sigmoid(), 0.0)

    @abstractmethod
    def _draw_open(self, sample_shape: torch.Size) -> Tensor:
        """Draw the values of entries whose gate is open."""

    def _score_zero_of_base(self) -> Tensor:
        """The base's own log probability of 0, ``[*batch, *event]``."""
        return entrywise_log_prob(self.base, self.gate.new_zeros(self.event_shape))


class ZeroInflatedDistribution(_Gated):
    r"""A probability mass, mixed with a mass at zero: a closed gate or the mass itself gives 0.

    .. math::

        p(0) = \pi + (1 - \pi) \, p_0(0), \qquad p(x) = (1 - \pi) \, p_0(x) \quad (x \neq 0),
        \qquad \pi = \sigma(g)

    Args:
        base: :math:`p_0`, a probability mass with independent entries.
        gate: the logits :math:`g`, ``[*batch, *event]`` or a shape that broadcasts to it.

    Raises:
        UnsupportedError: if the entries are not independent, or the base is not a mass.
        ShapeError: if the gate does not have the shape of an event.

    Source: Lambert 1992, "Zero-inflated Poisson regression".

    Example:
        >>> from lowerbound.distributions import FactorialPoisson
        >>> p = ZeroInflatedDistribution(FactorialPoisson(torch.zeros(2)), torch.zeros(2))
        >>> p.mean, p.entrywise_log_prob(torch.tensor([0.0, 1.0])).exp()
        (tensor([0.5000, 0.5000]), tensor([0.6839, 0.1839]))
    """

    def __init__(self, base: Distribution, gate: Tensor) -> None:
        super().__init__(base, gate)
        if not is_mass(base):
            raise UnsupportedError(
                f"the likelihood's {type(unwrap_independent(base)).__name__} is not a probability "
                "mass, so it gives 0 no probability that could be inflated; use lb.Hurdle, which "
                "gives 0 a probability of its own"
            )

    @property
    def log_share(self) -> Tensor:
        """``log(1 - pi)``."""
        return logsigmoid(-self.gate)

    @property
    def log_zero(self) -> Tensor:
        """The log probability of 0, ``[*batch, *event]``."""
        return torch.logaddexp(
            logsigmoid(self.gate), logsigmoid(-self.gate) + self._score_zero_of_base()
        )

    def _draw_open(self, sample_shape: torch.Size) -> Tensor:
        return self.base.sample(sample_shape)


class HurdleDistribution(_Gated):
    r"""Zeros with a probability of their own, and other values from a distribution without zeros.

    .. math::

        p(0) = \pi, \qquad p(x) = (1 - \pi) \frac{p_0(x)}{1 - p_0(0)} \quad (x \neq 0),
        \qquad \pi = \sigma(g)

    If the base is a probability mass, its zeros are cut off. If it is a density, :math:`p_0(0)` is
    0 here, and the result is a mixed distribution: a probability at 0, and a density elsewhere. Its
    log probabilities are with respect to the sum of a point mass at 0 and Lebesgue measure. They
    can be compared between models of the same data, but not be converted to bits per dimension.

    A base may have methods for values other than 0: ``sample_positive(sample_shape)``, without
    which values are drawn until they are not 0, and ``log_prob_of_positive()``, the log of their
    probability, without which it is computed from that of 0 and inexact where that is almost 1.

    Args:
        base: :math:`p_0`, with independent entries.
        gate: the logits :math:`g`, ``[*batch, *event]`` or a shape that broadcasts to it.

    Raises:
        UnsupportedError: if the entries are not independent, or the base does not declare its
            support.
        ShapeError: if the gate does not have the shape of an event.

    Source: Mullahy 1986, "Specification and testing of some modified count data models".

    Example:
        >>> from torch.distributions import Exponential, Independent
        >>> p = HurdleDistribution(Independent(Exponential(torch.ones(2)), 1), torch.zeros(2))
        >>> p.mean, p.entrywise_log_prob(torch.tensor([0.0, 1.0])).exp()
        (tensor([0.5000, 0.5000]), tensor([0.5000, 0.1839]))
    """

    def __init__(self, base: Distribution, gate: Tensor) -> None:
        super().__init__(base, gate)
        known = is_mass(base)
        if known is None:
            raise UnsupportedError(
                f"a {type(base).__name__} does not say whether it is a probability mass or a "
                "density, which a hurdle needs to know; let it declare its support"
            )
        self.is_mixed = not known

    @property
    def support(self) -> Any:
        """The support of the base, and 0."""
        if not self.is_mixed:
            return self.base.support
        entries = cast(constraints.Constraint, find_entry_support(self.base))
        return constraints.independent(ZeroOr(entries), self.event_dims)

    @property
    def log_share(self) -> Tensor:
        """``log(1 - pi) - log(1 - p_0(0))``."""
        share = logsigmoid(-self.gate)
        if self.is_mixed:
            return share
        return share - self._score_positive_of_base()

    @property
    def log_zero(self) -> Tensor:
        """``log pi``."""
        return logsigmoid(self.gate)

    def _score_positive_of_base(self) -> Tensor:
        """The log of the base's probability of all values but 0, ``[*batch, *event]``."""
        own: Callable[[], Tensor] | None = getattr(self.base, "log_prob_of_positive", None)
        if own is not None:
            return own()
        others = -torch.expm1(self._score_zero_of_base())
        # Where rounding leaves nothing, it is less than the rounding error. The larger value makes
        # the bound a little too low instead of infinite.
        return others.where(others > 0, torch.finfo(others.dtype).eps).log()

    def _draw_open(self, sample_shape: torch.Size) -> Tensor:
        if self.is_mixed:
            return self.base.sample(sample_shape)
        own: Callable[[torch.Size], Tensor] | None = getattr(self.base, "sample_positive", None)
        if own is not None:
            return own(sample_shape)
        drawn = self.base.sample(sample_shape)
        for _ in range(_ROUNDS):
            if bool((drawn != 0).all()):
                return drawn
            drawn = drawn.where(drawn != 0, self.base.sample(sample_shape))
        raise UnsupportedError(
            f"{_ROUNDS:,} draws of a {type(self.base).__name__} were all 0 at some entry, so a "
            "hurdle cannot draw other values from it; give it a method sample_positive"
        )


class ZeroOr(Support):
    """Zero, with a probability of its own, and the values of another support, with a density.

    Example:
        >>> ZeroOr(constraints.positive).check(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([False,  True,  True])
    """

    is_discrete = None  # type: ignore[assignment]  # neither a mass nor a density

    def __init__(self, others: constraints.Constraint) -> None:
        self.others = others
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        """Whether each entry is 0 or in the other support."""
        inside: Tensor = self.others.check(value)
        return inside | (value == 0)

    @property
    def values(self) -> Values | None:
        """0, and the values of the other support."""
        others = find_values(self.others)
        if others is None:
            return None
        return replace(others, points=Grid(0, 0))

    def __repr__(self) -> str:
        return f"zero or {self.others}"
