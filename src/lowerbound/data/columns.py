"""Columns of tables: what their values are, and how these become the numbers that a model sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowerbound.data.cycles import (
    Cycle,
    find_period,
    join_times,
    list_phases,
    measure_season,
    split_times,
)
from lowerbound.data.entries import Entry, Family, Transform
from lowerbound.data.grids import Grid
from lowerbound.data.joined_names import join_names
from lowerbound.describe import describable
from lowerbound.errors import DataError

ColumnType = Literal[
    "real",
    "positive",
    "proportion",
    "count",
    "ordinal",
    "categorical",
    "boolean",
    "time",
    "identifier",
    "constant",
]

CONTINUOUS = ("real", "positive", "proportion", "time")
"""The types of columns whose values have a density."""

CODED = ("ordinal", "categorical", "boolean")
"""The types of columns whose values are categories."""

LEFT_OUT = ("identifier", "constant")
"""The types of columns that are not modelled."""

Backend = Literal["", "numpy_nullable", "pyarrow"]
"""The backend in which pandas keeps the values of a column; empty for arrays of numpy."""

Label = int | float | tuple[Any, ...]
"""A name of a pandas column that is not text: a number, or a tuple with a name for each level."""

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_TRANSFORMS: dict[str, Transform] = {"positive": "log", "proportion": "logit"}

_LARGEST_LOGARITHM = 700.0  # of a number that float64 can hold, and so can its inverse


@describable
@dataclass(frozen=True)
class Column:
    r"""A column of a table: its name, its type, and how its values become numbers.

    Continuous values are transformed, by a logarithm if they are positive and by a logit if they
    are proportions, and then standardised. Single values of a continuous column that are frequent,
    such as the zeros of an amount, are *atoms*: they have a probability, and all other values a
    density. A column with atoms is described by two numbers, the code of the atom (0 for none) and
    the value, which is not observed at an atom.

    Times of many weeks or days are described by several numbers: the standardised number of the
    week or the day, the weekday, and the share of the day that has passed.

    Args:
        name: the name of the column.
        type: what its values are. ``"real"``: any numbers; ``"positive"``: numbers above 0, or
            from 0 on if 0 is an atom; ``"proportion"``: numbers from 0 to 1; ``"count"``: whole
            numbers from 0 on; ``"ordinal"``, ``"categorical"``, ``"boolean"``: categories;
            ``"time"``: dates or times. ``"identifier"`` and ``"constant"`` are left out.
        dtype: the type of the values in the frame, by its name in narwhals, such as ``"Int64"``;
            times have their unit, ``"Datetime[us]"``, and ``"Enum"`` are ordered categories.
        categories: the categories, in their order; of a constant column of categories or truth
            values, its value.
        other: whether the last category stands for all values that are none of the others.
        atoms: the values of a continuous column that have a probability; of a constant column of
            numbers or times, its value.
        centre: the average of the transformed values.
        spread: their standard deviation.
        step: the step of the grid of rounded values; all their differences are multiples of it.
        low: the smallest value seen; draws do not exceed the range by more than its width.
        high: the largest value seen.
        zone: the time zone of times, such as ``"Europe/Berlin"``; empty for times without one.
        label: the name of the column in its frame, if it is a number or a tuple, and not text.
        has_missing: whether values were missing in the table from which it was inferred.
        season: the cycle, such as ``"year"``, if the times cover only a few of its periods.
        cycles: those with many periods in the times, ``"week"`` and ``"day"``, in this order.
        backend: the backend in which pandas keeps the values. Columns that differ only in
            ``backend`` or ``label`` are equal, since the model reads their frames alike.

    Example:
        >>> income = Column("income", "positive", atoms=(0.0,), centre=3.0, spread=0.5)
        >>> values, observed = income.encode(np.array([0.0, np.exp(4.0), np.nan]))
        >>> values.tolist(), observed.tolist()
        ([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]], [[True, False], [True, True], [False, False]])
        >>> income.decode(values[:2]).round(6).tolist()
        [0.0, 54.59815]
    """

    name: str
    type: ColumnType
    dtype: str = "Float64"
    categories: tuple[Any, ...] = ()
    other: bool = False
    atoms: tuple[float, ...] = ()
    centre: float = 0.0
    spread: float = 1.0
    step: float = 0.0
    low: float = 0.0
    high: float = 0.0
    zone: str = ""
    label: Label | None = field(default=None, compare=False)
    has_missing: bool = False
    season: Cycle | None = None
    cycles: tuple[Cycle, ...] = ()
    backend: Backend = field(default="", compare=False)

    @property
    def is_modelled(self) -> bool:
        """Whether the column is part of the model."""
        return self.type not in LEFT_OUT

    @property
    def has_values(self) -> bool:
        """Whether missing values can be filled in: by the model, or by the single value."""
        return self.is_modelled or bool(self.categories or self.atoms)

    @property
    def levels(self) -> int:
        """The number of categories."""
        return len(self.categories) + self.other

    @property
    def other_code(self) -> int | None:
        """The code of the category that stands for all values that are none of the others."""
        return len(self.categories) if self.other else None

    @property
    def other_name(self) -> str | None:
        """What answers call the category of all others; ``None`` if they leave it missing.

        Only a column of text has a name for it, and it is that of none of the categories.
        """
        if not all(isinstance(each, str) for each in self.categories):
            return None
        name = "other"
        while name in self.categories:
            name += "_"
        return name

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value seen; infinite for categories, or if not known."""
        if self.type in CODED or self.low >= self.high:
            return -math.inf, math.inf
        return self.low, self.high

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The numbers by which a row describes the column."""
        if self.type in LEFT_OUT:
            return ()
        if self.type == "count":
            return (Entry(self.name, "counts", centre=self.centre, spread=self.spread),)
        if self.type in CODED:
            family: Family = "codes"
            if self.type == "ordinal":
                family = "ordered codes"
            return (Entry(self.name, family, levels=self.levels),)
        value = Entry(
            self.name,
            "seasonal" if self.season else "continuous",
            transform=self._transform,
            centre=self.centre,
            spread=self.spread,
            least_scale=self._find_least_scale(),
            period=measure_season(self.season, self.cycles),
        )
        if self.atoms:
            return Entry(self.name, "codes", levels=len(self.atoms) + 1), value
        return value, *list_phases(self.name, self.cycles)

    @property
    def _transform(self) -> Transform:
        return _TRANSFORMS.get(self.type, "identity")

    def _find_least_scale(self) -> float:
        """A quarter of the step: within less, values that are rounded say nothing."""
        if self._transform != "identity":
            return 0.0
        return 0.25 * (find_period(self.cycles) or self.step) / self.spread

    def encode(self, raw: Floats) -> tuple[Floats, Mask]:
        """The numbers of some rows, ``[N, E]``, and which of them are observed.

        Args:
            raw: values ``[N]``, with NaN where they are missing. Categories are given as codes.
        """
        seen = ~np.isnan(raw)
        if self.type == "count" or self.type in CODED:
            return np.where(seen, raw, 0.0)[:, None], seen[:, None]
        if self.cycles:
            numbers = split_times(np.where(seen, raw, 0.0), self.cycles)
            numbers[:, 0] = self.standardize(numbers[:, 0])
            return numbers * seen[:, None], np.tile(seen[:, None], numbers.shape[1])
        codes = np.zeros_like(raw)
        for number, atom in enumerate(self.atoms, 1):
            codes[raw == atom] = number
        has_value = seen & (codes == 0)
        value = np.zeros_like(raw)
        value[has_value] = self.standardize(raw[has_value])
        if not self.atoms:
            return value[:, None], seen[:, None]
        return np.stack([codes, value], 1), np.stack([seen, has_value], 1)

    def standardize(self, raw: Floats) -> Floats:
        """Continuous values that are not atoms, transformed and standardised."""
        if self._transform == "log":
            raw = np.log(raw)
        elif self._transform == "logit":
            raw = np.log(raw) - np.log1p(-raw)
        return (raw - self.centre) / self.spread

    def restore(self, value: Floats) -> Floats:
        """The inverse of :meth:`standardize`."""
        raw = value * self.spread + self.centre
        if self._transform == "log":
            restored: Floats = np.exp(np.minimum(raw, _LARGEST_LOGARITHM))
            return restored
        if self._transform == "logit":
            return 1 / (1 + np.exp(-np.clip(raw, -_LARGEST_LOGARITHM, _LARGEST_LOGARITHM)))
        return raw

    def decode(self, values: Floats, observed: Mask | None = None) -> Floats:
        """The values ``[N]`` of some numbers ``[N, E]``; categories as codes.

        Args:
            values: the numbers.
            observed: which of them were observed, ``[N, E]``, and come back as they were. All
                others are draws, see :meth:`clip`; without a mask all are.
        """
        if self.type == "count" or self.type in CODED:
            return values[:, 0].round()
        raw = self._restore_times(values, observed) if self.cycles else self.restore(values[:, -1])
        drawn = self.round(self.clip(raw))
        if observed is not None:
            drawn = np.where(observed[:, -1], self._correct(raw), drawn)
        if not self.atoms:
            return drawn
        codes = values[:, 0].round().astype(int)
        return np.where(codes == 0, drawn, np.array((0.0, *self.atoms))[codes])

    def _restore_times(self, values: Floats, observed: Mask | None) -> Floats:
        """Times from their numbers; the weeks or days of draws are kept near the range."""
        number, period = self.restore(values[:, 0]), find_period(self.cycles)
        if self.low < self.high:
            first, last = split_times(self.clip(np.array([-np.inf, np.inf])), self.cycles)[:, 0]
            is_drawn = True if observed is None else ~observed[:, 0]
            number = np.where(is_drawn, np.clip(number, first + period, last - period), number)
        return join_times(np.column_stack([number, values[:, 1:]]), self.cycles, self.low)

    def _correct(self, raw: Floats) -> Floats:
        """Observed values without the error of float32; those that were not rounded stay."""
        rounded = self.round(raw)
        if not self.step:
            return rounded
        if self.dtype.startswith(("Int", "UInt")):
            raw = np.round(raw)
        return np.where(Grid(self.low, self.step).is_near(raw), rounded, raw)

    def clip(self, raw: Floats) -> Floats:
        """Draws of a continuous column, not beyond the values seen by more than their range.

        For a positive column, it is the range of the logarithms.
        """
        if self.type not in CONTINUOUS or self.low >= self.high:
            return raw
        if self.type != "positive":
            width = self.high - self.low
            return np.clip(raw, self.low - width, self.high + width)
        top = float(np.log(self.high))
        width = 2 * abs(top - self.centre)
        bottom = -_LARGEST_LOGARITHM
        if self.low > 0:
            width = top - float(np.log(self.low))
            bottom = max(float(np.log(self.low)) - width, bottom)
        top = min(top + width, _LARGEST_LOGARITHM)
        limited: Floats = np.clip(raw, np.exp(bottom), np.exp(top))
        return limited

    def round(self, raw: Floats) -> Floats:
        """Round values as those of the column are.

        A value that has a logarithm or a logit stays one that has.
        """
        step = self.step
        if self.dtype.startswith(("Int", "UInt")) and self.type in ("real", "positive"):
            step = step or 1.0
        limits = np.finfo(np.float32 if self.dtype == "Float32" else np.float64)
        lowest, highest = float(limits.tiny), 1.0 - float(limits.epsneg)
        if step:
            grid = Grid(self.low, step)
            raw, lowest, highest = grid.round(raw), grid.find_above(0.0), grid.find_below(1.0)
        if self.type not in ("positive", "proportion"):
            return raw
        if 0.0 in self.atoms:
            lowest = 0.0
        if self.type == "positive":
            return np.maximum(raw, lowest)
        if 1.0 in self.atoms:
            highest = 1.0
        return np.clip(raw, lowest, max(lowest, highest))


@describable
@dataclass(frozen=True)
class Schema:
    """The columns of a table, in the order of the table.

    Args:
        columns: the columns, also those that are left out.
        library: the library of the frame from which the columns were read, whose frames are
            returned: ``"pandas"``, ``"polars"`` or ``"pyarrow"``; ``None`` for arrays, which have
            no names of columns.
        missing_values: the values that stand for missing ones, in addition to empty ones and NaN.

    Example:
        >>> schema = Schema((Column("b", "real"), Column("a", "count"), Column("id", "identifier")))
        >>> [entry.column for entry in schema.entries], schema.names
        (['a', 'b'], ('b', 'a', 'id'))
    """

    columns: tuple[Column, ...]
    library: str | None = None
    missing_values: tuple[Any, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all columns, in the order of the table."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def modelled(self) -> tuple[Column, ...]:
        """The columns that are modelled, ordered by name.

        A model therefore does not depend on the order of the columns of its table.
        """
        return tuple(
            sorted((each for each in self.columns if each.is_modelled), key=lambda each: each.name)
        )

    @property
    def summary(self) -> str:
        """How many columns are modelled, and which are left out.

        Example:
            >>> Schema((Column("a", "count"), Column("id", "identifier"))).summary
            '1 column, left out: id (identifier)'
        """
        count = len(self.modelled)
        left_out = [f"{each.name} ({each.type})" for each in self.columns if not each.is_modelled]
        ending = f", left out: {join_names(left_out)}" if left_out else ""
        return f"{count:,} column{'s' * (count != 1)}{ending}"

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """The numbers that describe a row, ``D`` of them."""
        return tuple(entry for column in self.modelled for entry in column.entries)

    @cached_property
    def places(self) -> dict[str, slice]:
        """The positions of each modelled column's numbers."""
        places, start = {}, 0
        for column in self.modelled:
            places[column.name] = slice(start, start + len(column.entries))
            start += len(column.entries)
        return places

    def find(self, name: str) -> Column:
        """The column of this name.

        Raises:
            DataError: if there is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise DataError(f"there is no column {name!r}; the columns are {join_names(self.names)}")
