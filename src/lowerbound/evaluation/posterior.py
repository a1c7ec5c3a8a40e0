"""Whether the posterior of a log joint fits, and what to try if it does not.

Shapes: S draws, J coordinates of the vector that represents the variables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowerbound.errors import SettingsError
from lowerbound.evaluation.checks import check_model, check_normalized
from lowerbound.evaluation.findings import Finding
from lowerbound.evaluation.importance import WeightSums
from lowerbound.evaluation.pareto import describe_shape, reliable_shape, shape_error
from lowerbound.evaluation.posterior_causes import (
    Verdict,
    WeightedDraws,
    find_faults,
    name_better_posteriors,
)
from lowerbound.evaluation.posterior_probes import make_reference
from lowerbound.evaluation.posterior_reference import ERRORS, DrawErrors
from lowerbound.evaluation.posterior_rounding import find_rounding
from lowerbound.evaluation.posterior_verdict import find_hidden_faults, judge, misses_modes
from lowerbound.models import LogJoint
from lowerbound.models.optima import Optimum, is_discrete
from lowerbound.models.sampling import check_log_weights
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.memory import choose_pairs_per_batch
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import check_seed, check_whole_number

# The smallest number of draws for a verdict.
_FEWEST_DRAWS = 100

# The gradient of the log joint stores roughly this many tensors as large as its largest one.
_WITH_GRADIENT = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class PosteriorHealth:
    """How well a posterior fits. ``str()`` gives a few lines, with the verdict first.

    The posterior is represented by weighted points, as :func:`posterior_health` describes. The
    verdict says which draws have means within 0.1 standard deviations of the posterior's, and
    standard deviations within 10%. Two standard errors are added to each error before it is
    compared with its limit.

    - ``"good"``: draws from q are within these limits, and the gap is at most 0.05 nats. So no
      probability under q is off by more than 0.16. You can use the draws as they are.
    - ``"usable"``: weighted draws are within these limits, and q misses less than a twentieth of
      the posterior. Use resampled draws.
    - ``"bad"``: neither, or the points do not represent the posterior: fewer than a tenth of them
      are effective, or k-hat of their weights is too large with two standard errors added. Trust
      neither draws nor weights.

    Args:
        verdict: ``"good"``, ``"usable"`` or ``"bad"``.
        elbo: the bound, averaged over the draws, in nats.
        elbo_error: the standard error of ``elbo``. Here and below, the rounding error of the log
            joint is included.
        log_evidence: log p(x), in nats, by importance sampling from q and from distributions that
            reach tails and other modes.
        log_evidence_error: the standard error of ``log_evidence``, estimated from the weights. If
            ``is_lower_bound``, the true error can be much larger.
        log_evidence_limit: a lower limit of log p(x), which holds 19 times in 20, however heavy
            the tail of the weights is.
        is_lower_bound: whether only the limit is known, not log p(x); ``str()`` then says "at
            least".
        pareto_k: the shape of the upper tail of the weights of q's draws; minus infinity if the
            largest weights are equal.
        effective_samples: ``(sum w)^2 / sum w^2`` of q's draws.
        samples: the number of draws from q.
        draws: the errors of draws from q.
        weighted_draws: the errors of weighted draws, as many as ``samples``.
        points: the number of weighted points that represent the posterior.
        effective_points: the effective number of these points.
        points_pareto_k: k-hat of the weights of these points.
        missed: the share of the posterior that draws from q miss, as far as the points show it.
        is_undecided: whether the verdict is ``"bad"`` only because k-hat of the points is close to
            its limit. More draws decide.
        optima: the separate optima of the log joint that are far from q.
        findings: what is wrong, the likely cause as measured, and what to try.
    """

    verdict: Verdict
    elbo: float
    elbo_error: float
    log_evidence: float
    log_evidence_error: float
    log_evidence_limit: float
    is_lower_bound: bool
    pareto_k: float
    effective_samples: float
    samples: int
    draws: DrawErrors
    weighted_draws: DrawErrors
    points: int
    effective_points: float
    points_pareto_k: float
    missed: float = 0.0
    is_undecided: bool = False
    optima: tuple[Optimum, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def gap(self) -> float:
        """log p(x) minus the bound: KL(q || p(z|x))."""
        return self.log_evidence - self.elbo

    @property
    def _advice(self) -> str:
        if self.is_undecided:
            return (
                f"{self.samples:,} draws do not decide, since k-hat of the points is close to its "
                f"limit; take more: posterior_health(..., samples={10 * self.samples})"
            )
        return _ADVICE[self.verdict]

    def __str__(self) -> str:
        return "\n".join([*self.lines(), *map(str, self.findings)])

    def lines(self) -> Iterator[str]:
        """The verdict and the values in words."""
        yield (
            f"{self.verdict}: {_show_shape('Pareto k-hat', self.pareto_k, self.samples)}, "
            f"effective sample size {self.effective_samples:,.0f} of {self.samples:,}; "
            f"{self._advice}"
        )
        bound = f"bound: {self.elbo:.3f} ± {self.elbo_error:.3f} nats; log p(x): "
        if self.is_lower_bound:
            yield (
                f"{bound}at least {self.log_evidence_limit:.3f} (19 times in 20), so KL(q || "
                f"posterior) is at least {max(0.0, self.log_evidence_limit - self.elbo):.3f}; the "
                f"weights give {self.log_evidence:.3f}, which is not reliable"
            )
        else:
            yield (
                f"{bound}{self.log_evidence:.3f} ± {self.log_evidence_error:.3f}, so KL(q || "
                f"posterior) is {self.gap:.3f}"
            )
            yield f"draws: {self.draws}; weighted draws: {self.weighted_draws}"
        shape = _show_shape("k-hat", self.points_pareto_k, self.points)
        if math.isfinite(self.points_pareto_k):
            limit = reliable_shape(self.points)
            shape += f" (reliable up to {limit:.2f} with two standard errors added)"
        yield (
            f"measured with {self.points:,} weighted points: {self.effective_points:,.0f} are "
            f"effective, {shape}"
        )


def _show_shape(name: str, shape: float, samples: int) -> str:
    described = describe_shape(shape, name)
    if not math.isfinite(shape):
        return described
    return f"{described} ± {shape_error(shape, samples):.2f}"


_ADVICE: dict[Verdict, str] = {
    "good": "draws from q can be used as they are",
    "usable": "use importance-resampled draws: posterior_sample(..., resample=True)",
    "bad": "trust neither the draws nor their weights",
}


def posterior_health(
    model: Any, data: Any = None, *, samples: int = 10_000, seed: int = 0
) -> PosteriorHealth:
    r"""A verdict on the posterior of a :class:`lowerbound.LogJoint`, with causes and remedies.

    The importance weights :math:`w_s = p(x, z_s) / q(z_s)` of draws from q are all equal if q is
    the posterior. The shape of their upper tail, the Pareto :math:`\hat k`, says whether averages
    over them converge (Yao, Vehtari, Simpson & Gelman 2018). If they do not, each likely cause is
    measured:

    - *The training has not converged.* Moving q changes the bound at the rate :math:`\mathbb
      E_q[\nabla_u \log p]`, and stretching it about its mean m at the rate :math:`\mathbb E_q[(u_j
      - m_j)\, \partial_j \log p] + 1` in each direction. Both are 0 at an optimum of any family
      that can be moved and stretched. The gain of a Newton step follows from them.
    - *Correlation that q does not have*, *a scale that is too small or too large*, and *skewness*:
      by comparing q with the posterior.
    - *Impossible draws*, because q has draws where the log joint is minus infinity.

    The weights say nothing about places where q has no draws. So the log joint is also evaluated at
    draws from q stretched by 1.5, 3 and 10, and from Gaussians at the separate optima of the log
    joint: those that :meth:`~lowerbound.LogJoint.start` has found, and those of ten more paths. All
    draws together are weighted points that represent the posterior and q. They give log p(x), the
    errors of means and standard deviations, and the part of the posterior that q misses. A mode
    that no path finds is still missed. The states of up to 12 bits are enumerated.

    The draws, their gradients, the weighted points and their values are stored in float64. They
    take 44 bytes for each draw and coordinate, and at most 80 if there are many optima. A temporary
    tensor has fewer values than there are draws times coordinates or, where that is more, at most
    half a million, the square of the number of coordinates, or 4 million in a log joint.

    Args:
        model: a :class:`lowerbound.LogJoint`.
        data: all examples, for a log joint that takes its data in batches.
        samples: S, the number of draws; at least 100.
        seed: of the draws.

    Returns:
        :class:`PosteriorHealth`; ``print`` it for the verdict and the findings.

    Raises:
        UnsupportedError: for another model. For the latents of an auto-encoder see
            :func:`lowerbound.latent_health`.
        SettingsError: if data are missing, or given to a model that stores its own; or for fewer
            than 100 draws.
        NonFiniteError: if the log joint is infinite somewhere.
        LogJointError: if the log joint fails for many points together and for none by itself.

    Example:
        >>> import lowerbound as lb
        >>> from torch.distributions import MultivariateNormal
        >>> covariance = torch.tensor([[1.0, 0.95], [0.95, 1.0]])
        >>> correlated = MultivariateNormal(torch.zeros(2), covariance)
        >>> model = lb.LogJoint(correlated.log_prob, lb.mean_field, {"value": 2})
        >>> run = lb.fit(model, lb.ELBO(samples=10), tolerance=0.01, progress=False)
        >>> print(posterior_health(model).findings[0].cause)
        value[0] and value[1] have the correlation 0..., but under q ...
    """
    model = check_model(
        "posterior_health",
        model,
        LogJoint,
        "other models have a posterior for each example, see lb.latent_health and "
        "lb.log_likelihood",
    )
    check_normalized("posterior_health", model)
    check_seed("posterior_health", seed)
    samples = check_whole_number("posterior_health: samples", samples)
    if samples < _FEWEST_DRAWS:
        raise SettingsError(
            f"posterior_health: {samples} samples are too few for a verdict; take at least "
            f"{_FEWEST_DRAWS}, preferably 10,000"
        )
    whole, _ = model.for_evaluation(data)
    with evaluating(whole), seeded(seed, get_device(whole)), torch.no_grad():
        draws = _make_weighted_draws(whole, samples)
        rounded = tuple(find_rounding(whole, draws.u))
        reference, optima = make_reference(whole, draws, seed)
    sums = WeightSums(samples)
    sums.add(draws.log_w[:, None])
    results = {name: float(value) for name, value in sums.results().items()}
    elbo_error = math.hypot(_elbo_error(draws), draws.rounding)
    judged = judge(reference, samples, results["elbo"], elbo_error)
    hidden = tuple(find_hidden_faults(reference, judged, draws.rounding, optima))
    limit = max(reference.log_evidence_limit, results["elbo"] - ERRORS * elbo_error)
    return PosteriorHealth(
        verdict=judged.verdict,
        elbo=results["elbo"],
        elbo_error=elbo_error,
        log_evidence=reference.log_evidence,
        log_evidence_error=math.hypot(reference.log_evidence_error, draws.rounding),
        log_evidence_limit=limit - draws.rounding,
        is_lower_bound=not (judged.is_reliable and reference.looks_elsewhere),
        pareto_k=results["pareto_k"],
        effective_samples=results["effective"],
        samples=samples,
        draws=judged.draws,
        weighted_draws=judged.weighted_draws,
        points=len(reference.points),
        effective_points=reference.effective,
        points_pareto_k=reference.pareto_k,
        missed=judged.missed,
        is_undecided=judged.is_undecided,
        optima=optima,
        findings=(
            *rounded,
            *hidden,
            *find_faults(
                draws,
                reference,
                judged.verdict,
                explained=bool(hidden) or judged.is_undecided,
                misses_modes=misses_modes(reference, judged, optima),
            ),
        ),
    )


def _elbo_error(draws: WeightedDraws) -> float:
    if not draws.possible.all():
        return math.inf
    return float(draws.log_w.std()) / math.sqrt(len(draws.log_w))


def _make_weighted_draws(model: LogJoint, samples: int) -> WeightedDraws:
    size = (samples, len(model.centre))
    points, gradients = torch.empty(2, *size, dtype=torch.float64)
    parts: list[tuple[Tensor, ...]] = []
    chunk = choose_pairs_per_batch(_WITH_GRADIENT * model.numbers_per_draw(model.examples(None)))
    for start in range(0, samples, chunk):
        draw = model.draw(model.repetition, min(chunk, samples - start))
        log_q = draw.log_q[:, 0]
        with torch.enable_grad():
            u = draw.z[:, 0].detach().requires_grad_()
            log_joint = model.log_density(u)
            gradient = torch.zeros_like(u)
            if log_joint.requires_grad:
                (gradient,) = torch.autograd.grad(log_joint.sum(), u)
        log_w = check_log_weights(log_joint.detach() - log_q)
        points[start : start + len(u)] = u.detach()
        gradients[start : start + len(u)] = gradient
        parts.append(tuple(column.detach().double().cpu() for column in (log_w, log_joint)))
    log_w, log_joints = (torch.cat(column) for column in zip(*parts, strict=True))
    has_gradient = log_joint.requires_grad and not is_discrete(model.posterior())
    return WeightedDraws(
        model.variables.names(),
        points,
        gradients if has_gradient else None,
        log_w,
        log_joints.where(log_joints.isfinite(), -math.inf),
        rounding=_estimate_rounding(log_joint.detach()),
        is_started=model.is_started,
        **name_better_posteriors(model.posterior()),
    )


def _estimate_rounding(log_joint: Tensor) -> float:
    """The rounding error of a log joint, from values in the type in which it was computed."""
    if not log_joint.is_floating_point():
        return 0.0
    largest = float(log_joint.where(log_joint.isfinite(), 0.0).abs().max())
    return torch.finfo(log_joint.dtype).eps * largest
