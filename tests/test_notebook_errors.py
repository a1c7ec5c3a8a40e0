"""Twelve mistakes that are easy to make in an auto-encoder, each with the test that finds it."""

import math
from itertools import chain

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

import lowerbound as lb
from lowerbound.distributions import DiagonalNormal, closed_form_kl
from lowerbound.errors import NonFiniteError
from lowerbound.recipes import RECIPES
from lowerbound.training.settings import TrainingSettings

MEAN, LOG_VARIANCE = torch.tensor([0.5, -1.0]), torch.tensor([-2.0, 0.7])


class Constant(nn.Module):
    """A network that gives the same output for every input."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output.clone())

    def forward(self, given):
        return self.output.expand(*given.shape[:-1], -1)


def known_gaussian() -> DiagonalNormal:
    return lb.Gaussian(Constant(torch.cat([MEAN, LOG_VARIANCE])))(torch.zeros(3, 4))


def faces(count: int = 96) -> torch.Tensor:
    """Smooth grey pictures of 64 x 64, as much alike as faces are."""
    coarse = torch.rand(1, 1, 8, 8) + 0.3 * torch.rand(count, 1, 8, 8)
    return nn.functional.interpolate(coarse / 1.3, size=64, mode="bilinear")


def test_1_the_first_half_of_the_output_is_the_mean_and_the_second_the_log_variance():
    for role in (
        known_gaussian(),
        lb.Gaussian(Constant(torch.cat([MEAN, LOG_VARIANCE])))(torch.zeros(7, 3, 4)),
    ):
        torch.testing.assert_close(role.mean[0].reshape(-1, 2)[0], MEAN)
        torch.testing.assert_close(role.variance[0].reshape(-1, 2)[0], LOG_VARIANCE.exp())


def test_2_noise_is_scaled_by_the_standard_deviation():
    q = known_gaussian()
    torch.manual_seed(5)
    z = q.rsample((4,))
    torch.manual_seed(5)
    noise = torch.randn(4, 3, 2)
    torch.testing.assert_close(z, MEAN + (LOG_VARIANCE / 2).exp() * noise)


def test_3_the_kl_has_the_right_signs():
    q = known_gaussian()
    prior = lb.StandardNormal(2)()
    by_hand = -0.5 * (1 + LOG_VARIANCE - MEAN**2 - LOG_VARIANCE.exp()).sum()
    torch.testing.assert_close(closed_form_kl(q, prior), by_hand.expand(3))
    scale = (LOG_VARIANCE / 2).exp()

    def integrand(z, j):
        density = stats.norm(float(MEAN[j]), float(scale[j]))
        return density.pdf(z) * (density.logpdf(z) - stats.norm.logpdf(z))

    by_quadrature = sum(integrate.quad(integrand, -15, 15, args=(j,))[0] for j in range(2))
    assert float(by_hand) == pytest.approx(by_quadrature, rel=1e-5)


def test_4_the_kl_lowers_the_bound():
    class Far(nn.Module):
        def forward(self, x):
            return DiagonalNormal(torch.full((len(x), 2), 3.0), torch.zeros(len(x), 2))

    blind = lb.Gaussian(Constant(torch.zeros(6)), scale=1.0)
    near = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(Constant(torch.zeros(4))), blind)
    far = lb.LatentModel(lb.StandardNormal(2), Far(), blind)
    x = torch.zeros(3, 6)
    bounds = [lb.ELBO()(model.draw(x)) for model in (near, far)]
    torch.testing.assert_close(bounds[0] - bounds[1], torch.full((3,), 0.5 * 2 * 9.0))
    terms = lb.ELBO().terms(far.draw(x))
    torch.testing.assert_close(terms["bound"], -terms["distortion"] - terms["rate"])
    assert (terms["rate"] > 0).all()


def test_5_the_log_density_is_exact():
    p, x = known_gaussian(), torch.tensor([1.3, -0.2])
    expected = stats.norm(MEAN.numpy(), np.exp(LOG_VARIANCE.numpy() / 2)).logpdf(x.numpy()).sum()
    assert float(p.log_prob(x)[0].detach()) == pytest.approx(expected, rel=1e-6)
    at_mean = -0.5 * (2 * math.log(2 * math.pi) + float(LOG_VARIANCE.sum()))
    assert float(p.log_prob(MEAN)[0].detach()) == pytest.approx(at_mean, rel=1e-6)


def test_6_what_is_scored_is_the_data_and_neither_parameter():
    p = lb.Gaussian(Constant(torch.cat([MEAN, LOG_VARIANCE])))(torch.zeros(1, 1, 4))
    model_score = float(p.log_prob(torch.tensor([[1.3, -0.2]])).detach())
    arguments = {
        "x": np.array([1.3, -0.2]),
        "mean": MEAN.numpy(),
        "log_variance": LOG_VARIANCE.numpy(),
    }

    def score(x, mean, log_variance):
        return stats.norm(mean, np.exp(log_variance / 2)).logpdf(x).sum()

    right = score(**arguments)
    swapped = score(arguments["x"], arguments["log_variance"], arguments["mean"])
    assert model_score == pytest.approx(right, rel=1e-6)
    assert model_score != pytest.approx(swapped, rel=1e-2)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad"])
def test_7_training_raises_the_bound(optimizer):
    model, objective = lb.recipes.aevb_gaussian((1, 8, 8), latent=2, hidden=16)
    data = lb.load_data("digits").train
    before = lb.evaluate(model, objective, data).mean
    lb.fit(
        model,
        objective,
        data,
        epochs=1,
        optimizer=optimizer,
        learning_rate=1e-3,
        start=False,
        progress=False,
    )
    assert lb.evaluate(model, objective, data).mean > before


def test_7_one_small_step_raises_the_bound_on_the_same_noise():
    model, objective = lb.recipes.aevb_gaussian((1, 8, 8), latent=2, hidden=16)
    x = lb.load_data("digits").train.batch(torch.arange(64))

    def bound():
        torch.manual_seed(1)
        return objective(model.draw(x, objective.samples)).mean()

    before = bound()
    (-before).backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.sub_(1e-6 * parameter.grad)
    assert bound() > before


def test_8_a_step_is_taken_and_everything_that_it_needs_exists():
    model, objective = lb.recipes.aevb_gaussian((1, 64, 64))
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    run = lb.fit(model, objective, faces(32), steps=1, batch_size=32, progress=False)
    assert run.history[-1]["step"] == 1
    assert all(
        not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters()
    )


def test_8_the_recipe_is_the_notebook_s_system():
    """64 x 64, 10 latents, hidden layers of 200 tanh units, batches of 32, L = 7, 10 epochs."""
    recipe = RECIPES["aevb-gaussian"]
    model, objective = recipe.build((1, 64, 64), {})
    draw = model.draw(faces(32), objective.samples)
    assert draw.z.shape == (7, 32, 10)
    assert draw.p.mean.shape == (7, 32, 1, 64, 64)
    for network, sizes in (
        (model.posterior.network, (4096, 200, 20)),
        (model.likelihood.network, (10, 200, 8192)),
    ):
        linear, tanh, last = network.layers
        assert isinstance(tanh, nn.Tanh)
        assert (linear.in_features, linear.out_features, last.out_features) == sizes
    assert recipe.training["batch_size"] == 32
    assert recipe.image_size == 64
    assert TrainingSettings.model_fields["epochs"].default is None
    assert (
        len(lb.fit(*recipe.build((4,), {"hidden": 4}), torch.rand(8, 4), progress=False).history)
        == 10
    )


class Recording(lb.LatentModel):
    """Remembers the batches that it sees while training; an example is known by its first entry."""

    def __init__(self):
        super().__init__(lb.StandardNormal(1), lb.Gaussian(lb.mlp(2, 2)), lb.Gaussian(lb.mlp(1, 4)))
        self.seen: list[list[float]] = []

    def draw(self, x, samples=1, gradient="pathwise"):
        if self.training:
            self.seen.append(x[:, 0].tolist())
        return super().draw(x, samples, gradient)


def test_9_an_epoch_sees_every_example_once_in_batches_and_in_another_order_each_time():
    model = Recording()
    data = torch.stack([torch.arange(23.0), torch.zeros(23)], 1)
    lb.fit(model, lb.ELBO(), data, epochs=2, batch_size=5, progress=False)
    assert [len(batch) for batch in model.seen] == [5, 5, 5, 5, 3] * 2
    first, second = list(chain(*model.seen[:5])), list(chain(*model.seen[5:]))
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second
    assert first != sorted(first)


def test_10_pictures_are_drawn_from_the_prior_pixel_by_pixel():
    """Moments at 5 standard errors: less than one false alarm in 10^5 runs."""
    decoder = lb.mlp(1, 2)
    with torch.no_grad():
        decoder.layers[0].weight.copy_(torch.tensor([[2.0], [0.0]]))
        decoder.layers[0].bias.copy_(torch.tensor([0.3, 0.1]))
    model = lb.LatentModel(
        lb.StandardNormal(1), lb.Gaussian(lb.mlp(2, 2)), lb.Gaussian(decoder, scale=0.5)
    )
    count = 40_000
    x = model.sample(count, seed=1)
    assert x.shape == (count, 2)
    # W W' + sigma^2: z is N(0, 1), and the noise is independent.
    expected = torch.tensor([[4.25, 0.0], [0.0, 0.25]])
    spread = (expected.diagonal()[:, None] * expected.diagonal()).sqrt()
    assert ((torch.cov(x.T) - expected).abs() < 5 * spread * math.sqrt(2 / count)).all()
    assert (
        (x.mean(0) - torch.tensor([0.3, 0.1])).abs() < 5 * (expected.diagonal() / count).sqrt()
    ).all()
    means = model.sample(count, mean=True, seed=1)
    assert float(means.var(0)[1]) == 0.0
    assert float(means.var(0)[0]) == pytest.approx(4.0, rel=0.05)


def test_10_pictures_keep_their_shape():
    model, _ = lb.recipes.aevb_gaussian((1, 64, 64))
    assert model.sample(5).shape == (5, 1, 64, 64)


def check_that_it_ends_well(data: object) -> None:
    """Plain SGD at 1e-2 gives a trained model or an error with a remedy, never silent NaN."""
    model, objective = RECIPES["aevb-gaussian"].build((1, 64, 64), {})
    message = None
    try:
        lb.fit(
            model,
            objective,
            data,
            optimizer="sgd",
            learning_rate=1e-2,
            batch_size=32,
            progress=False,
        )
    except NonFiniteError as error:
        message = str(error)
    if message is not None:
        assert "is not finite, first in" in message
        assert "SGD at learning rate 0.01" in message
        assert "optimizer='adam'" in message
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert torch.isfinite(objective(model.draw(faces(8), 7))).all() or message is not None


def test_11_plain_sgd_at_a_large_step_is_never_silent():
    check_that_it_ends_well(faces())


def test_11_plain_sgd_at_a_large_step_on_real_faces(real_data):
    check_that_it_ends_well(
        lb.load_data(real_data / "orl_faces", image_size=64, resize="stretch").train
    )


def test_12_q_depends_on_the_data_and_the_kl_is_from_q_to_the_prior():
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
    )
    draw = model.draw(torch.rand(3, 6))
    assert len(draw.q.mean.unique(dim=0)) == 3
    assert draw.prior.mean.abs().sum() == 0
    torch.testing.assert_close(draw.rate, closed_form_kl(draw.q, draw.prior))
    assert not torch.allclose(draw.rate, closed_form_kl(draw.prior, draw.q))
