"""Coordinate ascent: the bound never falls, and ends where closed forms and another library say."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch.distributions import (
    Categorical,
    Dirichlet,
    Gamma,
    Independent,
    MultivariateNormal,
    Normal,
    Wishart,
)

from lowerbound.ascent import (
    Assignments,
    CoordinateAscent,
    GaussianMixture,
    KnownGaussian,
    LinearRegression,
    MeanAndPrecision,
)
from lowerbound.errors import DataError, LowerboundError, NonFiniteError, SettingsError, ShapeError

PRECISION = torch.tensor([[3.0, 1.0, 0.5], [1.0, 2.0, -0.7], [0.5, -0.7, 1.5]], dtype=torch.float64)


def numbers() -> torch.Tensor:
    return torch.tensor([1.2, 0.3, 2.2, 1.9, 0.8], dtype=torch.float64)


def table(count: int = 30) -> torch.Tensor:
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(count, 2))
    return torch.from_numpy(
        np.column_stack([inputs, inputs @ [1.0, -2.0] + 0.5 * rng.normal(size=count)])
    )


def clusters() -> torch.Tensor:
    rng = np.random.default_rng(1)
    return torch.from_numpy(
        np.concatenate(
            [rng.normal(shift, scale, (60, 2)) for shift, scale in ((-2, 1), (1, 0.5), (3, 1))]
        )
    )


MODELS = {
    "known Gaussian": (lambda: KnownGaussian([0.5, -1.0, 2.0], PRECISION), lambda: (0.0,)),
    "mean and precision": (MeanAndPrecision, numbers),
    "linear regression": (LinearRegression, table),
    "linear regression, strong prior": (lambda: LinearRegression(2.0, 3.0), table),
    "mixture": (lambda: GaussianMixture(3), clusters),
    "mixture with too many components": (lambda: GaussianMixture(7, 1e-3), clusters),
    "mixture of one": (lambda: GaussianMixture(1), clusters),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_bound_never_falls_and_comes_to_rest(name):
    make, data = MODELS[name]
    ascent = make().fit(data())
    steps = np.diff(ascent.bounds)
    assert ascent.converged
    assert (steps >= -1e-9 * np.abs(ascent.bounds[1:])).all()
    assert len(ascent.updated) == len(steps)
    assert ascent.bound == ascent.bounds[-1]
    assert "converged" in repr(ascent)


def test_mean_field_on_a_gaussian_is_what_theory_says():
    ascent = MODELS["known Gaussian"][0]().fit(tolerance=1e-15)
    factors = list(ascent.factors.values())
    np.testing.assert_allclose(
        [float(factor.mean) for factor in factors], [0.5, -1.0, 2.0], atol=1e-6
    )
    np.testing.assert_allclose(
        [float(factor.variance) for factor in factors], 1 / PRECISION.diagonal().numpy(), rtol=1e-12
    )
    gap = 0.5 * float(PRECISION.diagonal().log().sum() - PRECISION.logdet())
    assert -ascent.bound == pytest.approx(gap, abs=1e-6)  # the evidence of a density is 1


def test_the_evidence_of_mean_and_precision_is_the_integral_and_above_the_bound():
    model, x = MeanAndPrecision(0.5, 0.7, 2.0, 1.5), numbers().numpy()
    mean = np.linspace(-15, 15, 1_001)[:, None]

    def joint(precision):
        """Integrated over the mean by the trapezoidal rule, for each precision, [P]."""
        prior = stats.norm(0.5, (0.7 * precision) ** -0.5).logpdf(mean)
        likelihood = sum(stats.norm(mean, precision**-0.5).logpdf(value) for value in x)
        inner = integrate.trapezoid(np.exp(prior + likelihood), mean[:, 0], axis=0)
        return inner * stats.gamma(2.0, scale=1 / 1.5).pdf(precision)

    nodes, weights = np.polynomial.legendre.leggauss(120)
    exact = 15 * weights @ joint(15 * (nodes + 1))
    assert float(model.log_evidence(x)) == pytest.approx(math.log(exact), abs=1e-10)
    ascent = model.fit(x)
    assert ascent.bound < float(model.log_evidence(x)) < ascent.bound + 0.2


def sampled_bound(log_joint: torch.Tensor, log_q: torch.Tensor) -> tuple[float, float]:
    """The bound by draws from q, and its standard error."""
    values = log_joint - log_q
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def test_the_bound_of_mean_and_precision_is_that_of_draws():
    torch.manual_seed(0)
    model, x = MeanAndPrecision(0.5, 0.7, 2.0, 1.5), numbers()
    ascent = model.fit(x)
    q_mean, q_precision = ascent.factors["mean"], ascent.factors["precision"]
    mean, precision = q_mean.sample((200_000,)), q_precision.sample((200_000,))
    log_joint = Normal(mean[:, None], precision[:, None].rsqrt()).log_prob(x).sum(1)
    log_joint = (
        log_joint
        + Normal(0.5, (0.7 * precision).rsqrt()).log_prob(mean)
        + Gamma(2.0, 1.5).log_prob(precision)
    )
    value, error = sampled_bound(log_joint, q_mean.log_prob(mean) + q_precision.log_prob(precision))
    assert ascent.bound == pytest.approx(value, abs=4 * error)


def test_the_bound_of_a_regression_is_that_of_draws():
    torch.manual_seed(0)
    model, data = LinearRegression(2.0, 3.0), table()
    ascent = model.fit(data)
    q = list(ascent.factors.values())
    weights, alpha, beta = (factor.sample((100_000,)) for factor in q)
    log_joint = Normal(weights @ data[:, :-1].T, beta[:, None].rsqrt()).log_prob(data[:, -1]).sum(1)
    log_joint = log_joint + Normal(0.0, alpha[:, None].rsqrt()).log_prob(weights).sum(1)
    log_joint = log_joint + Gamma(2.0, 3.0).log_prob(alpha) + Gamma(2.0, 3.0).log_prob(beta)
    log_q = q[0].log_prob(weights) + q[1].log_prob(alpha) + q[2].log_prob(beta)
    value, error = sampled_bound(log_joint, log_q)
    assert ascent.bound == pytest.approx(value, abs=4 * error)


def test_a_regression_with_much_data_and_little_prior_is_least_squares():
    data = table(3000)
    ascent = LinearRegression().fit(data)
    least, _, _, _ = np.linalg.lstsq(data[:, :-1].numpy(), data[:, -1].numpy())
    np.testing.assert_allclose(ascent.factors["weights"].mean, least, rtol=1e-3)


def test_the_bound_of_a_mixture_is_that_of_draws():
    torch.manual_seed(0)
    model, x = GaussianMixture(2, 0.8), clusters()[::9]
    ascent, draws = model.fit(x, sweeps=3), 20_000
    shares, pi, parts = (
        ascent.factors[name] for name in ("assignments", "proportions", "components")
    )
    prior = model.prior(x)
    q_s, s = Categorical(shares.shares), Categorical(shares.shares).sample((draws,))
    proportions = pi.sample((draws,))
    log_joint = proportions.log().gather(1, s).sum(1) + Dirichlet(
        torch.full((2,), 0.8).double()
    ).log_prob(proportions)
    log_q = q_s.log_prob(s).sum(1) + pi.log_prob(proportions)
    density = []
    for c in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            q_precision = Wishart(parts.freedom[c], torch.linalg.inv(parts.inverse_scale[c]))
            p_precision = Wishart(prior.freedom[0], torch.linalg.inv(prior.inverse_scale[0]))
            precision = q_precision.sample((draws,))
        q_mean = MultivariateNormal(parts.mean[c], precision_matrix=parts.strength[c] * precision)
        p_mean = MultivariateNormal(prior.mean[0], precision_matrix=prior.strength[0] * precision)
        mean = q_mean.sample()
        log_joint = log_joint + p_mean.log_prob(mean) + p_precision.log_prob(precision)
        log_q = log_q + q_mean.log_prob(mean) + q_precision.log_prob(precision)
        density.append(
            MultivariateNormal(mean[:, None], precision_matrix=precision[:, None]).log_prob(x)
        )
    log_joint = log_joint + torch.stack(density, -1).gather(2, s[..., None])[..., 0].sum(1)
    value, error = sampled_bound(log_joint, log_q)
    assert ascent.bound == pytest.approx(value, abs=4 * error)


def test_a_mixture_is_scikit_learn_s_up_to_a_constant():
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import BayesianGaussianMixture

    x = clusters()

    def theirs(iterations):
        model = BayesianGaussianMixture(
            n_components=4,
            weight_concentration_prior_type="dirichlet_distribution",
            reg_covar=0.0,
            tol=0.0,
            max_iter=iterations,
            random_state=0,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return model.fit(x.numpy())

    ours, differences, bounds = GaussianMixture(4), [], []
    for iterations in (2, 4, 8, 16, 40):
        assignments = Assignments(torch.from_numpy(theirs(iterations - 1).predict_proba(x.numpy())))
        factors = ours.factors(assignments, x)
        other = theirs(iterations)
        np.testing.assert_allclose(factors["components"].mean, other.means_, rtol=1e-6)
        np.testing.assert_allclose(factors["components"].precision, other.precisions_, rtol=1e-6)
        bounds.append(ours.bound(factors, x))
        differences.append(bounds[-1] - other.lower_bound_)
    assert max(bounds) - min(bounds) > 1
    np.testing.assert_allclose(differences, differences[0], atol=1e-5 * abs(bounds[0]))


def test_components_that_are_not_needed_come_to_rest_without_examples():
    ascent = GaussianMixture(7, 1e-3).fit(clusters(), sweeps=3000)
    counts = ascent.factors["assignments"].shares.sum(0)
    assert int((counts > 5).sum()) <= 4


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: MeanAndPrecision(rate=0.0), SettingsError, "rate=0.0 must be a positive number"),
        (lambda: LinearRegression(concentration=-1.0), SettingsError, "concentration=-1.0"),
        (lambda: GaussianMixture(0), SettingsError, "components=0"),
        (
            lambda: KnownGaussian([0.0], [[1.0, 0.0], [0.0, 1.0]]),
            ShapeError,
            "does not fit a precision",
        ),
        (
            lambda: KnownGaussian([0.0, 0.0], [[1.0, 2.0], [2.0, 1.0]]),
            SettingsError,
            "positive definite",
        ),
        (lambda: MeanAndPrecision().fit([1.0, math.nan]), DataError, "row 1"),
        (lambda: MeanAndPrecision().fit("numbers"), DataError, "cannot be read"),
        (lambda: MeanAndPrecision().fit([]), DataError, "at least one row"),
        (lambda: MeanAndPrecision().fit([1.0], tolerance=0.0), SettingsError, "tolerance=0.0"),
        (lambda: MeanAndPrecision().fit([1.0], sweeps=0), SettingsError, "sweeps=0"),
        (lambda: LinearRegression().fit([1.0, 2.0]), DataError, "with y in its last column"),
        (lambda: GaussianMixture(3).fit(torch.randn(2, 2)), DataError, "at least 3 vectors"),
        (lambda: GaussianMixture(2).fit(torch.ones(5, 2)), DataError, "constant"),
    ],
)
def test_invalid_arguments_are_refused(act, error, message):
    with pytest.raises(error, match=message):
        act()


def test_a_model_of_ones_own_and_a_bound_that_is_no_number():
    class Broken(CoordinateAscent):
        def start(self, x, generator):
            return {"one": Independent(Normal(torch.zeros(2), torch.ones(2)), 1)}

        def update(self, name, factors, x):
            return factors[name]

        def expected_log_joint(self, factors, x):
            return torch.tensor(math.inf)

    with pytest.raises(NonFiniteError, match="after the update of 'one'"):
        Broken().fit([1.0])


def test_an_ascent_that_is_cut_short_says_so():
    assert not GaussianMixture(3).fit(clusters(), sweeps=2).converged


def test_columns_of_very_different_scales_are_regressed_on():
    torch.manual_seed(0)
    x = torch.randn(100, 3, dtype=torch.float64) * torch.tensor(
        [1e8, 1.0, 1e-6], dtype=torch.float64
    )
    y = x[:, :2] @ torch.tensor([2e-8, -1.0], dtype=torch.float64) + 0.1 * torch.randn(
        100, dtype=torch.float64
    )
    found = LinearRegression(rate=1e-12).fit(torch.cat([x, y[:, None]], 1)).factors["weights"]
    scales = x.std(0)  # the prior is flat against so many rows
    expected = torch.linalg.lstsq(x[:, :2] / scales[:2], y).solution / scales[:2]
    torch.testing.assert_close(
        found.mean[:2] / expected, torch.ones(2, dtype=torch.float64), rtol=0, atol=0.02
    )
    assert abs(float(found.mean[2])) < 1


def test_fewer_rows_than_columns_are_regressed_on():
    torch.manual_seed(0)
    table = torch.randn(4, 8, dtype=torch.float64)
    fitted = LinearRegression(concentration=1.0, rate=1.0).fit(table)
    alpha, beta = (fitted.factors[name].mean for name in ("weights_precision", "noise_precision"))
    weights = LinearRegression._update_weights(
        table, fitted.factors["weights_precision"], fitted.factors["noise_precision"]
    )
    precision = alpha * torch.eye(7, dtype=torch.float64) + beta * table[:, :-1].mT @ table[:, :-1]
    torch.testing.assert_close(
        weights.covariance_matrix, precision.inverse(), rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(
        weights.mean, beta * precision.inverse() @ table[:, :-1].mT @ table[:, -1]
    )


def test_outputs_that_do_not_vary_are_refused():
    with pytest.raises(DataError, match="is 3 in all 5 rows"):
        LinearRegression().fit(torch.cat([torch.randn(5, 2), torch.full((5, 1), 3.0)], 1))


def test_an_update_that_lowers_the_bound_is_refused():
    class Wrong(LinearRegression):
        def update(self, name, factors, x):
            factor = super().update(name, factors, x)
            return (
                Gamma(factor.concentration, 3 * factor.rate)
                if name == "noise_precision"
                else factor
            )

    with pytest.raises(LowerboundError, match="the update of 'noise_precision' lowers the bound"):
        Wrong().fit(torch.randn(20, 3))


def test_what_torch_refuses_within_an_update_is_told():
    class Broken(LinearRegression):
        def update(self, name, factors, x):
            return Gamma(x.new_tensor(-1.0), x.new_tensor(1.0))

    with pytest.raises(NonFiniteError, match="non-finite after the update of 'weights'"):
        Broken().fit(torch.randn(20, 3))


def test_columns_that_nearly_repeat_each_other_are_regressed_on():
    torch.manual_seed(0)
    a = torch.randn(100, 1, dtype=torch.float64)
    columns = [1e6 * a, 1e6 * (a + 1e-6 * torch.randn_like(a)), 1e-4 * torch.randn_like(a)]
    table = torch.cat([*columns, a + 0.1 * torch.randn_like(a)], 1)
    bounds = torch.tensor(LinearRegression().fit(table).bounds)
    assert bounds.diff().min() > -1e-7
