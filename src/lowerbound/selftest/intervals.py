"""Checks of intervals for means, of paired differences, and of the tail of weights."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats
from torch import Tensor

import lowerbound as lb
from lowerbound.evaluation import mean_interval, pareto
from lowerbound.evaluation.estimate import Estimate
from lowerbound.selftest.known import DOUBLE, largest
from lowerbound.selftest.registry import check


@check(
    "student-interval",
    "The interval of the mean of fewer than five values is Student's, as scipy computes it",
    tolerance=1e-9,
)
def compare_student_intervals() -> float:
    """For 2 to 4 values and three levels, and for the studentised mean of an estimate."""
    worst = 0.0
    for count in (2, 3, 4):
        values = torch.randn(count, dtype=DOUBLE)
        error = float(stats.sem(values.numpy()))
        worst = max(worst, abs(Estimate(values).standard_error / error - 1))
        for level in (0.5, 0.95, 0.99):
            exact = stats.t.interval(level, count - 1, float(values.mean()), error)
            found = mean_interval(values, level=level)
            worst = max(worst, *(abs(a - b) for a, b in zip(found, exact, strict=True)))
    return worst


@check(
    "bootstrap-interval",
    "The interval of the mean of more values is the hull of Student's and of the studentised "
    "bootstrap's, as scipy's normal resampling computes it (relative to its length)",
    tolerance=0.04,
)
def compare_bootstrap_intervals() -> float:
    """For 12 skewed and 12 symmetric values, at two levels, with 40,000 resamples of either.

    The quantiles of two sets of resamples differ by about 0.01.
    """
    worst = 0.0
    generator = np.random.default_rng(1)
    symmetric = np.linspace(-1, 1, 12)
    for x in (np.exp(symmetric * 1.5), symmetric**3 + 0.1):
        mean, error = x.mean(), stats.sem(x)
        drawn = generator.choice(x, (40_000, len(x)))
        ratios = (drawn.mean(1) - mean) / stats.sem(drawn, axis=1)
        for level in (0.8, 0.95):
            low, high = np.quantile(ratios[np.isfinite(ratios)], [(1 - level) / 2, (1 + level) / 2])
            student = stats.t(len(x) - 1).ppf((1 + level) / 2)
            exact = mean - max(high, student) * error, mean - min(low, -student) * error
            found = mean_interval(torch.from_numpy(x), level=level, resamples=40_000)
            differences = (abs(a - b) for a, b in zip(found, exact, strict=True))
            worst = max(worst, max(differences) / (exact[1] - exact[0]))
    return worst


@check(
    "interval-coverage",
    "A 95% interval covers the mean of ten exponential values in about 95% of all samples "
    "(distance of the share from 0.95)",
    tolerance=0.025,
)
def measure_coverage() -> float:
    """For 1,000 samples with 400 resamples; the share has a standard error of 0.007.

    By chance it fails for one seed in 3,000.
    """
    values = -torch.rand(1000, 10, dtype=DOUBLE).log()
    covered = 0
    for row in values:
        low, high = mean_interval(row, resamples=400)
        covered += low <= 1 <= high
    return abs(covered / len(values) - 0.95)


@check(
    "paired-difference",
    "The difference of two estimates is the mean of the examples' differences with its interval, "
    "and is certain only if neither may be too low by that much",
    tolerance=1e-12,
)
def compare_paired_differences() -> float:
    """For 30 examples that differ far more than the two estimates do."""
    level = 100 * torch.randn(30, dtype=DOUBLE)
    shift = 0.5 + 0.1 * torch.randn(30, dtype=DOUBLE)
    found = lb.paired_difference(Estimate(level + shift), Estimate(level))
    low, high = mean_interval(level + shift - level)
    wrong = not found.is_certain or not found.excludes_zero
    for shortfall, certain in ((0.9 * low, True), (1.1 * low, False)):
        doubted = lb.paired_difference(Estimate(level + shift), _Short(level, shortfall=shortfall))
        wrong |= doubted.is_certain != certain
    equal = lb.paired_difference(Estimate(level), Estimate(level + shift - shift.mean()))
    wrong |= equal.is_certain or equal.excludes_zero
    differences = (found.mean - float(shift.mean()), found.low - low, found.high - high)
    if wrong:
        return math.inf
    return max(map(abs, differences))


class _Short(Estimate):
    """An estimate whose mean may be too low by a given amount."""

    def __init__(self, per_example: Tensor, shortfall: float) -> None:
        super().__init__(per_example)
        object.__setattr__(self, "_short", shortfall)

    @property
    def shortfall(self) -> float:
        """By how many nats the mean may be too low."""
        return float(vars(self)["_short"])


# k-hat of log weights -shape * log((i - 1/2) / S) for i = 1 to S, as arviz.psislw of ArviZ 0.23
# computes it, by S and shape.
_KNOWN_SHAPES = {
    (50, 0.1): 0.305504372860,
    (50, 0.5): 0.462920262887,
    (50, 0.9): 0.618494112796,
    (50, 1.2): 0.734859657025,
    (1000, 0.1): 0.149964267499,
    (1000, 0.5): 0.497085961263,
    (1000, 0.9): 0.844266433403,
    (1000, 1.2): 1.104673929250,
    (10000, 0.1): 0.116977586453,
    (10000, 0.5): 0.499003275615,
    (10000, 0.9): 0.880933519915,
    (10000, 1.2): 1.167306299781,
}


@check(
    "pareto-shape-known",
    "Pareto k-hat is that of ArviZ on known weights, and the length of the tail and the largest "
    "reliable k-hat are those of Vehtari et al. 2024",
    tolerance=1e-6,
)
def compare_pareto_shapes() -> float:
    """For 50, 1,000 and 10,000 weights, and shapes from 0.1 to 1.2."""
    differences = []
    for (samples, shape), expected in _KNOWN_SHAPES.items():
        ranks = torch.arange(1, samples + 1, dtype=DOUBLE)
        log_w = -shape * ((ranks - 0.5) / samples).log()
        tail = log_w[: pareto.tail_length(samples) + 1, None]
        differences.append(largest(pareto.pareto_shape(tail) - expected))
    limits = {(100, 20, 0.5), (1_000, 95, 2 / 3), (10_000, 300, 0.7), (10**6, 3000, 0.7)}
    for samples, tail_size, limit in limits:
        differences += [
            float(abs(pareto.tail_length(samples) - tail_size)),
            abs(pareto.reliable_shape(samples) - limit),
        ]
    return max(differences)
