"""What changes if values are missing because of their size."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import ndtri

from lowerbound.data.columns import Column, Floats, Schema
from lowerbound.data.examples import Examples
from lowerbound.data.fields import OBSERVED
from lowerbound.data.frames import make_frame
from lowerbound.data.schema import decode_columns, read_known
from lowerbound.data.table_files import load_table
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.models.table import TableModel, complete_rows
from lowerbound.runtime.noise import derived_seed
from lowerbound.settings import check_seed, check_whole_number

_ORDERED = ("real", "positive", "proportion", "count", "ordinal")


@dataclass(frozen=True)
class Sensitivity:
    """The mean of one column under an assumption about its missing values.

    Args:
        column: its name.
        missing: the share of its entries that are missing.
        slope: how much the log odds of being missing rise with the value, for each standard
            deviation of its normal score.
        mean_of_imputed: the mean of the imputed entries.
        mean: the mean of the completed column.
    """

    column: str
    missing: float
    slope: float
    mean_of_imputed: float
    mean: float


def sensitivity(
    model: TableModel,
    data: Any,
    slopes: Sequence[float] = (-1.0, -0.5, 0.0, 0.5, 1.0),
    *,
    draws: int = 200,
    samples: int = 200,
    seed: int = 0,
) -> list[Sensitivity]:
    r"""How the means of incomplete columns change if values are missing because of their size.

    .. math:: \log \frac{P(\text{missing} \mid x)}{P(\text{observed} \mid x)} = \alpha + \delta \,
        \Phi^{-1}(F(x)) \quad \Rightarrow \quad p(x \mid \text{missing}) \propto
        p(x \mid \text{observed}) \, e^{\delta \, \Phi^{-1}(F(x))}

    A model of a table learns from the values that are observed, and its imputations are right if
    entries are missing at random: the slope :math:`\delta` is 0. The data cannot tell the slope. A
    positive one says that large values are missing more often than small ones. Here F is the
    distribution function of the observed values of the column, so its normal score has the standard
    deviation 1. Draws of the missing entries are weighted by the last factor. If a conclusion holds
    for all slopes that are plausible, it does not depend on the assumption.

    Args:
        model: a model of a table.
        data: the table, as for :func:`lowerbound.impute`.
        slopes: the values of :math:`\delta`.
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
    """
    if not isinstance(model, TableModel):
        raise UnsupportedError(
            f"sensitivity takes a lowerbound.TableModel, and not a {type(model).__name__}"
        )
    check_seed("sensitivity", seed)
    draws = check_whole_number("sensitivity: draws", draws)
    samples = check_whole_number("sensitivity: samples", samples)
    if not np.isfinite(np.asarray(slopes, dtype=float)).all():
        raise SettingsError(f"sensitivity: slopes={slopes!r} must be finite numbers")
    examples = model.examples(data)
    schema = model.schema
    seen = examples.fields[OBSERVED].cpu().numpy()
    masks = {
        column.name: seen[:, schema.places[column.name]].any(1)
        for column in schema.modelled
        if column.type in _ORDERED
    }
    masks = {name: mask for name, mask in masks.items() if 0 < mask.sum() < len(mask)}
    # Only draws of missing entries are kept.
    drawn: dict[str, list[Floats]] = {name: [] for name in masks}
    start = 0
    for values, _ in complete_rows(
        model, examples, samples=samples, draws=draws, seed=derived_seed(seed, "sensitivity")
    ):
        rows = slice(start, start + values.shape[1])
        start = rows.stop
        decoded = decode_columns(values.flatten(0, 1), schema)
        for name, mask in masks.items():
            drawn[name].append(decoded[name].reshape(draws, -1)[:, ~mask[rows]])
    observed = _read_observed(data, examples, schema)
    return [
        _tilt(schema.find(name), np.concatenate(drawn[name], 1), observed[name][mask], float(slope))
        for name, mask in masks.items()
        for slope in slopes
    ]


def _read_observed(data: Any, examples: Examples, schema: Schema) -> dict[str, Floats]:
    """The values of the columns of a table; of examples, from the numbers of the model."""
    if isinstance(data, str | os.PathLike):
        data = load_table(Path(data).expanduser(), schema)
    if isinstance(data, Examples):
        rows = examples.batch(torch.arange(len(examples)))
        return decode_columns(rows, schema, examples.fields[OBSERVED])
    return {name: values for name, (values, _) in read_known(data, schema).items()}


def _tilt(column: Column, missing: Floats, there: Floats, slope: float) -> Sensitivity:
    """The means of one column for one slope.

    Args:
        column: the column.
        missing: draws of its missing entries, ``[M, N]``.
        there: the observed values.
        slope: the slope.
    """
    if column.type == "ordinal" and not isinstance(column.categories[0], str):
        ranks = np.asarray(column.categories, dtype=float)
        missing, there = ranks[missing.astype(int)], ranks[there.astype(int)]
    log_weights = slope * _find_normal_scores(missing, np.sort(there))
    weights = np.exp(log_weights - log_weights.max(0))
    imputed = (weights * missing).sum(0) / weights.sum(0)
    rows = len(there) + missing.shape[1]
    return Sensitivity(
        column.name,
        missing.shape[1] / rows,
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


def tabulate_sensitivity(found: Sequence[Sensitivity], library: str = "pandas") -> Any:
    """The results of :func:`lowerbound.sensitivity` as a frame, a row for each column and slope.

    Args:
        found: the results.
        library: ``"pandas"``, ``"polars"`` or ``"pyarrow"``.
    """
    names = ("column", "missing", "slope", "mean_of_imputed", "mean")
    return make_frame({name: [getattr(each, name) for each in found] for name in names}, library)
