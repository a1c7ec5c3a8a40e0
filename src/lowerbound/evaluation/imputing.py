"""Fills in the missing entries of tables: once by point estimates, or several times by draws."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.columns import CODED, CONTINUOUS, Column, Floats, Mask, Schema
from lowerbound.data.dataset import Dataset
from lowerbound.data.examples import Examples
from lowerbound.data.fields import OBSERVED
from lowerbound.data.frames import open_table
from lowerbound.data.joined_names import join_names
from lowerbound.data.raw_columns import RawColumn
from lowerbound.data.raw_values import is_missing
from lowerbound.data.schema import decode_columns, fill_table, make_table
from lowerbound.data.table_files import load_if_path
from lowerbound.errors import DataError, DoubtfulEstimateWarning, SettingsError
from lowerbound.evaluation.checks import check_model, check_normalized
from lowerbound.evaluation.pareto import pareto_shape, reliable_shape, tail_length
from lowerbound.models.table import (
    FEWEST_EFFECTIVE,
    TableModel,
    complete_rows,
    count_effective_samples,
)
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number

Point = Literal["auto", "mean", "median", "mode"]

# The number of draws of each entry from which a point is computed.
_DRAWS_FOR_POINTS = 200

_ROWS_NAMED = 5


@dataclass(frozen=True, eq=False)
class Imputation:
    """Completed tables, and whether they can be trusted.

    Args:
        tables: the completed tables: one whose missing entries are points, or M whose missing
            entries are draws.
        samples: K, the number of draws of z for each row.
        effective_sample_sizes: of each row's weights, ``[N]``; nan for a row without missing
            entries, which needs no draws.
        pareto_k: the shape of the upper tail of each row's weights, ``[N]``; above about 0.7 the
            entries of a row are not to be trusted. It is nan in the same rows.
        incomplete: which rows have missing entries in a modelled column of the table, ``[N]``. A
            column that the table does not have is not filled in.
        left_out: the identifiers, and the columns without any values. Their missing entries are not
            filled in; if there are some, a warning of :func:`impute` names the columns.
    """

    tables: tuple[Any, ...]
    samples: int
    effective_sample_sizes: Tensor = field(repr=False)
    pareto_k: Tensor = field(repr=False)
    incomplete: Tensor = field(repr=False)
    left_out: tuple[str, ...] = ()

    @property
    def table(self) -> Any:
        """The completed table; the first, if there are several."""
        return self.tables[0]

    @property
    def doubtful(self) -> Tensor:
        """Which rows have entries that are not to be trusted, ``[N]``."""
        few = self.effective_sample_sizes < min(FEWEST_EFFECTIVE, self.samples)
        heavy = self.pareto_k > reliable_shape(self.samples)
        uneven = self.effective_sample_sizes < 0.5 * self.samples
        return self.incomplete & (few | (heavy & uneven))

    @property
    def warning(self) -> str | None:
        """Which rows are not to be trusted, in words; ``None`` if all are."""
        rows = self.doubtful.nonzero().flatten().tolist()
        if not rows:
            return None
        named = ", ".join(map(str, rows[:_ROWS_NAMED]))
        if len(rows) > _ROWS_NAMED:
            named += ", ..."
        return (
            f"the imputed entries of {len(rows):,} of {int(self.incomplete.sum()):,} incomplete "
            f"rows are not to be trusted, because a few draws of z carry most of the weight: rows "
            f"{named} (counted from 0). Use more samples, or train a posterior that fits better"
        )


def impute(
    model: TableModel,
    data: Any,
    draws: int | None = None,
    *,
    samples: int = 200,
    point: Point | Mapping[str, Point] = "auto",
    seed: int = 0,
) -> Imputation:
    r"""Fill in the missing entries of a table, once or several times.

    .. math:: p(x_{\text{missing}} \mid x_{\text{observed}}) \approx
        \sum_k \bar w_k \, p(x_{\text{missing}} \mid z_k), \qquad z_k \sim q(z \mid
        x_{\text{observed}})

    This is right if entries are missing at random. A model that also explains why they are missing,
    :class:`lowerbound.SelfMasked`, gives them the distribution of values that are missing,
    :math:`p(x_{\text{missing}} \mid z_k, s)`.

    Entries that are observed do not change. A single table has points: the mean of real and
    positive numbers, proportions and times, the median of counts and ordered categories, and the
    most probable category. It serves for prediction, but its entries vary less than real ones do.
    For intervals and tests complete the table several times, compute an estimate from each table,
    and combine the estimates by :func:`lowerbound.pool`.

    Args:
        model: a model of a table.
        data: the table: a frame, or what :func:`lowerbound.load_data` reads.
        draws: M, the number of tables with draws; ``None`` for one table with points.
        samples: K, the number of draws of z for each row.
        point: the point: ``"auto"``, which is by the type of the column, ``"mean"``, ``"median"``
            or ``"mode"``; or one of these for some columns by name. The mean has the least squared
            error, the median the least absolute error. Categories without an order have their mode.
            Draws beyond the values that were seen in training enter a mean as the nearest of these.
        seed: of the draws.

    Returns:
        An :class:`Imputation`: the tables, in the library of the frame, and for each row whether it
        can be trusted.

    Raises:
        UnsupportedError: if the model is not one of a table.
        DataError: if the table does not have the columns of the model.
        SettingsError: for settings that are out of range.

    Warns:
        DoubtfulEstimateWarning: if rows are not to be trusted.
        UserWarning: if missing entries stay missing, because the model leaves out their columns.

    Source: Mattei & Frellsen 2019, "MIWAE"; Rubin 1987, "Multiple imputation for nonresponse in
    surveys".

    Example:
        >>> import numpy as np
        >>> import lowerbound as lb
        >>> from lowerbound.sklearn import VAE
        >>> table = np.random.default_rng(0).normal(size=(60, 3))
        >>> table[::5, 1] = np.nan
        >>> model = VAE(steps=20, random_state=0).fit(table).model_
        >>> completed = lb.impute(model, table)
        >>> completed.table.shape, int(completed.incomplete.sum())
        ((60, 3), 12)
    """
    check_model("impute", model, TableModel, "train one by the recipe table")
    check_normalized("impute", model)
    check_seed("impute", seed)
    samples = check_whole_number("impute: samples", samples)
    if draws is not None:
        draws = check_whole_number("impute: draws", draws)
    _check_point(point, model.schema)
    data = open_data(data, model.schema)
    unfilled = [] if isinstance(data, Examples) else find_unfilled(data, model.schema)
    if unfilled:
        warnings.warn(f"impute: {describe_unfilled(unfilled)}", UserWarning, stacklevel=2)
    return impute_examples(
        model, data, model.examples(data), draws, samples=samples, point=point, seed=seed
    )


def impute_examples(
    model: TableModel,
    data: Any,
    examples: Examples,
    draws: int | None = None,
    *,
    samples: int,
    point: Point | Mapping[str, Point],
    seed: int = 0,
) -> Imputation:
    """Impute a table, see :func:`impute`, that was made into examples."""
    missing = ~find_observed_columns(examples, model.schema)
    if not isinstance(data, Examples):
        table = open_table(data)
        missing &= torch.tensor([each.name in table for each in model.schema.modelled])
    incomplete = missing.any(1)
    columns = {each.name: np.zeros((draws or 1, len(examples))) for each in model.schema.modelled}
    effective = torch.full((len(examples),), math.nan, dtype=torch.float64)
    shapes = effective.clone()
    rows, done = incomplete.nonzero().flatten(), 0
    batches: Iterable[tuple[Tensor, Tensor]] = ()
    if len(rows):
        batches = complete_rows(
            model,
            examples.subset(rows),
            samples=samples,
            draws=draws or _DRAWS_FOR_POINTS,
            seed=derived_seed(seed, "impute"),
        )
    for values, log_w in batches:
        batch = rows[done : done + log_w.shape[1]]
        done += len(batch)
        effective[batch] = count_effective_samples(log_w).cpu()
        largest = log_w.topk(min(len(log_w), tail_length(samples) + 1), 0).values
        shapes[batch] = pareto_shape(largest).cpu()
        by_column = missing[batch].numpy().T
        for column, holes in zip(model.schema.modelled, by_column, strict=True):
            if not holes.any():
                continue
            drawn = _decode_draws(values, holes, column, model.schema)
            if draws is None:
                drawn = _summarise(drawn, column, _choose_point(point, column))[None]
            columns[column.name][:, batch.numpy()[holes]] = drawn
    tables = (
        {name: values[number] for name, values in columns.items()} for number in range(draws or 1)
    )
    result = Imputation(
        tuple(
            complete_table(data, _keep_observed(each, data, model.schema), model.schema)
            for each in tables
        ),
        samples,
        effective,
        shapes,
        incomplete,
        tuple(each.name for each in model.schema.columns if not each.has_values),
    )
    if result.warning is not None:
        warnings.warn(f"impute: {result.warning}", DoubtfulEstimateWarning, stacklevel=2)
    return result


def find_unfilled(data: Any, schema: Schema) -> list[str]:
    """The columns of a table whose missing entries stay missing: a model has no values for them.

    Args:
        data: the table.
        schema: the columns of the model.
    """
    table = open_table(data)
    return [
        each.name
        for each in schema.columns
        if not each.has_values
        and each.name in table
        and _has_holes(table[each.name], schema.missing_values)
    ]


def _has_holes(column: RawColumn, marks: Sequence[Any]) -> bool:
    """Whether some entries are missing, also in a column of a type that is not modelled."""
    try:
        return bool(column.find_missing(marks).any())
    except DataError:
        return any(map(is_missing, column.list_values()))


def describe_unfilled(names: Sequence[str]) -> str:
    """Say which entries are not filled in, and what to do about it."""
    return (
        f"the missing entries of {join_names(names)} stay missing, because the model leaves out "
        "identifiers and columns without values; drop such columns, or train with their types in "
        "columns="
    )


def _check_point(point: Point | Mapping[str, Point], schema: Schema) -> None:
    chosen: tuple[Any, ...] = (point,)
    if isinstance(point, Mapping):
        for name in point:
            schema.find(name)
        chosen = tuple(point.values())
    for each in chosen:
        if each not in get_args(Point):
            raise SettingsError(
                f"impute: point={each!r} is unknown; choose 'auto', 'mean', 'median' or 'mode'"
            )


def find_observed_columns(examples: Examples, schema: Schema) -> Tensor:
    """Which modelled columns of each row are observed, ``[N, C]``."""
    observed = examples.fields[OBSERVED].cpu()
    return torch.stack([observed[:, place].any(1) for place in schema.places.values()], 1)


def _decode_draws(values: Tensor, rows: Mask, column: Column, schema: Schema) -> Floats:
    """Draws ``[M, B]`` of one column of some rows, from the numbers of all, ``[M, B, D]``."""
    chosen = values[:, torch.from_numpy(rows), schema.places[column.name]].cpu().double()
    decoded = column.decode(chosen.flatten(0, 1).numpy())
    return decoded.reshape(chosen.shape[:2])


# The point by the type of the column; the mean of others.
_POINTS: dict[str, Point] = {
    "categorical": "mode",
    "boolean": "mode",
    "ordinal": "median",
    "count": "median",
}


def _choose_point(point: Point | Mapping[str, Point], column: Column) -> Point:
    """Choose the point of a column: mean, median or mode."""
    chosen = point.get(column.name, "auto") if isinstance(point, Mapping) else point
    return _POINTS.get(column.type, "mean") if chosen == "auto" else chosen


def _summarise(draws: Floats, column: Column, point: Point) -> Floats:
    """A point for each entry of a column, from draws ``[M, B]``."""
    if column.type in ("categorical", "boolean"):
        return _find_modes(draws)
    if point == "mode" and column.type in CONTINUOUS:
        return column.round(_find_half_sample_modes(draws))
    if point == "mode":
        return _find_modes(draws)
    if point == "median":
        centre = np.asarray(np.median(draws, 0), dtype=float)
    else:
        # A single draw from a heavy tail would outweigh all others.
        centre = np.clip(draws, *column.limits).mean(0)
    if column.type in CODED or (column.type == "count" and point == "median"):
        return np.asarray(np.round(centre), dtype=float)
    return column.round(centre)


def _find_half_sample_modes(draws: Floats) -> Floats:
    """The mode of each column of draws ``[M, B]``: where half of the draws are densest, repeatedly.

    Source: Robertson & Cryer 1974, "An iterative procedure for estimating the mode".
    """
    ordered = np.sort(draws, axis=0)
    while len(ordered) > 2:
        half = -(-len(ordered) // 2)
        widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
        start = widths.argmin(0)
        ordered = np.take_along_axis(ordered, start + np.arange(half)[:, None], 0)
    middle: Floats = ordered.mean(0)
    return middle


def _find_modes(draws: Floats) -> Floats:
    """The most frequent value of each column of draws ``[M, B]``; the smallest of several."""
    ordered = np.sort(draws, axis=0)
    # The length of the run of equal values that ends at each place.
    places = np.broadcast_to(np.arange(len(ordered))[:, None], ordered.shape)
    begins = np.ones(ordered.shape, dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    lengths = places - np.maximum.accumulate(np.where(begins, places, 0), axis=0)
    modes: Floats = np.take_along_axis(ordered, lengths.argmax(0)[None], 0)[0]
    return modes


def _keep_observed(columns: dict[str, Floats], data: Any, schema: Schema) -> dict[str, Floats]:
    """Of examples, take observed entries as they are; those of a table are not changed anyway."""
    if not isinstance(data, Examples):
        return columns
    observed = data.fields[OBSERVED]
    there = decode_columns(data.batch(torch.arange(len(data))), schema, observed)
    return {
        name: np.where(observed[:, schema.places[name]].any(1).cpu().numpy(), there[name], values)
        for name, values in columns.items()
    }


def open_data(data: Any, schema: Schema) -> Any:
    """Read a file as a frame, and take all examples of a data set; other data stay as they are."""
    return data.all() if isinstance(data, Dataset) else load_if_path(data, schema)


def complete_table(data: Any, columns: dict[str, Floats], schema: Schema) -> Any:
    """Complete a table, or the table of some examples, from values of all rows of each column."""
    if isinstance(data, Examples):
        return make_table(columns, schema)
    return fill_table(data, columns, schema)
