"""FactorVAE: the total correlation of latents, by a critic."""

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

import lowerbound as lb
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.objectives.factor import permute_units
from lowerbound.training.optim import make_optimizer

sys.path.insert(0, str(Path(__file__).parent))
from test_compiling import assert_agreement, make_step

DOUBLE = torch.float64


class Rotated(nn.Module):
    """The identity of x, with noise of scale 0.5: q(z) is N(0, covariance of x + 1/4)."""

    def forward(self, x):
        return torch.cat([x, torch.full_like(x, 2 * math.log(0.5))], -1)


COVARIANCE = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.3], [0.0, 0.3, 1.0]], dtype=DOUBLE)
AGGREGATE = COVARIANCE + 0.25 * torch.eye(3, dtype=DOUBLE)
TOTAL_CORRELATION = 0.5 * float(AGGREGATE.diagonal().log().sum() - AGGREGATE.logdet())


def gaussian_model():
    """A model, and data for which the latents' total correlation is known."""
    model = lb.LatentModel(
        lb.StandardNormal(3), lb.Gaussian(Rotated()), lb.Gaussian(lb.mlp(3, 3), scale=1.0)
    ).double()
    return model, MultivariateNormal(torch.zeros(3, dtype=DOUBLE), AGGREGATE - 0.25 * torch.eye(3))


class Quadratic(nn.Module):
    """Half of a quadratic form: the family that holds the optimal critic of a Gaussian."""

    def __init__(self):
        super().__init__()
        self.form = nn.Parameter(torch.zeros(3, 3, dtype=DOUBLE))
        self.offset = nn.Parameter(torch.zeros((), dtype=DOUBLE))

    def forward(self, z):
        return 0.5 * ((z @ self.form) * z).sum(-1, keepdim=True) + self.offset


def optimal_critic():
    critic = Quadratic()
    with torch.no_grad():
        critic.form.copy_(torch.diag(1 / AGGREGATE.diagonal()) - torch.linalg.inv(AGGREGATE))
        critic.offset.fill_(TOTAL_CORRELATION)
    return critic


def test_the_optimal_critic_gives_the_total_correlation():
    """At 4 standard errors of 100,000 examples; its loss is less than that of one who guesses."""
    model, data = gaussian_model()
    objective = lb.FactorVAE(optimal_critic())
    draw = model.draw(data.sample((100_000,)))
    found = objective.terms(draw)["total correlation"].detach()
    assert TOTAL_CORRELATION > 0.3
    error = float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) == pytest.approx(TOTAL_CORRELATION, abs=4 * error)
    assert float(objective.losses(draw)["critic"].detach().mean()) < math.log(2) - 0.05


def test_a_trained_critic_finds_the_total_correlation(trains):
    """Within 5%, of 20,000 examples; of three seeds, the worst was off by 3%."""
    model, data = gaussian_model()
    objective = lb.FactorVAE(Quadratic())
    x = data.sample((20_000,))
    optimizer = torch.optim.Adam(objective.critic.parameters(), lr=0.03)
    for _ in range(400):
        optimizer.zero_grad()
        objective.losses(model.draw(x))["critic"].mean().backward()
        optimizer.step()
    found = objective.total_correlation(model.draw(x)).detach().mean()
    assert float(found) == pytest.approx(TOTAL_CORRELATION, rel=0.05)


def vae(units=2):
    return lb.LatentModel(
        lb.StandardNormal(units),
        lb.Gaussian(lb.mlp(6, 8, 2 * units, activation="tanh")),
        lb.Gaussian(lb.mlp(units, 8, 6, activation="tanh"), scale=0.5),
    )


def test_each_side_follows_its_own_gradient():
    model, critic, x = vae(), lb.mlp(2, 8, 1), torch.randn(5, 6)
    objective = lb.FactorVAE(critic, gamma=3.0, samples=4)
    draw = model.draw(x, 4)
    loss = objective.losses(draw)["critic"]
    assert loss.shape == (5,)
    reached = torch.autograd.grad(
        loss.sum(), list(model.parameters()), allow_unused=True, retain_graph=True
    )
    assert all(gradient is None for gradient in reached)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss.sum(), critic.parameters()))
    found = torch.autograd.grad(
        objective.surrogate(draw).sum(), list(model.parameters()), retain_graph=True
    )
    value = lb.ELBO(4).bound(draw) - 3 * critic(draw.z)[..., 0].mean(0)
    expected = torch.autograd.grad(value.sum(), list(model.parameters()))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_what_is_reported_is_the_elbo():
    model, x = vae(), torch.randn(5, 6)
    draw = model.draw(x, 3)
    objective = lb.FactorVAE(lb.mlp(2, 1), samples=3)
    terms, plain = objective.terms(draw), lb.ELBO(3).terms(draw)
    for name, term in plain.items():
        torch.testing.assert_close(terms[name], term)
    assert objective.label(model) == "bound"
    assert lb.evaluate(model, objective, x).mean == pytest.approx(
        lb.evaluate(model, lb.ELBO(3), x).mean
    )


def test_permuted_units_keep_their_values_and_lose_their_ties():
    z = torch.randn(3, 10_000, 1) + 0.1 * torch.randn(3, 10_000, 4)
    permuted = permute_units(z)
    assert torch.equal(permuted.sort(1).values, z.sort(1).values)
    ties = torch.stack([torch.corrcoef(one.T) for one in permuted]) - torch.eye(4)
    assert ties.abs().max() < 5 / math.sqrt(10_000)
    assert torch.corrcoef(z[0].T).min() > 0.95


def test_a_penalty_lowers_the_total_correlation():
    """Of a decoder that copies z, so that the ELBO wants latents as correlated as the data.

    All is Gaussian, so the total correlation of the trained latents is known exactly.
    """
    _, data = gaussian_model()
    x = data.sample((2000,))
    found = []
    for gamma in (0.0, 20.0):
        torch.manual_seed(1)
        model = lb.LatentModel(
            lb.StandardNormal(3), lb.Gaussian(lb.mlp(3, 6)), lb.Gaussian(nn.Identity(), scale=0.5)
        ).double()
        objective = lb.FactorVAE(Quadratic(), gamma=gamma, learning_rate=0.02)
        lb.fit(model, objective, x, epochs=40, batch_size=200, learning_rate=0.01, progress=False)
        with torch.no_grad():
            q = model.posterior(x)
            aggregate = torch.cov(q.mean.T) + torch.diag(q.variance.mean(0))
        found.append(0.5 * float(aggregate.diagonal().log().sum() - aggregate.logdet()))
    assert found[0] > 0.2
    assert found[1] < 0.5 * found[0]


def test_a_run_resumes_exactly(tmp_path):
    x = torch.randn(40, 6)
    results = []
    for parts in ((4,), (2, 4)):
        for epochs in parts:
            torch.manual_seed(5)
            model = vae()
            objective = lb.FactorVAE(lb.mlp(2, 8, 1), gamma=lb.Ramp(0.0, 5.0, epochs=3))
            run = lb.fit(
                model,
                objective,
                x,
                epochs=epochs,
                batch_size=8,
                directory=tmp_path / str(len(parts)),
                resume=epochs != parts[0],
                progress=False,
            )
        weights = [*model.state_dict().values(), *objective.critic.state_dict().values()]
        results.append((run.history[-1]["train"], weights))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(*pair) for pair in zip(results[0][1], results[1][1], strict=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.usefixtures("fresh_compiler")
def test_a_step_is_one_graph(lowered):
    def make():
        torch.manual_seed(2)
        model, objective = vae(), lb.FactorVAE(lb.mlp(2, 8, 1), gamma=3.0, samples=2)
        optimizer = make_optimizer(model, "adam", 1e-2, None, objective)
        players = nn.ModuleDict({"critic": objective.critic})
        data = lb.Examples.of(torch.randn(12, 6))
        return make_step(model, objective, data, optimizer, players=players)

    assert_agreement(make)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lb.FactorVAE("mlp"), "critic must be a torch.nn.Module"),
        (lambda: lb.FactorVAE(lb.mlp(2, 1), gamma=-1.0), "FactorVAE: gamma=-1.0 must be"),
        (lambda: lb.FactorVAE(lb.mlp(2, 1), learning_rate=-1.0), "FactorVAE: learning_rate=-1.0"),
        (
            lambda: lb.FactorVAE(lb.mlp(2, 1), learning_rate=lb.Ramp(0.0, 1.0, epochs=2)),
            "FactorVAE: learning_rate must be a number",
        ),
        (lambda: lb.FactorVAE(lb.mlp(2, 1), samples=0), "FactorVAE: samples=0"),
        (lambda: lb.FactorVAE(lb.mlp(2, 1), kl="exact"), "kl='exact' is unknown"),
    ],
)
def test_invalid_settings_say_why(make, message):
    with pytest.raises(SettingsError, match=message):
        make()


@pytest.mark.parametrize(
    ("posterior", "prior", "units"),
    [
        (
            lambda: lb.OneHot(lb.mlp(4, (2, 3)), "straight-through"),
            lambda: lb.OneHot(lb.constant((2, 3))),
            (2, 3),
        ),
        (lambda: lb.PowerSpherical(lb.mlp(4, 4)), lambda: lb.SphereUniform(3), (3,)),
    ],
)
def test_latents_whose_entries_are_tied_are_refused(posterior, prior, units):
    """Permuted codes are not codes, so their total correlation would never vanish."""
    model = lb.LatentModel(prior(), posterior(), lb.Gaussian(lb.mlp(units, 8)))
    objective = lb.FactorVAE(lb.mlp(math.prod(units), 8, 1))
    with pytest.raises(UnsupportedError, match="entries of 'z' cannot be independent of each"):
        lb.fit(model, objective, torch.rand(20, 4), steps=1, progress=False)


def test_a_critic_of_another_shape_is_refused():
    for critic, message in (
        (
            lb.mlp(2, 2),
            r"gives the shape \(1, 2, 2\); it must give one logit for each draw, \(1, 2, 1\)",
        ),
        (lb.mlp(3, 1), "MLP takes"),
    ):
        with pytest.raises(ShapeError, match=message):
            lb.fit(vae(), lb.FactorVAE(critic), torch.randn(20, 6), epochs=1, progress=False)


@pytest.mark.parametrize("objective", [lb.FactorVAE, lb.AAE])
def test_the_critic_of_a_model_in_double_precision_is_converted(objective):
    torch.manual_seed(0)
    vae = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
    ).double()
    critic = lb.mlp(2, 8, 1)
    x = torch.rand(32, 6, dtype=torch.float64)
    lb.fit(vae, objective(critic), x, epochs=1, batch_size=16, progress=False)
    assert {each.dtype for each in critic.parameters()} == {torch.float64}
