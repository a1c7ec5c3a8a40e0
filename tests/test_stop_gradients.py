"""What has a stop-gradient gets no gradient, whichever model and posterior it is."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import (
    ExpTransform,
    Independent,
    Laplace,
    LogNormal,
    Normal,
    TransformedDistribution,
)

import lowerbound as lb
from lowerbound.errors import NonFiniteError, UnsupportedError
from lowerbound.models import Draw
from lowerbound.models.groups import Latent, sample_posterior
from lowerbound.models.sampling import check_log_weights, score_through_z


def make_log_joint(posterior, *, size=None):
    def log_joint(*batch, a, b):
        value = Normal(0.0, 1.0).log_prob(a).sum(-1) + Normal(1.0, 2.0).log_prob(b)
        if batch:
            x, scale = batch
            value = value + scale * Normal(b[:, None], 1.0).log_prob(x[:, 0]).sum(-1)
        return value

    return lb.LogJoint(log_joint, posterior, {"a": 2, "b": ()}, size=size)


POSTERIORS = {
    "mean field": lb.mean_field,
    "full rank": lb.full_rank,
    "low rank": lb.low_rank(1),
    "flow": lambda size: lb.Flow("maf", size, transforms=1, hidden_features=(4,)),
}


def gradients_at(value, tensors):
    found = torch.autograd.grad(value.sum(), tensors, retain_graph=True, allow_unused=True)
    return [g is not None and bool((g != 0).any()) for g in found]


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.parametrize("size", [None, 4])
def test_log_q_of_a_log_joint_has_each_gradient_alone(name, size):
    model = make_log_joint(POSTERIORS[name], size=size)
    with torch.no_grad():  # away from N(0, I), where gradients may vanish
        for parameter in model.posterior.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    draw = model.draw(torch.randn(2, 1), 3)
    parameters = [p for p in model.posterior.parameters() if p.requires_grad]
    if name == "flow":  # its draws and their density are computed together
        assert gradients_at(draw.log_q_stopgrad_z, [draw.z]) == [False]
        assert any(gradients_at(draw.log_q_stopgrad_z, parameters))
        return
    assert gradients_at(draw.log_q_stopgrad_z, [draw.z]) == [False]
    assert gradients_at(draw.log_q_stopgrad_parameters, [draw.z]) == [True]
    score = torch.autograd.grad(draw.log_q_stopgrad_z.sum(), parameters, retain_graph=True)
    path = torch.autograd.grad(draw.log_q_stopgrad_parameters.sum(), parameters, retain_graph=True)
    both = torch.autograd.grad(draw.log_q.sum(), parameters)
    for one, other, whole in zip(score, path, both, strict=True):
        torch.testing.assert_close(one + other, whole, rtol=1e-4, atol=1e-5)
    assert any(bool((one.abs() > 1e-3).any()) for one in score)


class Forgetful(Independent):
    """A Gaussian whose stop-gradient forgets the scale."""

    def stop_gradient(self):
        base = self.base_dist
        return Forgetful(Normal(base.loc.detach(), base.scale), 1)


class Stubborn(torch.distributions.Distribution):
    """A distribution that is not torch's, whose stop-gradient changes nothing."""

    has_rsample = True

    def __init__(self, loc):
        self.loc = loc
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def rsample(self, shape=()):
        return self.loc + torch.randn(*shape, *self.loc.shape)

    def log_prob(self, value):
        return Normal(self.loc, 1.0).log_prob(value).sum(-1)

    def stop_gradient(self):
        return self


class Encoder(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.network, self.make = nn.Linear(3, 2), make

    def forward(self, x):
        return self.make(self.network(x))


@pytest.mark.parametrize("gradient", ["sticking-the-landing", "dreg"])
def test_a_posterior_that_keeps_its_gradient_is_refused(gradient):
    vae = lb.LatentModel(lb.StandardNormal(2), Encoder(Stubborn), lb.Gaussian(nn.Linear(2, 6)))
    x = torch.randn(4, 3)
    objective = lb.IWAE(samples=3, gradient=gradient)
    with pytest.raises(UnsupportedError, match=r"Stubborn.*stop_gradient.*gradient='pathwise'"):
        objective(vae.draw(x, 3, gradient))
    with torch.no_grad():
        assert objective(vae.draw(x, 3, gradient)).isfinite().all()
    assert lb.IWAE(samples=3)(vae.draw(x, 3)).isfinite().all()


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(2)])
def test_a_network_that_changes_from_call_to_call_is_refused(layer):
    """Only while training, and only where the posterior is evaluated twice."""
    encoder = Encoder(lambda y: Independent(Laplace(layer(y), 1.0), 1))
    encoder.layer = layer
    vae = lb.LatentModel(lb.StandardNormal(2), encoder, lb.Gaussian(nn.Linear(2, 6)))
    x, objective = torch.randn(4, 3), lb.IWAE(samples=3, gradient="dreg")
    with pytest.raises(UnsupportedError, match=f"network has a {type(layer).__name__}"):
        objective(vae.draw(x, 3, "dreg"))
    vae.eval()
    assert objective(vae.draw(x, 3, "dreg")).isfinite().all()


def test_torch_s_gaussian_is_replaced_by_one_that_stops_all_gradients():
    """Whatever method of its own it has."""
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        Encoder(lambda y: Forgetful(Normal(y, (0.1 * y).exp()), 1)),
        lb.Gaussian(nn.Linear(2, 6)),
    )
    draw = vae.draw(torch.randn(4, 3), 3, "dreg")
    z = draw.z.detach().requires_grad_()
    assert not score_through_z(draw.q, vae.posterior, z.detach()).requires_grad


def test_the_score_function_gradient_does_not_follow_the_draws():
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(nn.Linear(3, 4)), nn.Identity())
    z = sample_posterior(vae.posterior(torch.randn(4, 3)), 3, "score-function")
    assert not z.requires_grad
    assert sample_posterior(vae.posterior(torch.randn(4, 3)), 3, "dreg").requires_grad


@pytest.mark.parametrize("cache_size", [0, 1])
def test_a_transform_that_remembers_its_draws_changes_no_gradient(cache_size):
    """Scored at the very draw, it would return the stored point, which depends on parameters."""
    loc = torch.zeros(2, 1, dtype=torch.float64, requires_grad=True)
    base = Independent(Normal(loc, 0.5), 1)
    q = TransformedDistribution(base, ExpTransform(cache_size=cache_size))
    latent = Latent.draw(q, Independent(Normal(torch.zeros(1), 1.0), 1), samples=3)
    draw = Draw.of({"z": latent}, lambda: torch.zeros(3, 2))
    [found] = torch.autograd.grad(draw.log_q_stopgrad_parameters.sum(), draw.z)
    z = draw.z.detach().requires_grad_()
    fresh = Independent(LogNormal(loc.detach(), 0.5), 1)
    [expected] = torch.autograd.grad(fresh.log_prob(z).sum(), z)
    torch.testing.assert_close(found, expected)


def test_weights_that_are_nan_are_zero_and_infinite_ones_are_refused():
    log_w = torch.tensor([0.5, math.nan, -math.inf])
    assert check_log_weights(log_w).tolist() == [0.5, -math.inf, -math.inf]
    with pytest.raises(NonFiniteError, match="the log joint is infinite"):
        check_log_weights(torch.tensor([0.5, math.inf]))
