"""What changes if values are missing because of their size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri

from lowerbound.data.columns import Column, Floats, Mask, Schema
from lowerbound.data.examples import Examples
from lowerbound.data.fields import OBSERVED
from lowerbound.data.frames import make_frame
from lowerbound.data.schema import decode_columns, read_known
from lowerbound.errors import SettingsError
from lowerbound.evaluation.checks import check_model
from lowerbound.evaluation.imputing import complete_table, open_data
from lowerbound.models.table import TableModel, complete_rows
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number

_ORDERED = ("real", "positive", "proportion", "count", "ordinal")


@dataclass(frozen=True)
class Sensitivity:
    """The mean of one column, and an estimate, under an assumption about its missing values.

    Args:
        column: its name.
        missing: the share of its entries that are missing.
        slope: how much the log odds of being missing rise with the value, for each standard
            deviation of its normal score; ``None`` for what the model has learned.
        mean_of_imputed: the mean of the imputed entries.
        mean: the mean of the completed column.
        estimate: the average of the user's estimate over completed tables; NaN if there is none.
    """

    column: str
    missing: float
    slope: float | None
    mean_of_imputed: float
    mean: float
    estimate: float = math.nan

    @property
    def odds_ratio(self) -> float:
        """The factor by which the odds of being missing rise for each standard deviation.

        It is NaN for what the model has learned.
        """
        return math.nan if self.slope is None else math.exp(self.slope)


def sensitivity(
    model: TableModel,
    data: Any,
    slopes: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
    *,
    estimate: Callable[[Any], float] | None = None,
    tables: int = 20,
    draws: int = 200,
    samples: int = 200,
    seed: int = 0,
) -> list[Sensitivity]:
    r"""What changes if the values of a column are missing because of their size.

    .. math:: \log \frac{P(\text{missing} \mid x)}{P(\text{observed} \mid x)} = \alpha + \delta \,
        \Phi^{-1}(F(x)) \quad \Rightarrow \quad p(x \mid \text{missing}) \propto
        p(x \mid \text{observed}) \, e^{\delta \, \Phi^{-1}(F(x))}

    A model of a table learns from the values that are observed, and its imputations are right if
    entries are missing at random: the slope :math:`\delta` is 0. The data cannot tell the slope. A
    positive one says that large values are missing more often than small ones: for each standard
    deviation the odds are multiplied by :math:`e^\delta`. Here F is the distribution function of
    the observed values of the column, so its normal score has the standard deviation 1. Draws of
    the missing entries are weighted by the last factor. If a conclusion holds for all slopes that
    are plausible, it does not depend on the assumption.

    For a model that has learned why values are missing (:class:`lowerbound.SelfMasked`), draws are
    also divided by its own odds, so a slope takes the place of what it has learned for the column.
    A first entry of each column, whose slope is ``None``, is what it has learned. Draws are of
    whole rows, so the other missing entries of a row keep their relation to the column.

    Args:
        model: a model of a table.
        data: the table, as for :func:`lowerbound.impute`.
        slopes: the values of :math:`\delta`.
        estimate: computes your estimate from a completed table, such as
            ``lambda table: table["income"].median()``. It is averaged over completed tables. Rows
            in which the column is missing are drawn under the slope, all others as the model says.
        tables: the number of these tables, at most ``draws``.
        draws: the number of draws of each missing entry.
        samples: K, the number of draws of z for each row.
        seed: of the draws.

    Returns:
        An entry for each incomplete column of ordered values, and each slope.
        :func:`lowerbound.evaluation.tabulate_sensitivity` makes a frame of them.

    Raises:
        UnsupportedError: if the model is not one of a table.
        SettingsError: for settings that are out of range.

    Source: Scharfstein, Rotnitzky & Robins 1999, "Adjusting for nonignorable drop-out using
    semiparametric nonresponse models"; Franks, D'Amour & Feller 2020, "Flexible sensitivity
    analysis for observational studies without observable implications".

    Example:
        >>> import numpy as np
        >>> import lowerbound as lb
        >>> from lowerbound.sklearn import VAE
        >>> table = np.random.default_rng(0).normal(size=(60, 3))
        >>> table[::5, 1] = np.nan
        >>> model = VAE(steps=20, random_state=0).fit(table).model_
        >>> smaller, larger = lb.sensitivity(model, table, slopes=(-1.0, 1.0), draws=20)
        >>> smaller.mean_of_imputed < larger.mean_of_imputed
        True
    """
    check_model("sensitivity", model, TableModel, "train one by the recipe table")
    check_seed("sensitivity", seed)
    draws = check_whole_number("sensitivity: draws", draws)
    samples = check_whole_number("sensitivity: samples", samples)
    tables = check_whole_number("sensitivity: tables", tables)
    if np.ndim(slopes) != 1 or not np.isfinite(np.asarray(slopes, dtype=float)).all():
        raise SettingsError(f"sensitivity: slopes={slopes!r} must be a list of finite numbers")
    data = open_data(data, model.schema)
    examples = model.examples(data)
    drawn = _draw_missing(model, examples, samples, draws, derived_seed(seed, "sensitivity"))
    observed = _read_observed(data, examples, model.schema)
    random = np.random.default_rng(derived_seed(seed, "tables"))
    places = random.random((min(tables, draws), len(examples)))
    estimator = None
    if estimate is not None:
        estimator = _Estimator(estimate, data, observed, drawn, model.schema)
    found = []
    for name, missing in drawn.items():
        column, mask = model.schema.find(name), missing.observed
        if column.type not in _ORDERED or not mask.any():
            continue
        there = observed[name][mask]
        scores = _find_normal_scores(missing.values, np.sort(there))
        learned = [] if missing.log_odds is None else [None]
        for slope in (*learned, *map(float, slopes)):
            shares = missing.find_shares(scores, slope)
            result = _summarise(column, missing, shares, there, slope)
            if estimator is not None:
                chosen = np.tile(np.arange(len(places))[:, None], (1, len(mask)))
                chosen[:, ~mask] = _choose_draws(shares, places[:, ~mask])
                result = replace(result, estimate=estimator.average(chosen))
            found.append(result)
    return found


@dataclass(frozen=True, eq=False)
class _Missing:
    """The missing entries of one column.

    Args:
        observed: which entries are observed, ``[N]``.
        values: draws of the others, ``[M, missing]``.
        log_odds: the log odds of being missing that the model has learned, at these draws.
    """

    observed: Mask
    values: Floats
    log_odds: Floats | None

    def find_shares(self, scores: Floats, slope: float | None) -> Floats:
        """The share of each draw under a slope, ``[M, missing]``, for the draws' normal scores."""
        log_weights = np.zeros_like(self.values)
        if slope is not None:
            log_weights = slope * scores
            if self.log_odds is not None:
                log_weights = log_weights - self.log_odds
        weights = np.exp(log_weights - log_weights.max(0))
        shares: Floats = weights / weights.sum(0)
        return shares


def _choose_draws(shares: Floats, places: Floats) -> NDArray[np.int64]:
    """Choose a draw of each entry by its shares, for each place in [0, 1), ``[T, missing]``."""
    cumulative = shares.cumsum(0)
    chosen = np.stack([(cumulative <= place).sum(0) for place in places])
    limited: NDArray[np.int64] = np.minimum(chosen, len(shares) - 1)
    return limited


def _draw_missing(
    model: TableModel, examples: Examples, samples: int, draws: int, seed: int
) -> dict[str, _Missing]:
    """Draw the missing entries of each incomplete column."""
    schema = model.schema
    seen = examples.fields[OBSERVED].cpu().numpy()
    masks = {each.name: seen[:, schema.places[each.name]].any(1) for each in schema.modelled}
    masks = {name: mask for name, mask in masks.items() if not mask.all()}
    values: dict[str, list[Floats]] = {name: [] for name in masks}
    log_odds: dict[str, list[Floats]] = {name: [] for name in masks}
    start = 0
    for rows, _ in complete_rows(model, examples, samples=samples, draws=draws, seed=seed):
        here = slice(start, start + rows.shape[1])
        start = here.stop
        decoded = decode_columns(rows.flatten(0, 1), schema)
        learned = model.log_odds_of_missing(rows)
        for name, mask in masks.items():
            values[name].append(decoded[name].reshape(draws, -1)[:, ~mask[here]])
            if name in learned:
                log_odds[name].append(learned[name].double().cpu().numpy()[:, ~mask[here]])
    return {
        name: _Missing(
            mask,
            np.concatenate(values[name], 1),
            np.concatenate(log_odds[name], 1) if log_odds[name] else None,
        )
        for name, mask in masks.items()
    }


def _read_observed(data: Any, examples: Examples, schema: Schema) -> dict[str, Floats]:
    """The values of the columns of a table; of examples, from the numbers of the model."""
    if isinstance(data, Examples):
        rows = examples.batch(torch.arange(len(examples)))
        return decode_columns(rows, schema, examples.fields[OBSERVED])
    return {name: values for name, (values, _) in read_known(data, schema).items()}


def _summarise(
    column: Column, missing: _Missing, shares: Floats, there: Floats, slope: float | None
) -> Sensitivity:
    """The means of one column for one slope.

    Args:
        column: the column.
        missing: draws of its missing entries, ``[M, missing]``.
        shares: of these draws.
        there: the observed values.
        slope: the slope.
    """
    values = missing.values
    if column.type == "ordinal" and not isinstance(column.categories[0], str):
        ranks = np.asarray(column.categories, dtype=float)
        values, there = ranks[values.astype(int)], ranks[there.astype(int)]
    imputed = (shares * values).sum(0)
    rows = len(missing.observed)
    return Sensitivity(
        column.name,
        len(imputed) / rows,
        slope,
        float(imputed.mean()),
        float((there.sum() + imputed.sum()) / rows),
    )


def _find_normal_scores(values: Floats, observed: Floats) -> Floats:
    """The normal scores of values among sorted observed ones; equal values share a rank."""
    below = np.searchsorted(observed, values, "left")
    up_to = np.searchsorted(observed, values, "right")
    scores: Floats = ndtri((0.5 * (below + up_to) + 0.5) / (len(observed) + 1))
    return scores


class _Estimator:
    """Averages an estimate of the user over completed tables.

    Args:
        compute: computes the estimate from a table.
        data: the table, or its examples.
        observed: its observed values.
        drawn: draws of its missing ones.
        schema: its columns.
    """

    def __init__(
        self,
        compute: Callable[[Any], float],
        data: Any,
        observed: Mapping[str, Floats],
        drawn: Mapping[str, _Missing],
        schema: Schema,
    ) -> None:
        self.compute = compute
        self.data = data
        self.observed = observed
        self.drawn = drawn
        self.schema = schema

    def average(self, chosen: NDArray[np.int64]) -> float:
        """Average over tables, for the number of the draw of each row, ``[T, N]``."""
        found = []
        for of_rows in chosen:
            columns = dict(self.observed)
            for each, missing in self.drawn.items():
                draws = of_rows[~missing.observed]
                whole = np.empty(len(missing.observed))
                whole[~missing.observed] = missing.values[draws, np.arange(len(draws))]
                if each in columns:
                    whole[missing.observed] = columns[each][missing.observed]
                columns[each] = whole
            value = self.compute(complete_table(self.data, columns, self.schema))
            if np.ndim(value) != 0:
                raise SettingsError(
                    f"sensitivity: estimate= gives a {type(value).__name__} of shape "
                    f"{np.shape(value)}; give a function whose value is a number"
                )
            found.append(float(value))
        return float(np.mean(found))


def tabulate_sensitivity(found: Sequence[Sensitivity], library: str = "pandas") -> Any:
    """The results of :func:`lowerbound.sensitivity` as a frame, a row for each column and slope.

    The slope and the odds ratio are missing in the rows of what the model has learned.

    Args:
        found: the results.
        library: ``"pandas"``, ``"polars"`` or ``"pyarrow"``.
    """
    names = ["column", "missing", "slope", "odds_ratio", "mean_of_imputed", "mean"]
    if any(not math.isnan(each.estimate) for each in found):
        names.append("estimate")
    values = {name: [getattr(each, name) for each in found] for name in names}
    values["slope"] = [math.nan if each is None else each for each in values["slope"]]
    return make_frame(values, library)
