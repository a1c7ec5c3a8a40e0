"""Checks of log joints: their evidence, batches, starting points, and draws by weight."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

import lowerbound as lb
from lowerbound.models import pathfinder, resampling
from lowerbound.selftest.known import DOUBLE, errors_apart, largest
from lowerbound.selftest.registry import check

_NOISE = 0.5


def _make_regression(*, batches: bool = False) -> tuple[lb.LogJoint, Tensor]:
    """Make y = a + b x + noise with a, b ~ N(0, 4), and its data ``[12, 2]``."""
    inputs = torch.linspace(-1, 2, 12, dtype=DOUBLE)
    table = torch.stack([inputs, 0.7 * inputs - 0.4 + _NOISE * torch.randn(12, dtype=DOUBLE)], 1)
    two = torch.tensor(2.0, dtype=DOUBLE)

    def prior(line: Tensor) -> Tensor:
        found: Tensor = Normal(0.0, two).log_prob(line).sum(-1)
        return found

    def likelihood(rows: Tensor, line: Tensor) -> Tensor:
        mean = line[:, :1] + line[:, 1:] * rows[:, 0]
        found: Tensor = Normal(mean, _NOISE).log_prob(rows[:, 1]).sum(-1)
        return found

    if batches:
        model = lb.LogJoint(
            lambda rows, scale, line: prior(line) + scale * likelihood(rows, line),
            lb.full_rank,
            {"line": (2,)},
            size=len(table),
        )
    else:
        model = lb.LogJoint(
            lambda line: prior(line) + likelihood(table, line), lb.full_rank, {"line": (2,)}
        )
    return model.double(), table


def _solve_regression(table: Tensor) -> tuple[np.ndarray, np.ndarray, float]:
    """The mean and the covariance of the posterior, and log p(y), by linear algebra in numpy."""
    inputs, outputs = table.numpy().T
    design = np.stack([np.ones_like(inputs), inputs], 1)
    covariance = np.linalg.inv(np.eye(2) / 4 + design.T @ design / _NOISE**2)
    evidence = stats.multivariate_normal(
        cov=4 * design @ design.T + _NOISE**2 * np.eye(len(design))
    )
    mean = covariance @ design.T @ outputs / _NOISE**2
    return mean, covariance, float(evidence.logpdf(outputs))


@check(
    "log-joint-evidence",
    "If the full-rank posterior of a linear regression is exact, every log weight is the log "
    "evidence",
    tolerance=1e-9,
)
def measure_exact_regression() -> float:
    """For 50 draws. The posterior's space is shifted and stretched, as ``start()`` does."""
    model, table = _make_regression()
    mean, covariance, evidence = _solve_regression(table)
    model.centre += torch.tensor([0.3, -0.2], dtype=DOUBLE)
    model.spread *= torch.tensor([2.0, 0.7], dtype=DOUBLE)
    spread = model.spread.numpy()
    factor = np.linalg.cholesky(covariance / spread[:, None] / spread)
    raw = [*((mean - model.centre.numpy()) / spread), *2 * np.log(factor.diagonal()), factor[1, 0]]
    with torch.no_grad():
        next(model.posterior.parameters()).copy_(torch.tensor(raw))
    return largest(model.draw(model.repetition, 50).log_w - evidence)


@check(
    "log-joint-in-batches",
    "The ELBO of a log joint, averaged over the batches of an epoch, is the ELBO of all data",
    tolerance=1e-9,
)
def compare_log_joint_batches() -> float:
    """For 12 examples in batches of 3, on the same 5 draws, and for the model with all data."""
    model, table = _make_regression(batches=True)
    bounds = []
    for batch in table.split(3):
        torch.manual_seed(0)
        bounds.append(lb.ELBO(samples=5).bound(model.draw(batch, 5)).detach().mean())
    torch.manual_seed(0)
    u = model.posterior().sample(torch.Size((5,)))
    line, rows = u.detach().numpy(), table.numpy()
    residuals = stats.norm(line[:, :1] + line[:, 1:] * rows[:, 0], _NOISE).logpdf(rows[:, 1])
    joint = stats.norm(0, 2).logpdf(line).sum(1) + residuals.sum(1)
    entropy = 2 * (0.5 + 0.5 * math.log(2 * math.pi))  # that of N(0, I)
    whole = model.with_all_data(table).log_density(u)
    apart = float(torch.stack(bounds).mean()) - joint.mean() - entropy
    return max(abs(float(apart)), largest(whole - torch.from_numpy(joint)))


@check(
    "pathfinder-gaussian",
    "The Gaussian at a point of Pathfinder's path has the inverse Hessian of the quasi-Newton "
    "recursion as its covariance, and scores its draws as scipy does (relative)",
    tolerance=1e-8,
)
def compare_pathfinder_gaussians() -> float:
    """For all points of the path to the mode of a correlated Gaussian in 6 dimensions."""
    target = _draw_target(6)
    path = pathfinder._follow_path(target.log_prob, np.full(6, 1.5))
    alpha, worst = np.ones(6), 0.0
    pairs: list[tuple[Any, Any]] = []
    gaussians = list(pathfinder._make_gaussians(path))
    for (start, slope), (end, next_slope), found in zip(path, path[1:], gaussians, strict=False):
        step, change = end - start, slope - next_slope
        alpha = pathfinder._update_diagonal(alpha, step, change)
        pairs = [*pairs, (step, change)][-pathfinder._MEMORY_PAIRS :]
        inverse = np.diag(alpha)
        for s, y in pairs:  # Nocedal & Wright 2006, equation 6.17
            rho = 1 / (s @ y)
            left = np.eye(6) - rho * np.outer(s, y)
            inverse = left @ inverse @ left.T + rho * np.outer(s, s)
        noise = np.concatenate([np.zeros((1, 6)), np.eye(6)])
        draws, log_q = found.draw(noise)
        root = draws[1:] - draws[0]  # the rows are the images of unit vectors
        exact = stats.multivariate_normal(found.mean, inverse, allow_singular=True)
        size = np.abs(inverse).max()
        differences = (
            (root.T @ root - inverse) / size,
            (np.diag(inverse) - found.variance) / size,
            (found.mean - end - inverse @ next_slope) / (1 + np.abs(end).max()),
            log_q - exact.logpdf(draws),
        )
        worst = max(worst, *(float(np.abs(entry).max()) for entry in differences))
    return worst


def _draw_target(size: int) -> MultivariateNormal:
    """Draw a Gaussian with correlations, far from 0."""
    root = 0.5 * torch.randn(size, size, dtype=DOUBLE)
    covariance = root @ root.T + 0.3 * torch.eye(size, dtype=DOUBLE)
    return MultivariateNormal(3 * torch.randn(size, dtype=DOUBLE), covariance)


@check(
    "start",
    "Pathfinder, which start() uses, finds the mean and the standard deviations of a Gaussian "
    "density (in standard deviations)",
    tolerance=0.1,
)
def measure_start() -> float:
    """For a correlated Gaussian in 5 dimensions."""
    target = _draw_target(5)
    model = lb.LogJoint(target.log_prob, lb.full_rank, {"value": 5}).double().start()
    return max(
        largest((model.centre - target.mean) / target.stddev),
        largest(model.spread / target.stddev - 1),
    )


@check(
    "copies-by-weight",
    "Resampling returns as many copies of each draw as its weight says, with a difference of less "
    "than one, and exactly as many on average (in standard errors)",
    tolerance=4,
)
def measure_copies() -> Iterator[float]:
    """For 2,000 choices of 7 out of 5 draws. By chance it fails for one seed in 3,000."""
    log_w = torch.tensor([0.3, -1.0, -math.inf, 1.2, 0.0], dtype=DOUBLE)
    expected = 7 * log_w.exp() / log_w.exp().sum()
    parts = []
    for _ in range(10):
        part = [
            resampling.choose_systematically(log_w, 7).bincount(minlength=5) for _ in range(200)
        ]
        parts.append(torch.stack(part))
        if not largest(parts[-1] - expected) < 1 or bool((parts[-1].sum(1) != 7).any()):
            yield math.inf
    varied = expected > 0
    yield errors_apart(torch.cat(parts)[:, varied].double(), expected[varied])


@check(
    "resampled-draws",
    "Draws chosen by weight have the moments of the posterior, although q has others (in standard "
    "errors)",
    tolerance=4,
)
def measure_resampled_draws() -> float:
    """For q = N(0, 1) and the posterior N(2, 0.35), from 40 sets of 400 draws.

    By chance it fails for one seed in 8,000.
    """
    centre, scale = torch.tensor(2.0, dtype=DOUBLE), torch.tensor(0.35, dtype=DOUBLE)
    target = Normal(centre, scale)
    model = lb.LogJoint(target.log_prob, lb.mean_field, {"value": ()}).double()
    moments = []
    for seed in range(40):
        z = model.posterior_sample(400, resample=True, seed=seed)["value"]
        moments.append(torch.stack([z.mean(), z.square().mean()]))
    return errors_apart(torch.stack(moments), torch.tensor([2.0, 4.1225], dtype=DOUBLE))
