"""Missing entries of tables are filled in: once by a point, or several times by draws."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from lowerbound.data.columns import CODED, CONTINUOUS, Column, Floats, Schema
from lowerbound.data.dataset import Dataset
from lowerbound.data.examples import Examples
from lowerbound.data.fields import OBSERVED
from lowerbound.data.schema import decode_columns, fill_table, make_table
from lowerbound.data.table_files import load_table
from lowerbound.errors import DoubtfulEstimateWarning, SettingsError, UnsupportedError
from lowerbound.evaluation.checks import check_normalized
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
        effective_sample_sizes: of each row's weights, ``[N]``.
        pareto_k: the shape of the upper tail of each row's weights, ``[N]``; above about 0.7 the
            entries of a row are not to be trusted.
        incomplete: which rows have missing entries in a modelled column, ``[N]``.
        left_out: the columns that are not modelled. Their missing entries are not filled in, except
            those of a column with a single value.
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
    point: Point = "auto",
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
        point: the point: by the type of the column, or always the mean, the median or the mode.
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
    if not isinstance(model, TableModel):
        raise UnsupportedError(
            f"impute takes a lowerbound.TableModel, and not a {type(model).__name__}; train one by "
            "the recipe table"
        )
    check_normalized("impute", model)
    check_seed("impute", seed)
    samples = check_whole_number("impute: samples", samples)
    if draws is not None:
        draws = check_whole_number("impute: draws", draws)
    if point not in ("auto", "mean", "median", "mode"):
        raise SettingsError(
            f"impute: point={point!r} is unknown; choose 'auto', 'mean', 'median' or 'mode'"
        )
    if isinstance(data, str | os.PathLike):
        data = load_table(Path(data).expanduser(), model.schema)
    if isinstance(data, Dataset):
        data = data.all()
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
    point: Point,
    seed: int = 0,
) -> Imputation:
    """Impute a table, see :func:`impute`, that was made into examples."""
    count = draws or _DRAWS_FOR_POINTS
    tables: list[list[dict[str, Floats]]] = [[] for _ in range(draws or 1)]
    effective, shapes = [], []
    for values, log_w in complete_rows(
        model,
        examples,
        samples=samples,
        draws=count,
        seed=derived_seed(seed, "impute"),
    ):
        effective.append(count_effective_samples(log_w))
        shapes.append(pareto_shape(log_w.topk(min(len(log_w), tail_length(samples) + 1), 0).values))
        if draws is None:
            tables[0].append(_find_points(values, model.schema, point))
        else:
            for table, drawn in zip(tables, values, strict=True):
                table.append(decode_columns(drawn, model.schema))
    joined = [_keep_observed(_join(parts), data, model.schema) for parts in tables]
    result = Imputation(
        tuple(complete_table(data, columns, model.schema) for columns in joined),
        samples,
        torch.cat(effective).cpu(),
        torch.cat(shapes).cpu(),
        ~_find_observed_columns(examples, model.schema).all(1),
        tuple(each.name for each in model.schema.columns if each.type == "identifier"),
    )
    if result.warning is not None:
        warnings.warn(f"impute: {result.warning}", DoubtfulEstimateWarning, stacklevel=2)
    return result


def _find_observed_columns(examples: Examples, schema: Schema) -> Tensor:
    """Which modelled columns of each row are observed, ``[N, C]``."""
    observed = examples.fields[OBSERVED].cpu()
    return torch.stack([observed[:, place].any(1) for place in schema.places.values()], 1)


def _find_points(values: Tensor, schema: Schema, point: Point) -> dict[str, Floats]:
    """A point for each entry, from draws ``[M, B, D]``."""
    draws, rows = values.shape[:2]
    decoded = decode_columns(values.flatten(0, 1), schema)
    return {
        column.name: _summarise(decoded[column.name].reshape(draws, rows), column, point)
        for column in schema.modelled
    }


# The point by the type of the column; the mean of others.
_POINTS: dict[str, Point] = {
    "categorical": "mode",
    "boolean": "mode",
    "ordinal": "median",
    "count": "median",
}


def _summarise(draws: Floats, column: Column, point: Point) -> Floats:
    """A point for each entry of a column, from draws ``[M, B]``."""
    if point == "auto":
        point = _POINTS.get(column.type, "mean")
    if column.type in ("categorical", "boolean"):
        return _find_modes(draws)
    if point == "mode" and column.type in CONTINUOUS:
        return column.round(_find_half_sample_modes(draws))
    if point == "mode":
        return _find_modes(draws)
    centre: Floats = draws.mean(0)
    if point == "median":
        centre = np.asarray(np.median(draws, 0), dtype=float)
    if column.type in CODED:
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
    found: Floats = np.asarray(stats.mode(draws, axis=0, keepdims=False).mode, dtype=float)
    return found


def _join(parts: Sequence[dict[str, Floats]]) -> dict[str, Floats]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


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


def complete_table(data: Any, columns: dict[str, Floats], schema: Schema) -> Any:
    """Complete a table, or the table of some examples, from values of all rows of each column."""
    if isinstance(data, Examples):
        return make_table(columns, schema)
    return fill_table(data, columns, schema)


@dataclass(frozen=True)
class PooledEstimate:
    """An estimate from several completed tables, see :func:`pool`.

    Args:
        mean: the estimate.
        within: the average of the tables' own variances.
        between: the variance between the tables' estimates.
        degrees: the degrees of freedom of its t distribution.
        tables: M.
    """

    mean: NDArray[np.float64]
    within: NDArray[np.float64]
    between: NDArray[np.float64]
    degrees: NDArray[np.float64]
    tables: int

    @property
    def variance(self) -> NDArray[np.float64]:
        """The variance of the estimate, ``within + (1 + 1 / M) between``."""
        return self.within + (1 + 1 / self.tables) * self.between

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """The square root of the variance."""
        return np.sqrt(self.variance)

    @property
    def missing_information(self) -> NDArray[np.float64]:
        """The share of the variance that is due to missing values."""
        with np.errstate(invalid="ignore"):
            return np.nan_to_num((1 + 1 / self.tables) * self.between / self.variance)

    def interval(self, level: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The limits of an interval that covers the true value with this probability."""
        if not 0 < level < 1:
            raise SettingsError(f"interval: level={level!r} must be between 0 and 1")
        width = stats.t.ppf(0.5 + level / 2, self.degrees) * self.standard_error
        return self.mean - width, self.mean + width


def pool(estimates: Any, variances: Any) -> PooledEstimate:
    r"""Combine the estimates from several completed tables by Rubin's rules.

    .. math:: \bar\theta = \frac1M \sum_m \theta_m, \qquad
        T = \bar U + \left(1 + \frac1M\right) B, \qquad
        \nu = (M - 1) \left(1 + \frac{\bar U}{(1 + 1/M) B}\right)^2

    Here :math:`\bar U` is the average of the variances that are given, and B the variance of the
    estimates.

    Args:
        estimates: of one or several quantities from each table, ``[M, ...]``.
        variances: their squared standard errors, ``[M, ...]``.

    Raises:
        SettingsError: for fewer than two tables, different shapes, or negative variances.

    Source: Rubin 1987, "Multiple imputation for nonresponse in surveys", section 3.1.

    Example:
        >>> import lowerbound as lb
        >>> pooled = lb.pool([1.0, 2.0, 3.0], [0.5, 0.5, 0.5])
        >>> float(pooled.mean), round(float(pooled.variance), 4), round(float(pooled.degrees), 4)
        (2.0, 1.8333, 3.7812)
    """
    values, own = np.asarray(estimates, dtype=float), np.asarray(variances, dtype=float)
    if values.shape != own.shape or values.ndim == 0:
        raise SettingsError(
            f"pool: estimates have the shape {values.shape} and variances {own.shape}; give one of "
            "each for every table, [M, ...]"
        )
    tables = len(values)
    if tables < 2:
        raise SettingsError("pool: one table does not say how much is uncertain; give at least two")
    if not (own >= 0).all():
        raise SettingsError("pool: variances must be at least 0; give squared standard errors")
    within, between = own.mean(0), values.var(0, ddof=1)
    with np.errstate(divide="ignore"):
        ratio = within / ((1 + 1 / tables) * between)
    degrees = np.where(between > 0, (tables - 1) * (1 + ratio) ** 2, math.inf)
    return PooledEstimate(values.mean(0), within, between, degrees, tables)
