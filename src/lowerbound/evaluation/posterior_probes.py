"""Weighted points that represent the posterior of a log joint, also where q has no draws.

The weights of draws from q say nothing about places where q has no draws. So the log joint is also
evaluated at draws from other distributions: q stretched about its mean, which reaches the tails,
and Gaussians at the optima of the log joint, which reach correlations and other modes. All draws
together are draws from a mixture (Owen & Zhou 2000).

Shapes: S draws from q, P draws from another distribution, N draws from all, J coordinates of the
vector that represents the variables.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Size, Tensor
from torch.distributions import Distribution

from lowerbound.distributions import is_mass
from lowerbound.errors import UnsupportedError
from lowerbound.evaluation.optima_search import search_optima
from lowerbound.evaluation.posterior_causes import WeightedDraws
from lowerbound.evaluation.posterior_reference import Reference
from lowerbound.models import LogJoint
from lowerbound.models.forgiving import ForgivingDensity
from lowerbound.models.optima import Optimum
from lowerbound.runtime.memory import choose_pairs_per_batch, split_range
from lowerbound.runtime.modes import without_argument_checks
from lowerbound.runtime.noise import derived_seed

# q and the Gaussians at optima are stretched by these factors.
_STRETCHES = (1.5, 3.0, 10.0)
_OPTIMUM_STRETCHES = (1.0, 2.0)

# The share of draws from each other distribution, compared with the draws from q.
_PROBE_SHARE = 0.1

# The largest number of optima at which the log joint is evaluated.
_MOST_OPTIMA = 8

# The states of up to this many bits are enumerated.
_MOST_BITS = 12

# A q that does not say its support is discrete if at least so large a share of the values of so
# many draws repeats.
_REPEATED_SHARE, _COMPARED_DRAWS = 0.9, 1000

# The number of blocks of points from which the lower limit of log p(x) is computed.
_BLOCKS = 10


@dataclass(frozen=True, eq=False)
class _Proposal:
    """A distribution of probes: its draws ``[P, J]``, and its log density ``[N, J] -> [N]``."""

    draws: Tensor
    log_density: Callable[[Tensor], Tensor]


def make_reference(
    model: LogJoint, draws: WeightedDraws, seed: int
) -> tuple[Reference, tuple[Optimum, ...]]:
    """Represent the posterior by weighted points, also where q has no draws.

    If q gives no density at other points, or takes too many discrete values to enumerate, the
    points are the draws from q alone.

    Args:
        model: the log joint with its posterior, which has all data.
        draws: from q.
        seed: of the search for optima.

    Returns:
        The posterior, and the separate optima that are far from q, the one with the largest bound
        first.

    Raises:
        LogJointError: if the log joint fails at other points, but at none of them by itself.
    """
    q = model.posterior()
    if _has_discrete_values(q, draws.u):
        return _enumerate_bits(model, q, draws) or _make_reference_of_draws(model, draws), ()
    generator = np.random.default_rng(derived_seed(seed, "probes"))
    density = ForgivingDensity(model.log_density)
    try:
        optima = _find_optima(model, draws, generator)
        count = max(_BLOCKS, int(_PROBE_SHARE * len(draws.u)))
        proposals = [_Proposal(draws.u, lambda points: _log_prob(q, points))]
        proposals += _stretch_q(q, draws, count)
        for optimum in optima:
            proposals += _place_at(model, optimum, count, generator)
        reference = _mix(model, density, draws, proposals)
    except (NotImplementedError, UnsupportedError):  # q gives no density at other points
        return _make_reference_of_draws(model, draws), ()
    return reference, tuple(one for one in optima if _is_far(model, one, draws))


def _has_discrete_values(q: Distribution, draws_SJ: Tensor) -> bool:
    """Whether q takes discrete values, judged by its support, or by its draws if that is unknown.

    A few values of a density repeat too, because they are rounded.
    """
    known = is_mass(q)
    if known is not None:
        return known
    values_SJ = draws_SJ[:_COMPARED_DRAWS].sort(0).values
    same = values_SJ[1:] == values_SJ[:-1]
    repeats = torch.zeros_like(values_SJ, dtype=torch.bool)
    repeats[1:] |= same
    repeats[:-1] |= same
    return float(repeats.double().mean()) >= _REPEATED_SHARE


def _make_reference_of_draws(model: LogJoint, draws: WeightedDraws) -> Reference:
    return Reference(
        draws.u,
        _flatten_values(model, draws.u),
        draws.log_w,
        torch.zeros_like(draws.log_w),
        _number_blocks(len(draws.u)),
        looks_elsewhere=False,
    )


def _mix(
    model: LogJoint,
    density: ForgivingDensity,
    draws: WeightedDraws,
    proposals: list[_Proposal],
) -> Reference:
    """Weigh the draws of all distributions as draws from their mixture."""
    points = torch.cat([proposal.draws for proposal in proposals])
    probes = points[len(draws.u) :]
    log_joint = torch.cat([draws.log_joint, _evaluate(model, density, probes)])
    densities = [
        proposal.log_density(points) + math.log(len(proposal.draws) / len(points))
        for proposal in proposals
    ]
    log_q = densities[0] - math.log(len(draws.u) / len(points))
    log_mixture = _exclude_undefined(torch.stack(densities)).logsumexp(0)
    return Reference(
        points,
        _flatten_values(model, points),
        _exclude_undefined(log_joint - log_mixture),
        _exclude_undefined(log_q - log_mixture),
        torch.cat([_number_blocks(len(proposal.draws)) for proposal in proposals]),
    )


def _number_blocks(count: int) -> Tensor:
    """Assign points to blocks of equal size, by number; a remainder belongs to none, -1."""
    size = count // _BLOCKS
    numbers = torch.full((count,), -1)
    numbers[: size * _BLOCKS] = torch.arange(size * _BLOCKS) % _BLOCKS
    return numbers


def _log_prob(q: Distribution, points: Tensor) -> Tensor:
    """The log density of q at points ``[N, J]``, in float64 on the CPU."""
    like = q.sample()
    with without_argument_checks():
        parts = [q.log_prob(part.to(like)).double().cpu() for part in _split_rows(points)]
    return torch.cat(parts)


def _split_rows(points: Tensor) -> Iterator[Tensor]:
    return (points[rows] for rows in split_range(*points.shape))


def _evaluate(model: LogJoint, density: ForgivingDensity, points: Tensor) -> Tensor:
    """The log joint at points ``[N, J]``, minus infinity where it is undefined."""
    chunk = choose_pairs_per_batch(model.numbers_per_draw(model.examples(None)))
    with without_argument_checks():
        parts = [density(part.to(model.centre)).double().cpu() for part in points.split(chunk)]
    return _exclude_undefined(torch.cat(parts))


def _exclude_undefined(log_density: Tensor) -> Tensor:
    """Minus infinity where a log density is not finite."""
    return log_density.where(log_density.isfinite(), -math.inf)


def _flatten_values(model: LogJoint, points: Tensor) -> Tensor:
    """The values of all variables side by side, ``[N, J]``, in float64 on the CPU."""
    flat: Tensor | None = None
    for rows in split_range(*points.shape):
        part = points[rows]
        with without_argument_checks():
            values, _ = model.values(part.to(model.centre))
        columns = [value.double().cpu().reshape(len(part), -1) for value in values.values()]
        joined = torch.cat(columns, 1)
        if flat is None:
            flat = joined.new_empty(len(points), joined.shape[1])
        flat[rows] = joined
    assert flat is not None
    return flat


def _stretch_q(q: Distribution, draws: WeightedDraws, count: int) -> Iterator[_Proposal]:
    """Draws from q, moved away from its mean by a factor."""
    mean = draws.u.mean(0)
    for factor in _STRETCHES:

        def log_density(points: Tensor, factor: float = factor) -> Tensor:
            parts = (mean + (part - mean) / factor for part in _split_rows(points))
            log_q = torch.cat([_log_prob(q, back) for back in parts])
            return log_q - len(mean) * math.log(factor)

        some = q.sample(Size((count,))).double().cpu()
        yield _Proposal(mean + factor * (some - mean), log_density)


def _place_at(
    model: LogJoint, optimum: Optimum, count: int, generator: np.random.Generator
) -> Iterator[_Proposal]:
    """Draws from the Gaussian at an optimum, stretched or not, in the standardised space of q."""
    centre, spread = model.centre.double().cpu(), model.spread.double().cpu()
    mean = torch.from_numpy(optimum.gaussian.mean)
    for factor in _OPTIMUM_STRETCHES:

        def log_density(u: Tensor, factor: float = factor) -> Tensor:
            parts = (mean + (centre + spread * part - mean) / factor for part in _split_rows(u))
            plain = [torch.from_numpy(optimum.gaussian.log_prob(back.numpy())) for back in parts]
            return torch.cat(plain) + spread.log().sum() - len(mean) * math.log(factor)

        points, _ = optimum.gaussian.draw(generator.standard_normal((count, len(centre))))
        stretched = mean + factor * (torch.from_numpy(points) - mean)
        yield _Proposal((stretched - centre) / spread, log_density)


def _find_optima(
    model: LogJoint, draws: WeightedDraws, generator: np.random.Generator
) -> tuple[Optimum, ...]:
    """The separate optima among those that start() has found and those of a new search."""
    if draws.gradients is None:
        return ()
    return search_optima(model, *_locate_q(model, draws), generator)[:_MOST_OPTIMA]


def _is_far(model: LogJoint, optimum: Optimum, draws: WeightedDraws) -> bool:
    return optimum.gaussian.is_far_from(*_locate_q(model, draws))


def _locate_q(model: LogJoint, draws: WeightedDraws) -> tuple[Any, Any]:
    """q's mean and standard deviations in unconstrained coordinates, ``[J]`` each."""
    centre, spread = (part.double().cpu() for part in (model.centre, model.spread))
    return (centre + spread * draws.u.mean(0)).numpy(), (spread * draws.scale).numpy()


def _enumerate_bits(model: LogJoint, q: Distribution, draws: WeightedDraws) -> Reference | None:
    """All states of a few bits, which represent the posterior exactly."""
    size = len(draws.names)
    values: Any = draws.u.unique()
    if size > _MOST_BITS or not set(values.tolist()) <= {0.0, 1.0}:
        return None
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=size)), dtype=torch.float64)
    return Reference(
        states,
        _flatten_values(model, states),
        _evaluate(model, ForgivingDensity(model.log_density), states),
        _log_prob(q, states),
        torch.zeros(len(states), dtype=torch.long),
        is_exact=True,
    )
