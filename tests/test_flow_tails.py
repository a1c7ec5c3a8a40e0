"""Flows whose inverse is a bisection, far from where the bisection searches."""

import pytest
import torch
import zuko

import lowerbound as lb

NETWORK = {"network": {"hidden_features": (4,)}, "signal": 2, "hidden_features": (4,)}
OPTIONS = {"naf": NETWORK, "unaf": NETWORK, "sospf": {"hidden_features": (4,)}, "gf": {}, "bpf": {}}
FAR = (-50.0, -12.0, -6.0, 6.0, 12.0, 50.0)


@pytest.fixture(autouse=True)
def exact_bisection(monkeypatch):
    """Bisections to the last digit of float64."""
    bisection = zuko.transforms.bisection
    monkeypatch.setattr(zuko.transforms, "bisection", lambda n, **given: bisection(n=60, **given))


def make_flow(name, units, seed=0):
    torch.manual_seed(seed)
    return lb.Flow(name, units, transforms=2, **OPTIONS[name]).double()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", OPTIONS)
def test_values_of_any_size_have_an_exact_inverse_and_density(name, seed):
    """In both directions, and the density against the determinant of autograd's Jacobian."""
    p = make_flow(name, 2, seed)()
    far = torch.cartesian_prod(torch.tensor(FAR), torch.tensor(FAR)).double()
    with torch.no_grad():
        torch.testing.assert_close(p.transform.inv(p.transform(far)), far, rtol=0, atol=1e-8)
        torch.testing.assert_close(p.transform(p.transform.inv(far)), far, rtol=0, atol=1e-8)
    for x in far[::5]:
        jacobian = torch.autograd.functional.jacobian(p.transform, x)
        expected = p.base.log_prob(p.transform(x)) + jacobian.slogdet().logabsdet
        torch.testing.assert_close(p.log_prob(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_draw_from_the_tails_has_the_density_of_the_point(name, monkeypatch):
    """Draws used to stop at 10, with the densities of other points."""
    p = make_flow(name, 1)()
    noise = torch.tensor([-30.0, -8.0, 8.0, 30.0]).double()[:, None]
    monkeypatch.setattr(type(p.base), "rsample", lambda base, shape=(): noise)
    z, log_p = p.rsample_and_log_prob((4,))
    torch.testing.assert_close(log_p, p.log_prob(z), rtol=1e-6, atol=1e-6)
    assert z.flatten().diff().min() > 0  # no two draws at the same end
    assert z.abs().max() > 10


@pytest.mark.parametrize("name", OPTIONS)
def test_the_density_has_all_of_its_probability(name):
    """By the trapezoidal rule, at the points whose noise is evenly spaced from -9 to 9."""
    p = make_flow(name, 1)()
    with torch.no_grad():
        grid = p.transform.inv(torch.linspace(-9, 9, 8001).double()[:, None])
        density = p.log_prob(grid).exp()
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_in_the_tails_are_those_of_finite_differences(name):
    flow = make_flow(name, 1)
    parameters = [p for p in flow.parameters() if p.requires_grad]
    directions = [torch.randn_like(p) for p in parameters]
    noise = torch.tensor([-30.0, -8.0, 0.5, 8.0, 30.0]).double()[:, None]

    def compute():
        p = flow()
        z = p.transform.inv(noise)
        return z.sum() / 100 + p.log_prob(noise).sum() / 100

    gradients = torch.autograd.grad(compute(), parameters, allow_unused=True)
    slope = sum(
        float((g * d).sum()) for g, d in zip(gradients, directions, strict=True) if g is not None
    )
    values, step = [], 1e-5
    with torch.no_grad():
        for change in (step, -2 * step):
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(change * direction)
            values.append(float(compute()))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-3, abs=1e-6)


def test_a_gaussianization_flow_in_float32_has_tails_before_its_digits_end():
    """With parameters of zero it is nearly the identity: zuko multiplies probabilities by 1 - 1e-6,
    which changes the slope at 4 deviations by 1%. It had no value above 4.9.
    """
    flow = lb.Flow("gf", 1, transforms=1)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.zero_()
        p = flow()
        far = torch.tensor(FAR)[:, None]
        torch.testing.assert_close(p.transform(far), far, rtol=0.02, atol=0)
        torch.testing.assert_close(p.transform.inv(far), far, rtol=0.02, atol=0)
        torch.testing.assert_close(p.log_prob(far), p.base.log_prob(far), rtol=0.04, atol=0)
