"""Plain variational inference: the bound of any log joint, with constrained variables, against
closed forms."""

import math

import numpy as np
import pytest
import torch
import zuko
from scipy import integrate
from torch import nn
from torch.distributions import (
    Dirichlet,
    Gamma,
    LKJCholesky,
    MultivariateNormal,
    Normal,
    constraints,
)

import lowerbound as lb
from lowerbound.conditionals.variables import Variables
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError

PRECISION = torch.tensor([[3.0, 1.0, 0.5], [1.0, 2.0, -0.7], [0.5, -0.7, 1.5]], dtype=torch.float64)
CENTRE = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)

POSTERIORS = {
    "mean field": lb.mean_field,
    "full rank": lb.full_rank,
    "low rank": lb.low_rank(2),
    "flow": lambda size: zuko.flows.MAF(size, transforms=2, hidden_features=(8,)),
    "structured": lb.ByVariable({("c", "a"): lb.full_rank, "b": lb.mean_field}),
    "a module": lb.Gaussian(lb.constant(6)),
}

VARIABLES = {
    "real": lb.Variable((2, 3)),
    "positive": lb.Variable((3,), constraints.positive),
    "unit interval": lb.Variable((), constraints.unit_interval),
    "interval": lb.Variable((2,), constraints.interval(-1.0, 3.0)),
    "simplex": lb.Variable((4,), constraints.simplex),
    "batch of simplices": lb.Variable((2, 3), constraints.simplex),
    "correlation": lb.Variable((3, 3), constraints.corr_cholesky),
}


def gaussian(a, b, c):
    """Log N(CENTRE, PRECISION^-1) in three variables, times e^0.7."""
    z = torch.stack([a, b, c], -1)
    return MultivariateNormal(CENTRE.to(z), precision_matrix=PRECISION.to(z)).log_prob(z) + 0.7


def make(posterior, log_joint=gaussian, variables=None) -> lb.LogJoint:
    torch.manual_seed(0)
    return lb.LogJoint(log_joint, posterior, variables or {"a": (), "b": (), "c": ()})


@pytest.mark.parametrize("name", POSTERIORS)
def test_every_posterior_trains_and_bounds_the_evidence(name):
    model = make(POSTERIORS[name])
    objective = lb.ELBO(samples=20)
    before = lb.evaluate(model, objective).mean
    run = lb.fit(model, objective, steps=300, learning_rate=0.05, progress=False)
    after = lb.evaluate(model, objective)
    assert before < after.mean < 0.7 + 4 * after.standard_error
    assert run.history[-1]["train"]["bound"] > run.history[0]["train"]["bound"]
    estimate = lb.log_likelihood(model, samples=5000)
    assert estimate.mean == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize(
    ("objective", "gradient"),
    [
        (lb.ELBO, "pathwise"),
        (lb.ELBO, "sticking-the-landing"),
        (lb.ELBO, "score-function"),
        (lb.IWAE, "pathwise"),
        (lb.IWAE, "sticking-the-landing"),
        (lb.IWAE, "dreg"),
    ],
)
def test_every_gradient_is_that_of_the_closed_form_on_average(objective, gradient):
    """For one draw the bound of a mean-field q against a Gaussian is known, and so is its
    gradient."""
    samples = 2 if gradient == "score-function" else 1  # which needs another one
    model = make(lb.mean_field).double()
    numbers = model.posterior.network.numbers
    numbers.data.copy_(torch.tensor([0.1, -0.3, 0.2, -0.5, 0.3, 0.1]))
    loc, log_variance = numbers.detach().requires_grad_().chunk(2)
    shift = loc - CENTRE
    expected = (
        -0.5 * (shift @ PRECISION @ shift)
        - 0.5 * (PRECISION.diagonal() * log_variance.exp()).sum()
        + 0.5 * log_variance.sum()
    )
    slopes = torch.cat(torch.autograd.grad(expected, (loc, log_variance)))
    found = []
    for _ in range(40):
        value = objective(samples=samples, gradient=gradient)(
            model.draw(torch.zeros(500, 1), samples, gradient)
        ).mean()
        found.append(torch.autograd.grad(value, numbers)[0])
    found = torch.stack(found)
    t = (found.mean(0) - slopes) / (found.std(0) / math.sqrt(len(found)))
    assert (
        t.abs().max() < 4.5
    )  # six comparisons, 39 degrees of freedom: fails by chance less than once in 2,000


def test_full_rank_is_exact_on_a_gaussian():
    model = make(lb.full_rank).double()
    objective = lb.ELBO(samples=10, gradient="sticking-the-landing")
    lb.fit(model, objective, steps=900, learning_rate=0.1, schedule="exponential", progress=False)
    q = model.posterior()
    torch.testing.assert_close(q.mean.detach(), CENTRE, rtol=0, atol=1e-6)
    torch.testing.assert_close(q.covariance_matrix.detach(), PRECISION.inverse(), rtol=0, atol=1e-6)
    exact = MultivariateNormal(CENTRE, precision_matrix=PRECISION)
    ours = MultivariateNormal(q.mean.detach(), q.covariance_matrix.detach())
    assert float(torch.distributions.kl_divergence(ours, exact)) < 1e-6
    weights = lb.evaluate(
        model, lb.ELBO(samples=10, kl="sampled")
    ).per_example  # all the same, for the posterior is exact
    torch.testing.assert_close(weights, torch.full_like(weights, 0.7), rtol=0, atol=1e-5)


def test_mean_field_has_the_variances_that_theory_predicts():
    model = make(lb.mean_field).double()
    settings = {"learning_rate": 0.05, "schedule": "exponential", "ema": 0.995}
    lb.fit(model, lb.ELBO(samples=100), steps=1500, progress=False, **settings)
    q = model.posterior()
    torch.testing.assert_close(q.variance.detach(), 1 / PRECISION.diagonal(), rtol=0.01, atol=0)
    gap = 0.5 * float(PRECISION.diagonal().log().sum() - PRECISION.logdet())
    estimate = lb.evaluate(model, lb.ELBO(samples=1000))
    assert 0.7 - estimate.mean == pytest.approx(gap, abs=4 * estimate.standard_error)


@pytest.mark.parametrize("name", VARIABLES)
def test_transforms_invert_and_their_volumes_are_the_jacobian_s(name):
    variable = VARIABLES[name]
    variables = Variables({"before": 2, "it": variable, "after": ()})
    torch.manual_seed(0)
    free = torch.randn(5, variables.size, dtype=torch.float64)
    values, log_det = variables.values(free)
    assert values["it"].shape == (5, *variable.shape)
    assert variable.support.check(values["it"]).all()
    torch.testing.assert_close(variables.free(values), free, rtol=1e-6, atol=1e-8)
    if name in ("real", "positive", "unit interval", "interval"):
        for row in range(5):
            jacobian = torch.autograd.functional.jacobian(
                lambda u: torch.cat(
                    [value.reshape(-1) for value in variables.values(u[None])[0].values()]
                ),
                free[row],
            )
            assert float(jacobian.slogdet().logabsdet) == pytest.approx(
                float(log_det[row]), abs=1e-10
            )


def test_a_simplex_is_integrated_over_with_its_own_measure():
    """A Dirichlet density over simplices has the evidence 1 in whatever coordinates."""
    concentration = torch.tensor([2.0, 3.0, 4.0])
    model = make(
        lb.full_rank,
        Dirichlet(concentration, validate_args=False).log_prob,
        {"value": lb.Variable((3,), constraints.simplex)},
    )
    lb.fit(model, lb.ELBO(samples=20), steps=400, learning_rate=0.05, progress=False)
    assert lb.log_likelihood(model, samples=20_000).mean == pytest.approx(0.0, abs=0.02)
    shares = model.posterior_sample(20_000, resample=True, seed=0)["value"]
    torch.testing.assert_close(
        shares.mean(0), concentration / concentration.sum(), rtol=0, atol=0.01
    )


def test_the_evidence_of_positive_and_bounded_variables_is_the_integral():
    def log_joint(rate, share):
        return Gamma(3.0, 2.0).log_prob(rate) + 2 * torch.log1p(-share) - rate * share

    support = {
        "rate": lb.Variable((), constraints.positive),
        "share": lb.Variable((), constraints.unit_interval),
    }
    model = make(lb.full_rank, log_joint, support)
    lb.fit(model, lb.ELBO(samples=20), steps=500, learning_rate=0.05, progress=False)

    def density(share, rate):
        return float(log_joint(torch.tensor(rate), torch.tensor(share)).exp())

    exact, _ = integrate.dblquad(density, 0, 30, 0, 1, epsabs=1e-6)
    estimate = lb.log_likelihood(model, samples=20_000)
    assert estimate.mean == pytest.approx(math.log(exact), abs=0.01)
    assert lb.evaluate(model, lb.ELBO(samples=100)).mean < math.log(exact)


def test_a_correlation_matrix_can_be_a_variable():
    model = make(
        lb.mean_field,
        LKJCholesky(3, 2.0, validate_args=False).log_prob,
        {"value": lb.Variable((3, 3), constraints.corr_cholesky)},
    )
    lb.fit(model, lb.ELBO(samples=20), steps=300, learning_rate=0.05, progress=False)
    assert lb.log_likelihood(model, samples=20_000).mean == pytest.approx(0.0, abs=0.02)


def test_batches_with_their_scale_give_the_bound_of_all_data():
    torch.manual_seed(0)
    x = torch.randn(60, 1, dtype=torch.float64) + 1.5

    def log_joint(batch, scale, mean):
        return Normal(0.0, 2.0).log_prob(mean) + scale * Normal(mean[:, None], 1.0).log_prob(
            batch[:, 0]
        ).sum(-1)

    model = lb.LogJoint(log_joint, lb.full_rank, {"mean": ()}, size=60).double()
    settings = {"batch_size": 25, "learning_rate": 0.1, "schedule": "exponential", "ema": 0.99}
    lb.fit(model, lb.ELBO(samples=20), x, epochs=500, progress=False, **settings)
    precision = 60 + 1 / 4
    q = model.posterior()
    assert float(q.mean.detach()) == pytest.approx(float(x.sum()) / precision, abs=0.01)
    assert float(q.variance.detach()) == pytest.approx(1 / precision, rel=0.1)
    covariance = torch.eye(60, dtype=torch.float64) + 4.0
    exact = float(
        MultivariateNormal(torch.zeros(60, dtype=torch.float64), covariance).log_prob(x[:, 0])
    )
    assert lb.evaluate(model, lb.ELBO(samples=2000), x).mean == pytest.approx(exact, abs=0.05)
    assert lb.log_likelihood(model, x, samples=5000).mean == pytest.approx(
        exact, abs=0.05
    )  # of all data, not of batches
    with pytest.raises(SettingsError, match="IWAE is not linear in log weights"):
        lb.fit(model, lb.IWAE(5), x, batch_size=25, progress=False)
    with pytest.raises(SettingsError, match="59 examples, but this log joint was made for size=60"):
        lb.fit(model, lb.ELBO(), x[1:], progress=False)


def test_full_rank_is_the_posterior_of_a_linear_regression():
    from sklearn.linear_model import BayesianRidge

    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 3))
    outputs = inputs @ [1.0, -2.0, 0.5] + 2.0 * rng.normal(size=40)
    ridge = BayesianRidge(fit_intercept=False).fit(inputs, outputs)
    a, b = torch.from_numpy(inputs), torch.from_numpy(outputs)

    def log_joint(weights):
        prior = Normal(0.0, ridge.lambda_**-0.5).log_prob(weights).sum(-1)
        return prior + Normal(weights @ a.T, ridge.alpha_**-0.5).log_prob(b).sum(-1)

    model = lb.LogJoint(log_joint, lb.full_rank, {"weights": 3}).double()
    objective = lb.ELBO(samples=10, gradient="sticking-the-landing")
    lb.fit(model, objective, steps=1000, learning_rate=0.1, schedule="exponential", progress=False)
    q = model.posterior()
    precision = ridge.lambda_ * np.eye(3) + ridge.alpha_ * inputs.T @ inputs
    np.testing.assert_allclose(q.covariance_matrix.detach(), np.linalg.inv(precision), atol=1e-6)
    np.testing.assert_allclose(
        q.mean.detach(), ridge.coef_, atol=1e-4
    )  # its last update precedes the last hyperparameters


def test_draws_are_resampled_towards_the_truth():
    """Mean field is too narrow, by as much as theory says; its draws, weighted, are not."""
    precision = torch.tensor([[2.0, 0.63], [0.63, 1.0]], dtype=torch.float64)

    def log_joint(a, b):
        z = torch.stack([a, b], -1)
        return -0.5 * ((z @ precision) * z).sum(-1)

    model = make(lb.mean_field, log_joint, {"a": (), "b": ()}).double()
    lb.fit(
        model,
        lb.ELBO(samples=20),
        steps=1500,
        learning_rate=0.03,
        schedule="cosine",
        progress=False,
    )
    plain, better = (
        model.posterior_sample(5000, resample=again, seed=1) for again in (False, True)
    )
    narrow, truth = 1 / precision.diagonal(), precision.inverse().diagonal()
    for draws, expected in ((plain, narrow), (better, truth)):
        torch.testing.assert_close(
            torch.stack([draws[name].var() for name in "ab"]), expected, rtol=0.1, atol=0
        )


def test_a_run_is_resumed_as_if_it_had_never_stopped(tmp_path):
    objective, settings = lb.ELBO(samples=3), {"progress": False, "pictures_every": 0}
    whole = make(lb.full_rank)
    lb.fit(whole, objective, steps=200, **settings)
    lb.fit(make(lb.full_rank), objective, steps=100, directory=tmp_path / "run", **settings)
    again = make(lb.full_rank)
    lb.fit(again, objective, steps=200, directory=tmp_path / "run", resume=True, **settings)
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    loaded = lb.load(tmp_path / "run", constructor=lambda: make(lb.full_rank))
    assert torch.equal(loaded.posterior().mean, whole.posterior().mean)


def test_a_figure_does_not_depend_on_how_repetitions_are_batched():
    model = make(lb.full_rank)
    whole, parts = (
        lb.evaluate(model, lb.ELBO(samples=4), batch_size=size).per_example for size in (100, 7)
    )
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)
    assert whole.unique().numel() == 100


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"variables": {}}, SettingsError, "at least one variable"),
        ({"variables": {"a b": ()}}, SettingsError, "identifier"),
        ({"variables": {"a": "positive"}}, SettingsError, "give a shape"),
        ({"variables": {"a": (0,)}}, SettingsError, "whole numbers of at least 1"),
        ({"variables": {"a": ()}, "posterior": 3}, SettingsError, "posterior must be a module"),
        (
            {"variables": {"a": ()}, "posterior": lambda size: None},
            SettingsError,
            "not a torch.nn.Module",
        ),
        ({"variables": {"a": ()}, "log_joint": 3}, SettingsError, "must be a function"),
        ({"variables": {"a": ()}, "size": 0}, SettingsError, "size=0"),
        (
            {"variables": {"a": ()}, "posterior": lb.ByVariable({"b": lb.mean_field})},
            SettingsError,
            "exactly one group",
        ),
    ],
)
def test_invalid_arguments_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        lb.LogJoint(**({"log_joint": gaussian, "posterior": lb.mean_field} | given))


def test_a_log_joint_of_another_shape_is_explained():
    model = make(lb.mean_field, lambda a, b, c: (a + b + c).sum())
    with pytest.raises(ShapeError, match=r"one value for each draw"):
        lb.fit(model, lb.ELBO(samples=3), steps=2, progress=False)


def test_a_posterior_of_another_size_is_refused():
    with pytest.raises(ShapeError, match="are 3 dimensions"):
        lb.evaluate(make(lb.Gaussian(lb.constant(4))), lb.ELBO())


def test_data_are_refused_where_there_are_none_and_wanted_where_there_are():
    with pytest.raises(SettingsError, match="stores its own data"):
        lb.fit(make(lb.mean_field), lb.ELBO(), torch.zeros(3, 1), progress=False)
    model = lb.LogJoint(lambda batch, scale, a: a, lb.mean_field, {"a": ()}, size=5)
    with pytest.raises(SettingsError, match="needs data"):
        lb.fit(model, lb.ELBO(), progress=False)
    with pytest.raises(UnsupportedError, match="in batches"):
        model.posterior_sample(3, resample=True)


def test_a_log_joint_may_be_written_for_one_draw():
    def one(a, b, c):
        z = torch.stack([a, b, c]) - CENTRE.float()
        return -0.5 * z @ PRECISION.float() @ z

    model = lb.LogJoint(one, lb.full_rank, {"a": (), "b": (), "c": ()}, vectorized=False)
    same = lb.LogJoint(gaussian, lb.full_rank, {"a": (), "b": (), "c": ()})
    shift = lb.evaluate(same, lb.ELBO()).per_example - lb.evaluate(model, lb.ELBO()).per_example
    torch.testing.assert_close(
        shift, shift[:1].expand(100), rtol=1e-4, atol=1e-4
    )  # the density's constant
    run = lb.fit(model, lb.ELBO(samples=8), steps=200, learning_rate=0.05, progress=False)
    assert run.history[-1]["train"]["bound"] > run.history[0]["train"]["bound"]


def test_the_posterior_is_a_part_like_any_other():
    assert isinstance(make(lb.low_rank(1)).posterior, nn.Module)


def test_a_support_without_a_bijection_is_refused_at_once():
    with pytest.raises(SettingsError, match="torch has no bijection"):
        lb.Variable((3, 3), constraints.positive_definite)
    assert lb.Variable(3, constraints.positive).shape == (3,)


def test_draws_whose_log_joint_is_no_number_are_not_taken():
    model = make(lb.mean_field, lambda a: torch.where(a > 0, -a, torch.nan), {"a": ()})
    assert (model.posterior_sample(100, resample=True, seed=0)["a"] > 0).all()
