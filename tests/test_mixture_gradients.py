"""Implicit reparameterisation of mixtures, against inversion and closed-form expectations."""

import math

import pytest
import scipy.optimize
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import lowerbound as lb
from lowerbound.distributions import DiagonalNormal, FactorialBernoulli, Mixture
from lowerbound.distributions.implicit import reparameterise
from lowerbound.errors import SettingsError, ShapeError


def test_outputs_are_logits_then_means_then_log_variances():
    raw = torch.randn(5, 14, dtype=torch.float64)
    p = lb.GaussianMixture(lb.constant(14), components=2).from_parameters(raw)
    means, log_variances = raw[:, 2:8].reshape(5, 2, 3), raw[:, 8:].reshape(5, 2, 3)
    expected = MixtureSameFamily(
        Categorical(logits=raw[:, :2]), Independent(Normal(means, (0.5 * log_variances).exp()), 1)
    )
    z = torch.randn(7, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(z), expected.log_prob(z), rtol=1e-4, atol=1e-4)


def make_parameters():
    logits = torch.tensor([0.2, -0.5, 0.4], dtype=torch.float64)
    loc = torch.tensor([[-1.0, 0.5], [1.5, 1.0], [0.5, -2.0]], dtype=torch.float64)
    log_scale = torch.tensor([[-0.3, 0.2], [0.1, -0.6], [0.0, 0.4]], dtype=torch.float64)
    return [each.requires_grad_() for each in (logits, loc, log_scale)]


def compute_levels(z, logits, loc, log_scale):
    """The two conditional distribution functions of an entry given those before, written out."""
    shares = logits.softmax(0)
    first = Normal(loc[:, 0], log_scale[:, 0].exp())
    second = Normal(loc[:, 1], log_scale[:, 1].exp())
    u = (shares * first.cdf(z[0])).sum()
    posterior = shares * first.log_prob(z[0]).exp()
    posterior = posterior / posterior.sum()
    return torch.stack([u, (posterior * second.cdf(z[1])).sum()])


def invert(levels, parameters):
    z = []
    for place in range(2):

        def difference(value, place=place):
            point = torch.tensor([*z, value, 0.0][:2], dtype=torch.float64)
            return float(compute_levels(point, *parameters)[place] - levels[place])

        z.append(scipy.optimize.brentq(difference, -15, 15, xtol=1e-13, rtol=1e-13))
    return torch.tensor(z, dtype=torch.float64)


@pytest.mark.parametrize("point", [(-0.7, 0.3), (2.0, -1.0), (4.0, 3.0)])
def test_the_gradient_is_that_of_an_inverted_distribution_function(point):
    parameters = make_parameters()
    logits, loc, log_scale = parameters
    z = torch.tensor(point, dtype=torch.float64)
    attached = reparameterise(z, DiagonalNormal(loc, log_scale), logits.log_softmax(0))
    assert torch.equal(attached, z)
    levels = compute_levels(z, *parameters).detach()
    for place in range(2):
        found = torch.autograd.grad(attached[place], parameters, retain_graph=True)
        for number, gradient in enumerate(found):
            for index in range(gradient.numel()):
                moved = []
                for step in (1e-5, -1e-5):
                    changed = [each.detach().clone() for each in parameters]
                    changed[number].view(-1)[index] += step
                    moved.append(invert(levels, changed)[place])
                expected = float(moved[0] - moved[1]) / 2e-5
                assert float(gradient.view(-1)[index]) == pytest.approx(expected, abs=2e-6)


def test_mean_gradients_are_those_of_the_first_two_moments():
    """15 derivatives of three functions, each within four standard errors."""
    parameters = make_parameters()
    logits, loc, log_scale = parameters
    copies = 6000
    many = [each.expand(copies, *each.shape) for each in parameters]
    a, c = torch.tensor([1.0, -0.5], dtype=torch.float64), 0.7

    def of_moments():
        q = Mixture(DiagonalNormal(loc, log_scale), logits)
        second = (logits.softmax(0) * loc.prod(1)).sum()
        return q.mean @ a, c * second, (q.variance + q.mean.square()).sum()

    for place, of_draws in enumerate(
        (lambda z: z @ a, lambda z: c * z.prod(-1), lambda z: z.square().sum(-1))
    ):
        draws = Mixture(DiagonalNormal(many[1], many[2]), many[0]).rsample()
        found = torch.autograd.grad(of_draws(draws).sum(), many)
        expected = torch.autograd.grad(
            of_moments()[place], parameters, allow_unused=True, materialize_grads=True
        )
        for each, wanted in zip(found, expected, strict=True):
            error = each.std(0) / math.sqrt(copies)
            assert ((each.mean(0) - wanted).abs() < 4 * error).all()


def test_single_precision_and_far_components_keep_the_gradient_finite():
    loc = torch.tensor([[[-50.0] * 20, [50.0] * 20]]).requires_grad_()
    log_scale = torch.full((1, 2, 20), -3.0).requires_grad_()
    logits = torch.tensor([[3.0, -3.0]]).requires_grad_()
    z = Mixture(DiagonalNormal(loc, log_scale), logits).rsample((200,))
    gradients = torch.autograd.grad(z.square().sum(), [loc, log_scale, logits])
    assert all(each.isfinite().all() for each in gradients)


def test_without_gradients_draws_are_the_same():
    q = Mixture(DiagonalNormal(*make_parameters()[1:]), torch.zeros(3, dtype=torch.float64))
    torch.manual_seed(1)
    drawn = q.sample((5,))
    torch.manual_seed(1)
    assert torch.equal(q.rsample((5,)), drawn)
    binary = Mixture(FactorialBernoulli(torch.zeros(2, 3)), torch.zeros(2))
    assert not binary.has_rsample
    with pytest.raises(NotImplementedError):
        binary.rsample()


def test_expectation_maximisation_finds_two_clusters():
    truth = torch.tensor([[-3.0, 1.0], [2.0, -1.0]])
    chosen = (torch.arange(600) % 3 == 0).long()
    z = truth[chosen] + 0.3 * torch.randn(600, 2)
    prior = lb.MixturePrior(2, components=2)
    prior.start_from_latents(z)
    mixture = prior()
    order = mixture.components.mean[:, 0].argsort()
    torch.testing.assert_close(mixture.components.mean[order], truth, atol=0.06, rtol=0)
    weights = mixture.log_weights.exp()[order]
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 1 / 3]), atol=0.02, rtol=0)
    torch.testing.assert_close(
        mixture.components.stddev, torch.full((2, 2), 0.3), atol=0.06, rtol=0
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lb.MixturePrior(2, 0), SettingsError, "components"),
        (lambda: lb.MixturePrior(2, 3, spread=0.0), SettingsError, "spread=0.0 must be"),
        (
            lambda: lb.GaussianMixture(lb.mlp(4, 10), components=3),
            ShapeError,
            r"3 components over J dimensions need 3 \(2 J \+ 1\) outputs; the network gives \(10,\)"
            r" \(9 for J = 1, 15 for J = 2\)",
        ),
        (lambda: lb.GaussianMixture(lb.mlp(4, 12), components=3), ShapeError, "3 components"),
        (
            lambda: lb.VampPrior(lb.Gaussian(torch.nn.Linear(4, 4)), 5),
            SettingsError,
            "declares its input_shape",
        ),
    ],
)
def test_invalid_mixtures_say_why(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_number_of_pseudo_inputs_starts_at_training_examples():
    data = (torch.rand(40, 6) < 0.3).float()
    encoder = lb.Gaussian(lb.mlp(6, 8, 4))
    vae = lb.LatentModel(lb.VampPrior(encoder, 5), encoder, lb.Bernoulli(lb.mlp(2, 8, 6)))
    before = vae.prior.pseudo_inputs.detach().clone()
    lb.fit(vae, lb.ELBO(), data, epochs=1, learning_rate=1e-9, progress=False)
    expected = data[torch.linspace(0, 39, 5).round().long()]
    torch.testing.assert_close(vae.prior.pseudo_inputs.detach(), expected)
    given = lb.VampPrior(encoder, before)
    given.start_prior_from(data)
    assert torch.equal(given.pseudo_inputs, before)
