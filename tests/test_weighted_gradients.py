"""Gradients of bounds with several samples, written out for one draw."""

import math

import pytest
import torch
from torch.distributions import Independent, Normal

import lowerbound as lb
from lowerbound.models import Draw
from lowerbound.models.groups import Latent
from lowerbound.objectives.importance import PowerMean

SAMPLES, EXAMPLES = 4, 3


def normal(loc, scale=1.0):
    return Independent(Normal(loc, scale), 1)


class One:
    """A draw whose likelihood at z is linear in z, with a parameter of each part."""

    def __init__(self, spread=1.0, gradient="pathwise"):
        self.loc = torch.randn(EXAMPLES, 2, dtype=torch.float64, requires_grad=True)
        self.free = (spread * torch.randn(SAMPLES, EXAMPLES, dtype=torch.float64)).requires_grad_()
        self.q, self.prior = normal(self.loc, 0.7), normal(torch.zeros(2, dtype=torch.float64))
        self.latent = Latent.draw(self.q, self.prior, SAMPLES, gradient)
        self.z = self.latent.z
        self.draw = Draw.of({"z": self.latent}, self.log_likelihood)

    def log_likelihood(self):
        return self.free + 2.0 * self.z.sum(-1)

    def path(self, weights):
        """The gradient at loc of weights times d log w / dz, through z alone."""
        slope = 2.0 - self.z.detach() + (self.z - self.loc).detach() / 0.49
        return (weights[..., None] * slope).sum(0)


OBJECTIVES = {
    "iwae": (lb.IWAE(SAMPLES), lambda share: share.square()),
    "renyi": (lb.Renyi(0.4, SAMPLES), lambda share: 0.4 * share + 0.6 * share.square()),
}


@pytest.mark.parametrize("spread", [1.0, 20.0])
@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("gradient", ["dreg", "sticking-the-landing"])
def test_each_parameter_gets_its_weight(name, gradient, spread):
    """The model's parameters the share, and the path to the posterior's that of the paper."""
    one = One(spread)
    objective, path_weight = OBJECTIVES[name]
    objective = type(objective)(**{**vars(objective), "gradient": gradient})
    order = 1 - getattr(objective, "alpha", 0.0)
    share = (order * one.draw.log_w.detach()).softmax(0)
    objective.surrogate(one.draw).sum().backward()
    torch.testing.assert_close(one.free.grad, share, rtol=1e-6, atol=1e-12)
    expected = one.path(path_weight(share) if gradient == "dreg" else share)
    torch.testing.assert_close(one.loc.grad, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("gradient", ["pathwise", "dreg", "score-function"])
def test_a_sample_of_zero_weight_gets_no_gradient(gradient):
    one = One(gradient=gradient)
    with torch.no_grad():
        one.free[1] = -math.inf
    value = lb.IWAE(SAMPLES, gradient=gradient)(one.draw)
    value.sum().backward()
    assert bool(value.isfinite().all())
    assert bool(one.loc.grad.isfinite().all())
    assert one.free.grad[1].tolist() == [0.0] * EXAMPLES


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_the_score_function_gradient_of_groups_is_that_of_the_paper(beta):
    """A rate in closed form that depends on draws of another group is part of the signal."""
    top = torch.randn(EXAMPLES, 2, dtype=torch.float64, requires_grad=True)
    slope = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    first = Latent.draw(
        normal(top), normal(torch.zeros(2, dtype=torch.float64)), SAMPLES, "score-function"
    )
    second = Latent.draw(
        normal(slope * first.z + 1.0), normal(first.z, 2.0), SAMPLES, "score-function"
    )
    draw = Draw.of({"top": first, "bottom": second}, lambda: -(second.z - 1).square().sum(-1))
    log_q = first.log_q + second.log_q
    rates = ((slope * first.z + 1.0 - first.z).square() / 4 + 0.25 - 1 + 2 * math.log(2)) / 2
    by_draws = rates.sum(-1)
    rate = 0.5 * top.square().sum(-1) + by_draws.mean(0)
    signal = (draw.log_likelihood - beta * by_draws).detach()
    others = (signal.sum(0) - signal) / (SAMPLES - 1)
    surrogate = draw.log_likelihood.mean(0) - beta * rate + ((signal - others) * log_q).mean(0)
    expected = torch.autograd.grad(surrogate.sum(), (top, slope), retain_graph=True)
    objective = lb.ELBO(SAMPLES, gradient="score-function", beta=beta)
    found = torch.autograd.grad(objective.surrogate(draw).sum(), (top, slope))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("alpha", [1 - 1e-5, 1 - 1e-3, 1.0, 1 + 1e-5])
def test_power_means_near_alpha_1_keep_their_digits_in_float32(alpha):
    log_w = 3 * torch.randn(50, 4, dtype=torch.float64)
    order = 1 - alpha
    expected = log_w.mean(0)
    if order:
        mean = log_w.mean(0)
        expected = mean + torch.log1p(torch.expm1(order * (log_w - mean)).mean(0)) / order
    found = PowerMean(alpha).value(log_w.float())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
    # A schedule's value is a tensor.
    found = PowerMean(torch.tensor(alpha, dtype=torch.float64)).value(log_w.float())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-3)
