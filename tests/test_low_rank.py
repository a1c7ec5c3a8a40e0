"""Low-rank Gaussians: moments, entropy, density and gradients, also where scales are small."""

import math

import pytest
import torch
from torch.distributions import LowRankMultivariateNormal, MultivariateNormal

import lowerbound as lb
from lowerbound.distributions import LowRankNormal

DOUBLE = torch.float64


def make_pair(batch, rank=2, scale=0.5):
    """Make ours in float64, and torch's."""
    loc, columns = torch.randn(*batch, 4, dtype=DOUBLE), torch.randn(*batch, 4, rank, dtype=DOUBLE)
    log_scale = math.log(scale) + 0.3 * torch.randn(*batch, 4, dtype=DOUBLE)
    parameters = [each.requires_grad_() for each in (loc, columns, log_scale)]
    theirs = LowRankMultivariateNormal(loc, columns, (2 * log_scale).exp())
    return LowRankNormal(*parameters), theirs, parameters


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_moments_entropy_density_and_gradients_are_torch_s(batch):
    ours, theirs, parameters = make_pair(batch)
    for name in ("mean", "variance", "covariance_matrix"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))
    torch.testing.assert_close(ours.entropy(), theirs.entropy())
    value = torch.randn(5, *batch, 4, dtype=DOUBLE)
    torch.testing.assert_close(ours.log_prob(value), theirs.log_prob(value))
    gradients = torch.autograd.grad(ours.log_prob(value).sum(), parameters)
    expected = torch.autograd.grad(theirs.log_prob(value).sum(), parameters)
    torch.testing.assert_close(gradients, expected)
    repeated = ours.expand((7, *batch))
    torch.testing.assert_close(
        repeated.log_prob(value[0]), ours.log_prob(value[0]).expand(7, *batch)
    )


@pytest.mark.parametrize("scale", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("rank", [1, 3])
def test_densities_in_float32_are_exact_where_scales_are_small(scale, rank):
    """Their error is that of rounding x: its digits beyond the seventh, in units of the scale."""
    torch.manual_seed(0)
    columns, log_scale = torch.randn(100, 8, rank), torch.full((100, 8), math.log(scale))
    q = LowRankNormal(torch.zeros(100, 8), columns, log_scale)
    x = q.sample((10,))
    exact = LowRankNormal(torch.zeros(8).double(), columns.double(), log_scale.double()).log_prob(
        x.double()
    )
    reference = MultivariateNormal(
        torch.zeros(100, 8, dtype=DOUBLE),
        columns.double() @ columns.double().mT + (2 * log_scale.double()).exp().diag_embed(),
    )
    torch.testing.assert_close(exact, reference.log_prob(x.double()), rtol=1e-6, atol=1e-6)
    assert (q.log_prob(x) - exact).abs().max() < 1e-5 / scale


def test_a_posterior_far_from_its_start_keeps_a_density():
    """Its columns are large where the data are, and its scales small."""
    torch.manual_seed(0)
    posterior = lb.LowRankGaussian(lb.mlp(4, 8, 12), rank=2)
    model = lb.LatentModel(lb.StandardNormal(3), posterior, lb.Gaussian(lb.mlp(3, 8)))
    x = torch.randn(6, 4) * torch.tensor([1.0, 10.0, 100.0, 1e4, 1e5, 1e6])[:, None]
    found = lb.evaluate(model, lb.ELBO(), x).per_example
    exact = lb.evaluate(model.double(), lb.ELBO(), x.double()).per_example
    torch.testing.assert_close(found.double(), exact.double(), rtol=1e-2, atol=1e-2)


def test_a_stop_gradient_stops_all_parameters():
    ours, _, _ = make_pair((3,))
    stopped = ours.stop_gradient()
    assert not stopped.log_prob(torch.zeros(4, dtype=DOUBLE)).requires_grad
    assert not stopped.rsample().requires_grad
    torch.testing.assert_close(stopped.covariance_matrix, ours.covariance_matrix)


def test_draws_have_the_moments():
    """Ten moments at 4.5 standard errors: one false alarm in 15,000 runs."""
    ours, _, _ = make_pair(())
    deviations = ours.sample((200_000,)) - ours.mean
    products = deviations[:, :, None] * deviations[:, None]
    error = products.std(0) / len(products) ** 0.5
    assert ((products.mean(0) - ours.covariance_matrix).abs() < 4.5 * error).all()
