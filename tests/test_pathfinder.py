"""Pathfinder's parts against matrices that are written out."""

from collections import deque
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

import lowerbound as lb
from lowerbound.models import pathfinder
from lowerbound.models.pathfinder import CurvedGaussian

RANDOM = np.random.default_rng(0)
SIZE = 4


def make_precision():
    root = RANDOM.standard_normal((SIZE, SIZE))
    return root @ root.T + 0.5 * np.eye(SIZE)


def make_path(precision, mean, points):
    """Points, and the gradients of a Gaussian's log density there."""
    return [(point, precision @ (mean - point)) for point in points]


def test_the_gaussian_has_its_covariance():
    beta = RANDOM.standard_normal((SIZE, 2))
    gaussian = CurvedGaussian(
        np.arange(SIZE) * 1.0, np.array([1.0, 2.0, 0.5, 3.0]), beta, np.diag([0.7, 1.5])
    )
    covariance = np.diag(gaussian.alpha) + beta @ gaussian.gamma @ beta.T
    np.testing.assert_allclose(gaussian.variance, np.diag(covariance))
    noise = RANDOM.standard_normal((40_000, SIZE))
    draws, log_density = gaussian.draw(noise)
    expected = multivariate_normal(gaussian.mean, covariance).logpdf(draws)
    np.testing.assert_allclose(log_density, expected)
    found = np.cov(draws.T)
    # The standard error of a covariance is at most sqrt(2 v w / N).
    error = np.sqrt(2 * np.outer(np.diag(covariance), np.diag(covariance)) / len(noise))
    assert np.all(np.abs(found - covariance) < 4.5 * error)


def test_enough_steps_in_a_gaussian_give_its_covariance_and_mean():
    """As many exact steps as dimensions determine the curvature (Broyden et al. 1973)."""
    precision, mean = make_precision(), RANDOM.standard_normal(SIZE)
    directions = np.linalg.eigh(precision)[1].T  # conjugate, so each step adds what it knows
    points = [np.zeros(SIZE)]
    for number, direction in enumerate(directions):
        points.append(points[-1] + (1.0 + number) * direction)
    path = make_path(precision, mean, points)
    steps = deque((b - a, g - h) for (a, g), (b, h) in pairwise(path))
    gaussian = pathfinder._make_gaussian(*path[-1], np.ones(SIZE), steps)
    covariance = np.diag(gaussian.alpha) + gaussian.beta @ gaussian.gamma @ gaussian.beta.T
    np.testing.assert_allclose(covariance, np.linalg.inv(precision), atol=1e-8)
    np.testing.assert_allclose(gaussian.mean, mean, atol=1e-8)


def test_the_diagonal_explains_the_last_step():
    """It satisfies the diagonal's formula of Gilbert & Lemarechal, here for two dimensions."""
    alpha, step, change = np.array([1.0, 2.0]), np.array([0.5, -0.3]), np.array([1.0, -1.2])
    a, b = change @ (alpha * change), change @ step
    c = step @ (step / alpha)
    expected = [
        1 / (a / (b * alpha[i]) + change[i] ** 2 / b - a * step[i] ** 2 / (b * c * alpha[i] ** 2))
        for i in range(2)
    ]
    np.testing.assert_allclose(pathfinder._update_diagonal(alpha, step, change), expected)


def start(log_density, size, **settings):
    model = lb.LogJoint(log_density, lb.mean_field, {"u": size}).double()
    return model.start(**settings)


def test_the_best_gaussian_of_a_gaussian_is_it():
    scale = torch.tensor([0.1, 5.0, 1.0], dtype=torch.float64)
    mean = torch.tensor([3.0, -40.0, 0.0], dtype=torch.float64)
    target = torch.distributions.Normal(mean, scale)
    model = start(lambda u: target.log_prob(u).sum(-1), 3, paths=2)
    torch.testing.assert_close(model.centre, mean, atol=0.02, rtol=0.01)
    torch.testing.assert_close(model.spread, scale, atol=0, rtol=0.05)


def test_the_largest_bound_is_taken_and_not_the_last_or_the_highest_density(monkeypatch):
    bounds = iter([-3.0, 1.0, -2.0])
    gaussians = [
        CurvedGaussian(np.full(2, mean), np.ones(2), np.zeros((2, 0)), np.zeros((0, 0)))
        for mean in (0.0, 7.0, 2.0)
    ]
    monkeypatch.setattr(pathfinder, "_make_gaussians", lambda path: iter(gaussians))
    monkeypatch.setattr(pathfinder, "_estimate_bound", lambda *given: next(bounds))
    model = start(lambda u: -u.square().sum(-1), 2, paths=1)
    assert model.centre.tolist() == [7.0, 7.0]


def test_a_bound_is_the_density_less_that_of_q():
    gaussian = CurvedGaussian(
        np.zeros(2), np.array([0.25, 1.0]), np.zeros((2, 0)), np.zeros((0, 0))
    )
    target = torch.distributions.Normal(torch.zeros(2), torch.tensor([0.5, 1.0]))
    noise = RANDOM.standard_normal((20, 2))
    bound = pathfinder._estimate_bound(lambda u: target.log_prob(u).sum(-1), gaussian, noise)
    assert bound == pytest.approx(0.0, abs=1e-6)


def test_paths_begin_at_different_points(monkeypatch):
    begun = []

    def follow(log_density, begin):
        begun.append(begin)
        return [(begin, np.zeros(2))]

    monkeypatch.setattr(pathfinder, "_follow_path", follow)
    start(lambda u: -u.square().sum(-1), 2, paths=4)
    assert begun[0].tolist() == [0.0, 0.0]
    assert len({tuple(begin) for begin in begun}) == 4
    assert all(np.abs(begin).max() <= 2 for begin in begun)
