"""Pathfinder: a posterior starts at the best of the Gaussians along an optimiser's path to a mode.

The mode itself is a bad starting point if it is far from most of the probability mass, as in
hierarchical models, whose density may lack a maximum. At each point of its path a quasi-Newton
optimiser estimates the curvature, which gives a Gaussian there. The Gaussian with the largest bound
is taken (Zhang, Carpenter, Gelman & Vehtari 2022, *Pathfinder: Parallel quasi-Newton variational
inference*).

Suffixes: J dimensions, M pairs of the optimiser's memory, N draws.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from lowerbound.errors import NonFiniteError
from lowerbound.models.forgiving import ForgivingDensity
from lowerbound.runtime.modes import without_argument_checks

Float = NDArray[np.float64]

# The number of pairs (step, change of the gradient) from which the curvature is estimated.
_MEMORY_PAIRS = 6

# The largest number of points of a path, and roughly the number of values that a path may store.
_MOST_POINTS, _MOST_VALUES = 1000, 4_000_000

# The number of draws from which the bound of a Gaussian is estimated.
_DRAWS = 20

# The largest number of points that the optimiser tries before it moves.
_MOST_TRIED_POINTS = 40

# All paths but the first begin at a random point, at most this far from 0 in each direction.
_START_RADIUS = 2.0

# Two Gaussians are separate if a coordinate of their means differs by more than this many standard
# deviations.
_FAR_DEVIATIONS = 4.0

# A pair is used if the curvature along it is positive, and not so small that a division by it loses
# all digits.
_STEEPEST = 1e12


@dataclass(frozen=True)
class CurvedGaussian:
    """A Gaussian whose covariance is ``diag(alpha) + beta gamma beta'``.

    This is the inverse Hessian of limited memory at a point of a path.

    Args:
        mean: ``[J]``.
        alpha: the diagonal, ``[J]``.
        beta: ``[J, 2M]``.
        gamma: ``[2M, 2M]``.
    """

    mean: Float
    alpha: Float
    beta: Float
    gamma: Float

    @property
    def variance(self) -> Float:
        """The diagonal of the covariance, ``[J]``."""
        low_rank: Float = np.einsum("ji,ik,jk->j", self.beta, self.gamma, self.beta)
        return self.alpha + low_rank

    def draw(self, noise_NJ: Float) -> tuple[Float, Float]:
        """Draws from the Gaussian and their log densities, ``[N, J]`` and ``[N]``.

        In the directions of ``beta`` the root of the covariance is that of a small matrix, and in
        all others it is that of ``alpha``.
        """
        root = np.sqrt(self.alpha)
        basis, upper = np.linalg.qr(self.beta / root[:, None])
        factor = np.linalg.cholesky(np.eye(len(upper)) + upper @ self.gamma @ upper.T)
        within = noise_NJ @ basis
        spread = noise_NJ + (within @ factor.T - within) @ basis.T
        log_det = np.log(self.alpha).sum() + 2 * np.log(np.diag(factor)).sum()
        size = noise_NJ.shape[1]
        log_density = -0.5 * (np.square(noise_NJ).sum(1) + log_det + size * math.log(2 * math.pi))
        return self.mean + root * spread, log_density

    def log_prob(self, points_NJ: Float) -> Float:
        """The log density at points ``[N, J]``, ``[N]``."""
        root = np.sqrt(self.alpha)
        basis, upper = np.linalg.qr(self.beta / root[:, None])
        factor = np.linalg.cholesky(np.eye(len(upper)) + upper @ self.gamma @ upper.T)
        scaled = (points_NJ - self.mean) / root
        within = scaled @ basis
        noise = scaled + (np.linalg.solve(factor, within.T).T - within) @ basis.T
        log_det = np.log(self.alpha).sum() + 2 * np.log(np.diag(factor)).sum()
        log_density: Float = -0.5 * (
            np.square(noise).sum(1) + log_det + len(root) * math.log(2 * math.pi)
        )
        return log_density

    def is_far_from(self, mean: Float, scale: Float) -> bool:
        """Whether this mean is more than four standard deviations from another, in any coordinate.

        The larger of the two standard deviations counts.
        """
        wider = np.maximum(np.sqrt(self.variance), scale)
        return bool((np.abs(self.mean - mean) > _FAR_DEVIATIONS * wider).any())


def find_gaussians(
    log_density: Callable[[Tensor], Tensor], start_points: Iterable[Float], noise_NJ: Float
) -> list[tuple[float, CurvedGaussian]]:
    """Find the Gaussian with the largest bound along each of several paths to modes.

    Args:
        log_density: of points ``[N, J]``, ``[N]``; differentiable, up to a constant.
        start_points: the points at which the paths begin, ``[J]`` each.
        noise_NJ: the noise of the draws from which bounds are estimated.

    Returns:
        The bound, in nats, and the Gaussian of each path that has one with a finite bound, in the
        order of the paths.
    """
    found: list[tuple[float, CurvedGaussian]] = []
    for start_point in start_points:
        best: tuple[float, CurvedGaussian | None] = (-math.inf, None)
        for candidate in _make_gaussians(_follow_path(log_density, start_point)):
            with without_argument_checks():
                bound = _estimate_bound(log_density, candidate, noise_NJ)
            if bound > best[0]:
                best = (bound, candidate)
        if best[1] is not None:
            found.append((best[0], best[1]))
    return found


def keep_separate(found: list[tuple[float, CurvedGaussian]]) -> list[tuple[float, CurvedGaussian]]:
    """Keep the Gaussians that are far from all with a larger bound, and sort them by bound."""
    kept: list[tuple[float, CurvedGaussian]] = []
    for bound, gaussian in sorted(found, key=lambda pair: -pair[0]):
        if all(gaussian.is_far_from(other.mean, np.sqrt(other.variance)) for _, other in kept):
            kept.append((bound, gaussian))
    return kept


def make_start_points(size: int, paths: int, generator: np.random.Generator) -> Iterator[Float]:
    """Yield 0, and then random points around it, ``[size]`` each."""
    for number in range(paths):
        if number == 0:
            yield np.zeros(size)
        else:
            yield generator.uniform(-_START_RADIUS, _START_RADIUS, size)


def find_optima(
    log_density: Callable[[Tensor], Tensor], size: int, paths: int, *, seed: int = 0
) -> list[tuple[float, CurvedGaussian]]:
    """Find the separate Gaussians along some paths to modes, the one with the largest bound first.

    Args:
        log_density: of points ``[N, size]``, ``[N]``; differentiable, up to a constant.
        size: the dimension J of the space.
        paths: the number of paths; the first begins at 0.
        seed: of the other starting points, and of the draws from which bounds are estimated.

    Returns:
        The bound, in nats, and the Gaussian of each optimum. The Gaussians are far from each other.

    Raises:
        LogJointError: if no Gaussian has a finite bound, and the log density failed.
        NonFiniteError: if none has, and the log density did not fail.
    """
    log_density = ForgivingDensity(log_density)
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((_DRAWS, size))
    found = find_gaussians(log_density, make_start_points(size, paths, generator), noise)
    if not found:
        if log_density.first_error is not None:
            raise log_density.first_error
        raise NonFiniteError(
            f"start: none of {paths} paths found a point around which the log joint is finite. "
            "Likely cause: a log joint that is non-finite near 0 in unconstrained coordinates. "
            "Remedy: check its value there, give variables other supports or scales, or train "
            "without start()",
            step=0,
            term="log joint",
            tensor="the log joint",
        )
    return keep_separate(found)


def _follow_path(
    log_density: Callable[[Tensor], Tensor], begin: Float
) -> list[tuple[Float, Float]]:
    """Record the points of an optimiser's path, with the gradient of the log density at each."""
    # Gradients at the points that the optimiser tried last, since it moves to one of them.
    seen: OrderedDict[bytes, Float] = OrderedDict()
    path: list[tuple[Float, Float]] = []

    def loss(point: Float) -> tuple[float, Float]:
        with torch.enable_grad():
            u = torch.from_numpy(point.copy()).requires_grad_()
            value = log_density(u[None]).sum()
            gradient = torch.zeros_like(u)
            if value.requires_grad:
                (gradient,) = torch.autograd.grad(value, u)
        gradient_J = gradient.double().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).numpy()
        seen[point.tobytes()] = gradient_J
        if len(seen) > _MOST_TRIED_POINTS:
            seen.popitem(last=False)
        height = float(value.detach())
        if not math.isfinite(height):
            height = -1e100
        return -height, -gradient_J

    def record(xk: Float) -> None:
        gradient_J = seen.get(xk.tobytes())
        if gradient_J is not None:
            path.append((xk.copy(), gradient_J))

    loss(begin)
    record(begin)
    limits: Any = {
        "maxcor": _MEMORY_PAIRS,
        "maxiter": min(_MOST_POINTS, max(50, _MOST_VALUES // len(begin))),
        "maxfun": 4 * _MOST_POINTS,
    }
    # The line search tries points far away, where parameters may underflow out of their support.
    with without_argument_checks():
        minimize(
            loss,
            begin,
            jac=True,
            method="L-BFGS-B",
            callback=record,
            options=limits,
        )
    return path


def _make_gaussians(path: list[tuple[Float, Float]]) -> Iterator[CurvedGaussian]:
    """Yield a Gaussian for each point of a path but the first.

    The only point of a path is a mode, and its Gaussian gets variances of 1.
    """
    alpha = np.ones(len(path[0][0]))
    memory: deque[tuple[Float, Float]] = deque(maxlen=_MEMORY_PAIRS)
    if len(path) == 1:
        yield CurvedGaussian(path[0][0], alpha, np.zeros((len(alpha), 0)), np.zeros((0, 0)))
    for (before, gradient_before), (point, gradient) in pairwise(path):
        step, change = point - before, gradient_before - gradient
        along = float(step @ change)
        if along > 0 and float(change @ change) < _STEEPEST * along:
            alpha = _update_diagonal(alpha, step, change)
            memory.append((step, change))
        if memory:
            yield _make_gaussian(point, gradient, alpha, memory)


def _update_diagonal(alpha: Float, step: Float, change: Float) -> Float:
    """Update the diagonal of the inverse Hessian, so that it explains the last step.

    Gilbert & Lemarechal 1989.
    """
    a, b, c = float(change @ (alpha * change)), float(change @ step), float(step @ (step / alpha))
    updated: Float = 1 / (a / (b * alpha) + change**2 / b - a * step**2 / (b * c * alpha**2))
    if bool((updated > 0).all()):
        return updated
    return alpha


def _make_gaussian(
    point: Float, gradient: Float, alpha: Float, memory: deque[tuple[Float, Float]]
) -> CurvedGaussian:
    """Take one Newton step from the point, and give the inverse Hessian in compact form.

    Byrd, Nocedal & Schnabel 1994.
    """
    steps, changes = (np.stack(part, 1) for part in zip(*memory, strict=True))
    along = steps.T @ changes
    inverse = np.linalg.inv(np.triu(along))
    scaled = alpha[:, None] * changes
    corner = inverse.T @ (np.diag(np.diag(along)) + changes.T @ scaled) @ inverse
    gamma = np.block([[np.zeros_like(along), -inverse], [-inverse.T, corner]])
    beta = np.concatenate([scaled, steps], 1)
    mean = point + alpha * gradient + beta @ (gamma @ (beta.T @ gradient))
    return CurvedGaussian(mean, alpha, beta, gamma)


@torch.no_grad()
def _estimate_bound(
    log_density: Callable[[Tensor], Tensor], candidate: CurvedGaussian, noise_NJ: Float
) -> float:
    try:
        draws, log_q = candidate.draw(noise_NJ)
    except np.linalg.LinAlgError:
        return -math.inf
    if not (
        np.isfinite(draws).all() and np.isfinite(log_q).all() and (candidate.variance > 0).all()
    ):
        return -math.inf
    heights = log_density(torch.from_numpy(draws)).double().cpu().numpy()
    bound = float(np.mean(heights - log_q))
    if not math.isfinite(bound):
        return -math.inf
    return bound
