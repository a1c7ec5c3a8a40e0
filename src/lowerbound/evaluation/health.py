"""What the latents of a model carry, and what is wrong where they carry nothing.

Suffixes of shapes: P draws of z, B examples of a batch, J latent units; N examples in all, C of them in a mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent
from torch.nn.functional import softplus

from lowerbound.data.examples import Examples
from lowerbound.distributions import (
    DiagonalNormal,
    FactorialBernoulli,
    closed_form_kl,
    closed_form_unit_kl,
    drawn,
)
from lowerbound.errors import UnsupportedError
from lowerbound.evaluation.diagnosis import (
    Finding,
    bounds_reached,
    causes_of_collapse,
    look_at,
    scale_bounds,
    unfinished,
)
from lowerbound.evaluation.checks import check_seed
from lowerbound.models import LatentModel, Model
from lowerbound.models.passes import batches
from lowerbound.runtime.devices import device_of
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import whole_number

# Var_x(E_q[z_j]) above which a unit is active (Burda et al. 2016).
_ACTIVE = 0.01

# Below so many nats about x the latents carry nothing, whatever else they do; and below the second if no unit is active either.
_NOTHING, _NEXT_TO_NOTHING = 0.1, 0.5

# Fewer examples than this cannot show a collapse: their mutual information with anything is next to nothing. And fewer than the
# second cannot show that a unit is superfluous, which also means that its own rate is below the third.
_FEWEST, _FEWEST_FOR_UNITS, _OFF = 5, 20, 0.01

# Where draws are not asked for, each example has so many that they come to this in all.
_DRAWS = 1000

# A draw's own component has this share in q(z), beyond one among equals, where the mixture has too few, see ``saturated``.
_OWN_SHARE = 0.2

# The mixture q(z) has at most so many components, and numbers [draws, components, units] in all come to about the second; the third
# is for posteriors whose units are not independent, such as flows, where a density may cost a network.
_COMPONENTS, _NUMBERS, _COSTLY = 10_000, 60_000_000, 250_000

# Numbers held at once: 2^17 doubles are 1 MiB, which stays in a core's cache.
_CHUNK = 1 << 17

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentHealth:
    """What the latents carry; ``str()`` of it is a few lines, findings first. All information is in nats per example.

    Args:
        examples: N.
        rate: KL(q(z given x) || p(z)).
        rate_per_unit: the same for each unit, ``[J]``; ``None`` where there is no closed form or units are not independent.
        variances: of the posterior's means over all examples, ``[J]``.
        mutual_information: between x and z under q, at most ``log(components)``; an estimate, which chance may take below 0.
        mutual_information_error: its standard error, of the draws and of the examples.
        own_share: the mean share that a draw's own example has in q(z): from one in ``components`` to 1.
        components: how many examples' posteriors make up the mixture q(z).
        draws: how many draws of z it was averaged over.
        marginal_kl: the sum over units of KL(q(z_j) || p(z_j)); ``None`` where units are not independent given x.
        scale_floor_reached: the share of a learned likelihood scale's entries at its floor; ``None`` for other likelihoods.
        scale_ceiling_reached: the share at its ceiling.
        collapsed: whether the latents carry nothing.
        findings: what is wrong, why, and what to do.
    """

    examples: int
    rate: float
    rate_per_unit: Tensor | None
    variances: Tensor
    mutual_information: float
    mutual_information_error: float
    own_share: float
    components: int
    draws: int
    marginal_kl: float | None
    scale_floor_reached: float | None
    scale_ceiling_reached: float | None
    collapsed: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def units(self) -> int:
        """J."""
        return len(self.variances)

    @property
    def active(self) -> Tensor:
        """Which units are active, ``[J]``: Var_x(E_q[z_j]) > 0.01 (Burda et al. 2016)."""
        return self.variances > _ACTIVE

    @property
    def active_units(self) -> int:
        """How many."""
        return int(self.active.sum())

    @property
    def saturated(self) -> bool:
        """Whether the examples are too few for q(z), which a draw's own share in it shows: by more than a fifth above one of equals.

        A share s adds about -log(1 - s) to log q(z), here 0.2 nats or more. The mutual information is then a lower bound,
        limited by the logarithm of ``components``, and aggregate KL and total correlation are upper bounds.
        """
        return self.own_share - 1 / self.components > _OWN_SHARE * (1 - 1 / self.components)

    @property
    def aggregate_kl(self) -> float:
        """KL(q(z) || p(z)) = rate - mutual information, with q(z) the mean of the examples' posteriors."""
        return self.rate - self.mutual_information

    @property
    def total_correlation(self) -> float | None:
        """KL(q(z) || prod_j q(z_j)) = aggregate KL - marginal KL, for a prior of independent units."""
        return None if self.marginal_kl is None else self.aggregate_kl - self.marginal_kl

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), *self.lines()])

    def lines(self) -> Iterator[str]:
        """The figures in words."""
        off = self._switched_off
        rest = (
            f"; {off} superfluous {'one is' if off == 1 else 'ones are'} switched off"
            if off
            else ""
        )
        yield f"active units: {self.active_units} of {self.units}{rest}"
        if self.rate_per_unit is None:
            yield f"rate: {self.rate:.2f} nats; by unit there is no closed form"
        else:
            largest = ", ".join(
                f"{rate:.2f}"
                for rate in self.rate_per_unit.sort(descending=True).values[:10].tolist()
            )
            yield f"rate: {self.rate:.2f} nats; by unit: {largest}{', ...' if self.units > 10 else ''}"
        limit, bound = ("", "")
        if self.saturated:
            limit = f" (saturated: a lower bound, limited by log {self.components:,})"
            bound = " (an upper bound, and so is the total correlation)"
        yield (
            f"information about x: {self._carried} nats{limit}; aggregate posterior to prior: "
            f"{_plain(self.aggregate_kl)} nats{bound}"
        )
        if self.scale_floor_reached is not None:
            yield f"likelihood scales at their floor: {100 * self.scale_floor_reached:.1f}%"
        if self.examples < _FEWEST:
            yield f"whether the latents have collapsed cannot be told from {self.examples} examples; give {_FEWEST} or more"

    @property
    def _switched_off(self) -> int:
        """How many units are neither active nor have a rate, as far as that can be told."""
        if self.rate_per_unit is None or self.collapsed or self.examples < _FEWEST_FOR_UNITS:
            return 0
        return int((~self.active & (self.rate_per_unit < _OFF)).sum())

    @property
    def _carried(self) -> str:
        error = (
            ""
            if math.isnan(self.mutual_information_error)
            else f" ± {self.mutual_information_error:.2f}"
        )
        return _plain(self.mutual_information) + error


def _plain(value: float) -> str:
    """Two decimals, and no sign of a zero."""
    return f"{round(value, 2) + 0.0:.2f}"


def latent_health(
    model: Model,
    data: Any,
    *,
    samples: int | None = None,
    seed: int = 0,
    objective: Any = None,
    schedules: Mapping[str, Mapping[str, float]] | None = None,
) -> LatentHealth:
    r"""What the latents of a model carry, and the likely cause where they carry nothing.

    .. math:: \underbrace{\mathbb E_x \mathrm{KL}(q(z \mid x) \,\|\, p(z))}_{\text{rate}} =
        \underbrace{\mathbb E_x \mathbb E_{q(z \mid x)} [\log q(z \mid x) - \log q(z)]}_{\text{mutual information}} +
        \underbrace{\mathrm{KL}(q(z) \,\|\, p(z))}_{\text{aggregate}}, \qquad q(z) = \frac1N \sum_n q(z \mid x_n)

    (Hoffman & Johnson 2016). The mixture q(z) is over all examples, each draw's own among them, up to 10,000 of them at even
    distances; so the mutual information is at most the logarithm of their number, and comes to it where the posteriors do
    not overlap: then it is a lower bound on what an endless supply of data would have. Draws are taken for as many examples as
    keep the cost bounded, at even distances as well. Chance makes such a draw's :math:`\log q(z \mid x)` too high or too low
    against the rate, which is known of all examples; the mutual information is regressed on that difference, which is exact
    where posteriors are separated or all the same, and elsewhere as good as estimating the aggregate KL by itself.

    A unit is active if the mean of its posterior varies: :math:`\mathrm{Var}_x(\mathbb E_q[z_j]) > 0.01` (Burda et al. 2016),
    the population variance over all examples. Units that a model does not need switch off, which harms nothing. It has
    collapsed if the latents carry less than 0.1 nats about x, or less than 0.5 with no unit active, by two standard errors. Each likely cause is then
    measured: see :mod:`lowerbound.evaluation.diagnosis`.

    Args:
        model: a :class:`~lowerbound.LatentModel`.
        data: examples, an array or a tensor, ``[N, *event]``.
        samples: draws of z for each example that the mutual information is averaged over; by default so many that there are
            1,000 in all.
        seed: of all noise.
        objective: what the model was trained by, whose weight of the rate may be the cause.
        schedules: what the objective's schedules had reached when the weights were those of the model, as the line of that
            epoch in a run's ``metrics.jsonl`` has it: ``{"beta": {"reached": 0.2, "end": 1.0, "ended": False}}``.

    Returns:
        :class:`LatentHealth`, whose ``findings`` say what is wrong, why, and what to do.

    Raises:
        UnsupportedError: for a model that is no :class:`~lowerbound.LatentModel`.
        ShapeError, DataError: if the model cannot take the data.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp((1, 8, 8), 4)), lb.Gaussian(lb.mlp(2, (1, 8, 8)), scale=10.0)
        ... )
        >>> run = lb.fit(vae, lb.ELBO(), digits.train, epochs=10, learning_rate=0.02, progress=False)
        >>> health = latent_health(vae, digits.test, objective=run.objective)
        >>> print(health.findings[0].what)
        posterior collapse: 0 of 2 units are active, and z carries 0.0... nats about x
        >>> print(health.findings[0].cause)
        the likelihood's scale (10) is above the data's standard deviation in every direction (at most 0.8...
    """
    if not isinstance(model, LatentModel):
        raise UnsupportedError(
            f"latent_health: a {type(model).__name__} has no single posterior over z; it takes a lowerbound.LatentModel"
        )
    check_seed("latent_health", seed)
    asked = None if samples is None else whole_number("latent_health: samples", samples)
    examples = Examples.of(data)
    model.check_data(examples)
    samples = asked or math.ceil(_DRAWS / len(examples))
    with evaluating(model), seeded(seed, device_of(model)):
        figures, rates = _rates(model, examples, asked or 1, seed)
        figures |= _information(model, examples, samples, seed, rates)
        look = look_at(model, examples, seed)
        shares = scale_bounds(look)
        floor, ceiling = shares or (None, None)
        health = LatentHealth(**figures, scale_floor_reached=floor, scale_ceiling_reached=ceiling)
        collapsed, schedules = _has_collapsed(health), schedules or {}
        causes = causes_of_collapse(look, objective, schedules) if collapsed else ()
    what = (
        f"posterior collapse: {health.active_units} of {health.units} units are active, and z carries "
        f"{health._carried} nats about x"
    )
    findings = [Finding(what, *cause) for cause in causes]
    findings += [
        *unfinished(schedules),
        *(bounds_reached(model.likelihood, shares) if shares else ()),
    ]
    return LatentHealth(**vars(health) | {"collapsed": collapsed, "findings": tuple(findings)})


def _has_collapsed(health: LatentHealth) -> bool:
    at_most = health.mutual_information + 2 * health.mutual_information_error
    return health.examples >= _FEWEST and (
        at_most < _NOTHING or (at_most < _NEXT_TO_NOTHING and not health.active_units)
    )


def _rates(
    model: LatentModel, examples: Examples, samples: int, seed: int
) -> tuple[dict[str, Any], Tensor]:
    """The rate, by unit where there is a closed form, and the variance of the posterior's means: over all examples; and each's rate."""
    rates: list[Tensor] = []
    count = 0
    per_unit: Tensor | None = None
    mean, squares = torch.zeros(()), torch.zeros(())
    for _, x, given in batches(examples, model, seed=seed):
        parts = model.conditioned(x, given)
        q, prior = parts.q, parts.prior
        units = closed_form_unit_kl(q, prior)
        total = closed_form_kl(q, prior) if units is None else units.flatten(1).double().sum(1)
        rates.append(
            (model.draw(x, samples, **given).sampled_rate if total is None else total)
            .double()
            .cpu()
        )
        if units is not None:
            per_unit = units.flatten(1).double().sum(0) + (0 if per_unit is None else per_unit)
        means = _mean(model, q, x).flatten(1).double()
        # Sums of squares about the running mean (Chan, Golub & LeVeque 1983): no difference of large numbers.
        here, new = means.mean(0), count + len(x)
        shift = here - mean
        squares = squares + (means - here).square().sum(0) + shift.square() * (count * len(x) / new)
        mean, count = mean + shift * (len(x) / new), new
    rate_N = torch.cat(rates)
    figures = {
        "examples": count,
        "rate": float(rate_N.mean()),
        "rate_per_unit": None if per_unit is None else (per_unit / count).cpu(),
        "variances": (squares / count).cpu(),
    }
    return figures, rate_N


def _mean(model: LatentModel, q: Distribution, x: Tensor) -> Tensor:
    try:
        return q.mean
    except NotImplementedError:  # a flow: averaged over draws
        return model.encode(x)


def _information(
    model: LatentModel, examples: Examples, samples: int, seed: int, rates: Tensor
) -> dict[str, Any]:
    """The mutual information of x and z, and the sum of the units' divergences from the prior; ``rates`` are all examples' own."""
    mixture, own, z, groups = _mixture(model, examples, samples, seed)
    components = sum(q.batch_shape[0] for q in mixture)
    joint = torch.full_like(own, -math.inf)
    marginal: Tensor | None = None
    prior = model.prior_given({})
    prior_units = _unit_density(prior)
    for q in mixture:
        units = _unit_density(q)
        width = q.batch_shape[0] * (q.event_shape.numel() if units is not None else 1)
        for part in torch.arange(len(z), device=z.device).split(max(1, _CHUNK // width)):
            if units is None:
                pairs = z[part][:, None].expand(
                    -1, *q.batch_shape, *q.event_shape
                )  # flows do not broadcast
                joint[part] = torch.logaddexp(joint[part], q.log_prob(pairs).double().logsumexp(1))
                continue
            density_PBJ = units(z[part][:, None]).flatten(2)
            joint[part] = torch.logaddexp(joint[part], density_PBJ.sum(2).logsumexp(1))
            if prior_units is not None:
                # A draw's own component is among them, so that no sum underflows, and none is too large for a double.
                marginal = (
                    z.new_zeros(len(z), density_PBJ.shape[2], dtype=torch.float64)
                    if marginal is None
                    else marginal
                )
                marginal[part] += density_PBJ.exp_().sum(1)
    excess = (
        own
        - (prior.log_prob(z) if prior_units is None else prior_units(z).flatten(1).sum(1)).double()
    )
    information, error = _regressed(own - joint + math.log(components), excess, rates, groups)
    marginal_kl = None
    if marginal is not None and prior_units is not None:
        log_marginal = marginal.log() - math.log(components)
        marginal_kl = float((log_marginal - prior_units(z).flatten(1)).sum(1).mean())
    return {
        "mutual_information": information,
        "mutual_information_error": error,
        "own_share": float((own - joint).exp().mean()),
        "components": components,
        "draws": len(z),
        "marginal_kl": marginal_kl,
    }


def _regressed(y: Tensor, t: Tensor, known: Tensor, groups: Tensor) -> tuple[float, float]:
    """The mean of ``y`` and its standard error, given that ``t``, ``[P]`` like it, should have the mean of ``known``, ``[N]``.

    Where ``y`` does not depend on ``t``, such as where it is the same for all draws, it is the mean as it is. ``groups`` says
    whose draw each is, since those of one example vary together.
    """
    deviation = t - t.mean()
    spread = float(deviation.square().sum())
    slope = float((deviation * (y - y.mean())).sum()) / spread if spread > 0 else 0.0
    rest = y - slope * (t - float(known.mean()))
    index, count = groups.unique(return_inverse=True)[1], groups.unique(return_counts=True)[1]
    means = (
        torch.zeros(len(count), dtype=rest.dtype, device=rest.device).index_add_(0, index, rest)
        / count
    )
    variance = float(means.var()) / len(means) if len(means) > 1 else math.nan
    return float(rest.mean()), math.sqrt(
        variance + slope**2 * float(known.var(correction=0)) / len(known)
    )


def _mixture(
    model: LatentModel, examples: Examples, samples: int, seed: int
) -> tuple[list[Distribution], Tensor, Tensor, Tensor]:
    """The posteriors that make up q(z), the own log density of draws from some, ``[P]``, the draws, and whose they are, ``[P]``."""
    _, x, given = next(batches(examples.spread(1), model, seed=seed))
    first = model.conditioned(x, given).q
    costly = _unit_density(first) is None
    count = min(len(examples), math.isqrt(_COSTLY) if costly else _COMPONENTS)
    budget = _COSTLY if costly else _NUMBERS // first.event_shape.numel()
    points = min(count, max(200, budget // (count * samples)))
    chosen = torch.linspace(0, count - 1, points).round().long().unique()
    mixture, own, draws, groups, at = [], [], [], [], 0
    for _, batch, given in batches(examples.spread(count), model, seed=seed):
        q = model.conditioned(batch, given).q
        here = chosen[(chosen >= at) & (chosen < at + len(batch))] - at
        z, units = drawn(q, samples), _unit_density(q)
        density = q.log_prob(z).double() if units is None else units(z).flatten(2).sum(2)
        own.append(density[:, here].flatten())
        draws.append(z[:, here].flatten(0, 1))
        groups.append((here + at).repeat(samples))
        mixture.append(q)
        at += len(batch)
    own_P = torch.cat(own)
    return mixture, own_P, torch.cat(draws), torch.cat(groups).to(own_P.device)


def _unit_density(q: Distribution) -> Callable[[Tensor], Tensor] | None:
    """The log density of each unit by itself, in double precision, if units are independent; else ``None``."""
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
    base = q.base_dist if isinstance(q, Independent) else None
    if base is not None and not base.event_shape:
        return lambda z: base.log_prob(z).double()
    return None
