"""Checks of tables: densities of columns, missing values, imputations, and conditional draws."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

import lowerbound as lb
from lowerbound.data.columns import Column, Floats, Schema
from lowerbound.data.cycles import DAY, join_times
from lowerbound.data.fields import OBSERVED
from lowerbound.distributions.entries import entrywise_log_prob
from lowerbound.selftest.known import DOUBLE, largest, set_linear
from lowerbound.selftest.registry import check

# The logarithms of a log-normal table: mean + loadings z + noise, with two latents.
_LOADINGS = np.array([[1.0, 0.5], [-0.7, 0.3], [0.2, 0.9], [0.6, -0.8]])
_NOISE = np.array([0.5, 0.8, 0.4, 0.6])
_MEAN = np.array([0.5, -1.0, 0.2, 0.0])
_COVARIANCE = _LOADINGS @ _LOADINGS.T + np.diag(_NOISE**2)
# The draws of z for each row, and the completed rows that are chosen from them.
_DRAWS, _CHOSEN = 20_000, 400


def _make_model(scales: Floats | None = None) -> lb.TableModel:
    """A model of that table, whose columns are multiplied by ``scales``.

    Its q is the prior, so all that it knows of a row comes from the importance weights. The schema
    standardises the logarithms by other means and deviations than those of the model.
    """
    centres = np.array([1.0, -2.0, 0.3, 0.7])
    spreads = np.array([2.0, 0.5, 1.5, 0.8])
    shifts = np.zeros(4) if scales is None else np.log(scales)
    columns = [
        Column(f"x{n}", "positive", centre=float(centre), spread=float(spread))
        for n, (centre, spread) in enumerate(zip(centres + shifts, spreads, strict=True))
    ]
    schema = Schema(tuple(columns))
    model = lb.TableModel(
        lb.StandardNormal(2),
        lb.Given(lb.Gaussian(lb.mlp(8, 4)), "observed"),
        lb.Masked(lb.Columns(lb.mlp(2, lb.Columns.count_outputs(schema)), schema)),
    ).double()
    set_linear(
        model.get_submodule("posterior.part"),
        torch.zeros(4, 8, dtype=DOUBLE),
        torch.zeros(4, dtype=DOUBLE),
    )
    weight = np.concatenate([_LOADINGS / spreads[:, None], np.zeros((4, 2))])
    bias = np.concatenate([(_MEAN - centres) / spreads, np.log(_NOISE / spreads)])
    likelihood = model.get_submodule("likelihood.part")
    set_linear(likelihood, torch.from_numpy(weight), torch.from_numpy(bias))
    return model


def _draw_table(rows: int) -> Floats:
    """A table with entries that are missing at random, ``[rows, 4]``; each row has some values."""
    z, noise = torch.randn(rows, 2, dtype=DOUBLE), torch.randn(rows, 4, dtype=DOUBLE)
    values = np.exp(_MEAN + z.numpy() @ _LOADINGS.T + _NOISE * noise.numpy())
    hidden = (torch.rand(rows, 4) < 0.4).numpy()
    hidden[:, 0] &= ~hidden[:, 1:].all(1)
    hidden[0] = False, True, True, False  # an entry is missing for sure
    table: Floats = np.where(hidden, math.nan, values)
    return table


def _condition(row: Floats) -> tuple[Floats, Floats]:
    """The mean and the covariance of the logarithms that are missing, given the others."""
    seen = ~np.isnan(row)
    gain = _COVARIANCE[np.ix_(~seen, seen)] @ np.linalg.inv(_COVARIANCE[np.ix_(seen, seen)])
    mean = _MEAN[~seen] + gain @ (np.log(row[seen]) - _MEAN[seen])
    return mean, _COVARIANCE[np.ix_(~seen, ~seen)] - gain @ _COVARIANCE[np.ix_(seen, ~seen)]


@check(
    "tables-missing-values",
    "Rows of a log-normal table with missing entries have the log p of the observed entries in the "
    "units of the table, as in closed form (in its standard errors)",
    tolerance=4.5,
)
def compare_rows_of_a_table() -> float:
    """For 20 rows of 4 columns. By chance it fails for less than one seed in 5,000."""
    table = _draw_table(20)
    scores = lb.score(_make_model(), table, _DRAWS)
    exact = []
    for row in table:
        seen = ~np.isnan(row)
        p = stats.multivariate_normal(_MEAN[seen], _COVARIANCE[np.ix_(seen, seen)])
        exact.append(p.logpdf(np.log(row[seen])) - np.log(row[seen]).sum())
    errors = (scores.per_example - torch.tensor(exact, dtype=DOUBLE)) / scores.standard_errors
    return largest(errors)


@check(
    "tables-imputations",
    "Imputations of a log-normal table have the mean and the variance of the missing entries given "
    "the observed ones, which do not change (in standard errors)",
    tolerance=4.5,
)
def compare_imputations() -> Iterator[float]:
    """For 12 rows and 400 tables. By chance it fails for less than one seed in 1,000."""
    table = _draw_table(12)
    found = lb.impute(_make_model(), table, _CHOSEN, samples=_DRAWS)
    tables = np.stack([np.asarray(each) for each in found.tables])
    yield from _compare_draws(table, tables, found.effective_sample_sizes.numpy())


@check(
    "tables-conditional-draws",
    "Rows of a log-normal table that are drawn given some of their entries keep these, and have "
    "the mean and the variance of the others given these (in standard errors)",
    tolerance=4.5,
)
def compare_conditional_draws() -> Iterator[float]:
    """For 4 rows, one of them with a rare condition, and 400 draws of each.

    By chance it fails for less than one seed in 3,000.
    """
    given = np.full((4, 4), math.nan)
    given[0, 1], given[1, :2], given[2, 1:], given[3, 2] = 0.4, 1.5, 0.9, math.exp(2.7)
    rows, effective = _make_model().sample_given(given, _CHOSEN, seed=0, samples=_DRAWS)
    draws = np.asarray(rows).reshape(4, _CHOSEN, 4).swapaxes(0, 1)
    yield from _compare_draws(given, draws, effective.numpy())


def _compare_draws(table: Floats, draws: Floats, effective: Floats) -> Iterator[float]:
    """The differences of draws ``[M, N, D]`` from closed forms, in standard errors.

    The draws of a row are chosen from weighted draws of z with this effective sample size, which
    adds to the variance of their mean.
    """
    for number, row in enumerate(table):
        seen = ~np.isnan(row)
        if not np.array_equal(draws[:, number, seen], np.tile(row[seen], (len(draws), 1))):
            yield math.inf
        if seen.all():
            continue
        mean, covariance = _condition(row)
        logs = np.log(draws[:, number, ~seen])
        share = 1 / len(draws) + 1 / effective[number]
        yield float(np.abs((logs.mean(0) - mean) / np.sqrt(share * covariance.diagonal())).max())
        ratio = logs.var(0, ddof=1) / covariance.diagonal()
        yield float(np.abs((ratio - 1) / math.sqrt(2 * share)).max())


@check(
    "tables-units",
    "If the columns of a table are multiplied by constants, log p of a row falls by the logarithms "
    "of those of its observed entries, and nothing else changes",
    tolerance=1e-6,
)
def compare_units() -> float:
    """For 20 rows and factors from 0.001 to 10,000; the units of a model are rounded to float32."""
    scales = np.array([1e-3, 1e4, 2.5, 0.7])
    table = _draw_table(20)
    expected = lb.score(_make_model(), table, 50).per_example
    found = lb.score(_make_model(scales), table * scales, 50).per_example
    factors = np.where(np.isnan(table), 0.0, np.log(scales)).sum(1)
    return largest(found + torch.from_numpy(factors) - expected)


_COLUMNS = (
    Column("real", "real", centre=3.0, spread=20.0),
    Column("positive", "positive", centre=1.0, spread=0.7),
    Column("amount", "positive", atoms=(0.0,), centre=2.0, spread=0.5),
    Column("share", "proportion", atoms=(0.0, 1.0), centre=-0.5, spread=0.9),
    Column("time", "time", dtype="Datetime[us]", centre=1e9, spread=1e7),
    Column("hour", "time", centre=2.4e8, spread=12 * DAY, season="year", cycles=("week", "day")),
    Column("count", "count", centre=1.0, spread=0.5),
    Column("ordinal", "ordinal", categories=(0, 1, 2, 3)),
    Column("kind", "categorical", categories=("a", "b", "c")),
    Column("flag", "boolean", categories=(False, True)),
)


@check(
    "tables-normalised",
    "The distribution of a column of each type sums or integrates to 1 over its values, in the "
    "units of the table",
    tolerance=1e-5,
)
def integrate_columns() -> Iterator[float]:
    """For 10 columns, two of them with atoms, and a random network.

    Densities are integrated by the trapezoidal rule over 40,001 values, and that of a time with
    cycles over each hour of 14 years.
    """
    for column in _COLUMNS:
        yield abs(_sum_probabilities(column) - 1.0)


def _sum_probabilities(column: Column) -> float:
    schema = Schema((column,))
    outputs = lb.Columns.count_outputs(schema)
    likelihood: Any = lb.Masked(lb.Columns(lb.mlp(2, outputs), schema)).double()
    z = torch.randn(2, dtype=DOUBLE)

    @torch.no_grad()
    def log_prob(raw: Floats) -> Tensor:
        x, observed = map(torch.from_numpy, column.encode(raw))
        p = likelihood(z.expand(1, len(raw), 2), **{OBSERVED: observed})
        return entrywise_log_prob(p, x)[0].sum(-1)

    if column.categories:
        return float(log_prob(np.arange(column.levels, dtype=float)).exp().sum())
    if column.type == "count":
        return float(log_prob(np.arange(200_000, dtype=float)).exp().sum())
    if column.cycles:
        middle = join_times(np.array([[column.centre, 0.0, 0.0]]), column.cycles, 0.0)
        times = middle + 3600.0 * np.arange(-24 * 7 * 365, 24 * 7 * 365)
        return float(log_prob(times).exp().sum()) * 3600.0
    total = 0.0
    if column.atoms:
        total = float(log_prob(np.array(column.atoms)).exp().sum())
    values = column.restore(np.sinh(np.linspace(-8, 8, 40_001)))
    values = values[(values > 0) | (column.type in ("real", "time"))]
    values = np.unique(values[(values < 1) | (column.type != "proportion")])
    density = log_prob(values).exp().numpy()
    return total + float(np.trapezoid(density, values))
