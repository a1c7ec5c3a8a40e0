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
from lowerbound.evaluation.checks import check_model, check_normalized, check_seed
from lowerbound.evaluation.findings import Finding
from lowerbound.evaluation.importance import WeightSums
from lowerbound.evaluation.pareto import reliable_shape
from lowerbound.evaluation.posterior_causes import Verdict, WeightedDraws, find_faults
from lowerbound.evaluation.posterior_rounding import find_rounding
from lowerbound.models import LogJoint
from lowerbound.models.sampling import check_log_weights
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.memory import choose_pairs_per_batch
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import check_whole_number

# The largest k-hat with which weights have a finite variance, so that their averages converge fast.
_GOOD_SHAPE = 0.5

# The largest gap in nats with which draws can be used without weights. k-hat judges only the
# weights, and these are good even for a q that is much too wide.
_NEAR_NATS = 0.5

# The smallest number of draws for a verdict.
_FEWEST_DRAWS = 100

# With this share of effective draws, weights are so even that their tail does not matter.
_EVEN_SHARE = 0.9

# The gradient of the log joint stores roughly this many tensors as large as its largest one.
_WITH_GRADIENT = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class PosteriorHealth:
    """How well a posterior fits. ``str()`` gives a few lines, with the verdict first.

    Args:
        verdict: ``"good"``: k-hat is at most 0.5 and the gap at most half a nat, so you can use the
            draws as they are. ``"usable"``: k-hat is reliable, so use resampled draws. ``"bad"``:
            trust neither draws nor weights.
        elbo: the bound, averaged over the draws, in nats.
        elbo_error: the standard error of ``elbo``.
        log_evidence: log p(x) by importance sampling, in nats: a lower bound on average, and close
            unless the verdict is bad.
        log_evidence_error: the standard error of ``log_evidence``, estimated from the weights.
        pareto_k: the shape of the weights' upper tail.
        effective_samples: ``(sum w)^2 / sum w^2``.
        samples: the number of draws.
        findings: what is wrong, the likely cause as measured, and what to try.
    """

    verdict: Verdict
    elbo: float
    elbo_error: float
    log_evidence: float
    log_evidence_error: float
    pareto_k: float
    effective_samples: float
    samples: int
    findings: tuple[Finding, ...] = ()

    @property
    def gap(self) -> float:
        """log p(x) minus the bound: KL(q || p(z given x)), where q has draws."""
        return self.log_evidence - self.elbo

    def __str__(self) -> str:
        return "\n".join([*self.lines(), *map(str, self.findings)])

    def lines(self) -> Iterator[str]:
        """The verdict and the values in words."""
        reliable = reliable_shape(self.samples)
        advice = _ADVICE[self.verdict]
        if self.pareto_k > reliable and self.verdict != "bad":
            advice = f"weights so even that their tail does not matter; {advice}"
        yield (
            f"{self.verdict}: Pareto k-hat {self.pareto_k:.2f} (good up to {_GOOD_SHAPE}, usable "
            f"up to {reliable:.2f}), effective sample size {self.effective_samples:,.0f} of "
            f"{self.samples:,}; {advice}"
        )
        at_least = ""
        if self.verdict == "bad":
            at_least = "at least "
        yield (
            f"bound: {self.elbo:.3f} ± {self.elbo_error:.3f} nats; log p(x): "
            f"{at_least}{self.log_evidence:.3f} ± {self.log_evidence_error:.3f}; so "
            f"KL(q || posterior), where q has draws, is {at_least}{self.gap:.3f}"
        )


_ADVICE: dict[Verdict, str] = {
    "good": "draws from q can be used as they are; resample=True makes them better still",
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
      by comparing the draws weighted by w with the draws without weights.
    - *Impossible draws*, because q has draws where the log joint is minus infinity.

    The weights say nothing about places where q has no draws. A mode that q misses is not found,
    and the evidence is then that of the other modes.

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
            f"{_FEWEST_DRAWS}, better 10,000"
        )
    whole, _ = model.for_evaluation(data)
    with evaluating(whole), seeded(seed, get_device(whole)):
        draws = _make_weighted_draws(whole, samples)
        rounded = tuple(find_rounding(whole, draws.u))
    sums = WeightSums(samples)
    sums.add(draws.log_w[:, None])
    results = {name: float(value) for name, value in sums.results().items()}
    verdict = _judge(results, samples)
    return PosteriorHealth(
        verdict=verdict,
        elbo=results["elbo"],
        elbo_error=_elbo_error(draws),
        log_evidence=results["log_likelihood"],
        log_evidence_error=_log_evidence_error(results["effective"], samples),
        pareto_k=results["pareto_k"],
        effective_samples=results["effective"],
        samples=samples,
        findings=(*rounded, *find_faults(draws, verdict)),
    )


def _elbo_error(draws: WeightedDraws) -> float:
    if not draws.possible.all():
        return math.inf
    return float(draws.log_w.std()) / math.sqrt(len(draws.log_w))


def _log_evidence_error(effective: float, samples: int) -> float:
    if not effective > 0:
        return math.nan
    return math.sqrt(max(0.0, 1 / effective - 1 / samples))


def _judge(results: dict[str, float], samples: int) -> Verdict:
    even = results["effective"] >= _EVEN_SHARE * samples
    shape, reliable = results["pareto_k"], reliable_shape(samples)
    # The gap is infinite if a draw is impossible.
    near = results["log_likelihood"] - results["elbo"] <= _NEAR_NATS
    if near and (even or shape <= min(_GOOD_SHAPE, reliable)):
        return "good"
    if math.isfinite(results["log_likelihood"]) and (even or shape <= reliable):
        return "usable"
    return "bad"


def _make_weighted_draws(model: LogJoint, samples: int) -> WeightedDraws:
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
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
        parts.append((u.detach().double().cpu(), gradient.double().cpu(), log_w.cpu()))
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    gradients = None
    if log_joint.requires_grad:
        gradients = columns[1]
    return WeightedDraws(
        model.variables.names(), columns[0], gradients, columns[2], is_started=model.is_started
    )
