"""Unit vectors: densities against quadrature, draws and gradients against closed forms."""

import math

import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
from torch.distributions import kl_divergence

import lowerbound as lb
from lowerbound.distributions import PowerSpherical, SphereUniform, natural_point
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError

ZERO = torch.zeros((), dtype=torch.float64)


def make_density(size, concentration, seed=0):
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(size, dtype=torch.float64, generator=generator)
    return PowerSpherical(direction / direction.norm(), ZERO + concentration)


def integrate_over_cosine(q, term):
    """The integral over the sphere of a function of the cosine to the mean direction."""
    size = q.event_shape[0]
    around = torch.linalg.qr(q.loc[:, None], mode="complete").Q[:, 1]
    circle = 2.0
    if size > 2:
        circle = math.exp(-float(SphereUniform(size - 1, ZERO).log_prob(torch.ones(size - 1))))

    def integrand(angle):
        x = math.cos(angle) * q.loc + math.sin(angle) * around
        return term(x) * circle * math.sin(angle) ** (size - 2)

    return scipy.integrate.quad(integrand, 0, math.pi, epsabs=1e-12, epsrel=1e-12)[0]


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("concentration", [0.0, 0.7, 30.0])
def test_the_density_integrates_to_one_and_its_entropy_is_an_integral(size, concentration):
    q = make_density(size, concentration)
    whole = integrate_over_cosine(q, lambda x: float(q.log_prob(x).exp()))
    assert whole == pytest.approx(1, abs=1e-10)
    entropy = integrate_over_cosine(q, lambda x: float(-q.log_prob(x).exp() * q.log_prob(x)))
    assert float(q.entropy()) == pytest.approx(entropy, abs=1e-9)


@pytest.mark.parametrize("size", [2, 10, 50])
@pytest.mark.parametrize("concentration", [0.1, 30.0, 1e4])
def test_concentrated_densities_are_accurate_in_float32(size, concentration):
    """The terms of the textbook formulas are about 10^4, and their differences about 10."""
    exact = make_density(size, concentration)
    q = PowerSpherical(exact.loc.float(), exact.concentration.float())
    exact = PowerSpherical(q.loc.double(), q.concentration.double())
    torch.testing.assert_close(q.entropy().double(), exact.entropy(), rtol=1e-6, atol=2e-6)
    torch.manual_seed(0)
    x = q.sample((200,))
    torch.testing.assert_close(
        q.log_prob(x).double(), exact.log_prob(x.double()), rtol=1e-5, atol=1e-4
    )
    concentrations = torch.tensor(concentration, requires_grad=True)
    entropy = PowerSpherical(q.loc, concentrations).entropy()
    (slope,) = torch.autograd.grad(entropy, concentrations)
    wide = exact.concentration.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(PowerSpherical(exact.loc, wide).entropy(), wide)
    torch.testing.assert_close(slope.double(), wanted, rtol=1e-5, atol=0)


def test_the_area_of_the_sphere_is_known():
    for size, area in ((2, 2 * math.pi), (3, 4 * math.pi), (4, 2 * math.pi**2)):
        density = SphereUniform(size, ZERO).log_prob(torch.eye(size)[0]).exp()
        assert 1 / float(density) == pytest.approx(area, rel=1e-12)


def test_the_rate_is_the_entropy_lost_and_zero_without_concentration():
    p = SphereUniform(5, ZERO)
    q = make_density(5, 3.0)
    torch.testing.assert_close(kl_divergence(q, p), p.entropy() - q.entropy())
    assert abs(float(kl_divergence(make_density(5, 0.0), p))) < 1e-12


@pytest.mark.parametrize("size", [2, 3, 8])
def test_cosines_of_draws_have_a_beta_distribution(size):
    """A test of Kolmogorov and Smirnov, which fails by chance once in 10,000."""
    q = make_density(size, 4.0)
    cosines = (q.rsample((4000,)) @ q.loc + 1) / 2
    expected = scipy.stats.beta((size - 1) / 2 + 4.0, (size - 1) / 2)
    assert scipy.stats.kstest(cosines.numpy(), expected.cdf).pvalue > 1e-4


@pytest.mark.parametrize("sign", [1, -1])
def test_draws_around_any_direction_are_unit_vectors_about_it(sign):
    """The reflection is exact at the first axis and opposite to it."""
    loc = sign * torch.eye(3)
    z = PowerSpherical(loc, torch.full((3,), 1e4)).rsample((50,))
    torch.testing.assert_close(z.norm(dim=-1), torch.ones(50, 3), atol=1e-5, rtol=0)
    assert ((z * loc).sum(-1) > 0.99).all()


def test_pathwise_gradients_are_those_of_the_mean():
    """E[a'z] = a'mu kappa / (D - 1 + kappa). Four standard errors; 5 derivatives."""
    loc = make_density(4, 1.0).loc.requires_grad_()
    concentration = (ZERO + 2.5).requires_grad_()
    a = torch.tensor([0.3, -1.0, 0.5, 2.0], dtype=torch.float64)

    def normalised():
        return loc / loc.norm()

    expected = torch.autograd.grad(
        PowerSpherical(normalised(), concentration).mean @ a, [loc, concentration]
    )
    copies = 4000
    locs = loc.expand(copies, 4)
    locs = locs / locs.norm(dim=1, keepdim=True)
    many = concentration.expand(copies)
    terms = PowerSpherical(locs, many).rsample() @ a
    of_locs, of_concentration = torch.autograd.grad(terms.sum(), [locs, many])
    # The gradient at the direction is projected onto the tangent, as that of a normalised vector.
    along = (of_locs * locs).sum(1, keepdim=True) * locs
    found = torch.cat([(of_locs - along) / loc.norm(), of_concentration[:, None]], 1)
    wanted = torch.cat([expected[0], expected[1][None]])
    error = found.std(0) / math.sqrt(copies)
    assert ((found.mean(0) - wanted).abs() < 4 * error).all()


def test_the_gradient_through_a_beta_variable_is_the_implicit_one():
    """Torch's is an approximation, within a thousandth here."""
    q = PowerSpherical(torch.eye(5, dtype=torch.float64)[0], (ZERO + 3.0).requires_grad_())
    z = q.rsample()
    b = float((z[0].detach() + 1) / 2)
    (found,) = torch.autograd.grad(z[0], q.concentration)
    step = 1e-5
    beta = scipy.stats.beta
    of_alpha = (beta.cdf(b, 5 + step, 2) - beta.cdf(b, 5 - step, 2)) / (2 * step)
    assert float(found) == pytest.approx(-2 * of_alpha / beta.pdf(b, 5, 2), rel=1e-3)


@pytest.mark.parametrize("size", [2, 3, 20])
def test_the_mean_cosine_of_an_output_does_not_depend_on_the_dimension(size):
    """With kappa = (D - 1) softplus(v) the mean cosine is softplus(v) / (1 + softplus(v))."""
    v = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    raw = torch.cat([torch.randn(3, size, dtype=torch.float64), v[:, None]], -1)
    q = lb.PowerSpherical(lb.constant(size + 1)).from_parameters(raw)
    ratio = torch.nn.functional.softplus(v)
    torch.testing.assert_close(q.mean.norm(dim=-1), ratio / (1 + ratio))


def test_an_encoding_is_the_mean_direction():
    posterior = lb.PowerSpherical(lb.mlp(6, 4))
    q = posterior(torch.randn(5, 6))
    assert torch.equal(natural_point(q), q.loc)
    torch.testing.assert_close(q.loc.norm(dim=-1), torch.ones(5))


def test_trajectories_would_leave_the_sphere():
    vae = lb.LatentModel(
        lb.SphereUniform(3), lb.PowerSpherical(lb.mlp(6, 4)), lb.Bernoulli(lb.mlp(3, 6))
    )
    with pytest.raises(UnsupportedError, match="SphereUniform, whose latents are discrete or bou"):
        lb.annealed_log_likelihood(vae, torch.zeros(2, 6))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lb.SphereUniform(1), SettingsError, "size=1 must be at least 2"),
        (lambda: lb.PowerSpherical(lb.mlp(4, 2)), ShapeError, "needs D \\+ 1 outputs"),
        (
            lambda: lb.PowerSpherical(lb.mlp(4, 4), max_concentration=1.0),
            SettingsError,
            "max_concentration=1.0 must be",
        ),
    ],
)
def test_invalid_spheres_say_why(make, error, message):
    with pytest.raises(error, match=message):
        make()
