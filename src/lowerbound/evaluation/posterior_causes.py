"""The causes of a bad posterior of a log joint, each measured from draws or weighted points.

Shapes: S draws, N weighted points, J coordinates of the vector that represents the variables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
)

from lowerbound.distributions import DiagonalNormal, LowRankNormal, TriangularNormal
from lowerbound.evaluation.findings import Finding
from lowerbound.evaluation.posterior_reference import Reference
from lowerbound.models.optima import is_discrete
from lowerbound.runtime.memory import split_range

Verdict = Literal["good", "usable", "bad"]

# The smallest faults of q that are reported: a gain in nats from moving or stretching it, a ratio
# of standard deviations, a difference of correlations, and a difference of skewness. Each must also
# exceed the last constant times its standard error, so that it is not due to chance.
_GAIN_NATS, _FACTOR, _CORRELATION, _SKEWNESS, _ERRORS = 0.05, 1.1, 0.2, 1.0, 4.0

# The largest number of coordinates whose correlations are measured.
_MOST_COORDINATES = 2000


@dataclass(frozen=True, eq=False)
class WeightedDraws:
    """Draws from q with their importance weights.

    Args:
        names: of the J coordinates.
        u: the draws, ``[S, J]``, float64.
        gradients: of the log joint at the draws, ``[S, J]``; ``None`` if it has no gradient.
        log_w: the log weights, ``[S]``.
        log_joint: the log joint at the draws, ``[S]``.
        rounding: its rounding error, in nats.
        is_started: whether ``model.start()`` was called.
        richer: posteriors that can have more shapes than q, for advice.
        skewed: a posterior that can be skewed more than q, for advice.
    """

    names: list[str]
    u: Tensor
    gradients: Tensor | None
    log_w: Tensor
    log_joint: Tensor
    rounding: float = 0.0
    is_started: bool = False
    richer: str = "lb.full_rank or a flow"
    skewed: str = "a flow"

    @property
    def possible(self) -> Tensor:
        """Whether the log joint is finite at each draw, ``[S]``."""
        return self.log_w.isfinite()

    @property
    def scale(self) -> Tensor:
        """q's standard deviations, ``[J]``."""
        return self.u.std(0)


@dataclass(frozen=True, eq=False)
class _Comparison:
    """Weighted points that represent the posterior, and q.

    Args:
        names: of the J coordinates.
        u: the points, ``[N, J]``.
        weights: the share of the posterior at each point, ``[N]``.
        weights_of_q: the share of q, ``[N]``.
    """

    names: list[str]
    u: Tensor
    weights: Tensor
    weights_of_q: Tensor

    @property
    def effective(self) -> float:
        """The effective number of points."""
        return float(1 / self.weights.square().sum())


def find_faults(
    draws: WeightedDraws,
    reference: Reference,
    verdict: Verdict,
    *,
    explained: bool = False,
    misses_modes: bool = False,
) -> Iterator[Finding]:
    """Find the faults of a posterior, with the causes that the draws support.

    Args:
        draws: draws from q.
        reference: the posterior as weighted points.
        verdict: the verdict on the posterior. The shape of a good one is not examined.
        explained: whether the verdict has a cause that is already known.
        misses_modes: whether q misses modes of the posterior. If it does, the moments of the
            posterior are those of all modes together and say nothing about the shape of q at its
            own mode, so this shape is not examined.
    """
    impossible = 1 - float(draws.possible.double().mean())
    if impossible:
        yield Finding(
            f"{100 * impossible:.3g}% of the draws are impossible, so the bound is minus infinity",
            "q has draws where the log joint is minus infinity or nan",
            "give each variable its support (lb.Variable), and check the log joint where it is nan",
        )
    if impossible == 1:
        return
    unfinished = _measure_gain(draws)
    if unfinished is not None:
        yield Finding("q is not where its ELBO is largest", *unfinished)
    if verdict == "good" or misses_modes:
        return
    weights = {"usable": "are uneven", "bad": "cannot be trusted"}[verdict]
    compared = _Comparison(draws.names, reference.points, reference.shares, reference.shares_of_q)
    found = [
        _find_correlation(compared, draws.richer),
        _find_wrong_scale(compared, draws.richer),
        _find_skewness(compared, draws.skewed),
    ]
    causes = [cause for cause in found if cause is not None]
    if not causes and unfinished is None and not explained:
        causes = [_describe_other_shape(draws.richer)]
    for cause in causes:
        yield Finding(f"q does not fit: the weights of its draws {weights}", *cause)


def name_better_posteriors(q: Distribution) -> dict[str, str]:
    """Name posteriors that can have more shapes than q, as arguments of :class:`WeightedDraws`."""
    if is_discrete(q):
        return dict.fromkeys(("richer", "skewed"), "one whose variables depend on each other")
    flow = "a flow, such as lambda size: lb.Flow('maf', size)"
    if isinstance(q, DiagonalNormal | Independent):
        return {"richer": "lb.full_rank or a flow", "skewed": flow}
    if isinstance(q, LowRankNormal | LowRankMultivariateNormal):
        return {"richer": "a larger rank, lb.full_rank or a flow", "skewed": flow}
    if isinstance(q, TriangularNormal | MultivariateNormal):
        return {"richer": flow, "skewed": flow}
    return dict.fromkeys(("richer", "skewed"), "a flow with more transforms")


def _describe_other_shape(richer: str) -> tuple[str, str]:
    return (
        "the posterior has a shape that q cannot have and moments do not reveal: heavy tails, "
        "several modes, or many dimensions that each fit a little badly",
        f"use a richer posterior ({richer}), or a parametrisation closer to a Gaussian; judge "
        "single variables by resampled draws",
    )


def _measure_gain(draws: WeightedDraws) -> tuple[str, str] | None:
    """Measure the gain from moving and stretching q."""
    if draws.gradients is None:
        return None
    gradients = draws.gradients
    slices = split_range(*gradients.shape)
    finite = torch.cat([gradients[rows].isfinite().all(1) for rows in slices])
    parts = [
        _measure_gain_per_coordinate(draws.u[finite, columns], gradients[finite, columns], scale)
        for columns, scale in _split_columns(draws)
    ]
    gains = torch.cat(parts)
    if not float(gains.nan_to_num().sum()) > _GAIN_NATS:
        return None
    worst = int(gains.argmax())
    remedy = "train until it converges: lb.fit(..., tolerance=0.01), or a smaller one than before"
    if not draws.is_started:
        remedy += "; call model.start() before training if variables have very different scales"
    return (
        f"moving and stretching q would gain about {float(gains.sum()):.2g} nats, most of it in "
        f"{draws.names[worst]}: if it was trained with the ELBO, the training had not converged",
        remedy,
    )


def _measure_gain_per_coordinate(u: Tensor, gradients: Tensor, scale: Tensor) -> Tensor:
    """Measure the gain from moving and stretching q along each coordinate."""
    count = math.sqrt(len(u))
    moved = gradients * scale
    stretched = (u - u.mean(0)) * gradients + 1
    gains = torch.zeros(len(scale), dtype=torch.float64)
    for change, curvature in ((moved, 1.0), (stretched, 2.0)):
        mean, error = change.mean(0), change.std(0) / count
        gains += torch.where(mean.abs() > _ERRORS * error, 0.5 * mean.square() / curvature, 0.0)
    return gains


def _split_columns(draws: WeightedDraws) -> Iterator[tuple[slice, Tensor]]:
    """Split the coordinates into slices, and give q's standard deviations with each."""
    scale = draws.scale
    for columns in split_range(len(scale), len(draws.u)):
        yield columns, scale[columns]


def _find_correlation(compared: _Comparison, richer: str) -> tuple[str, str] | None:
    """Find a correlation of two coordinates that q lacks."""
    names = compared.names
    if not 2 <= len(names) <= _MOST_COORDINATES:
        return None
    weighted = _compute_correlation(compared.u, compared.weights)
    of_q = _compute_correlation(compared.u, compared.weights_of_q)
    difference = (weighted - of_q).abs().triu(1)
    row, column = divmod(int(difference.argmax()), len(names))
    least = max(_CORRELATION, _ERRORS / math.sqrt(compared.effective))
    if not float(difference[row, column]) > least:
        return None
    return (
        f"{names[row]} and {names[column]} have the correlation "
        f"{float(weighted[row, column]):.2f}, but under q {float(of_q[row, column]):.2f}",
        f"use a posterior with more correlation ({richer}), or a parametrisation with less",
    )


def _compute_correlation(u: Tensor, weights: Tensor) -> Tensor:
    mean = weights @ u
    covariance = torch.zeros(len(mean), len(mean), dtype=u.dtype)
    for rows in split_range(*u.shape):
        centred = u[rows] - mean
        covariance += (weights[rows, None] * centred).T @ centred
    scale = covariance.diagonal().clamp_min(1e-300).sqrt()
    return covariance / scale / scale[:, None]


def _compute_moments(u: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviations and skewness of each coordinate, ``[J]`` each."""
    parts = []
    for columns in split_range(u.shape[1], len(u)):
        centred = u[:, columns] - weights @ u[:, columns]
        scale = (weights @ centred.square()).sqrt()
        parts.append((scale, weights @ centred**3 / scale**3))
    scales, skewness = (torch.cat(part) for part in zip(*parts, strict=True))
    return scales, skewness


def _find_wrong_scale(compared: _Comparison, richer: str) -> tuple[str, str] | None:
    """Find a coordinate whose standard deviation under q is too small or too large."""
    names = compared.names
    scale, _ = _compute_moments(compared.u, compared.weights)
    scale_of_q, _ = _compute_moments(compared.u, compared.weights_of_q)
    ratio = scale / scale_of_q
    factor = max(_FACTOR, 1 + _ERRORS / math.sqrt(2 * compared.effective))
    least, worst = int(ratio.argmin()), int(ratio.argmax())
    if float(ratio[worst]) <= factor and float(ratio[least]) < 1 / factor:
        return (
            f"q is too wide in {names[least]}: its standard deviation is "
            f"{1 / float(ratio[least]):.2f} times that of the posterior",
            "train with lb.ELBO; with an objective that makes q wide, such as lb.IWAE, take draws "
            "with posterior_sample(..., resample=True)",
        )
    if not float(ratio[worst]) > factor:
        return None
    return (
        f"q is too narrow in {names[worst]}: its standard deviation is "
        f"{1 / float(ratio[worst]):.2f} times that of the posterior",
        f"use a richer posterior ({richer}), or lb.IWAE instead of lb.ELBO, which makes q wider",
    )


def _find_skewness(compared: _Comparison, skewed: str) -> tuple[str, str] | None:
    """Find a coordinate whose skewness under q differs from that of the posterior."""
    names = compared.names
    _, skewness = _compute_moments(compared.u, compared.weights)
    _, of_q = _compute_moments(compared.u, compared.weights_of_q)
    difference = (skewness - of_q).abs()
    worst = int(difference.argmax())
    if not float(difference[worst]) > max(_SKEWNESS, _ERRORS * math.sqrt(6 / compared.effective)):
        return None
    return (
        f"{names[worst]} is skewed ({float(skewness[worst]):.1f}, under q "
        f"{float(of_q[worst]):.1f})",
        f"use a posterior that can be skewed ({skewed}), or another parametrisation: a logarithm, "
        "or, for a hierarchy with a funnel, effects that are divided by their scale (non-centred)",
    )
