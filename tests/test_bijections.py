"""Bijections that keep the digits of small components."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Beta, Dirichlet, biject_to, constraints

import lowerbound as lb
from lowerbound.conditionals.bijections import find_bijection

SUPPORTS = {"simplex": (constraints.simplex, 4), "factor": (constraints.corr_cholesky, 6)}


@pytest.mark.parametrize(("support", "size"), SUPPORTS.values(), ids=SUPPORTS)
def test_the_map_is_torch_s(support, size):
    torch.manual_seed(0)
    x = 1.5 * torch.randn(50, size, dtype=torch.float64)
    ours, theirs = find_bijection(support), biject_to(support)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.inv(ours(x)), x)
    torch.testing.assert_close(
        ours.log_abs_det_jacobian(x, ours(x)), theirs.log_abs_det_jacobian(x, theirs(x))
    )


@pytest.mark.parametrize(("support", "size"), SUPPORTS.values(), ids=SUPPORTS)
def test_float32_keeps_the_digits_of_small_components(support, size):
    """With torch's bijections a logarithm was off by 17 to 30, and a log determinant by 34."""
    torch.manual_seed(0)
    x = 8 * torch.randn(200, size)
    ours = find_bijection(support)
    single, double = ours(x), ours(x.double())
    assert bool(support.check(single).all())
    positive = double != 0
    torch.testing.assert_close(
        single[positive].abs().log().double(), double[positive].abs().log(), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(
        ours.log_abs_det_jacobian(x, single).double(),
        ours.log_abs_det_jacobian(x.double(), double),
        rtol=1e-5,
        atol=1e-4,
    )


def test_the_expectation_of_a_log_density_near_the_corners_is_right_in_float32():
    """Torch's bijection loses the smallest shares: the mean of one log density was 0.5 nats off."""
    torch.manual_seed(0)
    q = Dirichlet(torch.full((3,), 0.05, dtype=torch.float64))
    bijection = find_bijection(constraints.simplex)
    x = 8 * torch.randn(20_000, 2, dtype=torch.float64)
    p = Dirichlet(torch.full((3,), 0.05))
    single, double = (
        density.log_prob(bijection(u)) + bijection.log_abs_det_jacobian(u, bijection(u))
        for density, u in ((p, x.float()), (q, x))
    )
    assert abs(float(single.double().mean() - double.mean())) < 1e-3


def test_draws_that_are_rounded_at_a_boundary_are_reported_in_float32_only():
    def beta(dtype):
        density = Beta(torch.tensor(0.05, dtype=dtype), torch.tensor(0.05, dtype=dtype))
        variables = {"share": lb.Variable((), constraints.unit_interval)}

        def log_joint(share):
            return density.log_prob(share)

        model = lb.LogJoint(log_joint, lb.mean_field, variables)
        return model.to(dtype).start(at={"share": 0.5}, spread=20.0)

    single, double = (
        str(lb.posterior_health(beta(dtype), samples=1000))
        for dtype in (torch.float32, torch.float64)
    )
    assert "of the draws of share are rounded at the boundary" in single
    assert "model.double()" in single
    assert "are rounded" not in double
    assert "model.start()" not in single + double


def test_start_is_advised_only_before_it_was_called():
    model = lb.LogJoint(lambda a: -((a - 50) ** 2), lb.mean_field, {"a": ()})
    assert "model.start()" in str(lb.posterior_health(model, samples=1000))
    started = model.start(at={"a": 40.0})
    health = str(lb.posterior_health(started, samples=1000))
    assert "moving and stretching" in health
    assert "model.start()" not in health
    _, remedy = started.explain_non_finite(started.draw(started.repetition, 3), "")
    assert "start()" not in remedy
