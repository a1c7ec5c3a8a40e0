"""Full-rank Gaussians: moments, entropy, density and stop-gradients against torch's."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from lowerbound.distributions import TriangularNormal


@pytest.fixture(params=[(), (4,)], ids=["one", "batch"])
def pair(request):
    shape = request.param
    loc = torch.randn(*shape, 3, dtype=torch.float64, requires_grad=True)
    factor = torch.randn(*shape, 3, 3, dtype=torch.float64).tril(-1)
    factor = (factor + torch.rand(*shape, 3, dtype=torch.float64).add(0.5).diag_embed()).detach()
    factor.requires_grad_()
    return TriangularNormal(loc, factor), MultivariateNormal(loc, scale_tril=factor)


def test_moments_entropy_and_density_are_torch_s(pair):
    ours, torch_s = pair
    for name in ("mean", "variance", "covariance_matrix"):
        torch.testing.assert_close(getattr(ours, name), getattr(torch_s, name))
    torch.testing.assert_close(ours.entropy(), torch_s.entropy())
    value = torch.randn(5, *ours.batch_shape, 3, dtype=torch.float64)
    torch.testing.assert_close(ours.log_prob(value), torch_s.log_prob(value))


def test_a_stop_gradient_stops_mean_and_factor(pair):
    ours, _ = pair
    stopped = ours.stop_gradient()
    assert not stopped.log_prob(torch.zeros(3, dtype=torch.float64)).requires_grad
    assert not stopped.rsample().requires_grad
    assert torch.equal(stopped.factor, ours.factor)
    assert torch.equal(stopped.loc, ours.loc)
