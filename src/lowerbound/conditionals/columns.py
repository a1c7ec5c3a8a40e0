"""A likelihood of the rows of a table, with one distribution for each column."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.conditionals.base import Parametric, to_full_precision
from lowerbound.conditionals.moments import (
    average_entries,
    estimate_frequencies,
    estimate_phases,
    estimate_variances,
    find_inverse_dispersions,
    find_rates,
)
from lowerbound.data.columns import Schema
from lowerbound.data.entries import Entry, Family
from lowerbound.describe import describable
from lowerbound.distributions import (
    FactorialCodes,
    FactorialNegativeBinomial,
    FactorialPhases,
    FactorialStudentT,
    RowDistribution,
    SeasonalLogistic,
    Units,
    soft_clamp,
)
from lowerbound.errors import ShapeError
from lowerbound.networks import Shape

_TRANSFORMS = {"identity": 0, "log": 1, "logit": 2}

# Standardised values: their scale, and the degrees of freedom of their tails.
_LEAST_SCALE = 1e-2
_LOG_SCALES = math.log(1e4)
_DEGREES = 3.0, 1000.0
_FIRST_DEGREES = 30.0

# The number of waves of the seasons, and the largest real or imaginary part of a coefficient.
_WAVES = 3
_LARGEST_WAVE = 2.0

_LARGEST_LOG_MEAN = 30.0
_LOG_DISPERSIONS = -7.0, 14.0
_STARTING_DISPERSIONS = 0.05, 100.0

# Codes whose numbers of levels differ by less than this factor are padded to the same number.
_PADDING = 4

# The logit of a level that an entry does not have.
_IMPOSSIBLE = -1e9


@dataclass(frozen=True)
class _Codes:
    """Entries whose codes have about the same number of levels, and are computed together.

    Args:
        family: ``"codes"``, ``"ordered codes"`` or ``"phases"``.
        numbers: the positions of the entries in a row.
        levels: the number of levels of each, or of knots.
    """

    family: Family
    numbers: tuple[int, ...]
    levels: tuple[int, ...]

    @property
    def most(self) -> int:
        """The number of levels to which all are padded."""
        return max(self.levels)

    @property
    def outputs(self) -> int:
        """The number of outputs of the network that they need."""
        if self.family == "ordered codes":
            return 2 * len(self.numbers)
        return sum(self.levels)

    @property
    def places(self) -> Tensor:
        """The index of each level's logit among the outputs, ``[L, E]``.

        Padding has the index past the last output.
        """
        rows = torch.arange(self.outputs).split(self.levels)
        return self.pad(list(rows), self.outputs)

    def pad(self, rows: list[Tensor], value: float) -> Tensor:
        """Stack tensors of the levels of each entry, ``[L, E]``, padded with a value."""
        padded = [nn.functional.pad(row, (0, self.most - len(row)), value=value) for row in rows]
        return torch.stack(padded, 1)


def _list_codes(entries: tuple[Entry, ...]) -> Iterator[_Codes]:
    """List the coded entries in groups with about the same number of levels."""
    families: tuple[Family, ...] = ("codes", "ordered codes", "phases")
    for family in families:
        some = [n for n, entry in enumerate(entries) if entry.family == family]
        some.sort(key=lambda number: entries[number].levels)
        while some:
            most = entries[some[0]].levels * (1 if family == "phases" else _PADDING)
            group = [n for n in some if entries[n].levels <= most]
            yield _Codes(family, tuple(group), tuple(entries[n].levels for n in group))
            some = some[len(group) :]


def _find(entries: tuple[Entry, ...], family: Family) -> list[int]:
    return [number for number, entry in enumerate(entries) if entry.family == family]


@describable
class Columns(Parametric):
    r"""A likelihood of the rows of a table, with one distribution for each column.

    .. math:: \log p(x \mid z) = \sum_{\text{columns } d} \log p_d(x_d \mid z)

    Real numbers and times have Student's t with learned degrees of freedom, positive numbers a
    log-normal and proportions a logit-normal distribution, counts a negative binomial, and
    categories a categorical one; that of ordered categories changes smoothly with their rank. Times
    may have a season, see :class:`~lowerbound.distributions.SeasonalLogistic`. Weekdays have a
    categorical distribution, and the share of the day that has passed has a density on a circle,
    see :class:`~lowerbound.distributions.FactorialPhases`. The values that it scores are the
    numbers of the schema, which are standardised, but log probabilities are in the units of the
    table: the bound does not depend on the units in which the model sees it. Columns that are not
    observed are not scored, see :class:`lowerbound.Masked`.

    Args:
        network: from the latents to :meth:`count_outputs` outputs for the schema.
        schema: the columns, such as ``lb.load_data(frame).schema``.

    Raises:
        ShapeError: if the network declares another number of outputs, saying how many it needs.

    Source: Nazábal, Olmos, Ghahramani & Valera 2020, "Handling incomplete heterogeneous data using
    VAEs"; Agresti 2010, "Analysis of ordinal categorical data", for ordered categories.

    Example:
        >>> import torch, lowerbound as lb
        >>> from lowerbound.data import Column, Schema
        >>> jobs = Column("job", "categorical", categories=("clerk", "cook", "nurse"))
        >>> schema = Schema((Column("age", "count"), jobs))
        >>> Columns.count_outputs(schema)
        5
        >>> p = lb.Columns(lb.mlp(2, 16, 5), schema)(torch.zeros(7, 4, 2))
        >>> p.batch_shape, p.event_shape, p.log_prob(torch.tensor([40.0, 2.0])).shape
        (torch.Size([7, 4]), torch.Size([2]), torch.Size([7, 4]))
    """

    order: Tensor
    transforms: Tensor
    centre: Tensor
    spread: Tensor
    log_spread: Tensor
    least_log_scale: Tensor
    least_log_scale_of_seasonal: Tensor
    rate: Tensor
    start: Tensor
    has_tails: Tensor

    def __init__(self, network: nn.Module, schema: Schema) -> None:
        super().__init__()
        self.network = network
        self.schema = schema
        entries = schema.entries
        self.continuous, self.counts = _find(entries, "continuous"), _find(entries, "counts")
        self.seasonal = _find(entries, "seasonal")
        self.codes = list(_list_codes(entries))
        self._refuse_other_outputs()
        order = [number for numbers in self.entries_of_parts for number in numbers]
        self._store("order", torch.argsort(torch.tensor(order)))
        self._store_units(entries)
        self.log_degrees = nn.Parameter(
            torch.full((len(self.continuous),), math.log(_FIRST_DEGREES))
        )
        # The logits of ordered codes at the middle of the network's outputs.
        self.base_logits = nn.ParameterList(
            torch.zeros(group.most, len(group.numbers)) for group in self._list_ordered()
        )
        for number, group in enumerate(self.codes):
            if group.family != "ordered codes":
                self._store(f"places_{number}", group.places)
        for number, group in enumerate(self._list_ordered()):
            ranks = [math.sqrt(12) * (torch.linspace(0, 1, each) - 0.5) for each in group.levels]
            self._store(f"ranks_{number}", group.pad(ranks, 0.0))
            exists = group.pad([torch.ones(each) for each in group.levels], 0.0)
            self._store(f"exists_{number}", exists.bool())

    @property
    def entries_of_parts(self) -> list[tuple[int, ...]]:
        """The positions in a row of the entries of each part of the distribution."""
        numbers = self.continuous, self.counts, self.seasonal
        parts = [*map(tuple, numbers), *(each.numbers for each in self.codes)]
        return [part for part in parts if part]

    @staticmethod
    def count_outputs(schema: Schema) -> int:
        """The number of outputs that the network needs for a schema."""
        entries = schema.entries
        pairs = len(_find(entries, "continuous")) + len(_find(entries, "counts"))
        pairs += (1 + _WAVES) * len(_find(entries, "seasonal"))
        return 2 * pairs + sum(group.outputs for group in _list_codes(entries))

    def _refuse_other_outputs(self) -> None:
        declared: Shape | None = getattr(self.network, "output_shape", None)
        needed = self.count_outputs(self.schema)
        if declared is not None and declared != (needed,):
            raise ShapeError(
                f"Columns: a table with {len(self.schema.modelled)} modelled columns needs "
                f"{needed} outputs, lb.Columns.count_outputs(schema); the network gives {declared}"
            )

    def _store(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values, persistent=False)

    def _store_units(self, entries: tuple[Entry, ...]) -> None:
        # The identity needs only the logarithm of the spread: its slope does not depend on values.
        # Centre and spread may be too large or too small for float32, so they are not stored.
        is_transformed = [entry.transform != "identity" for entry in entries]
        scaled = [
            (entry.centre, entry.spread) if is_needed else (0.0, 1.0)
            for entry, is_needed in zip(entries, is_transformed, strict=True)
        ]
        centre, spread = torch.tensor(scaled).unbind(1)
        self._store("centre", centre.contiguous())
        self._store("spread", spread.contiguous())
        is_continuous = [entry.family in ("continuous", "seasonal") for entry in entries]
        log_spread = [
            math.log(entry.spread) if has_units else 0.0
            for entry, has_units in zip(entries, is_continuous, strict=True)
        ]
        self._store("log_spread", torch.tensor(log_spread))
        self._store("transforms", torch.tensor([_TRANSFORMS[each.transform] for each in entries]))
        continuous = [entries[number] for number in self.continuous]
        self._store("least_log_scale", _find_least_log_scales(continuous))
        seasonal = [entries[number] for number in self.seasonal]
        self._store("least_log_scale_of_seasonal", _find_least_log_scales(seasonal))
        self._store("rate", torch.tensor([2 * math.pi * e.spread / e.period for e in seasonal]))
        start = torch.tensor([2 * math.pi * (e.centre / e.period % 1) for e in seasonal])
        self._store("start", start)
        tails = [each.transform == "identity" for each in continuous]
        self._store("has_tails", torch.tensor(tails, dtype=torch.bool))

    def _list_ordered(self) -> list[_Codes]:
        return [group for group in self.codes if group.family == "ordered codes"]

    def from_parameters(self, raw: Tensor) -> RowDistribution:
        """The distribution of these outputs of the network."""
        raw = to_full_precision(raw)
        sizes = [len(self.continuous)] * 2 + [len(self.counts)] * 2
        sizes += [len(self.seasonal)] * (2 + 2 * _WAVES)
        pieces = raw.split([*sizes, *(group.outputs for group in self.codes)], -1)
        parts: list[Distribution] = []
        if self.continuous:
            parts.append(self._make_continuous(*pieces[:2]))
        if self.counts:
            parts.append(_make_counts(*pieces[2:4]))
        if self.seasonal:
            parts.append(self._make_seasonal(*pieces[4 : 6 + 2 * _WAVES]))
        all_logits = self._compute_logits(list(pieces[6 + 2 * _WAVES :]))
        for group, logits in zip(self.codes, all_logits, strict=True):
            kind = FactorialPhases if group.family == "phases" else FactorialCodes
            parts.append(kind(logits))
        units = Units(self.transforms, self.centre, self.spread, self.log_spread)
        return RowDistribution(parts, self.order, units, is_discrete=self._is_discrete)

    @property
    def _is_discrete(self) -> bool | None:
        if not self.continuous and not self.seasonal:
            return True
        return None if self.counts or self.codes else False

    def _make_seasonal(self, loc: Tensor, log_scale: Tensor, *waves: Tensor) -> SeasonalLogistic:
        log_scale = _limit_log_scale(log_scale, self.least_log_scale_of_seasonal)
        bounded = [soft_clamp(each, -_LARGEST_WAVE, _LARGEST_WAVE) for each in waves]
        # The network gives the standard deviation of a time without seasons.
        log_scale = log_scale - math.log(math.pi / math.sqrt(3))
        return SeasonalLogistic(loc, log_scale, bounded, (self.rate, self.start))

    def _make_continuous(self, loc: Tensor, log_scale: Tensor) -> FactorialStudentT:
        log_scale = _limit_log_scale(log_scale, self.least_log_scale)
        fewest, most = map(math.log, _DEGREES)
        log_degrees = soft_clamp(self.log_degrees, fewest, most, knee=0.5)
        degrees = torch.where(self.has_tails, log_degrees.exp(), _DEGREES[1])
        return FactorialStudentT(loc, log_scale, degrees)

    def _compute_logits(self, pieces: list[Tensor]) -> Iterator[Tensor]:
        """The logits of each group of codes, ``[*leading, L, E]``."""
        ordered = 0
        for number, (group, raw) in enumerate(zip(self.codes, pieces, strict=True)):
            if group.family != "ordered codes":
                padded = nn.functional.pad(raw, (0, 1), value=_IMPOSSIBLE)
                yield padded[..., getattr(self, f"places_{number}")]
                continue
            slope, curvature = raw.unsqueeze(-2).chunk(2, -1)  # [*leading, 1, E]
            ranks, base = getattr(self, f"ranks_{ordered}"), self.base_logits[ordered]
            logits = base + slope * ranks - curvature * ranks.square()
            yield logits.masked_fill(~getattr(self, f"exists_{ordered}"), _IMPOSSIBLE)
            ordered += 1

    def marginal_outputs(self, x: Tensor) -> Tensor:
        """The outputs at which each column has the distribution of its own values."""
        values = x[:, self.continuous]
        outputs = []
        if self.continuous:
            outputs += [average_entries(values), 0.5 * estimate_variances(values).log()]
        if self.counts:
            counts = x[:, self.counts]
            exposure = torch.ones_like(counts).masked_fill(counts.isnan(), math.nan)
            rates = find_rates(counts, exposure)
            dispersions = find_inverse_dispersions(counts, exposure * rates)
            outputs += [rates.log(), dispersions.clamp(*_STARTING_DISPERSIONS).log()]
        if self.seasonal:
            times = x[:, self.seasonal]
            outputs += [average_entries(times), 0.5 * estimate_variances(times).log()]
            turns = [wave * (self.rate * times + self.start) for wave in range(1, _WAVES + 1)]
            # To first order these averages are the coefficients c of SeasonalLogistic.
            outputs += [average_entries(turn.cos()) for turn in turns]
            outputs += [-average_entries(turn.sin()) for turn in turns]
        for group in self.codes:
            if group.family == "ordered codes":
                outputs.append(x.new_zeros(group.outputs))
                continue
            estimate = estimate_phases if group.family == "phases" else estimate_frequencies
            for number, levels in zip(group.numbers, group.levels, strict=True):
                outputs.append(estimate(x[:, number], levels).log())
        return torch.cat(outputs)

    @torch.no_grad()
    def start_from(self, x: Tensor, **fields: Tensor) -> None:
        """Set the logits of ordered codes, and the bias of the network's last layer."""
        for base, group in zip(self.base_logits, self._list_ordered(), strict=True):
            frequencies = [
                estimate_frequencies(x[:, number], levels).log()
                for number, levels in zip(group.numbers, group.levels, strict=True)
            ]
            base.copy_(group.pad(frequencies, 0.0))
        super().start_from(x, **fields)


def _find_least_log_scales(entries: list[Entry]) -> Tensor:
    return torch.tensor([math.log(max(_LEAST_SCALE, each.least_scale)) for each in entries])


def _limit_log_scale(log_scale: Tensor, least: Tensor) -> Tensor:
    # soft_clamp needs numbers as limits, and each entry has a least scale of its own
    return least + soft_clamp(log_scale - least, 0.0, _LOG_SCALES)


def _make_counts(log_mean: Tensor, log_inverse_dispersion: Tensor) -> FactorialNegativeBinomial:
    return FactorialNegativeBinomial(
        soft_clamp(log_mean, -_LARGEST_LOG_MEAN, _LARGEST_LOG_MEAN),
        soft_clamp(log_inverse_dispersion, *_LOG_DISPERSIONS),
    )
