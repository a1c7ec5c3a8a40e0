"""The aggregate posterior q(z), the mean of the examples' posteriors, and the information in z.

Shapes: P draws of z, B examples of a batch, J latent units; N examples in all, C of them in the
mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.nn.functional import softplus

from lowerbound.data.examples import Examples
from lowerbound.distributions import DiagonalNormal, FactorialBernoulli, draw_samples
from lowerbound.evaluation.latent_groups import Group, find_latent_groups
from lowerbound.models import Model
from lowerbound.models.groups import draw_with_log_q
from lowerbound.models.passes import iterate_batches
from lowerbound.runtime import noise
from lowerbound.runtime.memory import TensorSizes

# The largest number of components in the mixture q(z).
_MOST_COMPONENTS = 10_000

# The largest number of values [draws, components, units] in all.
_MOST_VALUES = 60_000_000

# The largest number of pairs of a draw and a component if units are not independent, such as those
# of flows, because each density may cost an evaluation of a network; and the largest number of
# values that all of these densities compute, because some flows need a pass for each unit.
_MOST_COSTLY_PAIRS, _MOST_COSTLY_VALUES = 250_000, 10_000_000_000

# Draws are made for at least this many examples, at any cost, unless a density is very costly.
_FEWEST_DRAWN_EXAMPLES = 200

# The largest number of values computed at once: 2^17 doubles are 1 MiB, which fits into a cache.
_CHUNK_VALUES = 1 << 17

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class AggregatePosterior:
    """The mixture q(z) of the examples' posteriors, and draws from some of them.

    Args:
        components: the posteriors, in batches.
        prior: p(z).
        z: the draws, ``[P, *event]``.
        own: the log density of each draw under its own posterior, ``[P]``.
        rows: the example that each draw belongs to, ``[P]``.
    """

    components: list[Distribution]
    prior: Distribution
    z: Tensor
    own: Tensor
    rows: Tensor

    @property
    def size(self) -> int:
        """C, the number of components."""
        return sum(q.batch_shape[0] for q in self.components)


def measure_aggregate_posterior(
    model: Model, examples: Examples, name: str, *, samples: int, seed: int, rates: Tensor
) -> dict[str, Any]:
    """Measure the information between x and z, and how far q(z) is from the prior in each unit.

    Args:
        model: the model.
        examples: the data.
        name: of the group of latents, whose prior must be the same for all examples.
        samples: the draws for each example.
        seed: of all noise.
        rates: of all examples, ``[N]``.

    Returns:
        Arguments of :class:`~lowerbound.evaluation.group_health.GroupHealth`.
    """
    mixture = _make_aggregate_posterior(model, examples, name, samples, seed)
    prior_units = make_unit_density(mixture.prior)
    joint, marginal = _sum_densities(mixture, with_marginal=prior_units is not None)
    information, error = _regress(
        mixture.own - joint + math.log(mixture.size),
        mixture.own - _log_density(mixture.prior, mixture.z, 1),
        rates,
        mixture.rows,
    )
    marginal_kl = None
    if marginal is not None and prior_units is not None:
        log_marginal = marginal.log() - math.log(mixture.size)
        difference = log_marginal - prior_units(mixture.z).flatten(1)
        marginal_kl = float(difference.sum(1).mean())
    return {
        "mutual_information": information,
        "mutual_information_error": error,
        "own_share": float((mixture.own - joint).exp().mean()),
        "components": mixture.size,
        "draws": len(mixture.z),
        "marginal_kl": marginal_kl,
    }


def _make_aggregate_posterior(
    model: Model, examples: Examples, name: str, samples: int, seed: int
) -> AggregatePosterior:
    """Make the mixture over evenly spaced examples, with as many draws as the cost allows."""

    def group_of(x: Tensor, given: dict[str, Tensor]) -> Group:
        return find_latent_groups(model, x, 1, given)[name]

    _, x, given = next(iterate_batches(examples.spread(1), model, seed=seed))
    first = group_of(x, given)
    most, budget = _MOST_COMPONENTS, _MOST_VALUES // first.q.event_shape.numel()
    least = _FEWEST_DRAWN_EXAMPLES
    is_costly = make_unit_density(first.q) is None
    if is_costly:
        budget = min(_MOST_COSTLY_PAIRS, _MOST_COSTLY_VALUES // _count_values(first.q))
        most, least = max(2, math.isqrt(budget)), max(2, least * budget // _MOST_COSTLY_PAIRS)
    count = min(len(examples), most)
    points = min(count, max(least, budget // (count * samples)))
    chosen = torch.linspace(0, count - 1, points).round().long().unique()
    components, own, draws, rows, start = [], [], [], [], 0
    for _, x, given in iterate_batches(examples.spread(count), model, seed=seed):
        q = group_of(x, given).q
        here = chosen[(chosen >= start) & (chosen < start + len(x))] - start
        if is_costly:
            z, compute_log_q = draw_with_log_q(q, samples, "pathwise")
            log_q = compute_log_q().double()
        else:
            z = draw_samples(q, samples)
            log_q = _log_density(q, z, 2)
        own.append(log_q[:, here].flatten())
        draws.append(z[:, here].flatten(0, 1))
        rows.append((here + start).repeat(samples))
        components.append(q)
        start += len(x)
    own_P = torch.cat(own)
    rows_P = torch.cat(rows).to(own_P.device)
    return AggregatePosterior(components, first.prior, torch.cat(draws), own_P, rows_P)


def _count_values(q: Distribution) -> int:
    """Count the values that the log density of one draw computes, for a posterior ``[1]``."""
    counts: list[int] = []
    for draws in (2, 3):
        # Noise of its own, so that all other draws stay as they are.
        with noise.per_example(0, torch.zeros(1, dtype=torch.long)):
            z = draw_samples(q, draws)
        with TensorSizes() as made:
            q.log_prob(z)
        counts.append(sum(made.sizes))
    return max(1, counts[1] - counts[0])


def _log_density(distribution: Distribution, z: Tensor, leading: int) -> Tensor:
    """The log density of draws with that number of leading dimensions, in double precision."""
    units = make_unit_density(distribution)
    if units is None:
        return distribution.log_prob(z).double()
    return units(z).flatten(leading).sum(leading)


def _sum_densities(
    mixture: AggregatePosterior, *, with_marginal: bool
) -> tuple[Tensor, Tensor | None]:
    """Sum densities over the components at each draw.

    Returns:
        The logarithm of the sum of densities, ``[P]``, and the sum of each unit's density,
        ``[P, J]``; ``None`` without independent units.
    """
    z = mixture.z
    joint = torch.full_like(mixture.own, -math.inf)
    marginal: Tensor | None = None
    for q in mixture.components:
        units = make_unit_density(q)
        width = q.batch_shape[0]
        if units is not None:
            width *= q.event_shape.numel()
        for part in torch.arange(len(z), device=z.device).split(max(1, _CHUNK_VALUES // width)):
            if units is None:
                # Flows do not broadcast, so the pairs are written out.
                pairs = z[part][:, None].expand(-1, *q.batch_shape, *q.event_shape)
                joint[part] = torch.logaddexp(joint[part], q.log_prob(pairs).double().logsumexp(1))
                continue
            density_PBJ = units(z[part][:, None]).flatten(2)
            joint[part] = torch.logaddexp(joint[part], density_PBJ.sum(2).logsumexp(1))
            if not with_marginal:
                continue
            if marginal is None:
                marginal = z.new_zeros(len(z), density_PBJ.shape[2], dtype=torch.float64)
            # The sum includes a draw's own component, so it does not underflow, and no density is
            # too large for a double.
            marginal[part] += density_PBJ.exp_().sum(1)
    return joint, marginal


def _regress(y: Tensor, t: Tensor, known: Tensor, rows: Tensor) -> tuple[float, float]:
    """Estimate the mean of ``y`` and its standard error by regression on ``t``, of known mean.

    If ``y`` does not depend on ``t``, for instance if it is the same for all draws, this is the
    plain mean.

    Args:
        y: a value for each draw, ``[P]``.
        t: another value for each draw, ``[P]``.
        known: the expectations of ``t`` for all examples, ``[N]``.
        rows: the example of each draw, ``[P]``, since the draws of one example vary together.
    """
    deviation = t - t.mean()
    spread = float(deviation.square().sum())
    slope = 0.0
    if spread > 0:
        slope = float((deviation * (y - y.mean())).sum()) / spread
    rest = y - slope * (t - float(known.mean()))
    _, index, count = rows.unique(return_inverse=True, return_counts=True)
    sums = torch.zeros(len(count), dtype=rest.dtype, device=rest.device)
    means = sums.index_add_(0, index, rest) / count
    variance = math.nan
    if len(means) > 1:
        variance = float(means.var()) / len(means)
    variance += slope**2 * float(known.var(correction=0)) / len(known)
    return float(rest.mean()), math.sqrt(variance)


def make_unit_density(q: Distribution) -> Callable[[Tensor], Tensor] | None:
    """Make the log density of each unit in double precision; ``None`` for dependent units."""
    if isinstance(q, DiagonalNormal):
        shape = q.batch_shape + q.event_shape
        precision = (-q.log_scale.double()).exp().expand(shape)
        start = -q.loc.double() * precision
        constant = (-q.log_scale.double() - _HALF_LOG_TWO_PI).expand(shape)

        def normal(z: Tensor) -> Tensor:
            standardised = torch.addcmul(start, z.double(), precision)
            return torch.add(constant, standardised.square_(), alpha=-0.5)

        return normal
    if isinstance(q, FactorialBernoulli):
        logits = q.logits.double()
        return lambda z: z.double() * logits - softplus(logits)
    if isinstance(q, Independent) and not q.base_dist.event_shape:
        base = q.base_dist
        return lambda z: base.log_prob(z).double()
    return None
