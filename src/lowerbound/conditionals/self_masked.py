"""A likelihood of the rows of a table and of which entries are missing, because of their values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import select_fields
from lowerbound.conditionals.columns import Columns
from lowerbound.conditionals.given import Masked, unwrap
from lowerbound.data.entries import Entry
from lowerbound.data.fields import MISSING, OBSERVED
from lowerbound.describe import describable
from lowerbound.distributions import CodeOdds, MissingOdds, SelfMaskedDistribution, soft_clamp
from lowerbound.errors import SettingsError, UnsupportedError

# The largest slope: the log odds change by this much for each standard deviation.
_STEEPEST = 8.0

# The log odds are these multiples of their parameters, so that they are learned in fewer steps.
_PACE = 5.0

# The log odds in place of those of a code that stands for a number.
_NEVER = -1e9


class _Missingness(nn.Module):
    """The log odds that some entries of one part of a row's distribution are missing.

    Args:
        part: the number of the part.
        numbers: the positions in a row of all entries of the part.
        places: those of the entries whose columns have missing values.
        first: the position of the first entry of each one's column.
    """

    entries: Tensor
    places: Tensor
    is_first: Tensor

    def __init__(
        self, part: int, numbers: Sequence[int], places: Sequence[int], first: Sequence[int]
    ) -> None:
        super().__init__()
        self.part = part
        self._store("entries", torch.tensor([numbers.index(place) for place in places]))
        self._store("places", torch.tensor(places))
        self._store("is_first", torch.tensor(places) == torch.tensor(first))

    def _store(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    def _make_code_odds(self, table: Tensor, numbers: Tensor) -> CodeOdds:
        def of_values(value: Tensor) -> Tensor:
            codes = value.round().long().clamp(0, len(table) - 1).unsqueeze(-2)
            return table.expand(*codes.shape[:-2], *table.shape).gather(-2, codes).squeeze(-2)

        return CodeOdds(
            self.part, self.entries, self.places, self.is_first, of_values, table, numbers
        )


class _BySize(_Missingness):
    """Log odds that are linear in the standardised size of a value."""

    slopes: Tensor

    def __init__(self, *where: Any, slope: float | None) -> None:
        super().__init__(*where)
        zeros = torch.zeros(len(self.places))
        self.intercepts = nn.Parameter(zeros.clone())
        if slope is None:
            self.slopes = nn.Parameter(zeros)
        else:
            self._store("slopes", zeros + slope / _PACE)

    def compute_slopes(self) -> Tensor:
        """How much the log odds rise for each standard deviation, ``[E]``."""
        return soft_clamp(_PACE * self.slopes, -_STEEPEST, _STEEPEST, knee=0.1)

    def compute_odds(self, size: Tensor) -> Tensor:
        """The log odds for sizes ``[..., E]``."""
        return _PACE * self.intercepts + self.compute_slopes() * size

    def start(self, log_odds: Tensor) -> None:
        """Start from log odds ``[D]`` that do not depend on the values."""
        self.intercepts.copy_(log_odds[self.places] / _PACE)


class _OfNumbers(_BySize):
    """Those of continuous values and counts."""

    centre: Tensor
    spread: Tensor

    def __init__(self, *where: Any, slope: float | None, entries: Sequence[Entry]) -> None:
        super().__init__(*where, slope=slope)
        own = [entries[place] for place in self.places.tolist()]
        self.are_counts = own[0].family == "counts"
        self._store("centre", torch.tensor([each.centre for each in own]))
        self._store("spread", torch.tensor([each.spread for each in own]))

    def _of_values(self, value: Tensor) -> Tensor:
        if self.are_counts:
            value = (value.log1p() - self.centre) / self.spread
        return self.compute_odds(value)

    def make_odds(self) -> MissingOdds:
        """The log odds as a function of the values."""
        return MissingOdds(self.part, self.entries, self.places, self.is_first, self._of_values)


class _OfRanks(_BySize):
    """Those of ordered categories."""

    ranks: Tensor

    def __init__(
        self, *where: Any, slope: float | None, entries: Sequence[Entry], most: int
    ) -> None:
        super().__init__(*where, slope=slope)
        levels = torch.tensor([entries[place].levels for place in self.places.tolist()])
        shares = torch.arange(most).unsqueeze(-1) / (levels - 1).clamp(min=1)
        self._store("ranks", math.sqrt(12) * (shares.clamp(max=1) - 0.5))

    def make_odds(self) -> CodeOdds:
        """The log odds of each category."""
        return self._make_code_odds(self.compute_odds(self.ranks), torch.full_like(self.places, -1))


class _OfCodes(_Missingness):
    """Those of categories and atoms, each of which has log odds of its own, or all the same."""

    numbers: Tensor

    def __init__(self, *where: Any, numbers: Sequence[int], most: int, share: bool) -> None:
        super().__init__(*where)
        self.most = most
        self.logits = nn.Parameter(torch.zeros(1 if share else most, len(self.places)))
        self._store("numbers", torch.tensor(numbers))

    def make_odds(self) -> CodeOdds:
        """The log odds of each code."""
        is_number = (self.numbers >= 0) & (
            torch.arange(self.most, device=self.numbers.device) == 0
        )[:, None]
        table = torch.where(is_number, _NEVER, _PACE * self.logits)
        return self._make_code_odds(table, self.numbers)

    def start(self, log_odds: Tensor) -> None:
        """Start from log odds ``[D]`` that do not depend on the values."""
        self.logits.copy_((log_odds[self.places] / _PACE).expand_as(self.logits))


@describable
class SelfMasked(Masked):
    r"""A likelihood of the rows of a table that also models which entries are missing, and why.

    .. math:: p(x, s \mid z) = \prod_c p(x_c \mid z) \, \pi_c(x_c)^{s_c}
        (1 - \pi_c(x_c))^{1 - s_c}, \qquad
        \log \frac{\pi_c(x_c)}{1 - \pi_c(x_c)} = a_c + b_c \, t_c(x_c)

    Here :math:`s_c` is 1 if column c is missing. The probability of that depends on the column's
    own value: :math:`t_c` is the standardised value as the model sees it, that is of the logarithm
    of positive numbers and counts, of the logit of proportions, of the rank of ordered categories,
    and of the number of the week or the day of a time that has these cycles. So the odds of being
    missing are multiplied by :math:`e^{b_c}` for each standard deviation. Each category and each
    atom has log odds of its own. A value that is missing is integrated out given z, in sums over
    categories and over cells of numbers, without sampling it:

    .. math:: \log p(x_\text{observed}, s \mid z) = \sum_{s_c = 0} \bigl( \log p(x_c \mid z)
            + \log (1 - \pi_c(x_c)) \bigr)
            + \sum_{s_c = 1} \log \mathrm{E}_{p(x_c \mid z)} [\pi_c(x_c)]

    Its draws are of complete rows, given which entries are missing. An entry that is missing has
    the distribution :math:`p(x_c \mid z) \, \pi_c(x_c)` up to a constant, and not p(x|z).

    **What the data can tell.** They cannot tell by themselves why values are missing. The slope is
    learned from two assumptions: that :math:`s_c` depends on the column's own value alone, so that
    every relation between the mask and other columns goes through it; and that the model of the
    values is right, so that a tail that is lacking was cut off. If either fails, for example
    because another column decides who answers, then the slopes and the imputations are wrong,
    and a higher bound does not show that they are right. Compare slopes that you fix, and
    :func:`lowerbound.sensitivity`.

    Which columns have missing values is part of the schema (``Column.has_missing``). A column that
    was complete in training is not modelled: a value that it lacks later counts as missing at
    random, and is not scored. So does a column that a later table does not have at all, which the
    field ``missing`` says.

    Args:
        part: the likelihood of complete rows, :class:`Columns`.
        slope: b, the same for all numbers and ordered categories, instead of slopes that are
            learned; categories and atoms of a column then share their log odds. With 0, values are
            missing at random.

    Raises:
        UnsupportedError: if ``part`` is not made of :class:`Columns`.
        SettingsError: if no column has missing values, or for a slope beyond 8.

    Source: Ipsen, Mattei & Frellsen 2021, "not-MIWAE: deep generative modelling with missing not at
    random data". There the missing values are sampled.

    Example:
        >>> import torch, lowerbound as lb
        >>> from lowerbound.data import Column, Schema
        >>> schema = Schema((Column("income", "real", has_missing=True), Column("age", "count")))
        >>> likelihood = lb.SelfMasked(lb.Columns(lb.mlp(2, 4), schema), slope=1.0)
        >>> row, seen = torch.tensor([[3.0, 0.0]]), torch.tensor([[True, False]])
        >>> likelihood(torch.zeros(1, 1, 2), observed=seen).log_prob(row).shape
        torch.Size([1, 1])
        >>> {name: float(slope) for name, slope in likelihood.slopes_by_column.items()}
        {'income': 1.0}
    """

    first_entries: Tensor

    def __init__(self, part: nn.Module, slope: float | None = None) -> None:
        super().__init__(part)
        columns = unwrap(part)
        if not isinstance(columns, Columns):
            raise UnsupportedError(
                f"SelfMasked: a {type(columns).__name__} does not know the columns of a table; use "
                "lb.SelfMasked(lb.Columns(network, schema))"
            )
        if slope is not None and not abs(slope) <= _STEEPEST:
            raise SettingsError(
                f"SelfMasked: slope={slope!r} must be from -{_STEEPEST:g} to {_STEEPEST:g}, in log "
                "odds for each standard deviation; use None to learn it"
            )
        self.accepts = tuple(dict.fromkeys((*self.accepts, MISSING)))
        self.slope = slope
        self.schema = columns.schema
        places = self.schema.places
        first = [places[entry.column].start for entry in self.schema.entries]
        self.register_buffer("first_entries", torch.tensor(first), persistent=False)
        incomplete = {each.name for each in self.schema.modelled if each.has_missing}
        if not incomplete:
            raise SettingsError(
                "SelfMasked: no column of the schema has missing values, so there is nothing from "
                "which to learn why values are missing; use lb.Masked"
            )
        self.numbers, self.codes = nn.ModuleList(), nn.ModuleList()
        self._add_missingness(columns, incomplete, first)

    def _add_missingness(self, columns: Columns, incomplete: set[str], first: list[int]) -> None:
        """Add the log odds of each part of a row's distribution that has incomplete columns."""
        entries, numeric = self.schema.entries, list[int]()
        for part, numbers in enumerate(columns.entries_of_parts):
            places = [
                number
                for number in numbers
                if entries[number].column in incomplete and not entries[number].is_phase
            ]
            if not places:
                continue
            where = part, numbers, places, [first[place] for place in places]
            family, most = entries[places[0]].family, max(entries[n].levels for n in numbers)
            if family in ("continuous", "counts", "seasonal"):
                self.numbers.append(_OfNumbers(*where, slope=self.slope, entries=entries))
                numeric += places
            elif family == "ordered codes":
                ranks = _OfRanks(*where, slope=self.slope, entries=entries, most=most)
                self.codes.append(ranks)
            else:
                # The number of a column with atoms follows their code.
                values = [
                    numeric.index(place + 1)
                    if place + 1 in numeric and first[place + 1] == place
                    else -1
                    for place in places
                ]
                share = self.slope is not None
                self.codes.append(_OfCodes(*where, numbers=values, most=most, share=share))

    def forward(self, *given: Any, **fields: Any) -> Distribution:
        """Complete rows; with the mask, if the field ``observed`` is given."""
        p = cast(Distribution, self.part(*given, **select_fields(self.part, fields)))
        if OBSERVED not in fields:
            return p
        return SelfMaskedDistribution(
            p,
            fields[OBSERVED],
            self._find_missing(fields),
            [cast(_OfNumbers, each).make_odds() for each in self.numbers],
            [cast(_OfCodes, each).make_odds() for each in self.codes],
        )

    def _find_missing(self, fields: Mapping[str, Tensor]) -> Tensor:
        """Which entries belong to a column that is missing, boolean, ``[B, D]``."""
        missing = fields.get(MISSING)
        if missing is None:
            missing = ~fields[OBSERVED]
        # The number of a column with atoms is not observed at an atom, but it is not missing.
        return missing[..., self.first_entries]

    @torch.no_grad()
    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Start the likelihood inside, and the log odds from the frequencies of missing values."""
        super().start_from(x, **fields)
        if OBSERVED not in fields:
            return
        missing = self._find_missing(fields)
        known = missing | fields[OBSERVED][..., self.first_entries]
        shares = (missing.sum(0) + 0.5) / (known.sum(0) + 1)
        for each in (*self.numbers, *self.codes):
            cast(_OfCodes, each).start(shares.to(x.dtype).logit())

    @property
    def slopes_by_column(self) -> dict[str, Tensor]:
        """The slope b of each incomplete column of numbers or ordered categories, by its name."""
        entries = self.schema.entries
        return {
            entries[place].column: slope
            for each in (*self.numbers, *self.codes)
            if isinstance(each, _BySize)
            for place, slope in zip(
                each.places.tolist(), each.compute_slopes().detach(), strict=True
            )
        }

    @torch.no_grad()
    def log_odds(self, rows: Tensor) -> dict[str, Tensor]:
        """The log odds that each incomplete column is missing, ``[*leading]`` by its name.

        Args:
            rows: complete rows, ``[*leading, D]``.
        """
        found: dict[str, Tensor] = {}
        for each in (*self.numbers, *self.codes):
            odds = cast(_OfCodes, each).make_odds()
            values = odds.of_values(rows[..., odds.places])
            for place, log_odds in zip(odds.places.tolist(), values.unbind(-1), strict=True):
                name = self.schema.entries[place].column
                found[name] = log_odds.where(
                    rows[..., place].round() > 0, found.get(name, log_odds)
                )
        return found
