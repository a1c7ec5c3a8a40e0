"""Rows of a table: independent entries of several families, scored in the units of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints
from torch.nn.functional import softplus

from lowerbound.distributions.entries import WrappedDistribution, entrywise_log_prob
from lowerbound.distributions.vectors import SideBySide

IDENTITY, LOG, LOGIT = range(3)
"""The functions that were applied to continuous values before they were standardised."""


class Units:
    r"""How the continuous entries of rows were transformed and standardised.

    A value v of an entry stands for :math:`x = t^{-1}(c + s v)` in the table. The logarithm of
    :math:`dv / dx` turns a density of v into one of x.

    Args:
        transforms: 0 for the identity, 1 for the logarithm, 2 for the logit, integers ``[D]``.
        centre: c, ``[D]``. It is not used for the identity.
        spread: s, ``[D]``. It is not used for the identity.
        log_spread: log s, ``[D]``, of all continuous entries, and 0 for others. It can represent an
            s that is too large or too small for the precision.
    """

    def __init__(
        self, transforms: Tensor, centre: Tensor, spread: Tensor, log_spread: Tensor
    ) -> None:
        self.transforms = transforms
        self.centre = centre
        self.spread = spread
        self.log_spread = log_spread

    def log_slopes(self, value: Tensor) -> Tensor:
        """The logarithm of dv / dx at values v, ``[..., D]``."""
        transformed = value * self.spread + self.centre
        # x = e^t, and x (1 - x) with x = sigmoid(t)
        log = torch.where(self.transforms == LOG, -transformed, 0.0)
        both = softplus(transformed) + softplus(-transformed)
        return torch.where(self.transforms == LOGIT, both, log) - self.log_spread


class _Rows(constraints.Constraint):
    """Rows of a table, which are vectors."""

    event_dim = 1

    def __init__(self, is_discrete: bool | None) -> None:
        self.is_discrete: Any = is_discrete
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        return torch.isfinite(value).all(-1)

    def __repr__(self) -> str:
        return "rows of a table"


class RowDistribution(SideBySide):
    r"""Independent entries of several families, which together describe a row of a table.

    .. math:: \log p(x) = \sum_d \log p_d(v_d) + \sum_{d\ \text{continuous}} \log \frac{dv_d}{dx_d}

    Values are the numbers of :class:`~lowerbound.data.Schema`; their log probabilities are those of
    the table's own values.

    Args:
        parts: distributions over vectors of entries, of the same batch shape.
        order: the position of each entry of a row in the concatenated parts, ``[D]``.
        units: of the continuous entries.
        is_discrete: whether all entries are discrete; ``None`` if some are.

    Example:
        >>> from lowerbound.distributions import DiagonalNormal
        >>> units = Units(torch.tensor([LOG]), torch.zeros(1), torch.ones(1), torch.zeros(1))
        >>> parts = [DiagonalNormal(torch.zeros(3, 1), torch.zeros(3, 1))]
        >>> p = RowDistribution(parts, torch.tensor([0]), units, is_discrete=False)
        >>> p.log_prob(torch.tensor([1.0]))  # a log-normal density at e
        tensor([-2.4189, -2.4189, -2.4189])
    """

    def __init__(
        self,
        parts: Sequence[Distribution],
        order: Tensor,
        units: Units,
        *,
        is_discrete: bool | None,
    ) -> None:
        super().__init__(parts, order)
        self.units = units
        self.is_discrete = is_discrete

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Codes and counts have no reparameterised draws."""
        return False

    @property
    def support(self) -> Any:
        """Rows of a table, which have a density, a probability, or both."""
        if self.is_discrete is False:
            return constraints.independent(constraints.real, 1)
        return _Rows(self.is_discrete)

    def expand(self, batch_shape: Any, _instance: Any = None) -> RowDistribution:
        """The same distribution, repeated over ``batch_shape``."""
        parts = [part.expand(Size(batch_shape)) for part in self.parts]
        return RowDistribution(parts, self.order, self.units, is_discrete=self.is_discrete)

    def choose(self, index: Tensor) -> RowDistribution:
        """Some of the K distributions of each row, see :func:`choose_distributions`."""

        def gather(parameters: Tensor) -> Tensor:
            if parameters.dim() <= index.dim():  # the same for all rows
                return parameters
            places = index.reshape(*index.shape, *(1,) * (parameters.dim() - index.dim()))
            return parameters.gather(0, places.expand(*index.shape, *parameters.shape[2:]))

        parts: list[Any] = list(self.parts)
        chosen = [part.change_parameters(gather) for part in parts]
        return RowDistribution(chosen, self.order, self.units, is_discrete=self.is_discrete)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log probability of rows in the units of the table, in nats."""
        return self.entrywise_log_prob(value).sum(-1)

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The log probability of each number, in nats, ``[*batch, D]``."""
        pieces = value[..., self.inverse_order].split(self.sizes, -1)
        terms = [
            entrywise_log_prob(part, piece) for part, piece in zip(self.parts, pieces, strict=True)
        ]
        return self._concatenate(terms) + self.units.log_slopes(value)


def choose_distributions(p: Distribution, index: Tensor) -> Distribution:
    """Choose some of K distributions for each row, without computing their parameters again.

    Args:
        p: the distributions, batch shape ``[K, B]``: a :class:`RowDistribution`, also a masked one.
        index: which of them are chosen, ``[M, B]``.

    Returns:
        A distribution of batch shape ``[M, B]``.
    """
    if isinstance(p, WrappedDistribution):
        return p.with_base(choose_distributions(p.base, index))
    assert isinstance(p, RowDistribution)
    return p.choose(index)
