"""Annealed importance sampling against closed forms and quadrature, in float64."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Gamma, Independent, MultivariateNormal

import lowerbound as lb
from lowerbound.conditionals import Conditional
from lowerbound.distributions import DiagonalNormal, FactorialBernoulli
from lowerbound.errors import DoubtfulEstimateWarning, SettingsError, ShapeError, UnsupportedError
from lowerbound.evaluation import chains
from lowerbound.evaluation.annealing import annealed_log_likelihood, bidirectional
from lowerbound.evaluation.chains import AnnealingPath
from lowerbound.evaluation.comparison import paired_difference
from lowerbound.runtime import noise

DOUBLE = torch.float64


@pytest.fixture
def short_pilot(monkeypatch):
    """For tests whose results need not be good: step sizes from ten temperatures, not a hundred."""
    monkeypatch.setattr(chains, "_PILOT_FEWEST", 10)


def linear_model(latent=2, dims=5, noise_scale=0.5) -> tuple[lb.LatentModel, MultivariateNormal]:
    """p(x|z) = N(W z + b, noise^2) with an arbitrary encoder, and the evidence."""
    shape = torch.Size([latent] if isinstance(latent, int) else latent)
    model = lb.LatentModel(
        lb.StandardNormal(latent),
        lb.Gaussian(lb.mlp(dims, (2 * shape[0], *shape[1:]))),
        lb.Gaussian(lb.mlp(latent, dims), scale=noise_scale),
    ).double()
    layer = model.likelihood.network.layers[0]
    with torch.no_grad():
        layer.weight.copy_(torch.randn(dims, math.prod(shape), dtype=DOUBLE))
        layer.bias.copy_(torch.randn(dims, dtype=DOUBLE))
    weight, offset = layer.weight.detach(), layer.bias.detach()
    return model, MultivariateNormal(
        offset, weight @ weight.T + noise_scale**2 * torch.eye(dims, dtype=DOUBLE)
    )


def tempered_posterior(model: lb.LatentModel, x: torch.Tensor, beta: float) -> MultivariateNormal:
    """p(z) p(x|z)^beta, normalised, of a linear model."""
    layer, precision = (
        model.likelihood.network.layers[0],
        beta * torch.exp(-2 * model.likelihood.log_scale).double(),
    )
    weight = layer.weight.detach()
    total = torch.eye(weight.shape[1], dtype=DOUBLE) + precision * weight.T @ weight
    mean = torch.linalg.solve(total, precision * weight.T @ (x - layer.bias.detach()).T).T
    return MultivariateNormal(mean, precision_matrix=total)


def curved_model(likelihood: str, dims=6) -> lb.LatentModel:
    """Two latents and a decoder that folds them, so that posteriors have several modes."""
    decoder = lb.mlp(2, 8, dims, activation="tanh")
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(dims, 4)),
        lb.Bernoulli(decoder) if likelihood == "bernoulli" else lb.Gaussian(decoder, scale=0.6),
    ).double()
    folding, mixing = (layer for layer in decoder.layers if isinstance(layer, nn.Linear))
    with torch.no_grad():
        folding.weight.normal_(0, 2)
        folding.bias.normal_(0, 1)
        mixing.weight.normal_(0, 1.0 if likelihood == "bernoulli" else 0.5)
        mixing.bias.normal_(0, 0.5)
    return model


@torch.no_grad()
def on_a_grid(
    model: lb.LatentModel, x: torch.Tensor, side: int = 200, reach: float = 6.0
) -> torch.Tensor:
    """log p(x, z) dz at the midpoints of a grid, ``[side, side, B]``."""
    edges = torch.linspace(-reach, reach, side + 1, dtype=DOUBLE)
    z = torch.cartesian_prod(*[(edges[1:] + edges[:-1]) / 2] * 2)[:, None]
    joint = model.prior().log_prob(z) + model.likelihood(z).log_prob(x)
    return (joint + 2 * math.log(2 * reach / side)).reshape(side, side, len(x))


def modes(log_joint: torch.Tensor) -> torch.Tensor:
    """The number of local maxima that are at least a tenth as high as the highest one, ``[B]``."""
    images = log_joint.permute(2, 0, 1)[:, None]
    peaks = (nn.functional.max_pool2d(images, 3, 1, 1) == images) & (
        images > images.amax((2, 3), True) - math.log(10)
    )
    return peaks.sum((1, 2, 3))


def within(values: torch.Tensor, expected: float | torch.Tensor, errors: float = 4) -> bool:
    """Whether means over the first dimension are as expected, to ``errors`` standard errors."""
    deviation = (values.mean(0) - expected).abs()
    return bool((deviation < errors * values.std(0) / math.sqrt(len(values))).all())


# Linear Gaussian models, whose evidence is known


def test_both_sides_enclose_the_evidence():
    """At 4 standard errors over examples: one false alarm in 30,000 runs for each side."""
    model, evidence = linear_model()
    interval = bidirectional(model, 40, distributions=100, chains=48, leapfrog_steps=3)
    truth = evidence.log_prob(interval.examples)
    for side in (interval.lower.per_example - truth, truth - interval.upper.per_example):
        assert float(side.mean()) < 4 * float(side.std()) / math.sqrt(len(side))
    assert interval.gap.standard_error < 0.1
    assert -4 * interval.gap.standard_error < interval.gap.mean < 0.15
    assert interval.gap.per_example.shape == (40,)
    assert interval.gap.mean == pytest.approx(interval.upper.mean - interval.lower.mean)
    assert "gap=" in repr(interval)
    assert "examples=40" in str(interval)


@pytest.mark.parametrize(("distributions", "count"), [(4, 300), (10, 100)], ids=["4", "10"])
def test_weights_have_the_evidence_as_their_mean(distributions, count):
    """E[w] = p(x) and E[1 / w'] = 1 / p(x) for any number of distributions.

    At 4 standard errors there is one false alarm in 16,000 runs for each.
    """
    model, evidence = linear_model(dims=2, noise_scale=2.0)
    interval = bidirectional(model, count, distributions=distributions, chains=80, leapfrog_steps=2)
    truth = evidence.log_prob(interval.examples)
    for ratio in (
        (interval.lower.per_example - truth).exp(),
        (truth - interval.upper.per_example).exp(),
    ):
        assert within(ratio, 1.0)
        assert float(ratio.std()) / math.sqrt(len(ratio)) < 0.015


def test_two_distributions_are_importance_sampling_from_the_prior():
    model, evidence = linear_model()
    x = evidence.sample((3,))
    estimate = annealed_log_likelihood(
        model, x, distributions=2, chains=50, leapfrog_steps=1, seed=4
    )
    with noise.per_example(4, torch.arange(3)), torch.no_grad():
        z = noise.standard_normal((50, 3, 2), 1, dtype=DOUBLE)
        expected = model.likelihood(z).log_prob(x).logsumexp(0) - math.log(50)
    torch.testing.assert_close(estimate.per_example, expected, rtol=1e-12, atol=1e-12)
    assert estimate.acceptance.isnan().all()


@pytest.mark.parametrize("beta", [0.2, 1.0])
def test_transitions_leave_their_distribution_invariant(beta):
    """Means, variances and covariance of 20,000 chains.

    At 4 standard errors there is one false alarm in 1,600 runs.
    """
    model, evidence = linear_model()
    x = evidence.sample((2,))
    posterior = tempered_posterior(model, x, beta)
    path = AnnealingPath(model, x, {"distributions": 2, "leapfrog_steps": 3})
    step = torch.full(
        (2,), 1.2 / float(posterior.precision_matrix.diagonal(0, -2, -1).max()) ** 0.5, dtype=DOUBLE
    )
    whiten = torch.linalg.inv(torch.linalg.cholesky(posterior.covariance_matrix[0]))
    with torch.no_grad():
        state = path.make_state(posterior.sample((20_000,)))
        start = state.z
        for _ in range(4):
            state, chance = path.transition(state, beta, step)
    assert 0.2 < float(chance.mean()) < 0.9
    assert float((state.z - start).abs().mean()) > 0.1
    u = (state.z - posterior.mean) @ whiten.T
    assert within(u, 0.0)
    assert within(u.square(), 1.0)
    assert within(u[..., 0] * u[..., 1], 0.0)


@pytest.mark.usefixtures("short_pilot")
def test_latents_of_any_shape():
    """The same model with its latents as an image, on the same noise."""
    (flat, evidence), (image, _) = linear_model(4), linear_model((2, 1, 2))
    image.likelihood.load_state_dict(flat.likelihood.state_dict())
    x = evidence.sample((3,))
    settings = {"distributions": 10, "chains": 3, "leapfrog_steps": 2}
    results = [annealed_log_likelihood(model, x, **settings).per_example for model in (flat, image)]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


# Curved decoders, against quadrature


@pytest.mark.parametrize(
    ("likelihood", "distributions", "chains"), [("bernoulli", 60, 1500), ("gaussian", 100, 2000)]
)
def test_two_latents_agree_with_quadrature(likelihood, distributions, chains):
    """Within 0.05 nats, which is at least four standard deviations of an estimate.

    There is at most one false alarm in 5,000 runs.
    """
    model = curved_model(likelihood)
    x = model.sample(60, seed=0)
    x = x[modes(on_a_grid(model, x, side=100)).topk(3).indices]
    coarse, fine = on_a_grid(model, x), on_a_grid(model, x, side=300)
    assert int(modes(coarse).min()) >= 2
    truth = coarse.flatten(0, 1).logsumexp(0)
    torch.testing.assert_close(fine.flatten(0, 1).logsumexp(0), truth, rtol=0, atol=1e-6)
    settings = {"distributions": distributions, "chains": chains, "leapfrog_steps": 3}
    estimate = annealed_log_likelihood(model, x, check_length=False, **settings)
    assert float((estimate.per_example - truth).abs().max()) < 0.05
    # The standard deviation of the logarithm of a mean weight.
    deviation = (1 / estimate.effective_sample_sizes - 1 / chains).sqrt()
    assert float(deviation.max()) < 0.0125
    assert 0.4 < float(estimate.acceptance.min()) <= float(estimate.acceptance.max()) < 0.9


class _Undefined(nn.Module):
    """N(log(1 - z), 1), which is nan for z > 1."""

    def forward(self, z):
        return DiagonalNormal((1 - z).log(), torch.zeros((), dtype=z.dtype))


def test_densities_that_are_nan_count_as_zero():
    """Within 0.05 nats of quadrature, which is about five standard deviations."""
    model = lb.LatentModel(lb.StandardNormal(1), lb.Gaussian(lb.mlp(1, 2)), _Undefined()).double()
    with torch.no_grad():
        model.posterior.network.layers[0].bias.copy_(torch.tensor([-9.0, -9.0]))
    x = torch.tensor([[-1.0], [1.0]], dtype=DOUBLE)
    z = torch.linspace(-12, 1, 200_001, dtype=DOUBLE)[:-1, None, None]
    joint = model.prior().log_prob(z) + model.likelihood(z.expand(-1, 2, -1)).log_prob(x)
    truth = joint.logsumexp(0) + math.log(13 / 200_000)
    estimate = annealed_log_likelihood(
        model, x, distributions=100, chains=1000, leapfrog_steps=3, check_length=False
    )
    assert float((estimate.per_example - truth).abs().max()) < 0.05


# Noise, modes, gradients


@pytest.mark.usefixtures("short_pilot")
def test_results_depend_neither_on_the_batches_nor_on_other_examples():
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Bernoulli(lb.mlp(2, 6))
    ).double()
    grey = lb.Examples.of(torch.rand(7, 6)).prepare("binarize")
    settings = {"distributions": 8, "chains": 3, "leapfrog_steps": 2, "seed": 5}
    whole = annealed_log_likelihood(model, grey, **settings)
    parts = annealed_log_likelihood(model, grey, batch_size=3, **settings)
    torch.testing.assert_close(parts.per_example, whole.per_example, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(parts.acceptance, whole.acceptance, rtol=1e-9, atol=1e-9)
    few = annealed_log_likelihood(model, grey.subset(torch.tensor([5, 2])), **settings)
    torch.testing.assert_close(few.per_example, whole.per_example[[5, 2]], rtol=1e-9, atol=1e-9)
    both = [bidirectional(model, 3, batch_size=size, **settings) for size in (None, 2)]
    assert torch.equal(both[0].examples, both[1].examples)
    for side in ("lower", "upper", "gap"):
        torch.testing.assert_close(
            *(getattr(interval, side).per_example for interval in both), rtol=1e-9, atol=1e-9
        )


@pytest.mark.usefixtures("short_pilot")
def test_the_seed_decides_and_the_rest_stays_as_it_was():
    model, evidence = linear_model()
    x = evidence.sample((3,))
    model.train()
    model.posterior.eval()
    modes_before = [module.training for module in model.modules()]
    random_before, weights = (
        torch.get_rng_state(),
        [parameter.clone() for parameter in model.parameters()],
    )
    settings = {"distributions": 5, "chains": 2, "leapfrog_steps": 2}
    first, again, other = (
        annealed_log_likelihood(model, x, seed=seed, **settings) for seed in (1, 1, 2)
    )
    assert torch.equal(first.per_example, again.per_example)
    assert not (first.per_example == other.per_example).any()
    assert torch.equal(
        *(bidirectional(model, 2, seed=1, **settings).gap.per_example for _ in range(2))
    )
    assert first.settings == {**settings, "seed": 1}
    assert first.per_example.dtype == DOUBLE
    assert [module.training for module in model.modules()] == modes_before
    assert torch.equal(torch.get_rng_state(), random_before)
    assert torch.is_grad_enabled()
    assert all(
        parameter.requires_grad and parameter.grad is None for parameter in model.parameters()
    )
    assert all(
        torch.equal(parameter, weight)
        for parameter, weight in zip(model.parameters(), weights, strict=True)
    )


@pytest.mark.usefixtures("short_pilot")
def test_float32_models_give_float64_results():
    model, evidence = linear_model()
    x = evidence.sample((4,))
    settings = {"distributions": 30, "chains": 30, "leapfrog_steps": 2}
    exact = annealed_log_likelihood(model, x, **settings)
    single = annealed_log_likelihood(model.float(), x.float(), **settings)
    assert single.per_example.dtype == DOUBLE
    torch.testing.assert_close(single.per_example, exact.per_example, rtol=0, atol=0.02)


# Doubt


def test_short_chains_do_not_declare_the_wrong_model_better():
    """Data of a sharp model A, and a blunter model B, whose posteriors are easier to reach.

    A is better by some nats per example, but with few distributions its estimate is far lower. With
    many both estimates are free of doubt, and their difference is that of the closed forms.
    """
    torch.manual_seed(1)
    weight = torch.randn(6, 2, dtype=DOUBLE)
    models, evidences = [], []
    for noise_scale in (0.1, 0.4):
        model, _ = linear_model(2, 6, noise_scale)
        layer = model.likelihood.network.layers[0]
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.zero_()
        covariance = weight @ weight.T + noise_scale**2 * torch.eye(6, dtype=DOUBLE)
        models.append(model)
        evidences.append(MultivariateNormal(torch.zeros(6, dtype=DOUBLE), covariance))
    x = models[0].sample(12, seed=1)
    truth = float((evidences[0].log_prob(x) - evidences[1].log_prob(x)).mean())
    assert truth > 2
    with pytest.warns(DoubtfulEstimateWarning, match="a few chains carry most of the weight"):
        short = [
            annealed_log_likelihood(model, x, distributions=6, leapfrog_steps=2) for model in models
        ]
    assert short[0].mean < short[1].mean
    assert short[0].doubtful_share > 0.5
    assert not paired_difference(*short).is_certain
    long = [
        annealed_log_likelihood(model, x, distributions=80, chains=100, leapfrog_steps=2)
        for model in models
    ]
    difference = paired_difference(*long)
    assert difference.is_certain
    assert difference.mean == pytest.approx(truth, abs=0.4)


def test_chains_of_half_the_length_do_not_change_the_estimate():
    """They estimate what chains of that length do: the mean of 50, within 5 standard errors."""
    model, evidence = linear_model()
    x = evidence.sample((50,))
    settings = {"distributions": 40, "chains": 8, "leapfrog_steps": 2}
    checked, plain = (
        annealed_log_likelihood(model, x, check_length=check, **settings) for check in (True, False)
    )
    assert torch.equal(checked.per_example, plain.per_example)
    assert plain.growth is None
    assert plain.shortfall == 0
    shorter = annealed_log_likelihood(
        model, x, check_length=False, **{**settings, "distributions": 20}
    )
    difference = checked.shorter - shorter.per_example
    assert abs(float(difference.mean())) < 5 * float(difference.std()) / len(x) ** 0.5
    assert not torch.equal(checked.shorter, checked.per_example)


@pytest.mark.usefixtures("short_pilot")
def test_the_halves_of_the_chains_average_to_the_estimate():
    model, evidence = linear_model()
    x = evidence.sample((5,))
    estimate = annealed_log_likelihood(model, x, distributions=20, chains=8, leapfrog_steps=2)
    together = estimate.halves.logsumexp(0) - math.log(2)
    torch.testing.assert_close(together, estimate.per_example, rtol=1e-9, atol=1e-9)


# Refusals


class _Prior(Conditional):
    def __init__(self, distribution):
        super().__init__()
        self.distribution = distribution

    def forward(self, *given):
        return self.distribution


class _Detached(nn.Module):
    def forward(self, z):
        return DiagonalNormal(z.detach(), torch.zeros((), dtype=z.dtype))


class _OneOfMyOwn(lb.Model):
    def draw(self, x, samples=1, gradient="pathwise"):
        raise NotImplementedError


def test_models_without_trajectories_are_refused_by_name():
    linear = linear_model()[0]

    def changed(**parts):
        kept = {
            "prior": linear.prior,
            "posterior": linear.posterior,
            "likelihood": linear.likelihood,
        }
        return lb.LatentModel(**{**kept, **parts})

    binary = FactorialBernoulli(torch.zeros(2, dtype=DOUBLE))
    positive = Independent(Gamma(torch.ones(2, dtype=DOUBLE), 1.0), 1)
    for model, words in (
        (
            _OneOfMyOwn(),
            "takes a lowerbound.LatentModel or .*, not a _OneOfMyOwn.*lb.log_likelihood",
        ),
        (
            changed(prior=_Prior(binary)),
            "FactorialBernoulli, whose latents are discrete or bounded.*lb.log_likelihood",
        ),
        (changed(prior=_Prior(positive)), "Independent, whose latents are discrete or bounded"),
    ):
        with pytest.raises(UnsupportedError, match=f"annealed_log_likelihood.* {words}"):
            annealed_log_likelihood(model, torch.zeros(2, 5, dtype=DOUBLE))
        with pytest.raises(UnsupportedError, match=f"bidirectional.* {words}"):
            bidirectional(model)
    detached = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(2, 4)), _Detached())
    with pytest.raises(
        UnsupportedError, match=r"has no gradient with respect to z.*lb\.log_likelihood"
    ):
        annealed_log_likelihood(detached, torch.zeros(2, 2))


@pytest.mark.parametrize(
    "settings",
    [
        {"distributions": 1},
        {"distributions": 2.5},
        {"chains": 0},
        {"leapfrog_steps": 0},
        {"seed": -1},
        {"batch_size": 0},
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings):
    model, _ = linear_model()
    ((name, _),) = settings.items()
    with pytest.raises(SettingsError, match=f"annealed_log_likelihood: {name}="):
        annealed_log_likelihood(model, torch.zeros(2, 5, dtype=DOUBLE), **settings)
    with pytest.raises(SettingsError, match=f"bidirectional: {name}="):
        bidirectional(model, **settings)


def test_other_mistakes_are_refused_by_name():
    model, _ = linear_model()
    with pytest.raises(SettingsError, match="bidirectional: count=0"):
        bidirectional(model, 0)
    with pytest.raises(ShapeError, match="do not fit the model"):
        annealed_log_likelihood(model, torch.zeros(2, 3, dtype=DOUBLE))
