"""A baseline for bounds: the score of a model without latents, with independent entries.

A bound in nats is hard to judge by itself. So displays show it next to the score of independent
entries, each with a distribution of its own. A model with a lower bound has learned less about the
data than the mean and the spread of each entry.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lowerbound.conditionals.moments import (
    estimate_phases,
    find_inverse_dispersions,
    find_rates,
)
from lowerbound.data.entries import Entry
from lowerbound.data.examples import Examples
from lowerbound.data.fields import EXPOSURE, MISSING, OBSERVED
from lowerbound.distributions import FactorialNegativeBinomial, FactorialPhases, Units
from lowerbound.models import Model
from lowerbound.runtime import noise
from lowerbound.runtime.memory import choose_sample_size

# The baseline is measured on at most this many examples.
_MOST_EXAMPLES = 10_000

# With fewer examples a spread is too uncertain for a baseline, in spite of the correction for the
# number of parameters.
_FEWEST_EXAMPLES = 4

# A value with more levels than this is a count.
_MOST_LEVELS = 1024


@dataclass(frozen=True)
class Gain:
    """A bound next to the score of independent entries; ``str()`` of it is one sentence.

    Args:
        bound: the bound, in nats per example.
        baseline: the score of independent entries on the same data.
        name: what the bound is called.
    """

    bound: float
    baseline: float
    name: str = "bound"

    @property
    def nats(self) -> float:
        """By how many nats the bound is above the baseline; negative if it is below."""
        return self.bound - self.baseline

    def as_record(self) -> dict[str, float]:
        """The baseline and the gain in nats, by their names in JSON."""
        return {"baseline": self.baseline, "gain": self.nats}

    @property
    def warning(self) -> str | None:
        """That the model does not beat independent entries; ``None`` if it does."""
        if self.nats > 0:
            return None
        return (
            f"the {self.name}, {self.bound:.2f} nats, is {-self.nats:.2f} nats BELOW that of "
            f"independent entries ({self.baseline:.2f}): the model knows less about the data than "
            "the mean and the spread of each entry. Train longer, or check the likelihood, the "
            "units of real numbers (standardize=True, or lb.LogInput for positive ones), and in a "
            "table undeclared markers of missing values, outliers and wrong types of columns"
        )

    def __str__(self) -> str:
        if self.warning is not None:
            return self.warning
        return (
            f"the {self.name} is {self.nats:.2f} nats above that of independent entries "
            f"({self.baseline:.2f})"
        )


def score_independent_entries(model: Model, examples: Examples, *, seed: int = 0) -> float | None:
    r"""Score data by independent entries: one distribution for each entry, the same for all rows.

    .. math:: \frac1N \sum_n \sum_d \log p_d(x_{nd})

    Each :math:`p_d` is fitted to the same data, and the result estimates the score of new data.

    - If the model's likelihood is a density, :math:`p_d` is a Gaussian. Its score is lowered by the
      number of its parameters, 2, over N (Akaike 1974). Constant entries are left out, because
      their density would be infinite.
    - If it is a mass over L levels, :math:`p_d` consists of the frequencies of the levels. Each row
      is scored by the frequencies in all other rows, after 1 / L is added to the count of each
      level (Perks 1947). Ordered levels, such as those of pixels, are also scored by a Gaussian
      over their bins, and the better of the two scores is returned.
    - The hour of the day has a density that is linear between 24 knots, whose score is lowered by
      the number of its parameters, 23, over N; or a uniform one, if that scores better.
    - If the model scores which values of a table are missing, so does each incomplete column, by
      the frequency of missing values.
    - For counts, :math:`p_d` is a negative binomial distribution with the moments of the data. If
      the model's likelihood has exposures, the means are proportional to them.

    If the bound contains the probability of a label (:class:`lowerbound.SemiSupervised`), the label
    is an entry too, with a mass over its categories. Where it is not known, it counts as 0.

    Args:
        model: the model whose likelihood says whether data have a mass or a density.
        examples: the data. At most 10,000 examples are used, evenly spaced.
        seed: the seed of pixels that are drawn at random.

    Returns:
        The average in nats per example, or ``None`` for fewer than four examples, or if the
        likelihood is neither mass nor density.

    Source: H. Akaike, "A new look at the statistical model identification" (1974); W. Perks, "Some
    observations on inverse probability including a new indifference rule" (1947).

    Example:
        >>> import lowerbound as lb
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6))
        ... )
        >>> data = lb.Examples.of(torch.tensor([[-1.0, 0.0, 5.0], [1.0, 0.0, 5.0]] * 2))
        >>> round(score_independent_entries(vae, data), 4)  # -log(2 pi e) / 2 - 2 / 4
        -1.9189
    """
    return score_entries_alone(model, examples, model.likelihood_is_mass(examples), seed=seed)


def score_entries_alone(
    model: Model, examples: Examples, mass: bool | None, *, seed: int
) -> float | None:
    """Score data as :func:`score_independent_entries` does, given whether they have a mass."""
    if len(examples) < _FEWEST_EXAMPLES:
        return None
    some = examples.spread(choose_sample_size(examples.shape, _MOST_EXAMPLES))
    if getattr(examples.preprocessing, "schema", None) is not None:
        score = sum(score_columns_alone(examples).values()) + _score_fields(model, some)
        if MISSING in model.accepts:
            score += _score_masks(examples)
        return score
    if mass is None:
        return None
    rows = torch.arange(len(some))
    with noise.per_example(noise.derived_seed(seed, "baseline"), rows):
        x = some.batch(rows).reshape(len(some), -1).double().cpu()
    observed = some.all_fields.get(OBSERVED)
    if observed is not None:
        x = x.masked_fill(~observed.reshape(len(some), -1).cpu(), math.nan)
    exposure = _read_exposures(model, some).expand_as(x)
    return float(_score_entries(x, mass, some, exposure).sum()) + _score_fields(model, some)


def _score_fields(model: Model, examples: Examples) -> float:
    """Score the fields whose probability is a part of the bound."""
    score = 0.0
    for name, categories in model.scored_fields.items():
        if name in examples.all_fields:
            field = examples.all_fields[name].reshape(len(examples), 1).double().cpu()
            known = field.masked_fill(field < 0, math.nan)
            score += float(_score_levels(known, categories).sum())
    return score


def score_columns_alone(examples: Examples) -> dict[str, float]:
    """Score each column of a table by a distribution of its own, as independent entries.

    Args:
        examples: the rows of a table. At most 10,000 are used, evenly spaced.

    Returns:
        By the name of the column, its average in nats per row, in the units of the table. Entries
        that are not observed count as 0.
    """
    assert examples.preprocessing is not None
    schema = examples.preprocessing.schema
    assert schema is not None
    some = examples.spread(choose_sample_size(examples.shape, _MOST_EXAMPLES))
    rows = torch.arange(len(some))
    x = some.batch(rows).double().cpu().masked_fill(~some.fields[OBSERVED].cpu(), math.nan)
    scores = {}
    for name, place in schema.places.items():
        pairs = zip(schema.entries[place], x[:, place].split(1, 1), strict=True)
        scores[name] = sum(_score_entry(entry, values) for entry, values in pairs)
    return scores


def _score_masks(examples: Examples) -> float:
    """Score which values of the incomplete columns of a table are missing, by their frequencies."""
    assert examples.preprocessing is not None
    schema = examples.preprocessing.schema
    assert schema is not None
    places = [schema.places[each.name].start for each in schema.modelled if each.has_missing]
    some = examples.spread(choose_sample_size(examples.shape, _MOST_EXAMPLES))
    observed = some.fields[OBSERVED][:, places].cpu()
    missing = some.fields.get(MISSING, ~some.fields[OBSERVED])[:, places].cpu()
    masks = missing.double().masked_fill(~(missing | observed), math.nan)
    return float(_score_levels(masks, 2).sum())


def _score_entry(entry: Entry, values: Tensor) -> float:
    """Score one entry of the rows of a table, ``[N, 1]``."""
    if entry.family == "counts":
        return float(_score_counts(values, torch.ones_like(values)).sum())
    if entry.family == "phases":
        return float(_score_phases(values, entry.levels).sum())
    if entry.family not in ("continuous", "seasonal"):
        return float(_score_levels(values, entry.levels).sum())
    transforms = torch.tensor([("identity", "log", "logit").index(entry.transform)])
    centre, spread = torch.tensor([[entry.centre], [entry.spread]], dtype=values.dtype)
    slopes = Units(transforms, centre, spread, spread.log()).log_slopes(values)
    return float(_score_gaussians(values).sum() + slopes[~values.isnan()].sum() / len(values))


def _read_exposures(model: Model, examples: Examples) -> Tensor:
    """Read the exposures that the likelihood multiplies rates by, ``[N, D]``, or 1 if it does not.

    They may have one column for all entries.
    """
    likelihood = getattr(model, "likelihood", None)
    if EXPOSURE not in getattr(likelihood, "needs", ()):
        return torch.ones(1, 1, dtype=torch.float64)
    exposure = examples.select_fields((EXPOSURE,))[EXPOSURE]
    return exposure.reshape(len(examples), -1).double().cpu()


def _score_entries(x: Tensor, mass: bool, examples: Examples, exposure: Tensor) -> Tensor:
    """Score each entry of data ``[N, D]``, NaN where it is not observed: ``[D]``."""
    if not mass:
        return _score_gaussians(x)
    levels = examples.levels
    if examples.pixels.startswith("binarize"):
        levels = 2
    if levels is None or levels > _MOST_LEVELS:
        return _score_counts(x, exposure)
    if examples.kind is not None:
        return _score_levels(x, levels)
    x = x * (levels - 1)
    by_frequencies = _score_levels(x, levels)
    if levels == 2:
        return by_frequencies
    by_bins = _score_gaussians(x, width=1.0)
    return max(by_frequencies, by_bins, key=lambda scores: float(scores.sum()))


def _score_gaussians(x: Tensor, width: float = 0.0) -> Tensor:
    """Score by Gaussians, or by the mass that they have in bins of this width."""
    variance = (x - x.nanmean(0)).square().nanmean(0)
    scale = x.nan_to_num(0.0).abs().amax(0)
    varies = variance.sqrt() > 1e-7 * scale  # rounding makes a constant vary a little
    if width:
        # A value is spread evenly over its bin, so that even a constant has a variance.
        variance, varies = variance + width**2 / 12, torch.ones_like(varies)
    scores = -0.5 * (2 * math.pi * math.e * variance[varies]).log()
    if width:
        scores = (scores + math.log(width)).clamp(max=0.0)
    return _average(scores, 2.0, x[:, varies])


def _score_levels(x: Tensor, levels: int) -> Tensor:
    entries = torch.arange(x.shape[1]).expand_as(x)
    seen = ~x.isnan()
    cells = entries[seen] * levels + x[seen].round().long()
    counts = torch.bincount(cells, minlength=x.shape[1] * levels).reshape(-1, levels).double()
    total = counts.sum(1, keepdim=True).clamp(min=1)
    # The frequency of a level in all other rows, at which every row with this level is scored.
    others = (counts - 1 + 1 / levels).clamp(min=1 / levels) / total
    return _average((counts / total * others.log()).sum(1), 0.0, x)


def _score_phases(x: Tensor, knots: int) -> Tensor:
    log_density = FactorialPhases(estimate_phases(x, knots).log()).entrywise_log_prob(
        x.nan_to_num(0.0)
    )
    scores = _average(log_density.where(~x.isnan(), math.nan).nanmean(0), knots - 1.0, x)
    return scores.clamp(min=0.0)  # the score of a uniform density, which has no parameters


def _score_counts(x: Tensor, exposure: Tensor) -> Tensor:
    occurs = x.nansum(0) > 0
    x, exposure = x[:, occurs], exposure[:, occurs].masked_fill(x[:, occurs].isnan(), math.nan)
    mean = exposure * find_rates(x, exposure)
    # Without excess variance this becomes the Poisson distribution.
    size = find_inverse_dispersions(x, mean).clamp(max=1e6)
    log_mass = FactorialNegativeBinomial(mean.log(), size.log()).entrywise_log_prob(x)
    return _average(log_mass.nanmean(0), 2.0, x)


def _average(scores: Tensor, parameters: Tensor | float, x: Tensor) -> Tensor:
    """Average over all rows the scores of observed entries, less the number of parameters."""
    observed = (~x.isnan()).sum(0)
    return (observed * scores.nan_to_num(0.0) - parameters) / len(x)
