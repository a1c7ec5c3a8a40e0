"""Which columns of a table a model explains: each beside a distribution of its own."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lowerbound.data.frames import make_frame
from lowerbound.errors import DoubtfulEstimateWarning
from lowerbound.evaluation.baseline import score_columns_alone
from lowerbound.evaluation.checks import check_model, check_normalized
from lowerbound.evaluation.importance import log_likelihood
from lowerbound.evaluation.row_scores import score_without
from lowerbound.models.table import TableModel
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import check_seed, check_whole_number

# At most this many rows are scored, and fewer of tables with more than this many columns.
_MOST_ROWS, _MANY_COLUMNS = 1000, 50
_FIELDS = ("column", "type", "observed", "alone", "given_others", "gain")


@dataclass(frozen=True)
class ColumnScore:
    """How well a model explains one column.

    Args:
        column: its name.
        type: its type.
        observed: the number of its values that were scored.
        alone: the average log probability of a value by a distribution of its own, in nats.
        given_others: that by the model, given all other values of its row.
    """

    column: str
    type: str
    observed: int
    alone: float
    given_others: float

    @property
    def gain(self) -> float:
        """The nats that the other columns tell about a value, on average."""
        return self.given_others - self.alone


def score_columns(
    model: TableModel, data: Any, samples: int = 100, *, seed: int = 0
) -> list[ColumnScore]:
    r"""Compare each column given all others with the column alone: which does the model explain?

    .. math:: \text{gain}_c = \frac1{N_c} \sum_n \left[ \log \hat p(x_n) - \log \hat p(x_{n,-c}) -
        \log p_c(x_{nc}) \right]

    The sum is over the rows where the column is observed. The first two terms are importance
    weighted bounds with K draws of z: of the whole row, and of the row whose value of this column
    is hidden. The distribution of the column alone, :math:`p_c`, is fitted to its values in the
    same data, see :func:`score_columns_alone`. The gain estimates the information that the other
    columns have about this one. If it is about 0, imputations of the column are not better than
    draws from its own distribution; if it is below 0, they are worse, such as after overfitting.

    Args:
        model: a model of a table.
        data: the table, as for :func:`lowerbound.score`. At most 1,000 rows are used, evenly
            spaced, and fewer of tables with more than 50 columns. Use rows on which the model was
            not trained.
        samples: K, the number of draws of z for each row and column.
        seed: of the draws.

    Returns:
        The columns that have observed values, the best explained one first.

    Raises:
        UnsupportedError: if the model is not one of a table, or a part is not normalised.
        DataError: if the table does not have the columns of the model.

    Example:
        >>> import numpy as np
        >>> from lowerbound.evaluation import score_columns
        >>> from lowerbound.sklearn import VAE
        >>> a, noise, c = np.random.default_rng(0).normal(size=(3, 400))
        >>> table = np.stack([a, a + 0.1 * noise, c], 1)
        >>> found = score_columns(VAE(random_state=0).fit(table).model_, table)
        >>> [each.column for each in found][-1], found[0].gain > 1 > found[-1].gain
        ('x2', True)
    """
    check_model("score_columns", model, TableModel, "train one by the recipe table")
    check_normalized("score_columns", model)
    check_seed("score_columns", seed)
    samples = check_whole_number("score_columns: samples", samples)
    places = model.schema.places
    rows = _MOST_ROWS * _MANY_COLUMNS // max(_MANY_COLUMNS, len(places))
    examples = model.examples(data).spread(max(rows, 1))
    model.check_data(examples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulEstimateWarning)
        whole = log_likelihood(model, examples, samples, seed=seed, compile="never").per_example
    with torch.no_grad(), evaluating(model), seeded(seed, get_device(model)):
        others = score_without(model, examples, places, samples, seed=seed)
    alone = score_columns_alone(examples)
    found = []
    for name, other_values in others.items():
        values = whole - other_values
        observed = int((~values.isnan()).sum())
        if not observed:
            continue
        found.append(
            ColumnScore(
                name,
                model.schema.find(name).type,
                observed,
                # score_columns_alone divides by the number of all rows.
                alone[name] * len(examples) / observed,
                float(values.nanmean()),
            )
        )
    return sorted(found, key=lambda each: -each.gain)


def tabulate_columns(found: Sequence[ColumnScore], library: str = "pandas") -> Any:
    """The results of :func:`score_columns` as a frame, a row for each column.

    Args:
        found: the results.
        library: ``"pandas"``, ``"polars"`` or ``"pyarrow"``.
    """
    return make_frame({name: [getattr(each, name) for each in found] for name in _FIELDS}, library)


def describe_columns_explained(found: Sequence[ColumnScore], most: int = 12) -> str:
    """Describe the results of :func:`score_columns` in lines, for a display.

    Args:
        found: the results.
        most: the largest number of columns to show. Of more, two thirds are the best explained
            ones, and the others the worst.
    """
    if not found:
        return ""
    best, worst = list(found), []
    if len(found) > most:
        first = math.ceil(2 * most / 3)
        best, worst = list(found[:first]), list(found[len(found) - (most - first) :])
    width = max(6, *(len(each.column) for each in [*best, *worst]))
    lines = [
        "which columns the model explains, in nats per value:",
        f"  {'column':{width}}  given the others   alone    gain",
        *(_describe(each, width) for each in best),
    ]
    if worst:
        left = len(found) - len(best) - len(worst)
        lines.append(f"  ... {left:,} columns between these")
        lines += [_describe(each, width) for each in worst]
    return "\n".join(lines)


def _describe(each: ColumnScore, width: int) -> str:
    return (
        f"  {each.column:{width}}  {each.given_others:16.2f}  {each.alone:6.2f}  {each.gain:+6.2f}"
    )
