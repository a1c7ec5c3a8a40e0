"""Scores of the rows of tables, and how well each column is explained by the others."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lowerbound.data.columns import CONTINUOUS, Column
from lowerbound.data.examples import Examples
from lowerbound.data.fields import MISSING, OBSERVED
from lowerbound.data.frames import make_frame
from lowerbound.distributions.entries import entrywise_log_prob
from lowerbound.evaluation.checks import check_model, check_normalized
from lowerbound.evaluation.importance import LikelihoodEstimate, WeightSums
from lowerbound.models.passes import gather, iterate_batches
from lowerbound.models.table import TableModel, count_effective_samples
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import check_seed, check_whole_number

# A value is hidden from q if the draws of z that are left to the others are fewer than this share.
_EFFECTIVE_SHARE = 0.05

# The number of values that one batch may hold.
_MOST_VALUES = 1 << 24


@dataclass(frozen=True, eq=False, repr=False)
class RowScores(LikelihoodEstimate):
    """log p(x) of each row of a table, with its standard error, and what each column adds.

    Args:
        standard_errors: of the estimate of each row, ``[N]``, in nats.
        columns: for each column by name, log p(its value given all other values of the row),
            ``[N]``, in nats; NaN where it was not observed. A low one is a surprising value. For
            categories, counts and atoms it is the logarithm of a probability, so it is at most 0.
    """

    standard_errors: Tensor = field(default_factory=lambda: torch.empty(0))
    columns: dict[str, Tensor] = field(default_factory=dict)

    def to_frame(self, library: str = "pandas", index: Any = None) -> Any:
        """The scores as a frame, one row for each row of the table.

        Its columns are ``log_p``, ``standard_error``, ``doubtful``, and ``given_others:NAME`` for
        each column of the table.
        """
        values: dict[str, Any] = {
            "log_p": self.per_example.numpy(),
            "standard_error": self.standard_errors.numpy(),
            "doubtful": self.doubtful.numpy(),
        }
        values |= {f"given_others:{name}": each.numpy() for name, each in self.columns.items()}
        return make_frame(values, library, index)


def score(model: TableModel, data: Any, samples: int = 500, *, seed: int = 0) -> RowScores:
    r"""Score the rows of a table: log p(x), and log p of each value given the others of its row.

    .. math:: \log \hat p(x) = \log \frac1K \sum_k w_k, \qquad
        \log \hat p(x_c \mid x_{-c}) = \log \sum_k w_k - \log \sum_k \frac{w_k}{p(x_c \mid z_k)}

    Entries that are not observed are not scored. If the model also explains which are missing
    (:class:`lowerbound.SelfMasked`), log p is that of the values and of the mask, and that of a
    value contains the log probability that it is observed. The sum over columns of the second is
    not log p(x), because each is given all others. Both are computed from the same draws of z. If a
    value is so unusual that it decides what z can be, few of these draws suit the other values: the
    effective sample size of the weights :math:`w_k / p(x_c \mid z_k)` is below a twentieth of K.
    Then log p of the other values is estimated by new draws, from q given these alone. Estimates of
    probabilities, for categories, counts and atoms, that chance puts above 1 are cut at 1.

    Args:
        model: a model of a table.
        data: the table: a frame, a path, or what :func:`lowerbound.load_data` made.
        samples: K, the number of draws of z for each row.
        seed: of the draws.

    Returns:
        :class:`RowScores`.

    Raises:
        UnsupportedError: if the model is not one of a table, or a part is not normalised.
        DataError: if the table does not have the columns of the model.

    Source: Burda et al. 2016; Gelfand, Dey & Chang 1992, for densities given all other data.

    Example:
        >>> import numpy as np
        >>> import lowerbound as lb
        >>> from lowerbound.sklearn import VAE
        >>> table = np.random.default_rng(0).normal(size=(60, 3))
        >>> model = VAE(steps=20, random_state=0).fit(table).model_
        >>> scores = lb.score(model, table, samples=50)
        >>> scores.per_example.shape, list(scores.columns)
        (torch.Size([60]), ['x0', 'x1', 'x2'])
    """
    check_model("score", model, TableModel, "for other models use lb.log_likelihood")
    check_normalized("score", model)
    check_seed("score", seed)
    samples = check_whole_number("score: samples", samples)
    examples = model.examples(data)
    model.check_data(examples)
    names = [column.name for column in model.schema.modelled]
    size = max(1, _MOST_VALUES // (samples * model.numbers_per_draw(examples)))

    def of_batches() -> Iterator[dict[str, Tensor]]:
        for _, x, given in iterate_batches(examples, model, seed=seed, batch_size=size):
            draw = model.draw(x, samples, **given)
            terms = entrywise_log_prob(model.likelihood_given(given)(draw.z), x).double()
            log_w = draw.log_w.double()
            sums = WeightSums(samples)
            sums.add(log_w)
            results = sums.results()
            results["standard_error"] = _estimate_errors(results["effective"], samples)
            total = log_w.logsumexp(0)
            for name in names:
                place = model.schema.places[name]
                own = terms[..., place].sum(-1)
                seen = given[OBSERVED][:, place].any(-1)
                without = log_w - own
                others = total - without.logsumexp(0)
                results[f"column {name}"] = others.masked_fill(~seen, math.nan)
                few = count_effective_samples(without) < _EFFECTIVE_SHARE * samples
                results[f"few {name}"] = few & seen
            yield results

    with torch.no_grad(), evaluating(model), seeded(seed, get_device(model)):
        found = gather(len(examples), of_batches())
        for name in names:
            rows = found[f"few {name}"].nonzero().flatten()
            if len(rows):
                place = model.schema.places[name]
                others = score_without(
                    model, examples.subset(rows), {name: place}, samples, seed=seed
                )[name]
                values = found["log_likelihood"][rows] - others
                is_mass = _have_masses(model.schema.find(name), examples.batch(rows)[:, place])
                found[f"column {name}"][rows] = torch.where(is_mass, values.clamp(max=0), values)
    return RowScores(
        found["log_likelihood"],
        samples=samples,
        effective_sample_sizes=found["effective"],
        pareto_k=found["pareto_k"],
        standard_errors=found["standard_error"],
        columns={name: found[f"column {name}"] for name in names},
    )


def _have_masses(column: Column, values: Tensor) -> Tensor:
    """Which values of a column, ``[B, E]``, have a probability and not a density, ``[B]``."""
    if column.type not in CONTINUOUS:
        return torch.ones(len(values), dtype=torch.bool)
    # The first of two numbers is the code of the atom.
    return (values[:, :-1] > 0).any(-1)


def score_without(
    model: TableModel, examples: Examples, places: Mapping[str, slice], samples: int, *, seed: int
) -> dict[str, Tensor]:
    """log p(all other values of a row), for each of some columns, which is hidden from q, ``[N]``.

    It is NaN where the column is not observed. Call it with the model in evaluation mode.

    Args:
        model: a model of a table.
        examples: the rows.
        places: the positions of the numbers of the columns, by name.
        samples: K, the number of draws of z for each row and column.
        seed: of the draws.
    """
    size = max(1, _MOST_VALUES // (samples * model.numbers_per_draw(examples)))
    return gather(
        len(examples),
        (
            {
                name: _hide_and_score(model, x, given, place, samples)
                for name, place in places.items()
            }
            for _, x, given in iterate_batches(examples, model, seed=seed, batch_size=size)
        ),
    )


def _hide_and_score(
    model: TableModel, x: Tensor, given: dict[str, Tensor], place: slice, samples: int
) -> Tensor:
    seen = given[OBSERVED].clone()
    seen[:, place] = False
    # Nothing is known of a hidden value, not even that it is missing.
    missing = given.get(MISSING, ~given[OBSERVED])
    hidden: dict[str, Any] = given | {OBSERVED: seen, MISSING: missing}
    log_w = model.draw(x, samples, **hidden).log_w.double()
    log_p = log_w.logsumexp(0) - math.log(samples)
    return log_p.masked_fill(~given[OBSERVED][:, place].any(-1), math.nan)


def _estimate_errors(effective: Tensor, samples: int) -> Tensor:
    """The standard error of the logarithm of an average of weights, by the delta method."""
    return (1 / effective - 1 / samples).clamp(min=0).sqrt()
