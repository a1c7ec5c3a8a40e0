"""Distributions entry by entry: log probabilities and masks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, biject_to, constraints

from lowerbound.distributions.supports import find_entry_support
from lowerbound.errors import ShapeError, UnsupportedError


def entrywise_log_prob(distribution: Distribution, value: Tensor) -> Tensor:
    """The log probability of each entry of ``value``, in nats, ``[*batch, *event]``.

    It is known for distributions with independent entries: those that have a method
    ``entrywise_log_prob``, and torch's ``Independent`` over entries.

    Raises:
        UnsupportedError: if the entries of the distribution are not known to be independent.

    Example:
        >>> from torch.distributions import Normal
        >>> p = Independent(Normal(torch.zeros(2), 1.0), 1)
        >>> entrywise_log_prob(p, torch.zeros(2))
        tensor([-0.9189, -0.9189])
    """
    check_independent_entries(distribution)
    own = getattr(distribution, "entrywise_log_prob", None)
    if own is not None:
        return cast(Tensor, own(value))
    return unwrap_independent(distribution).log_prob(value)


def check_independent_entries(distribution: Distribution) -> None:
    """Refuse a distribution whose entries are not known to be independent.

    Raises:
        UnsupportedError: naming the distribution.
    """
    if hasattr(distribution, "entrywise_log_prob"):
        return
    entries = unwrap_independent(distribution)
    if entries.event_shape:
        raise UnsupportedError(
            f"the entries of a {type(entries).__name__} are not independent, so it cannot be "
            "scored entry by entry; use a distribution with independent entries, such as that of "
            "lb.Gaussian, or give it a method entrywise_log_prob(value)"
        )


def unwrap_independent(distribution: Distribution) -> Distribution:
    """Return the distribution inside of torch's ``Independent``."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return distribution


def move_inside_support(distribution: Distribution, value: Tensor, chosen: Tensor) -> Tensor:
    """Replace the chosen entries of a value, which are not scored, by a point in the support.

    A stored placeholder may have the log probability -inf or non-finite gradients. Multiplied by 0
    these give NaN, which would reach the gradient of the other entries.
    """
    entries = find_entry_support(distribution)
    inside = value.new_zeros(())
    if entries is not None and entries.is_discrete is False:
        inside = biject_to(entries)(inside).detach().to(value.dtype)
    return torch.where(chosen, inside, value)


class WrappedDistribution(Distribution):
    """A distribution with the draws, moments and support of another one, but other scores.

    Args:
        base: the other distribution.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012 (torch's own protocol)

    def __init__(self, base: Distribution) -> None:
        self.base = base
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether draws can be reparameterised."""
        return self.base.has_rsample

    @property
    def support(self) -> Any:
        """The support of ``base``."""
        return self.base.support

    @property
    def mean(self) -> Tensor:
        """The mean of all entries, ``[*batch, *event]``."""
        return self.base.mean

    @property
    def mode(self) -> Tensor:
        """The mode of all entries, ``[*batch, *event]``."""
        return self.base.mode

    @property
    def variance(self) -> Tensor:
        """The variance of all entries, ``[*batch, *event]``."""
        return self.base.variance

    @abstractmethod
    def with_base(self, base: Distribution) -> WrappedDistribution:
        """The same wrapper around another distribution."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> WrappedDistribution:
        """The same distribution, repeated over ``batch_shape``."""
        return self.with_base(self.base.expand(torch.Size(batch_shape)))

    def of_observed(self, observed: Tensor) -> WrappedDistribution:
        """The same distribution, if only these entries of a value are observed."""
        return self.with_base(tell_observed(self.base, observed))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of all entries, ``[*sample_shape, *batch, *event]``."""
        return self.base.sample(torch.Size(sample_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Reparameterised draws of all entries, ``[*sample_shape, *batch, *event]``."""
        return self.base.rsample(torch.Size(sample_shape))


class MaskedDistribution(WrappedDistribution):
    """A distribution that scores only some entries of a value; its draws and moments are complete.

    .. math:: \\log p(x_{\\text{observed}}) = \\sum_{d\\ \\text{observed}} \\log p(x_d)

    Args:
        base: a distribution with independent entries.
        observed: which entries are scored, boolean, ``[*batch, *event]`` or a shape that broadcasts
            to it.

    Raises:
        UnsupportedError: if the entries of ``base`` are not known to be independent.
        ShapeError: if the mask does not have the shape of an event.

    Example:
        >>> from lowerbound.distributions import DiagonalNormal
        >>> p = DiagonalNormal(torch.zeros(2), torch.zeros(2))
        >>> MaskedDistribution(p, torch.tensor([True, False])).log_prob(torch.tensor([0.0, 9.0]))
        tensor(-0.9189)
    """

    def __init__(self, base: Distribution, observed: Tensor) -> None:
        check_independent_entries(base)
        events = len(base.event_shape)
        if observed.shape[observed.dim() - events :] != base.event_shape:
            raise ShapeError(
                f"the mask of observed entries has the shape {tuple(observed.shape)}, and the "
                f"likelihood is over events of shape {tuple(base.event_shape)}; give one entry of "
                "the mask for each entry of an example"
            )
        self.observed = observed.bool()
        super().__init__(tell_observed(base, self.observed))

    def with_base(self, base: Distribution) -> MaskedDistribution:
        """The same mask around another distribution."""
        return MaskedDistribution(base, self.observed)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of the observed entries of ``value``, in nats."""
        terms = self.entrywise_log_prob(value)
        return terms.flatten(terms.dim() - len(self.event_shape)).sum(-1)

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each entry of ``value``, and 0 where it is not observed."""
        terms = entrywise_log_prob(self.base, move_inside_support(self.base, value, ~self.observed))
        return terms.masked_fill(~self.observed, 0.0)


def tell_observed(distribution: Distribution, observed: Tensor) -> Distribution:
    """Tell a distribution which entries of a value count, if it learns from the values."""
    if isinstance(distribution, WrappedDistribution):
        return distribution.of_observed(observed)
    return distribution


def learns_from_values(distribution: Distribution) -> bool:
    """Whether a distribution, or one inside of it, learns from the values that it scores.

    Example:
        >>> from torch.distributions import Normal
        >>> learns_from_values(Independent(Normal(torch.zeros(2), 1.0), 1))
        False
    """
    chain = iterate_inside(distribution, "base", "base_dist")
    return any(isinstance(each, ReportingDistribution) for each in chain)


def iterate_inside(distribution: Distribution, *attributes: str) -> Iterator[Distribution]:
    """Yield a distribution, the one inside of it, and so on.

    Args:
        distribution: the outermost.
        attributes: the names by which one holds another; of several that it has, the first counts.
    """
    inside: Any = distribution
    while inside is not None:
        yield inside
        found = (getattr(inside, name) for name in attributes if hasattr(inside, name))
        inside = next(found, None)


class ReportingDistribution(WrappedDistribution):
    """A distribution that passes each value that it scores to a function.

    In this way a conditional can learn from the values without a gradient.

    Args:
        base: a distribution with independent entries.
        report: receives each value that is scored, ``[*batch, *event]``, and ``observed``.
        observed: which entries of a value count, in a shape that broadcasts to the value; ``None``
            if all do.

    Example:
        >>> from lowerbound.distributions import DiagonalNormal
        >>> p = DiagonalNormal(torch.zeros(2), torch.zeros(2))
        >>> reporting = ReportingDistribution(p, lambda value, observed: print(value))
        >>> reporting.log_prob(torch.ones(2))
        tensor([1., 1.])
        tensor(-2.8379)
    """

    def __init__(
        self,
        base: Distribution,
        report: Callable[[Tensor, Tensor | None], None],
        observed: Tensor | None = None,
    ) -> None:
        check_independent_entries(base)
        self.report = report
        self.observed = observed
        super().__init__(base)

    def with_base(self, base: Distribution) -> ReportingDistribution:
        """The same reports about another distribution."""
        return ReportingDistribution(base, self.report, self.observed)

    def of_observed(self, observed: Tensor) -> ReportingDistribution:
        """The same distribution, where only these entries of a value count."""
        if self.observed is not None:
            observed = self.observed & observed
        return ReportingDistribution(self.base, self.report, observed)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of ``value``, in nats."""
        self.report(value, self.observed)
        return self.base.log_prob(value)

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each entry of ``value``, in nats, ``[*batch, *event]``."""
        self.report(value, self.observed)
        return entrywise_log_prob(self.base, value)
