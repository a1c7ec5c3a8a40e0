"""Rows of a table together with the mask that says which of their entries are missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import Distribution
from torch.nn.functional import logsigmoid, softplus

from lowerbound.distributions.categorical import FactorialCodes
from lowerbound.distributions.counts import FactorialNegativeBinomial
from lowerbound.distributions.entries import MaskedDistribution
from lowerbound.distributions.seasonal import SeasonalLogistic
from lowerbound.distributions.student import FactorialStudentT
from lowerbound.runtime import noise


@dataclass(frozen=True, eq=False)
class MissingOdds:
    """The log odds that some entries of a row are missing, as functions of their values.

    Args:
        part: the number of the part of a row's distribution in which the entries are.
        entries: their positions in this part, ``[E]``.
        places: their positions in a row, ``[E]``.
        is_first: whether each is the first entry of its column, which says whether the column is
            missing, ``[E]``.
        of_values: computes the log odds from values ``[..., E]``.
    """

    part: int
    entries: Tensor
    places: Tensor
    is_first: Tensor
    of_values: Callable[[Tensor], Tensor]

    def log_probability(self, value: Tensor) -> Tensor:
        """The log probability that entries with these values are missing, ``[..., E]``."""
        return logsigmoid(self.of_values(value))


@dataclass(frozen=True, eq=False)
class CodeOdds(MissingOdds):
    """The log odds that coded entries are missing, one for each code.

    Args:
        table: the log odds, ``[L, E]``.
        numbers: for entries whose code 0 says that the value is the next entry, the position of
            this one among all numeric entries; -1 for others, ``[E]``.
    """

    table: Tensor
    numbers: Tensor


class SelfMaskedDistribution(MaskedDistribution):
    r"""Rows of a table with the mask of missing columns, each of which may depend on its own value.

    .. math:: \log p(x_\text{observed}, s) = \sum_{c\ \text{observed}} \bigl( \log p(x_c)
            + \log (1 - \pi_c(x_c)) \bigr)
            + \sum_{c\ \text{missing}} \log \mathrm{E}_{p(x_c)} [\pi_c(x_c)]

    Here :math:`\pi_c(x_c)` is the probability that column c is missing. The expectations are sums
    over codes, and over the cells of :class:`FactorialStudentT` and
    :class:`FactorialNegativeBinomial`, so missing values add no noise. Draws are
    of complete rows, given which columns are missing: a missing column has the distribution
    :math:`p(x_c) \, \pi_c(x_c) / \mathrm{E}[\pi_c]`, and all others have :math:`p(x_c)`. Moments
    and the natural point are those of p(x).

    Args:
        base: the :class:`~lowerbound.distributions.RowDistribution` of complete rows.
        observed: which entries are observed, boolean, ``[*batch, D]`` or a shape that broadcasts.
        missing: which entries are known to be missing, in the same shape. Nothing is known of an
            entry that is neither observed nor missing.
        numeric: the log odds of numeric entries, in groups.
        coded: those of coded entries. An entry in none of both is not scored if it is missing.
    """

    base: Any

    def __init__(
        self,
        base: Distribution,
        observed: Tensor,
        missing: Tensor,
        numeric: Sequence[MissingOdds],
        coded: Sequence[CodeOdds],
    ) -> None:
        super().__init__(base, observed)
        self.missing = missing.bool()
        self.numeric = tuple(numeric)
        self.coded = tuple(coded)

    def with_base(self, base: Distribution) -> SelfMaskedDistribution:
        """The same masks and log odds of other rows."""
        return SelfMaskedDistribution(base, self.observed, self.missing, self.numeric, self.coded)

    def entrywise_log_prob(self, value: Tensor) -> Tensor:
        """The terms of each entry of ``value`` and of its column's mask, in nats, ``[*batch, D]``.

        The term of a missing column is that of its first entry.
        """
        terms = super().entrywise_log_prob(value)
        groups = [*self.numeric, *self.coded]
        places = torch.cat([group.places for group in groups])
        is_first = torch.cat([group.is_first for group in groups])
        if_seen = [-softplus(group.of_values(value[..., group.places])) for group in groups]
        added = torch.where(self.observed[..., places], torch.cat(if_seen, -1), 0.0)
        is_missing = self.missing[..., places] & is_first
        added = torch.where(is_missing, self._log_missing(), added)
        return terms.index_add(-1, places, added.expand(*terms.shape[:-1], -1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Complete rows, given which columns are missing, ``[*sample_shape, *batch, D]``."""
        size = Size(sample_shape)
        rows: Tensor = self.base.sample(size)
        for group in self.numeric:
            rows = self._replace_missing(rows, group, self._draw_numbers(group, size))
        of_numbers = self._log_missing_numbers()
        for group in self.coded:
            logits = self._select(group).logits + _log_missing_by_code(group, of_numbers)
            rows = self._replace_missing(rows, group, FactorialCodes(logits).sample(size))
        return rows

    def _log_missing(self) -> Tensor:
        """The log probability that each entry is missing, ``[*batch, E]``, for all groups."""
        of_numbers = self._log_missing_numbers()
        found = list(of_numbers)
        for group in self.coded:
            log_probs = self._select(group).logits.log_softmax(-2)
            found.append((log_probs + _log_missing_by_code(group, of_numbers)).logsumexp(-2))
        return torch.cat(found, -1)

    def _log_missing_numbers(self) -> list[Tensor]:
        """The log probability that numeric entries are missing, ``[*batch, E]`` of each group."""
        return [
            self._select(group).cells().log_expectation(group.log_probability)
            for group in self.numeric
        ]

    def _draw_numbers(self, group: MissingOdds, size: Size) -> Tensor:
        """Draw numeric entries as if all were missing, ``[*size, *batch, E]``."""
        part = self._select(group).expand(size + self.batch_shape)
        axis = noise.examples_axis(self.batch_shape, size)
        shape, like = (*part.batch_shape, *part.event_shape), part.mean

        def draw_uniform() -> Tensor:
            return noise.uniform(shape, axis, dtype=like.dtype, device=like.device)

        drawn: Tensor = part.cells().draw(group.log_probability, draw_uniform)
        return drawn

    def _replace_missing(self, rows: Tensor, group: MissingOdds, drawn: Tensor) -> Tensor:
        chosen = torch.where(self.missing[..., group.places], drawn, rows[..., group.places])
        return rows.index_copy(-1, group.places, chosen)

    def _select(self, group: MissingOdds) -> Any:
        """The distribution of the entries of a group."""
        part = self.base.parts[group.part]
        if isinstance(part, FactorialCodes):
            return FactorialCodes(part.logits[..., group.entries])
        assert isinstance(part, FactorialStudentT | FactorialNegativeBinomial | SeasonalLogistic)
        return part.change_parameters(lambda parameter: parameter[..., group.entries])


def _log_missing_by_code(group: CodeOdds, of_numbers: Sequence[Tensor]) -> Tensor:
    """The log probability that coded entries are missing given their codes, ``[*batch, L, E]``.

    Args:
        group: the coded entries.
        of_numbers: the log probabilities that numeric entries are missing, ``[*batch, E]`` of each
            group. They take the place of those of a code that stands for a number.
    """
    by_code = logsigmoid(group.table)
    if not of_numbers:
        return by_code
    own = torch.cat(list(of_numbers), -1)[..., group.numbers.clamp(min=0)]
    first = torch.where(group.numbers >= 0, own, by_code[0])
    others = by_code[1:].expand(*first.shape[:-1], -1, -1)
    return torch.cat([first.unsqueeze(-2), others], -2)
