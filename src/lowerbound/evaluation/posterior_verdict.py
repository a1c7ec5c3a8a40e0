"""The verdict on a posterior, from the errors of q that weighted points show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from lowerbound.evaluation.findings import Finding
from lowerbound.evaluation.posterior_causes import Verdict
from lowerbound.evaluation.posterior_reference import ERRORS, DrawErrors, Reference
from lowerbound.models.optima import Optimum

# What a verdict promises of draws: the largest error of a mean, in standard deviations of the
# posterior, and the largest ratio of two standard deviations.
MEAN_ERROR, SCALE_RATIO = 0.1, 1.1

# The largest gap of a good posterior, in nats. By Pinsker's inequality, no probability is then off
# by more than sqrt(0.05 / 2) = 0.16.
NEAR_NATS = 0.05

# The largest share of the posterior that weighted draws may miss, and the rounding error of the log
# joint, in nats, above which it is reported.
_MISSED_SHARE, _ROUNDED_NATS = 0.05, 0.02

# Optima explain a missed part of the posterior if they have at least this share of it together, by
# their bounds. Each that is named has at least the second share.
_EXPLAINED_SHARE, _NAMED_SHARE = 0.25, 0.01


@dataclass(frozen=True)
class Judgement:
    """A verdict and the measurements from which it follows.

    Args:
        is_reliable: whether the points represent the posterior.
        is_close: whether they are not reliable only because k-hat is close to its limit.
        gap: KL(q || posterior) with two standard errors added, in nats.
        draws: the errors of draws from q.
        weighted_draws: the errors of weighted draws from q.
        missed: the share of the posterior that draws from q miss.
    """

    is_reliable: bool
    is_close: bool
    gap: float
    draws: DrawErrors
    weighted_draws: DrawErrors
    missed: float

    @property
    def verdict(self) -> Verdict:
        """``"good"``, ``"usable"`` or ``"bad"``."""
        if not self.is_reliable:
            return "bad"
        # The gap is infinite if a draw is impossible.
        if self.gap <= NEAR_NATS and _are_small(self.draws):
            return "good"
        if not self.misses_much and _are_small(self.weighted_draws):
            return "usable"
        return "bad"

    @property
    def is_undecided(self) -> bool:
        """Whether more draws may show that a posterior is not bad."""
        return self.is_close and replace(self, is_reliable=True).verdict != "bad"

    @property
    def misses_much(self) -> bool:
        """Whether q misses a part of the posterior that is worth a finding."""
        return self.missed >= _MISSED_SHARE


def _are_small(errors: DrawErrors) -> bool:
    return errors.mean_limit <= MEAN_ERROR and errors.scale_limit <= SCALE_RATIO


def judge(reference: Reference, samples: int, elbo: float, elbo_error: float) -> Judgement:
    """Judge q by the points that represent the posterior.

    Args:
        reference: the posterior and q as weighted points.
        samples: the number of draws from q.
        elbo: the bound, in nats.
        elbo_error: its standard error.
    """
    error = math.hypot(reference.log_evidence_error, elbo_error)
    return Judgement(
        is_reliable=reference.is_reliable,
        is_close=reference.is_close,
        gap=reference.log_evidence - elbo + ERRORS * error,
        draws=reference.errors_of_draws(),
        weighted_draws=reference.errors_of_weighted_draws(samples),
        missed=reference.missed(samples),
    )


def find_hidden_faults(
    reference: Reference, judged: Judgement, rounding: float, optima: tuple[Optimum, ...]
) -> Iterator[Finding]:
    """Find what the draws from q do not show: missed parts of the posterior, and rounding.

    Args:
        reference: the posterior as weighted points.
        judged: the verdict.
        rounding: the rounding error of the log joint, in nats.
        optima: the separate optima that are far from q.
    """
    if not reference.looks_elsewhere:
        yield Finding(
            "the posterior is known only where q has draws",
            "q takes too many discrete values to enumerate, or gives no density at other points",
            "compare the bounds of several trainings (lb.fit_from_optima), or sum out discrete "
            "variables",
        )
    if judged.misses_much and (optima or reference.is_exact):
        yield Finding(
            f"q misses about {100 * judged.missed:.0f}% of the posterior",
            *_explain_missed(reference, judged.missed, optima),
        )
    if rounding > _ROUNDED_NATS:
        yield Finding(
            f"the log joint is rounded to about {rounding:.2g} nats",
            "it is a large sum in float32",
            "compute in double precision: call model.double(), and convert the data that the log "
            "joint contains to float64",
        )


def _explain_missed(
    reference: Reference, missed: float, optima: tuple[Optimum, ...]
) -> tuple[str, str]:
    """The likely cause of a missed part of the posterior, and the remedy."""
    if reference.is_exact:
        return (
            "q hardly ever draws some states that are probable",
            "train several q and compare their bounds (lb.fit_from_optima); use a richer "
            "posterior; or sum out discrete variables",
        )
    named = _select_missed_optima(reference, missed, optima)
    if named:
        return (
            f"separate optima are far from q: {'; '.join(map(str, named[:3]))}",
            "train one q from each optimum and compare their bounds (lb.fit_from_optima(model, "
            "objective, optima=health.optima)); use a richer posterior, such as a flow; or sum out "
            "discrete variables",
        )
    return (
        "parts of the posterior that q hardly draws are probable, such as a tail",
        "use a richer posterior, such as a flow, or another parametrisation; to make sure that no "
        "mode is missed, compare the bounds of several trainings (lb.fit_from_optima)",
    )


def misses_modes(reference: Reference, judged: Judgement, optima: tuple[Optimum, ...]) -> bool:
    """Whether q misses much of the posterior because it misses modes or discrete states."""
    if not judged.misses_much:
        return False
    return reference.is_exact or bool(_select_missed_optima(reference, judged.missed, optima))


def _select_missed_optima(
    reference: Reference, missed: float, optima: tuple[Optimum, ...]
) -> list[Optimum]:
    """Select the optima that explain the missed part, or none if they explain too little."""
    # A bound is a lower bound on the log probability mass about its optimum.
    shares = [math.exp(min(0.0, one.bound - reference.log_evidence)) for one in optima]
    if sum(shares) < _EXPLAINED_SHARE * missed:
        return []
    least = _NAMED_SHARE * missed
    return [one for one, share in zip(optima, shares, strict=True) if share >= least]
