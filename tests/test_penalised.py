"""Objectives that penalise the aggregate posterior or the decoder, against closed forms."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import Independent, MultivariateNormal, Normal

import lowerbound as lb
from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.objectives.discrepancy import compute_discrepancy
from lowerbound.objectives.regularised import estimate_squared_jacobian
from lowerbound.objectives.total_correlation import compute_log_weights
from lowerbound.training.optim import make_optimizer

sys.path.insert(0, str(Path(__file__).parent))
from test_compiling import assert_agreement, make_step
from test_groups import two_layers

DOUBLE = torch.float64


class AroundX(nn.Module):
    """The identity of x, with noise of this scale."""

    def __init__(self, scale):
        super().__init__()
        self.log_variance = 2 * math.log(scale)

    def forward(self, x):
        return torch.cat([x, torch.full_like(x, self.log_variance)], -1)


def around_x(scale, units=3):
    """A model whose posterior is N(x, scale^2)."""
    return lb.LatentModel(
        lb.StandardNormal(units),
        lb.Gaussian(AroundX(scale), min_scale=1e-4),
        lb.Gaussian(lb.mlp(units, units), scale=1.0),
    ).double()


def vae(posterior=None, units=2):
    return lb.LatentModel(
        lb.StandardNormal(units),
        posterior or lb.Gaussian(lb.mlp(6, 8, 2 * units, activation="tanh")),
        lb.Gaussian(lb.mlp(units, 8, 6, activation="tanh"), scale=0.5),
    )


def point_vae():
    return vae(lb.Point(lb.mlp(6, 8, 2, activation="tanh")))


def gradients_of(loss, model):
    found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    return torch.cat([gradient.flatten() for gradient in found])


# Total correlation


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_the_mutual_information_of_separated_posteriors_is_log_n(batch):
    """A stratified weight in a column, where the diagonal belongs, gives log(B) instead."""
    model = around_x(scale=0.001)
    draw = model.draw(10 * torch.randn(batch, 3, dtype=DOUBLE), samples=2)
    parts = lb.BetaTCVAE(size=60_000, samples=2).parts(draw)
    expected = torch.full((batch,), math.log(60_000), dtype=DOUBLE)
    torch.testing.assert_close(parts["mutual information"], expected, rtol=0, atol=1e-6)


def test_the_stratified_weights_estimate_the_aggregate_without_bias():
    """Over all batches with example 0, their mean is the mixture of all posteriors, for any z."""
    size, batch = 6, 3
    densities = torch.rand(size, dtype=DOUBLE)
    weights = compute_log_weights(batch, size).exp()
    torch.testing.assert_close(weights.sum(1), torch.ones(batch, dtype=DOUBLE))
    for place in range(batch):
        estimates = []
        for others in itertools.permutations(range(1, size), batch - 1):
            members = [*others[:place], 0, *others[place:]]
            estimates.append(float((weights[place] * densities[members]).sum()))
        assert sum(estimates) / len(estimates) == pytest.approx(float(densities.mean()), rel=1e-12)


def test_the_parts_are_those_written_out():
    model, size = around_x(scale=0.7), 20
    x = torch.randn(4, 3, dtype=DOUBLE)
    draw = model.draw(x, samples=2)
    found = lb.BetaTCVAE(size=size, samples=2).parts(draw)
    for i in range(4):
        information, correlation, dimensions = [], [], []
        for k in range(2):
            z = draw.z[k, i]
            density = Normal(x, 0.7).log_prob(z).exp()
            weights = torch.tensor([19 / (20 * 3)] * 4, dtype=DOUBLE)
            weights[i] = 1 / 20
            log_q, log_units = density[i].log().sum(), (weights @ density).log()
            log_joint = (weights @ density.prod(1)).log()
            information.append(log_q - log_joint)
            correlation.append(log_joint - log_units.sum())
            dimensions.append(log_units.sum() - Normal(0.0, 1.0).log_prob(z).sum())
        expected = [sum(part) / 2 for part in (information, correlation, dimensions)]
        torch.testing.assert_close([part[i] for part in found.values()], expected)


def test_the_parts_add_up_to_the_rate():
    model = vae().double()
    draw = model.draw(torch.randn(5, 6, dtype=DOUBLE), 4)
    parts = lb.BetaTCVAE(size=100, samples=4).parts(draw)
    torch.testing.assert_close(sum(parts.values()), draw.sampled_rate)
    found = gradients_of(lb.BetaTCVAE(1.0, 1.0, 1.0, size=100, samples=4)(draw).mean(), model)
    expected = gradients_of(lb.ELBO(4, "sampled")(draw).mean(), model)
    torch.testing.assert_close(found, expected)


def test_each_part_has_its_weight():
    model = vae().double()
    draw = model.draw(torch.randn(5, 6, dtype=DOUBLE))
    objective = lb.BetaTCVAE(2.0, 3.0, 5.0, size=100)
    parts = objective.parts(draw).values()
    value = draw.log_likelihood.mean(0) - sum(
        weight * part for weight, part in zip((2.0, 3.0, 5.0), parts, strict=True)
    )
    torch.testing.assert_close(
        gradients_of(objective(draw).mean(), model), gradients_of(value.mean(), model)
    )
    torch.testing.assert_close(objective.terms(draw)["bound"], lb.ELBO().bound(draw))


def test_the_size_of_the_data_comes_from_fit():
    data = torch.randn(40, 6)
    run = lb.fit(vae(), lb.BetaTCVAE(), data, validation=0.25, epochs=1, progress=False)
    assert run.objective.size == 30
    assert lb.evaluate(run.model, run.objective, data).terms["total correlation"]
    given = lb.fit(vae(), lb.BetaTCVAE(size=7), data, epochs=1, progress=False)
    assert given.objective.size == 7
    with pytest.raises(SettingsError, match=r"size of the data is not known.*run\.objective"):
        lb.evaluate(run.model, lb.BetaTCVAE(), data)


# Covariances


@pytest.mark.parametrize("version", ["I", "II"])
def test_the_covariance_is_estimated_without_bias(version):
    x = torch.randn(7, 3, dtype=DOUBLE)
    found = lb.DIPVAE(version).covariance(around_x(scale=0.5).draw(x))
    within = 0.25 if version == "II" else 0.0
    torch.testing.assert_close(found, torch.cov(x.T) + within * torch.eye(3, dtype=DOUBLE))


def test_the_covariance_of_correlated_posteriors_counts():
    model = vae(lb.FullRankGaussian(lb.mlp(6, 5))).double()
    draw = model.draw(torch.randn(7, 6, dtype=DOUBLE))
    expected = torch.cov(draw.q.mean.T) + draw.q.covariance_matrix.mean(0)
    torch.testing.assert_close(lb.DIPVAE("II").covariance(draw), expected)


def test_points_have_no_covariance_of_their_own():
    draw = point_vae().draw(torch.randn(7, 6))
    covariances = [lb.DIPVAE(version).covariance(draw) for version in ("I", "II")]
    torch.testing.assert_close(*covariances)


def test_the_penalty_on_covariances_is_the_one_written_out():
    model = around_x(scale=0.5)
    draw = model.draw(torch.randn(7, 3, dtype=DOUBLE))
    objective = lb.DIPVAE("II", off_diagonal=2.0, diagonal=3.0)
    c = objective.covariance(draw)
    expected = sum(
        2.0 * c[i, j] ** 2 if i != j else 3.0 * (c[i, i] - 1) ** 2
        for i in range(3)
        for j in range(3)
    )
    torch.testing.assert_close(objective.penalty(draw), expected.expand(7))
    torch.testing.assert_close(objective.bound(draw), lb.ELBO().bound(draw))
    one = lb.DIPVAE("I").penalty(model.draw(torch.randn(1, 3, dtype=DOUBLE)))
    torch.testing.assert_close(one, torch.tensor([30.0], dtype=DOUBLE))


# Discrepancies


def mean_of_rbf(shift, variance, width, units):
    """The mean of exp(-|d|^2 / width) for d of N(shift, variance) in each unit."""
    spread = width + 2 * variance
    return (width / spread) ** (units / 2) * math.exp(-units * shift**2 / spread)


def test_the_discrepancy_of_gaussians_has_its_closed_form():
    """N(1, 4) and N(0, 1) over 3 units; the estimate within 4 standard errors of 400 batches."""
    width, units = 3.0, 3
    expected = (
        mean_of_rbf(0, 2 * 4, width, units)
        + mean_of_rbf(0, 2, width, units)
        - 2 * mean_of_rbf(1, 5, width, units)
    )
    z, y = 1 + 2 * torch.randn(400, 20, units), torch.randn(400, 20, units)
    estimates = torch.stack(
        [
            compute_discrepancy(a[None], b[None], "rbf", [width / (2 * units)]).mean()
            for a, b in zip(z, y, strict=True)
        ]
    )
    error = float(estimates.std()) / 20
    assert float(estimates.mean()) == pytest.approx(expected, abs=4 * error)
    assert error < 0.05 * expected


@pytest.mark.parametrize("kernel", ["imq", "rbf"])
def test_equal_distributions_have_no_discrepancy_on_average(kernel):
    z, y = torch.randn(2, 200, 5, 2)
    found = compute_discrepancy(z, y, kernel)
    of_batches = torch.stack(
        [compute_discrepancy(a[None], b[None], kernel).mean() for a, b in zip(z, y, strict=True)]
    )
    assert found.shape == (5,)
    torch.testing.assert_close(found.mean(), of_batches.mean())
    assert abs(float(of_batches.mean())) < 4 * float(of_batches.std()) / math.sqrt(200)
    assert (of_batches < 0).any()


def test_the_inverse_multiquadratic_is_the_mean_over_scales():
    z, y = torch.tensor([[[0.0], [3.0]]]), torch.tensor([[[1.0], [1.0]]])

    def kernel(r):
        return sum(2 * s / (2 * s + r**2) for s in (0.5, 2.0)) / 2

    expected = kernel(3) + kernel(0) - kernel(1) - kernel(2)
    found = compute_discrepancy(z, y, "imq", (0.5, 2.0))
    torch.testing.assert_close(found, torch.full((2,), expected))


def test_info_vae_without_extra_weights_is_the_elbo():
    model = vae().double()
    draw = model.draw(torch.randn(5, 6, dtype=DOUBLE))
    objective = lb.InfoVAE(alpha=0.0, weight=1.0)
    torch.testing.assert_close(objective.bound(draw), lb.ELBO().bound(draw))
    torch.testing.assert_close(
        gradients_of(objective(draw).mean(), model), gradients_of(lb.ELBO()(draw).mean(), model)
    )


def test_a_discrepancy_brings_the_codes_to_the_prior(trains):
    """Codes of a decoder that copies z; without a penalty they are as wide as the data."""
    x = 3 + 2 * torch.randn(200, 2)
    spreads = []
    for weight in (1.0, 300.0):
        torch.manual_seed(0)
        model = lb.LatentModel(
            lb.StandardNormal(2), lb.Point(nn.Linear(2, 2)), lb.Gaussian(nn.Linear(2, 2), scale=1.0)
        )
        lb.fit(
            model,
            lb.InfoVAE(1.0, weight),
            x,
            epochs=30,
            batch_size=50,
            learning_rate=0.05,
            progress=False,
        )
        z = model.encode(x)
        spreads.append(float((torch.cov(z.T) - torch.eye(2)).norm() + z.mean(0).norm()))
    assert spreads[1] < 0.7
    assert spreads[0] > 1.5


def test_a_batch_of_one_example_has_no_discrepancy():
    draw = vae().draw(torch.randn(1, 6))
    objective = lb.InfoVAE(1.0, 10.0)
    assert objective.discrepancy(draw).tolist() == [0.0]
    torch.testing.assert_close(objective.bound(draw), draw.log_likelihood.mean(0))


# Scores


SCORES = {
    "InfoVAE": lambda: lb.InfoVAE(1.0, 10.0),
    "AAE": lambda: lb.AAE(lb.mlp(2, 8, 1)),
    "RAE": lambda: lb.RAE(0.1),
}


@pytest.mark.parametrize("name", SCORES)
def test_the_elbo_is_beside_a_score_unless_there_is_none(name):
    objective, x = SCORES[name](), torch.randn(5, 6)
    model = vae()
    draw = model.draw(x)
    torch.testing.assert_close(objective.terms(draw)["elbo"], lb.ELBO().bound(draw))
    assert objective.label(model) == "score"
    assert not objective.is_bound
    assert "elbo" not in objective.terms(point_vae().draw(x))
    estimate = lb.evaluate(point_vae(), objective, x)
    assert estimate.label == "score"
    assert math.isfinite(estimate.mean)


# The adversary


class LogRatio(nn.Module):
    """The log ratio of N(1, 1) to N(0, 1) in one unit."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.ones((), dtype=DOUBLE))

    def forward(self, z):
        return self.slope * z - 0.5


def test_the_best_critic_gives_the_divergence_from_the_prior():
    """KL(N(1, 1) || N(0, 1)) = 1/2, within 4 standard errors; no slope has a smaller loss."""
    model = around_x(scale=0.6, units=1)
    draw = model.draw(1 + 0.8 * torch.randn(50_000, 1, dtype=DOUBLE))
    objective = lb.AAE(LogRatio(), weight=2.0)
    found = objective.terms(draw)["aggregate KL"].detach()
    error = float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) == pytest.approx(0.5, abs=4 * error)
    loss = objective.losses(draw)["critic"]
    (slope,) = torch.autograd.grad(loss.mean(), [objective.critic.slope], retain_graph=True)
    assert abs(float(slope)) < 0.01
    assert float(loss.detach().mean()) < math.log(2)


def test_encoder_and_critic_follow_their_own_gradients():
    model, critic, x = vae(), lb.mlp(2, 8, 1), torch.randn(5, 6)
    objective = lb.AAE(critic, weight=3.0, samples=4)
    draw = model.draw(x, 4)
    loss = objective.losses(draw)["critic"]
    assert loss.shape == (5,)
    reached = torch.autograd.grad(
        loss.sum(), list(model.parameters()), allow_unused=True, retain_graph=True
    )
    assert all(gradient is None for gradient in reached)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss.sum(), critic.parameters()))
    deceived = nn.functional.logsigmoid(-critic(draw.z)[..., 0])
    value = draw.log_likelihood.mean(0) + 3 * deceived.mean(0)
    found = gradients_of(objective(draw).mean(), model)
    torch.testing.assert_close(found, gradients_of(value.mean(), model))


def test_an_adversary_brings_the_codes_to_the_prior(trains):
    x = 3 + torch.randn(200, 1)
    model = lb.LatentModel(
        lb.StandardNormal(1), lb.Point(nn.Linear(1, 1)), lb.Gaussian(nn.Linear(1, 1), scale=1.0)
    )
    nn.init.ones_(model.posterior.network.weight)
    nn.init.zeros_(model.posterior.network.bias)
    objective = lb.AAE(lb.mlp(1, 8, 1), weight=5.0, learning_rate=0.05)
    lb.fit(model, objective, x, epochs=40, batch_size=50, learning_rate=0.02, progress=False)
    z = model.encode(x)
    assert abs(float(z.mean())) < 1
    assert 0.3 < float(z.std()) < 2


# Regularised decoders


def test_the_score_of_a_regularised_auto_encoder_is_written_out():
    model = point_vae().double()
    draw = model.draw(torch.randn(5, 6, dtype=DOUBLE))
    norm = draw.z[0].square().sum(1)
    torch.testing.assert_close(lb.RAE(0.6).bound(draw), draw.log_likelihood[0] - 0.3 * norm)
    prior = -draw.log_prior[0] - math.log(2 * math.pi)
    torch.testing.assert_close(lb.RAE(1.0).penalty(draw), prior)


def test_the_gradient_penalty_is_the_norm_of_the_derivative():
    """Of a linear decoder, within 4 standard errors of 20,000 projections; so is its gradient."""
    decoder = nn.Linear(3, 4)
    model = lb.LatentModel(
        lb.StandardNormal(3), lb.Point(nn.Linear(4, 3)), lb.Gaussian(decoder, scale=1.0)
    ).double()
    draw = model.draw(torch.randn(20_000, 4, dtype=DOUBLE))
    found = estimate_squared_jacobian(draw)
    error = float(found.detach().std()) / math.sqrt(len(found))
    expected = float(decoder.weight.detach().square().sum())
    assert float(found.detach().mean()) == pytest.approx(expected, abs=4 * error)
    (gradient,) = torch.autograd.grad(found.mean(), [decoder.weight])
    torch.testing.assert_close(gradient, 2 * decoder.weight.detach(), rtol=0.1, atol=0.1)


def test_a_gradient_penalty_makes_the_decoder_smoother(trains):
    x = torch.randn(200, 6)
    norms = []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        model = point_vae()
        objective = lb.RAE(0.1, gradient_penalty=weight)
        lb.fit(model, objective, x, epochs=20, learning_rate=0.01, progress=False)
        with torch.enable_grad():
            norms.append(float(estimate_squared_jacobian(model.draw(x)).detach().mean()))
    assert norms[1] < 0.5 * norms[0]


def test_a_gradient_penalty_without_a_derivative_is_refused():
    model = point_vae()
    model.posterior.requires_grad_(False)
    with pytest.raises(UnsupportedError, match="encoder is frozen; use gradient_penalty=0"):
        lb.RAE(gradient_penalty=1.0)(model.draw(torch.randn(5, 6)))


# All of them


ALL = {
    **SCORES,
    "BetaTCVAE": lambda: lb.BetaTCVAE(beta=lb.Ramp(1.0, 6.0, epochs=3)),
    "DIPVAE": lambda: lb.DIPVAE("I"),
    "RAE with a gradient penalty": lambda: lb.RAE(gradient_penalty=0.1),
}


def halves():
    """Latents in two groups, each with a posterior given x alone, and the same as one group."""
    q = Independent(Normal(torch.randn(5, 4), 0.5), 1)
    prior = Independent(Normal(torch.zeros(4), 1.0), 1)
    z = q.sample((2,)).requires_grad_()
    whole = lb.Draw(
        z=z,
        likelihood_term=lambda: z.sum(-1),
        prior_term=lambda: prior.log_prob(z),
        posterior_term=lambda: q.log_prob(z),
        q=q,
        prior=prior,
    )
    groups = {}
    for name, units in (("a", slice(0, 3)), ("b", slice(3, 4))):
        part = Independent(Normal(q.mean[:, units], 0.5), 1)
        standard = Independent(Normal(torch.zeros(4)[units], 1.0), 1)
        groups[name] = lb.Latent(z=z[..., units], q=part, prior=standard)
    return whole, lb.Draw.of(groups, lambda: z.sum(-1))


@pytest.mark.parametrize("name", ["BetaTCVAE", "DIPVAE", "InfoVAE", "AAE", "RAE"])
def test_groups_of_latents_count_as_one_vector(name):
    makers = ALL | {
        "AAE": lambda: lb.AAE(lb.mlp(4, 8, 1)),
        "BetaTCVAE": lambda: lb.BetaTCVAE(size=50),
    }
    whole, groups = halves()
    object.__setattr__(groups, "z_from_prior", whole.z_from_prior)
    objective = makers[name]()
    torch.testing.assert_close(objective.penalty(groups), objective.penalty(whole))
    assert set(objective.terms(groups)) == set(objective.terms(whole)) | {"rate a", "rate b"}


def test_the_prior_of_groups_is_drawn_group_by_group():
    _, groups = halves()
    assert groups.z_from_prior.shape == groups.z.shape
    assert groups.z_from_prior is groups.z_from_prior


def test_latents_that_depend_on_others_are_refused_with_the_reason():
    model, x = two_layers(top_down=True)
    draw = model.draw(x)
    for objective in (lb.BetaTCVAE(size=9), lb.DIPVAE()):
        with pytest.raises(UnsupportedError, match="posterior of 'z1' depends on other latents"):
            objective(draw)
    with pytest.raises(UnsupportedError, match="a prior depends on other latents"):
        lb.InfoVAE()(draw)
    assert lb.RAE(gradient_penalty=1.0)(draw).isfinite().all()


@pytest.mark.parametrize("name", [*ALL, "FactorVAE"])
def test_draws_without_a_gradient_are_not_penalised(name):
    """A model that sums latents out draws them only for pictures."""
    makers = ALL | {
        "BetaTCVAE": lambda: lb.BetaTCVAE(size=50),
        "AAE": lambda: lb.AAE(lb.mlp(3, 8, 1)),
        "FactorVAE": lambda: lb.FactorVAE(lb.mlp(3, 8, 1)),
    }
    model = lb.EnumeratedModel(
        lb.Bernoulli(lb.constant(3)), lb.Bernoulli(lb.mlp(6, 3)), lb.Gaussian(lb.mlp(3, 12))
    )
    draw, objective = model.draw(torch.randn(5, 6)), makers[name]()
    if name == "DIPVAE":  # whose penalty depends on q alone
        assert objective(draw).isfinite().all()
        return
    with pytest.raises(UnsupportedError, match=f"{type(objective).__name__} .* sums latents out"):
        objective(draw)


def test_a_point_has_no_density_to_aggregate():
    with pytest.raises(UnsupportedError, match="PointMass, which has no density"):
        lb.BetaTCVAE(size=9)(point_vae().draw(torch.randn(5, 6)))


@pytest.mark.parametrize("name", ALL)
def test_a_run_resumes_exactly(name, tmp_path):
    x = torch.randn(21, 6)
    results = []
    for parts in ((4,), (2, 4)):
        for epochs in parts:
            torch.manual_seed(5)
            model, objective = vae(), ALL[name]()
            run = lb.fit(
                model,
                objective,
                x,
                epochs=epochs,
                batch_size=10,
                directory=tmp_path / str(len(parts)),
                resume=epochs != parts[0],
                progress=False,
                pictures_every=0,
            )
        results.append((run.history[-1]["train"], list(model.state_dict().values())))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(*pair) for pair in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("name", ["AAE", "RAE with a gradient penalty"])
def test_a_step_is_one_graph(name, lowered):
    def make():
        torch.manual_seed(2)
        model, objective = point_vae(), ALL[name]()
        optimizer = make_optimizer(model, "adam", 1e-2, None, objective)
        players = nn.ModuleDict({n: p.module for n, p in objective.players().items()})
        data = lb.Examples.of(torch.randn(12, 6))
        return make_step(model, objective, data, optimizer, players=players)

    assert_agreement(make)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lb.BetaTCVAE(beta=-1.0), "BetaTCVAE: beta=-1.0 must be"),
        (lambda: lb.BetaTCVAE(size=0), "BetaTCVAE: size=0 must be a whole number"),
        (lambda: lb.BetaTCVAE(samples=0), "BetaTCVAE: samples=0"),
        (lambda: lb.DIPVAE("III"), "DIPVAE: version='III' is unknown; choose 'I' or 'II'"),
        (lambda: lb.DIPVAE(diagonal=math.nan), "DIPVAE: diagonal=nan must be"),
        (lambda: lb.InfoVAE(alpha=1.5), "InfoVAE: alpha=1.5 must be a finite number from 0 to 1"),
        (lambda: lb.InfoVAE(weight=0.5), "InfoVAE: weight=0.5 must be .* at least 1"),
        (lambda: lb.InfoVAE(kernel="linear"), "kernel='linear' is unknown; choose 'imq' or 'rbf'"),
        (lambda: lb.InfoVAE(scales=(1.0, 0.0)), r"InfoVAE: scales=\(1.0, 0.0\) must be positive"),
        (lambda: lb.InfoVAE(scales=()), r"InfoVAE: scales=\(\) must be positive"),
        (lambda: lb.AAE("mlp"), "AAE: critic must be a torch.nn.Module"),
        (lambda: lb.AAE(lb.mlp(2, 1), weight=-1.0), "AAE: weight=-1.0 must be"),
        (lambda: lb.RAE(weight=-1.0), "RAE: weight=-1.0 must be"),
        (lambda: lb.RAE(kl="exact"), "kl='exact' is unknown"),
    ],
)
def test_invalid_settings_say_why(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


def test_the_covariance_of_draws_is_that_of_the_aggregate_posterior():
    """By 200,000 draws of a Gaussian whose aggregate is known, at 5 standard errors."""
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=DOUBLE)
    x = MultivariateNormal(torch.zeros(2, dtype=DOUBLE), covariance).sample((200_000,))
    found = lb.DIPVAE("II").covariance(around_x(scale=0.5, units=2).draw(x))
    expected = covariance + 0.25 * torch.eye(2, dtype=DOUBLE)
    assert (found - expected).abs().max() < 5 * math.sqrt(2 / 200_000)
