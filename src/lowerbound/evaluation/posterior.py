"""Whether the posterior of a log joint fits, in words, and what to try where it does not.

Suffixes: S draws, J real numbers that stand for the variables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.evaluation.diagnosis import Finding
from lowerbound.evaluation.checks import check_seed
from lowerbound.evaluation.importance import WeightSums
from lowerbound.evaluation.pareto import reliable_shape
from lowerbound.models import LogJoint
from lowerbound.models.sampling import weighed
from lowerbound.runtime.devices import device_of
from lowerbound.runtime.memory import rows_per_pass
from lowerbound.runtime.modes import evaluating, seeded
from lowerbound.settings import whole_number

Verdict = Literal["good", "usable", "bad"]

# k-hat up to which weights have a finite variance, so that averages over them behave as usual.
_GOOD = 0.5

# The gap up to which draws can be used as they are: k-hat judges the weights, which mend a q that is much too wide.
_NEAR = 0.5

# Draws that a verdict takes at least, and numbers beyond which their correlations are not looked at.
_FEWEST, _MANY = 100, 2000

# What counts as a fault of q: nats that moving or stretching it would gain, a factor between standard deviations, a difference of
# correlations, a skewness; each beyond what so many standard errors could be by chance.
_GAIN, _FACTOR, _CORRELATION, _SKEWNESS, _ERRORS = 0.05, 1.25, 0.2, 1.0, 4.0


# Tensors as large as the largest of a log joint that its gradient keeps, about.
_WITH_GRADIENT = 8


@dataclass(frozen=True, eq=False, kw_only=True)
class PosteriorHealth:
    """How well a posterior fits; ``str()`` of it is a few lines, the verdict first. Figures are in nats.

    Args:
        verdict: ``"good"``: k-hat is at most 0.5 and the gap at most half a nat, so draws can be used as they are, and weights mend what
            is left. ``"usable"``: k-hat is reliable, so use resampled draws. ``"bad"``: neither draws nor weights are to be trusted.
        elbo: the bound, averaged over the draws.
        elbo_error: its standard error.
        log_evidence: log p(x) by importance sampling: a lower bound on average, and close where the verdict is not bad.
        log_evidence_error: its standard error, as far as the weights show it.
        pareto_k: the shape of the weights' upper tail.
        effective_samples: ``(sum w)^2 / sum w^2``.
        samples: how many draws there were.
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
        """log p(x) minus the bound, which is KL(q || p(z given x)), as far as q's draws reach."""
        return self.log_evidence - self.elbo

    def __str__(self) -> str:
        return "\n".join([*self.lines(), *map(str, self.findings)])

    def lines(self) -> Iterator[str]:
        """The verdict and the figures in words."""
        advice = {
            "good": "draws from q can be used as they are; resample=True mends what is left",
            "usable": "use importance-resampled draws: posterior_sample(..., resample=True)",
            "bad": "trust neither the draws nor their weights",
        }
        reliable = reliable_shape(self.samples)
        even = self.pareto_k > reliable and self.verdict != "bad"
        advice[self.verdict] = (
            "weights so even that their tail does not matter; " if even else ""
        ) + advice[self.verdict]
        yield (
            f"{self.verdict}: Pareto k-hat {self.pareto_k:.2f} (good up to {_GOOD}, usable up to {reliable:.2f}), effective sample size "
            f"{self.effective_samples:,.0f} of {self.samples:,}; {advice[self.verdict]}"
        )
        at_least = "at least " if self.verdict == "bad" else ""
        yield (
            f"bound: {self.elbo:.3f} ± {self.elbo_error:.3f} nats; log p(x): {at_least}{self.log_evidence:.3f} ± "
            f"{self.log_evidence_error:.3f}; so KL(q || posterior), as far as q reaches, is {at_least}{self.gap:.3f}"
        )


@dataclass(frozen=True, eq=False)
class _Look:
    """Draws from q, and what is known at each.

    Args:
        names: of the J numbers.
        u: ``[S, J]``, float64.
        slopes: the gradient of the log joint, ``[S, J]``; ``None`` where it has none.
        log_w: ``[S]``.
    """

    names: list[str]
    u: Tensor
    slopes: Tensor | None
    log_w: Tensor

    @property
    def weights(self) -> Tensor:
        """Normalised importance weights, ``[S]``."""
        return self.log_w.softmax(0)

    @property
    def possible(self) -> Tensor:
        """At which draws the log joint is finite, ``[S]``."""
        return self.log_w.isfinite()

    @property
    def effective(self) -> float:
        """The effective sample size."""
        return float(1 / self.weights.square().sum())

    @property
    def scale(self) -> Tensor:
        """q's standard deviations, ``[J]``."""
        return self.u.std(0)


def posterior_health(
    model: Any, data: Any = None, *, samples: int = 10_000, seed: int = 0
) -> PosteriorHealth:
    r"""A verdict on the posterior of a :class:`lowerbound.LogJoint`: whether to believe it, and what to try where not.

    The importance weights :math:`w_s = p(x, z_s) / q(z_s)` of draws from q are all equal where q is the posterior. How heavy their upper tail is, the
    Pareto :math:`\hat k`, says whether averages over them settle down (Yao, Vehtari, Simpson & Gelman 2018). Where they do not,
    each likely cause is measured:

    - *Training is not at its end.* For whatever q, moving it changes the bound by :math:`\mathbb E_q[\nabla_u \log p]`, and stretching it
      about its mean m by :math:`\mathbb E_q[(u_j - m_j)\, \partial_j \log p] + 1` in each direction; both are 0 at an optimum of any family that can be moved and
      stretched. From them follows what a Newton step would gain.
    - *Correlation that q does not have*, *scales that are too small or too large* and *skewness*: of the draws weighted by w against those without.
    - *Draws that are impossible*, because q reaches beyond where the log joint is finite.

    Weights know nothing of places where q has no draws: a mode that q misses is not seen, and the evidence is then that of the modes it has.

    Args:
        model: a :class:`lowerbound.LogJoint`.
        data: all examples, where the log joint is given them in batches.
        samples: S, how many draws; at least 100.
        seed: of the draws.

    Returns:
        :class:`PosteriorHealth`.

    Raises:
        UnsupportedError: for another model; of the latents of an auto-encoder see :func:`lowerbound.latent_health`.
        SettingsError: if data are missing, or there should be none; or for fewer draws.
        NonFiniteError: if the log joint is infinite somewhere.

    Example:
        >>> import lowerbound as lb
        >>> from torch.distributions import MultivariateNormal
        >>> correlated = MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.95], [0.95, 1.0]]))
        >>> model = lb.LogJoint(correlated.log_prob, lb.mean_field, {"value": 2})
        >>> run = lb.fit(model, lb.ELBO(samples=10), tolerance=0.01, progress=False)
        >>> print(posterior_health(model).findings[0].cause)
        value[0] and value[1] have the correlation 0..., of which q has ...
    """
    if not isinstance(model, LogJoint):
        raise UnsupportedError(
            f"posterior_health: a {type(model).__name__} has a posterior for each example; see latent_health and log_likelihood"
        )
    check_seed("posterior_health", seed)
    samples = whole_number("posterior_health: samples", samples)
    if samples < _FEWEST:
        raise SettingsError(
            f"posterior_health: samples={samples} are too few for a verdict; take at least {_FEWEST}, better 10,000"
        )
    whole, _ = model.for_evaluation(data)
    with evaluating(whole), seeded(seed, device_of(whole)):
        look = _look(whole, samples)
    figures = WeightSums(samples)
    figures.add(look.log_w[:, None])
    found = {name: float(value) for name, value in figures.results().items()}
    verdict = _verdict(found, samples)
    return PosteriorHealth(
        verdict=verdict,
        elbo=found["elbo"],
        elbo_error=float(look.log_w.std()) / math.sqrt(samples)
        if look.possible.all()
        else math.inf,
        log_evidence=found["log_likelihood"],
        log_evidence_error=math.sqrt(max(0.0, 1 / found["effective"] - 1 / samples))
        if found["effective"] > 0
        else math.nan,
        pareto_k=found["pareto_k"],
        effective_samples=found["effective"],
        samples=samples,
        findings=tuple(_findings(look, verdict)),
    )


def _verdict(found: dict[str, float], samples: int) -> Verdict:
    even = found["effective"] >= 0.9 * samples  # so even that their tail does not matter
    near = (
        found["log_likelihood"] - found["elbo"] <= _NEAR
    )  # not so where a draw is impossible, and the bound minus infinity
    if near and (even or found["pareto_k"] <= min(_GOOD, reliable_shape(samples))):
        return "good"
    usable = math.isfinite(found["log_likelihood"]) and (
        even or found["pareto_k"] <= reliable_shape(samples)
    )
    return "usable" if usable else "bad"


def _look(model: LogJoint, samples: int) -> _Look:
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    chunk = rows_per_pass(_WITH_GRADIENT * model.numbers_per_draw(model.examples(None)))
    for start in range(0, samples, chunk):
        draw = model.draw(model.repetition, min(chunk, samples - start))
        log_q = draw.log_q[:, 0]
        with torch.enable_grad():
            u = draw.z[:, 0].detach().requires_grad_()
            heights = model.log_density(u)
            (slope,) = (
                torch.autograd.grad(heights.sum(), u)
                if heights.requires_grad
                else (torch.zeros_like(u),)
            )
        parts.append(
            (
                u.detach().double().cpu(),
                slope.double().cpu(),
                weighed(heights.detach() - log_q).cpu(),
            )
        )
    u, slopes, log_w = (torch.cat(column) for column in zip(*parts, strict=True))
    return _Look(model.variables.names(), u, slopes if heights.requires_grad else None, log_w)


def _findings(look: _Look, verdict: Verdict) -> Iterator[Finding]:
    impossible = 1 - float(look.possible.double().mean())
    if impossible:
        yield Finding(
            f"{100 * impossible:.3g}% of the draws are impossible, so the bound is minus infinity",
            "q reaches beyond where the log joint is finite",
            "give each variable its support (lb.Variable), and look at the log joint where it is not a number",
        )
    if impossible == 1:
        return
    unfinished = _unfinished(look)
    if unfinished is not None:
        yield Finding("q is not where its ELBO is largest", *unfinished)
    if verdict == "good":
        return
    what = f"q does not fit: the weights of its draws are {'uneven' if verdict == 'usable' else 'not to be trusted'}"
    causes = [
        cause for measure in (_correlated, _spread, _skewed) if (cause := measure(look)) is not None
    ]
    if not causes and unfinished is None:
        causes = [
            (
                "a shape that q cannot take, which moments do not show: heavy tails, several modes, or many dimensions that each fit a little badly",
                "a richer posterior: lb.full_rank, or a flow of zuko; or a parametrisation closer to a Gaussian; judge single variables by resampled draws",
            )
        ]
    yield from (Finding(what, *cause) for cause in causes)


def _unfinished(look: _Look) -> tuple[str, str] | None:
    """What moving and stretching q would gain."""
    if look.slopes is None:
        return None
    sound = look.slopes.isfinite().all(1)
    u, slopes = look.u[sound], look.slopes[sound]
    count = math.sqrt(len(u))
    moved = slopes * look.scale
    stretched = (u - u.mean(0)) * slopes + 1
    gains = torch.zeros(len(look.names), dtype=torch.float64)
    for slope, curvature in ((moved, 1.0), (stretched, 2.0)):
        mean, error = slope.mean(0), slope.std(0) / count
        gains += torch.where(mean.abs() > _ERRORS * error, 0.5 * mean.square() / curvature, 0.0)
    if not float(gains.nan_to_num().sum()) > _GAIN:
        return None
    worst = int(gains.argmax())
    return (
        f"moving and stretching it would gain about {float(gains.sum()):.2g} nats, most of it in {look.names[worst]}: if it was trained by the ELBO, the training had not come to its end",
        "train until it settles: lb.fit(..., tolerance=0.01); model.start() before training where variables have very different scales",
    )


def _correlated(look: _Look) -> tuple[str, str] | None:
    """Correlation between two numbers that the weighted draws have and q has not."""
    if not 2 <= len(look.names) <= _MANY:
        return None
    ours, theirs = _correlation(look, None), _correlation(look, look.weights)
    difference = (theirs - ours).abs().triu(1)
    row, column = divmod(int(difference.argmax()), len(look.names))
    if not float(difference[row, column]) > max(_CORRELATION, _ERRORS / math.sqrt(look.effective)):
        return None
    return (
        f"{look.names[row]} and {look.names[column]} have the correlation {float(theirs[row, column]):.2f}, of which q has {float(ours[row, column]):.2f}",
        "a posterior with more correlation (lb.full_rank; lb.low_rank(r) where there are many variables; a flow), or a parametrisation with less",
    )


def _correlation(look: _Look, weights: Tensor | None) -> Tensor:
    covariance = look.u.T.cov(aweights=weights)
    scale = covariance.diagonal().clamp_min(1e-300).sqrt()
    return covariance / scale / scale[:, None]


def _spread(look: _Look) -> tuple[str, str] | None:
    """A number that the weighted draws spread wider, or less wide, than q does."""
    mean = look.weights @ look.u
    scale = (look.weights @ (look.u - mean).square()).sqrt()
    ratio = scale / look.scale
    factor = max(_FACTOR, 1 + _ERRORS / math.sqrt(2 * look.effective))
    least, worst = int(ratio.argmin()), int(ratio.argmax())
    if float(ratio[worst]) <= factor and float(ratio[least]) < 1 / factor:
        return (
            f"q is too wide in {look.names[least]}: its standard deviation is {1 / float(ratio[least]):.2f} of what the weighted draws have",
            "train by lb.ELBO; of an objective that makes q wide, such as lb.IWAE, take draws with posterior_sample(..., resample=True)",
        )
    if not float(ratio[worst]) > factor:
        return None
    return (
        f"q is too narrow in {look.names[worst]}: its standard deviation is {1 / float(ratio[worst]):.2f} of what the weighted draws have",
        "a richer posterior (lb.full_rank where it is mean field, else a flow), or lb.IWAE instead of lb.ELBO, which makes q wider",
    )


def _skewed(look: _Look) -> tuple[str, str] | None:
    """A number whose weighted draws are skewed as those of q are not."""
    mean = look.weights @ look.u
    centred = look.u - mean
    skewness = (look.weights @ centred**3) / (look.weights @ centred.square()) ** 1.5
    ours = ((look.u - look.u.mean(0)) ** 3).mean(0) / look.scale**3
    difference = (skewness - ours).abs()
    worst = int(difference.argmax())
    if not float(difference[worst]) > max(_SKEWNESS, _ERRORS * math.sqrt(6 / look.effective)):
        return None
    return (
        f"{look.names[worst]} is skewed ({float(skewness[worst]):.1f}, q {float(ours[worst]):.1f})",
        "a flow of zuko as posterior, or another parametrisation: a log, or effects divided by their scale (non-centred) where a hierarchy makes a funnel",
    )
