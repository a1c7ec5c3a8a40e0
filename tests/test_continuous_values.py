"""Conditionals of continuous values, against scipy's densities, quadrature and closed forms."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.integrate import quad
from torch import nn
from torch.distributions import Independent

import lowerbound as lb
from lowerbound.distributions import (
    Beta,
    FactorialContinuousBernoulli,
    FactorialStudentT,
    Gamma,
    closed_form_kl,
    closed_form_unit_kl,
    compute_stirling_remainder,
    draw_samples,
)
from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.runtime import noise

sys.path.insert(0, str(Path(__file__).parent))
from quadrature import integrate

DOUBLE = torch.float64


class Outputs(nn.Module):
    """A network whose outputs are given."""

    def __init__(self, *outputs):
        super().__init__()
        self.outputs = nn.Parameter(torch.tensor(outputs, dtype=DOUBLE))

    def forward(self, *given):
        return self.outputs


def continuous_bernoulli(logit):
    """The continuous Bernoulli distribution of a negative logit, by scipy."""
    return stats.truncexpon(b=-logit, scale=-1 / logit)


# A conditional of one entry, scipy's distribution with the same parameters, and its range.
FAMILIES = {
    "Laplace": (
        lambda: lb.Laplace(Outputs(0.7, 2 * math.log(0.3))),
        stats.laplace(0.7, 0.3),
        (-np.inf, np.inf),
    ),
    "Laplace around a sigmoid": (
        lambda: lb.Laplace(Outputs(0.7), scale=0.2, mean="sigmoid"),
        stats.laplace(1 / (1 + math.exp(-0.7)), 0.2),
        (-np.inf, np.inf),
    ),
    "StudentT": (
        lambda: lb.StudentT(Outputs(0.7, 2 * math.log(0.3)), degrees=4.5),
        stats.t(4.5, 0.7, 0.3),
        (-np.inf, np.inf),
    ),
    "StudentT with learned degrees": (
        lambda: lb.StudentT(Outputs(0.7), scale=2.0),
        stats.t(10, 0.7, 2.0),
        (-np.inf, np.inf),
    ),
    "LogNormal": (
        lambda: lb.LogNormal(Outputs(0.7, 2 * math.log(0.3))),
        stats.lognorm(0.3, scale=math.exp(0.7)),
        (0, np.inf),
    ),
    "Gamma": (
        lambda: lb.Gamma(Outputs(0.7, 2 * math.log(0.3))),
        stats.gamma(0.3**-2, scale=math.exp(0.7) * 0.3**2),
        (0, np.inf),
    ),
    "Gamma that falls": (
        lambda: lb.Gamma(Outputs(-2.0), scale=1.2),
        stats.gamma(1.2**-2, scale=math.exp(-2) * 1.2**2),
        (0, np.inf),
    ),
    "Beta": (
        lambda: lb.Beta(Outputs(0.7, 2 * math.log(0.2))),
        stats.beta(25 / (1 + math.exp(-0.7)), 25 / (1 + math.exp(0.7))),
        (0, 1),
    ),
    "Beta with two peaks": (
        lambda: lb.Beta(Outputs(-0.4), scale=1.1),
        stats.beta(1.1**-2 / (1 + math.exp(0.4)), 1.1**-2 / (1 + math.exp(-0.4))),
        (0, 1),
    ),
    "ContinuousBernoulli": (
        lambda: lb.ContinuousBernoulli(Outputs(-1.7)),
        continuous_bernoulli(-1.7),
        (0, 1),
    ),
    "ContinuousBernoulli, almost uniform": (
        lambda: lb.ContinuousBernoulli(Outputs(-1e-4)),
        continuous_bernoulli(-1e-4),
        (0, 1),
    ),
}
family = pytest.mark.parametrize("name", FAMILIES)


def make_conditional(name):
    """The conditional in double precision, its settings too."""
    torch.set_default_dtype(DOUBLE)
    try:
        return FAMILIES[name][0]()
    finally:
        torch.set_default_dtype(torch.float32)


def make(name):
    return make_conditional(name)()


@family
def test_densities_are_scipys(name):
    scipys = FAMILIES[name][1]
    points = scipys.ppf(np.linspace(0.01, 0.99, 15))
    ours = make(name).log_prob(torch.from_numpy(points)[:, None])
    np.testing.assert_allclose(ours.detach(), scipys.logpdf(points), rtol=1e-10, atol=1e-10)


# A share of 7e-9 of this density is closer to 1 than the largest number of float64 below 1.
ALMOST_ONE = {"Beta with two peaks": 1e-8}


@family
def test_densities_integrate_to_one(name):
    p, (low, high) = make(name), FAMILIES[name][2]
    total = integrate(lambda x: p.log_prob(x[:, None]).exp(), low, float(p.mean.detach()), high)
    assert total == pytest.approx(1.0, abs=ALMOST_ONE.get(name, 1e-12))


# Scipy's moments cancel near the uniform distribution, which is tested further below.
@pytest.mark.parametrize("name", [name for name in FAMILIES if "uniform" not in name])
def test_means_and_variances_are_scipys(name):
    p, scipys = make(name), FAMILIES[name][1]
    assert float(p.mean.detach()) == pytest.approx(scipys.mean(), rel=1e-8)
    assert float(p.variance.detach()) == pytest.approx(scipys.var(), rel=1e-8)


@family
def test_draws_are_distributed_as_scipys(name):
    """A Kolmogorov-Smirnov test at 10^-4: these 11 fail once in 900 runs without a seed."""
    torch.manual_seed(3)
    draws = make(name).sample((4000,)).flatten().numpy()
    assert stats.kstest(draws, FAMILIES[name][1].cdf).pvalue > 1e-4


@family
def test_densities_in_float32_are_almost_those_in_float64(name):
    points = torch.from_numpy(FAMILIES[name][1].ppf(np.linspace(0.01, 0.99, 15)))[:, None].float()
    single = FAMILIES[name][0]().float()().log_prob(points)
    exact = make(name).log_prob(points.double())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), exact, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("name", [name for name in FAMILIES if "uniform" not in name])
def test_draws_have_the_gradient_of_their_distribution(name):
    """E[x]'s gradient from 20,000 draws, at 5 standard errors."""
    torch.manual_seed(5)
    conditional = make_conditional(name)
    p = conditional()
    wanted = torch.autograd.grad(p.mean.sum(), conditional.network.outputs)[0]
    raw = conditional.network.outputs.detach().expand(20_000, -1).clone().requires_grad_()
    draws = conditional.from_parameters(raw).rsample()
    found = torch.autograd.grad(draws.sum(), raw)[0]
    error = found.std(0) / math.sqrt(len(found))
    assert ((found.mean(0) - wanted).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("degrees", [1.0, 3.0, 200.0])
def test_draws_of_student_t_are_differentiable_in_all_parameters(degrees):
    loc, log_scale = torch.tensor([0.3], dtype=DOUBLE), torch.tensor([0.2], dtype=DOUBLE)
    parameters = [loc, log_scale, torch.tensor(degrees, dtype=DOUBLE)]
    for parameter in parameters:
        parameter.requires_grad_()

    def draw(*parameters):
        torch.manual_seed(1)
        return FactorialStudentT(*parameters).rsample((7,))

    assert torch.autograd.gradcheck(draw, parameters)


def test_student_t_has_scipys_entropy_and_its_moments_end_with_few_degrees():
    for degrees in (1.0, 4.0, 1000.0):
        p = FactorialStudentT(
            torch.zeros(2, dtype=DOUBLE),
            torch.tensor(0.3, dtype=DOUBLE),
            torch.tensor(degrees, dtype=DOUBLE),
        )
        wanted = 2 * stats.t(degrees, 0, math.exp(0.3)).entropy()
        assert float(p.entropy()) == pytest.approx(wanted, rel=1e-12)
        assert bool(p.variance.isinf().all()) == (degrees <= 2)
        assert torch.equal(p.mean, torch.zeros(2, dtype=DOUBLE))


# Concentrated densities, and those with peaks at the ends


@pytest.mark.parametrize("concentration", [0.01, 1.0, 7.99, 8.01, 300.0, 1e4])
def test_gamma_and_beta_are_exact_however_concentrated(concentration):
    """In float32 the errors are those of rounding; torch's are hundreds of times as large."""
    shares = np.array([0.2, 0.5, 0.8])
    for share in (0.5, 0.9):
        a, b = concentration * share, concentration * (1 - share)
        pairs = (
            (Gamma, (a, 2.0), stats.gamma(a, scale=0.5)),
            (Beta, (a, b), stats.beta(a, b)),
        )
        for family, parameters, scipys in pairs:
            points = scipys.ppf(shares).clip(1e-30, 1 - 1e-9)
            exact = [torch.tensor(value, dtype=DOUBLE) for value in parameters]
            ours = family(*exact, validate_args=False).log_prob(torch.from_numpy(points))
            np.testing.assert_allclose(ours, scipys.logpdf(points), rtol=1e-9, atol=1e-9)
            inside = torch.from_numpy(points.clip(1e-30, 0.9)).float()
            rounded = [value.float() for value in exact]
            single = family(*rounded, validate_args=False).log_prob(inside)
            double = family(*(value.double() for value in rounded), validate_args=False)
            wanted = double.log_prob(inside.double())
            torch.testing.assert_close(single.double(), wanted, rtol=2e-6, atol=3e-5)


def test_stirlings_remainder_is_that_of_the_log_gamma_function():
    a = torch.logspace(-6, 6, 200, dtype=DOUBLE, requires_grad=True)
    stirling = (a - 0.5) * a.log() - a + 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(
        compute_stirling_remainder(a) + stirling, torch.lgamma(a), rtol=1e-13, atol=0
    )
    (slope,) = torch.autograd.grad(compute_stirling_remainder(a).sum(), a)
    wanted = torch.digamma(a) - (a.log() - 0.5 / a)
    torch.testing.assert_close(slope, wanted.detach(), rtol=1e-6, atol=1e-12)


# The continuous Bernoulli distribution near the uniform one

LOGITS = [0.0, 1e-30, 1e-6, 1e-3, 0.02, 0.0299, 0.0301, 0.3, 0.499, 0.501, 2.0, 20.0, 90.0, 500.0]


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_continuous_bernoulli_is_exact_at_every_logit(sign):
    """Its log density, gradient, mean and variance, in float32 against 150 digits."""
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(150):
        for logit in LOGITS:
            eta = torch.tensor([sign * logit], requires_grad=True)
            p = FactorialContinuousBernoulli(eta)
            value = p.log_prob(torch.tensor([0.3]))
            (slope,) = torch.autograd.grad(value, eta)
            t = mpmath.mpf(eta.item())
            x = mpmath.mpf(float(torch.tensor(0.3)))
            if t == 0:
                log_normalizer, mean, variance = 0, mpmath.mpf(1) / 2, mpmath.mpf(1) / 12
            else:
                log_normalizer = mpmath.log(mpmath.expm1(t) / t)
                mean = 1 / -mpmath.expm1(-t) - 1 / t
                variance = 1 / t**2 - 1 / (2 * mpmath.sinh(t / 2)) ** 2
            wanted = (float(x * t - log_normalizer), float(x - mean), float(mean), float(variance))
            found = tuple(each.item() for each in (value, slope, p.mean, p.variance))
            assert found == pytest.approx(wanted, rel=3e-6, abs=3e-7), logit


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_continuous_bernoulli_draws_invert_its_distribution_function(sign):
    u = torch.tensor([[1e-6], [0.2], [0.5], [0.9], [0.999]], dtype=DOUBLE)
    for logit in LOGITS[1:]:
        eta = torch.tensor([sign * logit], dtype=DOUBLE, requires_grad=True)

        def draw(logits):
            return FactorialContinuousBernoulli(logits).rsample((5,))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(noise, "uniform", lambda *args, **options: u)
            x = draw(eta)
            assert ((x >= 0) & (x <= 1)).all()
            share = torch.expm1(eta * x) / torch.expm1(eta)
            if sign * logit > 50:
                share = torch.exp(eta * (x - 1))
            torch.testing.assert_close(share, u, rtol=1e-7, atol=1e-12)
            if logit > 1e-3:
                assert torch.autograd.gradcheck(draw, eta, eps=1e-7, atol=1e-5)
            single = draw(eta.detach().float()).double()
            torch.testing.assert_close(single, x.detach(), rtol=1e-3, atol=1e-6)


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_continuous_bernoulli_is_exact_in_compiled_code():
    logits = torch.tensor([sign * logit for logit in LOGITS for sign in (-1.0, 1.0)])

    def score(logits, value):
        return FactorialContinuousBernoulli(logits[:, None]).log_prob(value)

    found = logits.clone().requires_grad_()
    value = torch.compile(score, fullgraph=True)(found, torch.tensor([0.3]))
    value.sum().backward()
    exact = logits.double().requires_grad_()
    wanted = score(exact, torch.tensor([0.3]).double())
    wanted.sum().backward()
    torch.testing.assert_close(value.double(), wanted, rtol=3e-6, atol=3e-7)
    torch.testing.assert_close(found.grad.double(), exact.grad, rtol=3e-6, atol=3e-7)


# KL divergences


def test_kl_between_laplace_distributions_is_torchs_and_sums_over_units():
    torch.manual_seed(0)
    q, p = (lb.Laplace(lb.mlp(4, 6)).double()(torch.randn(5, 4, dtype=DOUBLE)) for _ in range(2))
    kl = closed_form_kl(q, p)
    torch.testing.assert_close(closed_form_unit_kl(q, p).sum(-1), kl)
    z = q.sample((100_000,))
    terms = q.log_prob(z) - p.log_prob(z)
    error = terms.std(0) / math.sqrt(len(terms))
    assert ((terms.mean(0) - kl).abs() < 5 * error).all()


def test_kl_between_continuous_bernoullis_is_that_of_quadrature():
    q, p = (FactorialContinuousBernoulli(torch.tensor([eta], dtype=DOUBLE)) for eta in (1.3, -4.0))

    def integrand(x):
        x = torch.tensor([x], dtype=DOUBLE)
        return float(q.log_prob(x).exp() * (q.log_prob(x) - p.log_prob(x)))

    assert float(closed_form_kl(q, p)) == pytest.approx(quad(integrand, 0, 1)[0], rel=1e-9)
    entropy = quad(lambda x: -integrand_of_entropy(q, x), 0, 1)[0]
    assert float(q.entropy()) == pytest.approx(entropy, rel=1e-9)


def integrand_of_entropy(q, x):
    log_prob = q.log_prob(torch.tensor([x], dtype=DOUBLE))
    return float(log_prob.exp() * log_prob)


def test_the_rate_of_other_pairs_is_sampled():
    for posterior in (lb.StudentT(lb.mlp(4, 6)), lb.Laplace(lb.mlp(4, 6))):
        vae = lb.LatentModel(lb.StandardNormal(3), posterior, lb.Gaussian(lb.mlp(3, 8)))
        draw = vae.draw(torch.randn(5, 4), samples=2)
        assert draw.analytic_rate is None
        assert torch.equal(draw.rate, draw.sampled_rate)


# Noise


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_belong_to_their_example(name):
    conditional = make_conditional(name)
    raw = conditional.network.outputs.detach().expand(4, -1)

    def draw(rows):
        with noise.per_example(0, torch.tensor(rows)):
            return draw_samples(conditional.from_parameters(raw[rows]), 3)

    everything = draw([0, 1, 2, 3])
    torch.testing.assert_close(draw([2]), everything[:, 2:3], rtol=0, atol=0)
    torch.testing.assert_close(draw([3, 1]), everything[:, [3, 1]], rtol=0, atol=0)


def test_draws_of_torchs_student_t_belong_to_their_example():
    loc = torch.linspace(-1, 1, 4)[:, None].expand(4, 2)

    def draw(rows):
        q = Independent(torch.distributions.StudentT(3.0, loc[rows], 0.5), 1)
        with noise.per_example(0, torch.tensor(rows)):
            return draw_samples(q, 3)

    everything = draw([0, 1, 2, 3])
    torch.testing.assert_close(draw([3, 1]), everything[:, [3, 1]], rtol=0, atol=0)
    draws = draw([0] * 4000) - loc[0]
    assert stats.kstest(draws[0, :1, 0] / 0.5, stats.t(3).cdf).pvalue > 1e-4


# Data outside of the support

LIKELIHOODS = {
    "LogNormal": lambda: lb.LogNormal(lb.mlp(2, 6)),
    "Gamma": lambda: lb.Gamma(lb.mlp(2, 6)),
    "Beta": lambda: lb.Beta(lb.mlp(2, 6)),
    "ContinuousBernoulli": lambda: lb.ContinuousBernoulli(lb.mlp(2, 3)),
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "LogNormal",
            0.0,
            "row 4 has the value 0, and a LogNormal likelihood needs positive values",
        ),
        ("Gamma", -2.5, r"row 4 has the value -2.5, and a Gamma .* missing='nan' with lb.Masked"),
        ("Beta", 0.0, r"row 4 has the value 0, and a Beta .* strictly between 0 and 1"),
        ("Beta", 1.0, r"row 4 has the value 1, and .* lb.ContinuousBernoulli, or .* \+ 0.5\) / N"),
        ("ContinuousBernoulli", 1.5, r"row 4 has the value 1.5, and .* values in \[0, 1\]"),
    ],
)
def test_data_outside_of_the_support_are_refused_with_advice(name, value, message):
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), LIKELIHOODS[name]())
    data = torch.rand(9, 3) * 0.8 + 0.1
    assert lb.evaluate(vae, lb.ELBO(), data).per_example.isfinite().all()
    data[4, 1] = value
    with pytest.raises(DataError, match=f"data: {message}"):
        lb.evaluate(vae, lb.ELBO(), data)


def test_continuous_bernoulli_takes_0_and_1():
    vae = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), LIKELIHOODS["ContinuousBernoulli"]()
    )
    data = torch.tensor([[0.0, 1.0, 0.5]])
    assert lb.evaluate(vae, lb.ELBO(), data).per_example.isfinite().all()


def test_positive_data_with_missing_entries_are_scored_where_observed():
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Given(lb.Gaussian(lb.mlp(6, 4)), "observed"),
        lb.Masked(lb.Gamma(lb.mlp(2, 6))),
    )
    data = torch.rand(9, 3) + 0.1
    data[2, 1] = math.nan
    rows = lb.Examples.of(data, missing="nan")
    assert lb.evaluate(vae, lb.ELBO(), rows).per_example.isfinite().all()


# Starting from the data


def make_data(name, count=4000):
    torch.manual_seed(1)
    if name in ("LogNormal", "Gamma"):
        return (torch.randn(count, 3, dtype=DOUBLE) * 0.3 + torch.tensor([0.0, 5.0, -4.0])).exp()
    if name in ("Beta", "ContinuousBernoulli"):
        return torch.distributions.Beta(
            torch.tensor([2.0, 8.0, 1.0], dtype=DOUBLE), torch.tensor([5.0, 1.0, 1.0])
        ).sample((count,))
    return torch.randn(count, 3, dtype=DOUBLE) * torch.tensor([0.7, 1.0, 1.5]) + 5.0


STARTED = LIKELIHOODS | {
    "Laplace": lambda: lb.Laplace(lb.mlp(2, 6)),
    "StudentT": lambda: lb.StudentT(lb.mlp(2, 6), degrees=5.0),
    "Gaussian": lambda: lb.Gaussian(lb.mlp(2, 6)),
}


@pytest.mark.parametrize("name", STARTED)
def test_marginal_outputs_have_the_moments_of_the_data(name):
    part, x = STARTED[name]().double(), make_data(name)
    p = part.from_parameters(part.marginal_outputs(x))
    rtol = 1e-3
    if name == "LogNormal":
        rtol = 0.02  # its moments are those of the logarithms
    torch.testing.assert_close(p.mean, x.mean(0), rtol=rtol, atol=rtol)
    if name != "ContinuousBernoulli":
        torch.testing.assert_close(p.variance, x.var(0), rtol=3 * rtol, atol=0)


@pytest.mark.parametrize("name", STARTED)
def test_marginal_outputs_are_finite_for_constant_missing_and_single_values(name):
    part, x = STARTED[name]().double(), make_data(name, 5)
    x[:, 0] = x[0, 0]
    x[:4, 1] = math.nan
    x[:, 2] = math.nan
    for data in (x, x[:1], x[4:]):
        outputs = part.marginal_outputs(data)
        assert outputs.shape == part.network.output_shape
        assert outputs.isfinite().all()
        assert part.from_parameters(outputs).log_prob(make_data(name, 1)).isfinite().all()


@pytest.mark.parametrize("scale", ["shared", "elementwise", "optimal"])
@pytest.mark.parametrize("family", [lb.Gaussian, lb.Laplace])
def test_a_scale_of_its_own_starts_from_the_data(family, scale):
    x = make_data("Gaussian")
    part = family(lb.mlp(2, 3), scale=scale).double().eval()
    part.start_from(x)
    variance = x.var(0)
    if scale != "elementwise":
        variance = variance.mean().expand(3)
    torch.testing.assert_close(
        part(torch.zeros(1, 2, dtype=DOUBLE)).variance[0], variance, rtol=1e-3, atol=0
    )


# Settings


@pytest.mark.parametrize(
    ("make_it", "error", "message"),
    [
        (lambda: lb.Laplace(lb.mlp(4, 3)), ShapeError, r"Laplace: .* \(3,\) cannot be split"),
        (lambda: lb.Gamma(lb.mlp(4, 3), scale="optimal"), SettingsError, "Gamma: scale='optimal'"),
        (lambda: lb.StudentT(lb.mlp(4, 3), scale="optimal"), SettingsError, "'elementwise' or a"),
        (
            lambda: lb.Laplace(lb.mlp(4, 3), scale=-1.0),
            SettingsError,
            "'elementwise', 'optimal' or",
        ),
        (lambda: lb.StudentT(lb.mlp(4, 4), degrees=0.0), SettingsError, "degrees=0.0 is unknown"),
        (lambda: lb.StudentT(lb.mlp(4, 4), degrees="all"), SettingsError, "choose 'learned' or a"),
        (lambda: lb.Beta(lb.mlp(4, 4), min_scale=0.0), SettingsError, "Beta: min_scale=0.0"),
    ],
)
def test_invalid_settings_say_why(make_it, error, message):
    with pytest.raises(error, match=message):
        make_it()


def test_learned_degrees_stay_between_1_and_1000():
    for value in (-1e9, 0.0, 1e9):
        part = lb.StudentT(lb.mlp(4, 4))
        with torch.no_grad():
            part.log_degrees.fill_(value)
        degrees = part(torch.zeros(1, 4)).degrees.item()
        assert 1 - 1e-6 <= degrees <= 1000 * (1 + 1e-5)
