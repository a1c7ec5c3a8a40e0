"""The information that the latents of a model carry, and the cause if they carry none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lowerbound.data.examples import Examples
from lowerbound.errors import UnsupportedError
from lowerbound.evaluation.aggregate import measure_aggregate_posterior
from lowerbound.evaluation.checks import check_is_bound, check_normalized
from lowerbound.evaluation.diagnosis import (
    Cause,
    find_causes_of_collapse,
    find_causes_without_probe,
    measure_scale_bounds,
    probe_model,
)
from lowerbound.evaluation.findings import Finding, find_reached_bounds, find_unfinished_schedules
from lowerbound.evaluation.group_health import CodeUse, GroupHealth
from lowerbound.evaluation.latent_groups import Group, find_latent_groups
from lowerbound.models import LatentModel, LogJoint, Model
from lowerbound.models.passes import iterate_batches, read_examples
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import check_seed, check_whole_number

# The latents have collapsed if they carry less about x than the first of these, in nats, or less
# than the second while all units are inactive.
_NOTHING_NATS, _NEXT_TO_NOTHING_NATS = 0.1, 0.5

# With fewer examples than the first, a collapse cannot be detected, because the mutual information
# is nearly zero for so few examples. With fewer than the second, units that are switched off cannot
# be detected.
_FEWEST, _FEWEST_FOR_UNITS = 5, 20

# The total number of draws if the number for each example is not given.
_DRAWS = 1000

# The means of units are those of at most this many examples if each is an average over draws.
_MOST_AVERAGED_EXAMPLES = 500

# A posterior that depends on other latents is averaged over draws of them: over about this many
# draws for all examples together, within these limits for each.
_DRAWS_OF_OTHERS = 50_000
_FEWEST_DRAWS_OF_OTHERS, _MOST_DRAWS_OF_OTHERS = 8, 256


@dataclass(frozen=True, eq=False, kw_only=True)
class LatentHealth(GroupHealth):
    """The information in the latents. ``str()`` gives a few lines, with the findings first.

    It has the values of a :class:`~lowerbound.evaluation.GroupHealth`: those of the only group of
    latents, or for several groups the sum of their rates, and the concatenated rates and variances
    of all units. All information is in nats per example.

    Args:
        examples: N, the number of examples.
        groups: the values of each group of latents, by name.
        scale_floor_reached: the share of a learned likelihood scale's entries at its floor;
            ``None`` for other likelihoods.
        scale_ceiling_reached: the share of these entries at the ceiling.
        collapsed: whether the latents carry no information.
        findings: what is wrong, why, and what to do.
    """

    examples: int
    groups: Mapping[str, GroupHealth] = field(default_factory=dict)
    scale_floor_reached: float | None = None
    scale_ceiling_reached: float | None = None
    collapsed: bool = False
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        return "\n".join([*map(str, self.findings), *self.lines()])

    def lines(self) -> Iterator[str]:
        """The values in words."""
        with_switched_off = not self.collapsed and self.examples >= _FEWEST_FOR_UNITS
        if len(self.groups) > 1:
            yield f"rate: {self.rate:.2f} nats in {len(self.groups)} groups of latents"
            for name, group in self.groups.items():
                for line in group.describe(with_switched_off=with_switched_off):
                    yield f"{name}: {line}"
        else:
            yield from self.describe(with_switched_off=with_switched_off)
        if self.scale_floor_reached is not None:
            yield f"likelihood scales at their floor: {100 * self.scale_floor_reached:.1f}%"
        if self.examples < _FEWEST:
            yield (
                f"{self.examples} examples are too few to say whether the latents have collapsed; "
                f"give {_FEWEST} or more"
            )


def latent_health(
    model: Model,
    data: Any,
    *,
    samples: int | None = None,
    seed: int = 0,
    objective: Any = None,
    schedules: Mapping[str, Mapping[str, float]] | None = None,
) -> LatentHealth:
    r"""The information that the latents of a model carry, and the likely cause if they carry none.

    .. math:: \underbrace{\mathbb E_x \mathrm{KL}(q(z \mid x) \,\|\, p(z))}_{\text{rate}} &=
        \underbrace{\mathbb E_x \mathbb E_{q(z \mid x)}
        [\log q(z \mid x) - \log q(z)]}_{\text{mutual information}} +
        \underbrace{\mathrm{KL}(q(z) \,\|\, p(z))}_{\text{aggregate}}, \\
        q(z) &= \frac1N \sum_n q(z \mid x_n)

    (Hoffman & Johnson 2016.) The mixture q(z) is over all examples, or over 10,000 that are evenly
    spaced, or over a few hundred if each density costs an evaluation of a network, as that of a
    flow does. Each draw's own example is one of them. So the mutual information is at most the
    logarithm of their number. It is that logarithm if the posteriors do not overlap, and then it is
    a lower bound on the mutual information for infinitely many data.

    Draws are made for evenly spaced examples, as many as keep the cost bounded. The mean of their
    :math:`\log q(z \mid x) - \log p(z)` differs by chance from the rate, which is known for all
    examples. The mutual information is corrected for this difference by regression. The correction
    is exact if posteriors are separated or all the same, and elsewhere it is as good as an estimate
    of the aggregate KL itself.

    A unit is active if the mean of its posterior varies: :math:`\mathrm{Var}_x(\mathbb E_q[z_j]) >
    0.01` (Burda et al. 2016), with the population variance over all examples, or over 500 that are
    evenly spaced if the means have no closed form. Units that a model
    does not need switch off, and this does no harm. The latents have collapsed if they carry less
    than 0.1 nats about x, or less than 0.5 with no unit active, by two standard errors. Then each
    likely cause is measured, see :mod:`lowerbound.evaluation.diagnosis`.

    If the prior depends on fields of the examples, or on other latents, the mean of the posteriors
    has no single prior to be compared with. Mutual information, aggregate KL, marginal KL and total
    correlation are then ``None``. The rate is still an upper bound on the information about x for
    given fields, and the verdict uses the rate instead.

    For several groups of latents, ``groups`` has the values of each one. A discrete group also has
    the usage and the perplexity of its codes.

    Args:
        model: a :class:`~lowerbound.LatentModel`, or another model whose draws say what q and the
            prior of each group of latents are.
        data: examples, or raw data that the model takes, ``[N, *event]``.
        samples: the draws of z for each example for the mutual information; by default as many as
            make 1,000 in all.
        seed: of all noise.
        objective: what the model was trained with. Its weight of the rate may be the cause.
        schedules: the values that the objective's schedules had reached when the model had its
            present weights, as in the line of that epoch in a run's ``metrics.jsonl``:
            ``{"beta": {"reached": 0.2, "end": 1.0, "ended": False}}``.

    Returns:
        :class:`LatentHealth`, whose ``findings`` say what is wrong, why, and what to do.

    Raises:
        UnsupportedError: for a model whose draws do not say what q and the prior are; if a part of
            the model is not normalised, or the objective is not a bound; and for a
            :class:`~lowerbound.LogJoint`, see :func:`lowerbound.posterior_health`.
        SettingsError: for settings that are out of range.
        ShapeError, DataError: if the model cannot take the data.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp((1, 8, 8), 4)),
        ...     lb.Gaussian(lb.mlp(2, (1, 8, 8)), scale=10.0),
        ... )
        >>> run = lb.fit(
        ...     vae, lb.ELBO(), digits.train, epochs=10, learning_rate=0.02, progress=False
        ... )
        >>> health = latent_health(vae, digits.test, objective=run.objective)
        >>> print(health.findings[0].what)
        posterior collapse: 0 of 2 units are active, and z carries 0.0... nats about x
        >>> print(health.findings[0].cause)
        the likelihood's scale (10) is above the data's standard deviation in every direction
        (at most 0.8...
    """
    if isinstance(model, LogJoint):
        raise UnsupportedError(
            "latent_health: a LogJoint has one posterior for all data, so its examples do not have "
            "latents; use lb.posterior_health"
        )
    check_normalized("latent_health", model)
    check_is_bound("latent_health", objective)
    check_seed("latent_health", seed)
    for_rates, schedules = 1, schedules or {}
    if samples is not None:
        for_rates = check_whole_number("latent_health: samples", samples)
    examples = read_examples(model, data)
    model.check_data(examples)
    samples = samples or math.ceil(_DRAWS / len(examples))
    with evaluating(model), seeded(seed, get_device(model)):
        groups = _measure_groups(model, examples, for_rates, samples, seed)
        health = LatentHealth(
            **vars(_combine_groups(groups)) | {"groups": groups}, examples=len(examples)
        )
        if not isinstance(model, LatentModel):
            causes = find_causes_without_probe(objective, schedules)
            return _add_findings(health, causes, list(find_unfinished_schedules(schedules)))
        probe = probe_model(model, examples, seed)
        shares = measure_scale_bounds(probe)
        findings = list(find_unfinished_schedules(schedules))
        if shares is not None:
            findings += find_reached_bounds(probe.likelihood, shares)
            floor, ceiling = shares
            health = replace(health, scale_floor_reached=floor, scale_ceiling_reached=ceiling)
        return _add_findings(health, find_causes_of_collapse(probe, objective, schedules), findings)


def _add_findings(
    health: LatentHealth, causes: Iterable[Cause], findings: list[Finding]
) -> LatentHealth:
    """Add the findings: a collapse with its causes first, if the latents have collapsed."""
    if not _has_collapsed(health):
        return replace(health, findings=tuple(findings))
    what = (
        f"posterior collapse: {health.active_units} of {health.units} units are active, and z "
        f"carries {health.carried()} nats about x"
    )
    collapse = [Finding(what, *cause) for cause in causes]
    return replace(health, collapsed=True, findings=(*collapse, *findings))


def _has_collapsed(health: LatentHealth) -> bool:
    if health.examples < _FEWEST:
        return False
    at_most = health.rate
    if health.mutual_information is not None and health.mutual_information_error is not None:
        at_most = health.mutual_information + 2 * health.mutual_information_error
    if not health.active_units and at_most < _NEXT_TO_NOTHING_NATS:
        return True
    return at_most < _NOTHING_NATS


def _measure_groups(
    model: Model, examples: Examples, for_rates: int, samples: int, seed: int
) -> dict[str, GroupHealth]:
    """Measure each group of latents, by name."""
    _, x, given = next(iterate_batches(examples.spread(1), model, seed=seed))
    first = find_latent_groups(model, x, 1, given)
    together = 1
    if any(group.depends_on_latents for group in first.values()):
        draws = min(_MOST_DRAWS_OF_OTHERS, _DRAWS_OF_OTHERS // len(examples))
        together = for_rates = max(for_rates, _FEWEST_DRAWS_OF_OTHERS, draws)
    sums = {name: _GroupSums() for name in first}
    for _, x, given in iterate_batches(examples, model, seed=seed, samples=together):
        for name, group in find_latent_groups(model, x, for_rates, given).items():
            sums[name].add(group, get_device(model), with_means=first[name].has_point)
    averaged = [name for name, group in first.items() if not group.has_point]
    if averaged:
        some = examples.spread(_MOST_AVERAGED_EXAMPLES)
        for _, x, given in iterate_batches(some, model, seed=seed, samples=together):
            groups = find_latent_groups(model, x, for_rates, given)
            for name in averaged:
                sums[name].add_means(groups[name], get_device(model))
    found = {}
    for name, group in first.items():
        values, rates = sums[name].results()
        unknown = _explain_unknown(group)
        if unknown is None:
            values |= measure_aggregate_posterior(
                model, examples, name, samples=samples, seed=seed, rates=rates
            )
        found[name] = GroupHealth(**values, unknown=unknown)
    return found


def _explain_unknown(group: Group) -> str | None:
    """Explain why a group's q(z) cannot be compared with its prior; ``None`` if it can."""
    if group.depends_on_latents:
        return "the posterior depends on other latents"
    if len(group.prior.batch_shape) == 2:
        return "the prior depends on other latents"
    if group.prior.batch_shape:
        return "each example has its own prior, which depends on its fields"
    return None


def _combine_groups(groups: Mapping[str, GroupHealth]) -> GroupHealth:
    """Combine the values of all groups; of several groups, only those that can be summed."""
    members = list(groups.values())
    if len(members) == 1:
        return members[0]
    per_unit = [group.rate_per_unit for group in members if group.rate_per_unit is not None]
    rate_per_unit = None
    if len(per_unit) == len(members):
        rate_per_unit = torch.cat(per_unit)
    return GroupHealth(
        rate=sum(group.rate for group in members),
        rate_per_unit=rate_per_unit,
        variances=torch.cat([group.variances for group in members]),
        unknown="there are several groups of latents",
    )


class _GroupSums:
    """Sums over all examples for one group of latents."""

    def __init__(self) -> None:
        self.count = 0
        self.rates: list[Tensor] = []
        self.per_unit: Tensor | None = None
        self.mean, self.squares, self.noise = (torch.zeros(()) for _ in range(3))
        self.codes: Tensor | None = None
        self.used: Tensor | None = None

    def add(self, group: Group, device: torch.device, *, with_means: bool = True) -> None:
        """Add a batch, with the means of its units or without."""
        self.rates.append(group.rates.cpu())
        units = group.units_per_example
        if units is not None:
            self.per_unit = _add(self.per_unit, units.sum(0))
        codes = group.codes()
        if codes is not None:
            self.codes = _add(self.codes, codes.sum(0))
            chosen = torch.zeros_like(codes).scatter_(-1, codes.argmax(-1, keepdim=True), 1)
            self.used = _add(self.used, chosen.sum(0))
        if with_means:
            self.add_means(group, device)

    def add_means(self, group: Group, device: torch.device) -> None:
        """Add the means of the units of a batch."""
        means, noise = group.unit_means(device)
        self._add_means(means)
        self.noise = self.noise + noise.sum(0)

    def _add_means(self, means: Tensor) -> None:
        """Add sums of squares about the running mean (Chan, Golub & LeVeque 1983).

        These sums do not subtract large values from each other.
        """
        here, new = means.mean(0), self.count + len(means)
        shift = here - self.mean
        self.squares = (
            self.squares
            + (means - here).square().sum(0)
            + shift.square() * (self.count * len(means) / new)
        )
        self.mean, self.count = self.mean + shift * (len(means) / new), new

    def results(self) -> tuple[dict[str, Any], Tensor]:
        """Arguments of :class:`GroupHealth`, and the rates of all examples, ``[N]``."""
        rates = torch.cat(self.rates)
        # Means that are estimated vary more between examples than the means themselves.
        variances = ((self.squares - self.noise) / self.count).clamp(min=0.0)
        values: dict[str, Any] = {
            "rate": float(rates.mean()),
            "rate_per_unit": None,
            "variances": variances.sum(-1).cpu(),
        }
        if self.per_unit is not None:
            values["rate_per_unit"] = (self.per_unit / len(rates)).cpu()
        if self.codes is not None and self.used is not None:
            values["codes"] = CodeUse((self.codes / len(rates)).cpu(), self.used.cpu() > 0)
        return values, rates


def _add(total: Tensor | None, more: Tensor) -> Tensor:
    if total is None:
        return more
    return more + total
