"""The log likelihood by importance sampling: its draws, its memory, and its warnings."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zuko
from scipy import stats
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

import lowerbound as lb
from lowerbound.errors import DataError, DoubtfulEstimateWarning, SettingsError, ShapeError
from lowerbound.evaluation.pareto import pareto_shape, reliable_shape, tail_length

sys.path.insert(0, str(Path(__file__).parent))
from peak_memory import measure_peak_memory

DOUBLE = torch.float64


class Counting(nn.Module):
    """A decoder that counts what it decodes."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.output_shape = network.output_shape
        self.decoded = 0

    def forward(self, z):
        self.decoded += z.shape[:-1].numel()
        return self.network(z)


def linear_vae(shift: float = 0.3) -> tuple[lb.LatentModel, MultivariateNormal]:
    """A linear Gaussian decoder with a posterior that is a little off, and the exact evidence."""
    torch.manual_seed(3)
    loadings = torch.linalg.qr(torch.randn(5, 2, dtype=DOUBLE))[0] * 1.5
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(5, 4)),
        lb.Gaussian(Counting(lb.mlp(2, 5)), scale=0.4),
    ).double()
    precision = torch.eye(2, dtype=DOUBLE) + loadings.T @ loadings / 0.16
    encoder, decoder = model.posterior.network.layers[0], model.likelihood.network.network.layers[0]
    with torch.no_grad():
        encoder.weight.copy_(
            torch.cat([torch.linalg.solve(precision, loadings.T / 0.16), torch.zeros(2, 5)])
        )
        encoder.bias.copy_(torch.cat([torch.full((2,), shift), -precision.diagonal().log() + 0.4]))
        decoder.weight.copy_(loadings)
        decoder.bias.zero_()
    return model, MultivariateNormal(
        torch.zeros(5, dtype=DOUBLE), loadings @ loadings.T + 0.16 * torch.eye(5, dtype=DOUBLE)
    )


def test_the_estimate_is_log_p_of_x():
    """Within 5 standard errors of its Monte-Carlo error: one false alarm in 10^6 runs."""
    model, evidence = linear_vae()
    x = evidence.sample((20,))
    estimate = lb.log_likelihood(model, x, samples=20_000)
    error = (1 / estimate.effective_sample_sizes - 1 / 20_000).sqrt()
    assert ((estimate.per_example - evidence.log_prob(x)).abs() < 5 * error).all()
    assert estimate.warning is None
    assert estimate.terms["elbo"].mean < estimate.mean


@pytest.mark.parametrize(
    ("batch_size", "chunk_size"), [(None, None), (1, 1), (3, 7), (7, 64), (4, 100), (100, 1000)]
)
def test_as_many_samples_are_decoded_as_asked_and_chunks_change_nothing(batch_size, chunk_size):
    model, evidence = linear_vae()
    x = evidence.sample((10,))
    whole = lb.log_likelihood(model, x, samples=100, batch_size=10, chunk_size=100)
    model.likelihood.network.decoded = 0
    parts = lb.log_likelihood(model, x, samples=100, batch_size=batch_size, chunk_size=chunk_size)
    assert model.likelihood.network.decoded == 100 * 10
    torch.testing.assert_close(parts.per_example, whole.per_example, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        parts.effective_sample_sizes, whole.effective_sample_sizes, rtol=1e-9, atol=0
    )
    torch.testing.assert_close(parts.pareto_k, whole.pareto_k, rtol=1e-9, atol=1e-9)


def test_binary_pixels_and_flows_have_the_same_noise_in_any_chunks():
    flow = lb.LatentModel(
        lb.StandardNormal(2),
        zuko.flows.MAF(2, 6, transforms=1, hidden_features=(8,)),
        lb.Bernoulli(lb.mlp(2, 6)),
    ).double()
    data = lb.Examples.of(torch.randint(256, (9, 6), dtype=torch.uint8)).prepare("binarize")
    whole = lb.log_likelihood(flow, data, samples=50, batch_size=9, chunk_size=50)
    parts = lb.log_likelihood(flow, data, samples=50, batch_size=2, chunk_size=13)
    torch.testing.assert_close(parts.per_example, whole.per_example, rtol=1e-12, atol=1e-12)


class Plain(nn.Module):
    """A posterior of torch's own distributions."""

    def __init__(self):
        super().__init__()
        self.network = lb.mlp(5, 2)

    def forward(self, x):
        return Independent(Normal(self.network(x), 0.7), 1)


def test_distributions_of_torch_have_the_examples_noise_too():
    model, evidence = linear_vae()
    model.posterior = Plain().double()
    x = evidence.sample((10,))
    whole, parts = (
        lb.log_likelihood(model, x, 60, batch_size=size, chunk_size=chunk)
        for size, chunk in ((10, 60), (3, 7))
    )
    torch.testing.assert_close(parts.per_example, whole.per_example, rtol=1e-12, atol=1e-12)
    a, b = (lb.evaluate(model, lb.ELBO(3), x, batch_size=size).per_example for size in (10, 3))
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_it_is_the_importance_weighted_bound_of_as_many_samples():
    model, evidence = linear_vae()
    x = evidence.sample((10,))
    bound = lb.evaluate(model, lb.IWAE(64), x, seed=4)
    estimate = lb.log_likelihood(model, x, samples=64, seed=4, chunk_size=5)
    torch.testing.assert_close(estimate.per_example, bound.per_example, rtol=1e-12, atol=1e-12)


def test_a_posterior_that_fits_badly_is_doubtful():
    model, evidence = linear_vae(shift=3.0)
    x = evidence.sample((10,))
    bad = lb.log_likelihood(model, x, samples=1000)
    assert bad.doubtful.all()
    assert "10 of 10 examples is not to be trusted" in bad.warning
    assert "k-hat" in bad.warning
    assert "doubtful=10 of 10" in repr(bad)
    assert "1 draw of z cannot tell" in lb.log_likelihood(model, x, samples=1).warning


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_a_posterior_that_is_exact_is_trusted(dtype):
    model, evidence = linear_vae(shift=0.0)
    with torch.no_grad():
        model.posterior.network.layers[0].bias[2:].sub_(0.4)
    estimate = lb.log_likelihood(model.to(dtype), evidence.sample((10,)).to(dtype), samples=1000)
    assert estimate.effective_sample_sizes.min() > 999.9
    assert estimate.warning is None


def test_weights_that_are_all_zero_give_minus_infinity():
    model, evidence = linear_vae()
    with torch.no_grad():
        model.likelihood.network.network.layers[0].bias.fill_(1e200)
    assert (lb.log_likelihood(model, evidence.sample((3,)), 100).per_example == -math.inf).all()


def test_progress_can_be_watched():
    model, evidence = linear_vae()
    seen = []

    def progress(done, total):
        seen.append((done, total))

    lb.log_likelihood(model, evidence.sample((10,)), samples=10, batch_size=4, progress=progress)
    assert seen == [(4, 10), (8, 10), (10, 10)]
    seen.clear()
    binary = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(5, 4)), lb.Bernoulli(lb.mlp(2, 5))
    )  # whose data are checked first, which is not progress
    lb.log_likelihood(binary, torch.zeros(10, 5), samples=10, batch_size=4, progress=progress)
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_bad_requests_are_refused():
    with pytest.raises(
        SettingsError, match=r"evaluate: model must be a lowerbound\.Model, not ELBO"
    ):
        lb.evaluate(lb.ELBO(), linear_vae()[0], torch.zeros(3, 5))
    model, _ = linear_vae()
    with pytest.raises(SettingsError, match="log_likelihood: samples=0"):
        lb.log_likelihood(model, torch.zeros(3, 5), samples=0)
    with pytest.raises(SettingsError, match="seed=-1"):
        lb.log_likelihood(model, torch.zeros(3, 5), seed=-1)
    with pytest.raises(ShapeError, match="do not fit the model"):
        lb.log_likelihood(model, torch.zeros(3, 4))
    binary = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(5, 4)), lb.Bernoulli(lb.mlp(2, 5))
    )
    with pytest.raises(DataError, match="grey values"):
        lb.log_likelihood(binary, torch.full((3, 5), 0.5))


def test_memory_is_bounded_whatever_the_samples():
    """20,000 samples of a picture take no more memory than 10,000; both are split into chunks.

    All logits of one picture together would take 63 MB.
    """
    q, p = lb.Gaussian(lb.mlp(784, 4)), lb.Bernoulli(lb.mlp(2, 784))
    vae = lb.LatentModel(lb.StandardNormal(2), q, p)

    def measure(samples):
        return measure_peak_memory(lambda: lb.log_likelihood(vae, torch.zeros(2, 784), samples))

    some, more = measure(10_000), measure(20_000)
    assert some < 16
    assert more < 1.05 * some


# The weights' tail


def test_the_shape_of_a_tail_is_found():
    """Draws from known distributions.

    The tolerance is 4 times the standard deviation of the estimator.
    """
    for shape in (0.2, 0.5, 0.9):
        draws = stats.genpareto(shape).rvs(100_000 * 4, random_state=0).reshape(100_000, 4)
        largest = np.sort(np.log(draws), 0)[-(tail_length(100_000) + 1) :]
        found = pareto_shape(torch.from_numpy(largest))
        assert (found - shape).abs().max() < 0.16
    normal = np.random.default_rng(0).standard_normal((100_000, 4))
    assert (pareto_shape(torch.from_numpy(np.sort(0.1 * normal, 0)[-950:])) < 0.2).all()


def test_tails_without_a_shape():
    assert pareto_shape(torch.zeros(100, 2)).tolist() == [-math.inf, -math.inf]
    assert pareto_shape(torch.randn(4, 2)).isnan().all()
    assert math.isfinite(float(pareto_shape(torch.tensor([[0.0]] * 50 + [[500.0]]))))


def test_fewer_samples_need_a_lighter_tail():
    assert reliable_shape(100) == pytest.approx(0.5)
    assert reliable_shape(5000) == 0.7
    assert [tail_length(n) for n in (10, 100, 5000)] == [2, 20, 213]


def test_a_model_that_overrides_draw_is_evaluated_with_it():
    class Shifted(lb.LatentModel):
        def draw(self, x, samples=1, gradient="pathwise"):
            honest = super().draw(x, samples, gradient)
            return replace(honest, likelihood_term=lambda: honest.likelihood_term() + 100)

    torch.manual_seed(0)
    parts = lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
    x = torch.randn(9, 6)
    plain, shifted = (
        lb.log_likelihood(kind(*parts), x, samples=20).mean for kind in (lb.LatentModel, Shifted)
    )
    assert shifted - plain == pytest.approx(100, abs=1e-3)


def test_doubtful_log_likelihoods_are_warned_of():
    model, evidence = linear_vae(shift=30.0)
    with pytest.warns(DoubtfulEstimateWarning, match="20 of 20 examples"):
        estimate = lb.log_likelihood(model, evidence.sample((20,)), samples=200)
    assert estimate.doubtful.all()
