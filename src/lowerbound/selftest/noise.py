"""Checks of random numbers: the streams of examples, their distributions, and their seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, distributions

import lowerbound as lb
from lowerbound.distributions import FactorialCategorical, draw_samples
from lowerbound.runtime import noise
from lowerbound.runtime.noise import derived_seed
from lowerbound.selftest.known import DOUBLE, errors_apart
from lowerbound.selftest.registry import check

_EXAMPLES = 8


def _draw(seed: int, first: int, requests: int, samples: int) -> Tensor:
    """Draw normals for 4 examples, ``[requests, samples, 4, 2]``."""
    with noise.per_example(seed, torch.arange(first, first + 4)):
        return torch.stack(
            [noise.standard_normal((samples, 4, 2), 1, dtype=DOUBLE) for _ in range(requests)]
        )


@check(
    "noise-never-repeats",
    "Examples, successive requests and different seeds never share a random number (number of "
    "repetitions)",
    tolerance=0,
)
def count_repeated_noise() -> float:
    """Among 60,000 normal draws in double precision.

    The noise of the same examples in other batches must be the same, and is counted once.
    """
    drawn = [_draw(seed, first, 6, 160) for seed in (0, 1, 7) for first in (0, 4)]
    values = torch.cat([entry.flatten() for entry in drawn])
    again = _draw(0, 2, 6, 160)
    moved = int((again[:, :, :2] != drawn[0][:, :, 2:]).sum())
    moved += int((again[:, :, 2:] != drawn[1][:, :, :2]).sum())
    return len(values) - len(values.unique()) + moved


@check(
    "noise-in-chunks",
    "Noise that is drawn in chunks is the noise of a single request, for every request within a "
    "chunk (number of differences)",
    tolerance=0,
)
def count_differences_between_chunks() -> float:
    """For two requests, uniform and normal, in chunks of 1, 3 and 2 draws, and one more of 6."""
    rows = torch.tensor([5, 0, 9])

    def request(samples: int) -> Tensor:
        size = (samples, 3, 2)
        uniform = noise.uniform(size, 1, dtype=DOUBLE)
        return torch.stack([uniform, noise.standard_normal(size, 1, dtype=DOUBLE)], -1)

    with noise.per_example(3, rows):
        whole, after = request(6), request(6)
    with noise.per_example(3, rows):
        with noise.in_chunks() as next_chunk:
            parts = []
            for size in (1, 3, 2):
                next_chunk()
                parts.append(request(size))
        later = request(6)
    return float((torch.cat(parts) != whole).sum() + (later != after).sum())


@check(
    "derived-seeds",
    "Seeds for different purposes differ, and do not depend on other calls (number of repetitions)",
    tolerance=0,
)
def count_repeated_seeds() -> float:
    """For 100 seeds and 4 purposes with 5 numbers each."""
    keys = [
        (seed, purpose, number)
        for seed in range(100)
        for purpose in ("order", "noise", "gaps", "pilot")
        for number in range(5)
    ]
    found = [derived_seed(*key) for key in keys]
    again = [derived_seed(*key) for key in keys]
    return len(found) - len(set(found)) + sum(a != b for a, b in zip(found, again, strict=True))


def _make_vector(*values: float) -> Tensor:
    """Make a parameter that all examples share, ``[B, units]``."""
    return torch.tensor(values, dtype=DOUBLE).expand(_EXAMPLES, len(values))


def _list_continuous() -> list[tuple[distributions.Distribution, Any, int]]:
    """List distributions, the cumulative distribution function of an entry, and its position."""
    two = _make_vector(0.6, 2.5)
    three = torch.tensor([2.0, 0.5, 1.5], dtype=DOUBLE).expand(_EXAMPLES, 3)
    return [
        (lb.StandardNormal(2)().expand((_EXAMPLES,)), stats.norm().cdf, 1),
        (distributions.Normal(two, 1.5), stats.norm(2.5, 1.5).cdf, 1),
        (distributions.Uniform(-two, two), stats.uniform(-2.5, 5.0).cdf, 1),
        (distributions.Exponential(two), stats.expon(scale=0.4).cdf, 1),
        (distributions.Cauchy(two, 2 * two), stats.cauchy(2.5, 5.0).cdf, 1),
        (distributions.Gamma(two, 2 * two), stats.gamma(0.6, scale=1 / 1.2).cdf, 0),
        (distributions.StudentT(3.0 * two), stats.t(7.5).cdf, 1),
        (distributions.Laplace(two, two), stats.laplace(2.5, 2.5).cdf, 1),
        (distributions.Beta(two, 2 * two), stats.beta(0.6, 1.2).cdf, 0),
        (distributions.Dirichlet(three), stats.beta(0.5, 3.5).cdf, 1),
    ]


@check(
    "noise-distributions",
    "Draws from the streams of examples follow their distribution, for lowerbound's and torch's "
    "continuous distributions (-log10 of the smallest p-value of Kolmogorov's test)",
    tolerance=5,
)
def measure_continuous_noise() -> Iterator[float]:
    """For 10 distributions with 20,000 draws each. By chance it fails for one seed in 10,000."""
    for number, (q, cdf, entry) in enumerate(_list_continuous()):
        with noise.per_example(number, torch.arange(_EXAMPLES)):
            z = draw_samples(q, 20_000 // _EXAMPLES)
        tested = stats.kstest(z[..., entry].flatten().numpy(), cdf)
        yield -math.log10(max(float(tested.pvalue), 1e-300))


def _list_discrete() -> list[tuple[distributions.Distribution, Tensor]]:
    """List distributions, and the mean of each entry of a draw."""
    chances = _make_vector(0.2, 0.7)
    weights = torch.tensor([0.1, 0.6, 0.3], dtype=DOUBLE)
    logits = weights.log().expand(_EXAMPLES, 1, 3)
    levels = weights.log().reshape(1, 3, 1).expand(_EXAMPLES, 3, 1)
    of_levels = (weights * torch.tensor([0.0, 0.5, 1.0], dtype=DOUBLE)).sum()
    return [
        (lb.Bernoulli(torch.nn.Identity()).from_parameters(chances.logit()), chances[0]),
        (distributions.Bernoulli(chances), chances[0]),
        (distributions.Poisson(4 * chances), 4 * chances[0]),
        (distributions.Binomial(9, chances), 9 * chances[0]),
        (distributions.OneHotCategorical(logits=logits), weights),
        (FactorialCategorical(levels), of_levels),
    ]


@check(
    "noise-of-discrete-draws",
    "Draws from the streams of examples, and from torch's generator, have the mean of their "
    "discrete distribution (in standard errors)",
    tolerance=4.5,
)
def measure_discrete_noise() -> Iterator[float]:
    """For 24 means with 20,000 draws each. By chance it fails for one seed in 6,000."""
    for number, (q, mean) in enumerate(_list_discrete()):
        with noise.per_example(number, torch.arange(_EXAMPLES)):
            own = draw_samples(q, 20_000 // _EXAMPLES)
        for z in (own, draw_samples(q, 20_000 // _EXAMPLES)):
            entries = z.reshape(len(z) * _EXAMPLES, -1).double()
            yield errors_apart(entries, mean)


@check(
    "uniform-noise",
    "Uniform noise is a multiple of 2^-24 in [0, 1), and each of its 24 bits is 1 in half of the "
    "draws (in standard errors)",
    tolerance=4.5,
)
def measure_uniform_bits() -> float:
    """For 20,000 draws in float32. By chance it fails for one seed in 6,000."""
    with noise.per_example(0, torch.arange(_EXAMPLES)):
        u = noise.uniform((20_000 // _EXAMPLES, _EXAMPLES), 1).flatten()
    levels = np.ldexp(u.numpy().astype(np.float64), 24)
    if not (levels == levels.round()).all() or not (levels >= 0).all() or levels.max() >= 1 << 24:
        return math.inf
    bits = levels.astype(np.int64)[:, None] >> np.arange(24) & 1
    return errors_apart(torch.from_numpy(bits).double(), 0.5)
