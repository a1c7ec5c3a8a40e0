"""Moments of each entry of some data, from which training starts."""

from __future__ import annotations

import torch
from torch import Tensor


def count_observed(x: Tensor) -> Tensor:
    """Count the observed values of each entry, ``[*event]``: those that are not NaN."""
    return (~x.isnan()).sum(0)


def average_entries(x: Tensor) -> Tensor:
    """Average the observed values of each entry, ``[*event]``.

    An entry that was never observed gets the average of all entries.

    Args:
        x: data ``[N, *event]``, with NaN where an entry was not observed.
    """
    mean = x.nanmean(0)
    return mean.where(~mean.isnan(), x.nanmean()).nan_to_num(0.0)


def estimate_variances(x: Tensor) -> Tensor:
    """Estimate the variance of each entry, ``[*event]``, by a positive number.

    An entry that is constant in these data is not taken to be constant in all others: it gets a
    share of the average variance, as if that had been observed once.

    Args:
        x: data ``[N, *event]``, with NaN where an entry was not observed.
    """
    variance = (x - average_entries(x)).square().nanmean(0).nan_to_num(0.0)
    # Rounding makes the deviations of a constant a little larger than 0.
    varies = variance.sqrt() > 1e-6 * x.nan_to_num(0.0).abs().amax(0)
    average = variance[varies].mean().nan_to_num(1.0)
    return variance.where(varies, average / (count_observed(x) + 1))


def smooth_frequencies(x: Tensor) -> Tensor:
    """Estimate the probability that each entry of binary data is 1, ``[*event]``.

    The probability is strictly between 0 and 1: half an observation of each value is added.

    Args:
        x: data in [0, 1], ``[N, *event]``, with NaN where an entry was not observed.
    """
    return (x.nansum(0) + 0.5) / (count_observed(x) + 1)


def estimate_frequencies(levels_of_entries: Tensor, levels: int) -> Tensor:
    """Estimate the probability of each level at each entry, ``[levels, *event]``.

    The frequencies of all entries together count as one more observation of each entry.

    Args:
        levels_of_entries: numbers from 0 to ``levels - 1``, ``[N, *event]``, with NaN where an
            entry was not observed.
        levels: the number of levels.
    """
    entries = levels_of_entries.reshape(len(levels_of_entries), -1)
    places = torch.arange(entries.shape[1], device=entries.device).expand_as(entries)
    seen = ~entries.isnan()
    cells = places[seen] * levels + entries[seen].round().long()
    counts = torch.bincount(cells, minlength=entries.shape[1] * levels)
    counts = counts.reshape(-1, levels).to(entries.dtype)
    overall = (counts.sum(0) + 1) / (counts.sum() + levels)
    frequencies = (counts + overall) / (counts.sum(1, keepdim=True) + 1)
    return frequencies.T.reshape(levels, *levels_of_entries.shape[1:])


def estimate_phases(x: Tensor, knots: int) -> Tensor:
    """Estimate the probabilities of the knots of phases, ``[knots, *event]``.

    They maximise the likelihood of the data and one more observation at each knot, in 50 steps of
    expectation-maximisation, see :class:`~lowerbound.distributions.FactorialPhases`.

    Args:
        x: phases from 0 to 1, ``[N, *event]``, with NaN where an entry was not observed.
        knots: their number.
    """
    seen = ~x.isnan()
    place = x.nan_to_num(0.0) * knots
    share = (place - place.floor()) * seen
    left = place.floor().long() % knots
    ends = torch.stack([left, (left + 1) % knots])
    shares = torch.stack([seen.to(x.dtype) - share, share])
    probabilities = x.new_full((knots, *x.shape[1:]), 1 / knots)
    for _ in range(50):
        joint = shares * probabilities.gather(0, ends.flatten(0, 1)).unflatten(0, (2, len(x)))
        joint = joint / joint.sum(0).where(seen, 1.0)
        counts = torch.ones_like(probabilities)
        counts.scatter_add_(0, ends.flatten(0, 1), joint.flatten(0, 1))
        probabilities = counts / counts.sum(0)
    return probabilities


def find_rates(x: Tensor, exposure: Tensor) -> Tensor:
    """Find the rate of each entry of counts, ``[*event]``: that of half a count if there is none.

    Args:
        x: counts ``[N, *event]``, with NaN where an entry was not observed.
        exposure: by which the rates are multiplied, of the same shape, with NaN there too.
    """
    total = exposure.nansum(0)
    return x.nansum(0).clamp(min=0.5) / total.where(total > 0, exposure.nanmean())


def find_inverse_dispersions(x: Tensor, mean: Tensor) -> Tensor:
    """Find the inverse dispersion of each entry from counts and their means, ``[N, *event]`` both.

    The variance is ``mu + mu^2 / theta``, so ``1 / theta`` is the ratio of two sums. The result is
    huge if the counts vary no more than those of a Poisson distribution.
    """
    counts, means = x.double(), mean.double()  # squares of large counts overflow in float32
    excess = ((counts - means).square() - means).nansum(0)
    ratio = means.square().nansum(0) / excess.clamp(min=torch.finfo(x.dtype).tiny)
    return ratio.to(x.dtype)
