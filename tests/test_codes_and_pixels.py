"""Likelihoods of codes and of pixels: ordered and unordered codes, discretised logistics."""

import mpmath
import numpy as np
import pytest
import scipy.stats
import torch

import lowerbound as lb
from lowerbound.distributions import DiscretizedLogistics, FactorialCodes, is_mass, natural_point
from lowerbound.errors import DataError, SettingsError, ShapeError

DOUBLE = torch.float64


def random_logistics(levels, components, entries=5):
    """Also with components far outside of the levels, and very narrow or wide ones."""
    torch.manual_seed(0)
    shape = (4, components, entries)
    loc = 1.6 * torch.rand(shape, dtype=DOUBLE) - 0.3
    log_scale = 12 * torch.rand(shape, dtype=DOUBLE) - 9
    return DiscretizedLogistics(loc, log_scale, torch.randn(shape, dtype=DOUBLE), levels)


# Discretised logistics


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_levels_sum_to_one_and_have_the_stated_moments(levels, components):
    p = random_logistics(levels, components)
    x = torch.arange(levels, dtype=DOUBLE)[:, None, None] / (levels - 1)
    log_mass = p.entrywise_log_prob(x.expand(levels, 4, 5))
    total = log_mass.logsumexp(0)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)
    mean = (log_mass.exp() * x).sum(0)
    torch.testing.assert_close(p.mean, mean)
    torch.testing.assert_close(p.variance, (log_mass.exp() * (x - mean) ** 2).sum(0))
    assert is_mass(p)
    assert p.expand((7, 4)).log_prob(x[0].expand(7, 4, 5)).shape == (7, 4)
    assert not p.stop_gradient().mean.requires_grad


def test_levels_are_differences_of_scipy_s_distribution_function():
    loc, scale = np.array([0.1, 0.5, 0.95]), np.array([0.05, 0.2, 0.01])
    parameters = torch.tensor(np.stack([loc, np.log(scale)]))[:, None]
    p = DiscretizedLogistics(*parameters, torch.zeros(1, 3, dtype=DOUBLE), levels=17)
    edges = np.concatenate([[-np.inf], (np.arange(16) + 0.5) / 16, [np.inf]])[:, None]
    expected = np.diff(scipy.stats.logistic.cdf(edges, loc, scale), axis=0)
    x = torch.arange(17, dtype=DOUBLE)[:, None] / 16
    np.testing.assert_allclose(p.entrywise_log_prob(x).exp(), expected, atol=1e-15)


def test_float32_is_accurate_far_out_in_the_tails():
    """There the difference of two sigmoids is 0 - 0 or 1 - 1."""
    p = random_logistics(256, 1)
    single = DiscretizedLogistics(p.loc.float(), p.log_scale.float(), p.logits.float())
    x = torch.linspace(0, 1, 256)[:, None, None].expand(256, 4, 5)
    found = single.entrywise_log_prob(x).double()
    exact = torch.empty_like(found)
    with mpmath.workdps(60):
        for place in [(0, 0, 0), (1, 1, 1), (90, 2, 3), (254, 3, 4), (255, 1, 2), (128, 0, 3)]:
            level, row, entry = place
            loc = mpmath.mpf(single.loc[row, 0, entry].item())
            scale = mpmath.exp(single.log_scale[row, 0, entry].item())
            half = mpmath.mpf(1) / 510

            def below(edge, loc=loc, scale=scale):
                return 1 / (1 + mpmath.exp(-(edge - loc) / scale))

            at = mpmath.mpf(x[place].item())
            lower = 0 if level == 0 else below(at - half)
            upper = 1 if level == 255 else below(at + half)
            exact[place] = float(mpmath.log(upper - lower))
            assert abs(found[place] - exact[place]) <= 3e-6 * max(1.0, abs(exact[place]))
    assert found.isfinite().all()


def test_channels_have_their_own_parameters():
    torch.manual_seed(0)
    network = lb.mlp(2, (3 * 2 * 3, 4, 5))
    z = torch.randn(7, 2)
    p = lb.DiscretizedLogistic(network, components=2)(z)
    raw = network(z).reshape(7, 3, 2, 3, 4, 5)
    assert (p.batch_shape, p.event_shape) == ((7,), (3, 4, 5))
    torch.testing.assert_close(p.logits, raw[:, 0])
    torch.testing.assert_close(p.loc, raw[:, 1])
    torch.testing.assert_close(p.log_scale, raw[:, 2])
    one = lb.DiscretizedLogistic(lb.mlp(2, (6, 4, 5)))
    assert one(z).loc.shape == (7, 1, 3, 4, 5)
    with pytest.raises(ShapeError, match="components=2 each entry has 6 parameters"):
        lb.DiscretizedLogistic(lb.mlp(2, (2, 4, 5)), components=2)
    with pytest.raises(SettingsError, match="levels=1"):
        lb.DiscretizedLogistic(lb.mlp(2, 2), levels=1)


def test_pixels_are_scored_in_bits_and_drawn_in_the_unit_interval():
    torch.manual_seed(0)
    pixels = lb.Examples(torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8), levels=256)
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp((3, 4, 4), 4)),
        lb.DiscretizedLogistic(lb.mlp(2, (6, 4, 4))),
    )
    run = lb.fit(vae, lb.ELBO(), pixels, epochs=2, progress=False)
    estimate = lb.evaluate(run.model, lb.ELBO(), pixels)
    assert estimate.bits_per_dimension == pytest.approx(-estimate.mean / (48 * np.log(2)))
    drawn, means = vae.sample(20), vae.sample(20, mean=True)
    assert (drawn * 255 - (drawn * 255).round()).abs().max() < 1e-4
    assert 0 <= means.min() < means.max() <= 1
    with pytest.raises(DataError, match=r"row 0 has the value .* a DiscretizedLogistic likelihood"):
        lb.evaluate(vae, lb.ELBO(), torch.rand(5, 3, 4, 4))
    with pytest.raises(DataError, match="'dequantize' makes the pixels continuous"):
        lb.evaluate(vae, lb.ELBO(), pixels.prepare("dequantize"))


def test_a_uniform_distribution_of_256_levels_takes_8_bits():
    """Two wide components far outside leave nothing but a constant; so do equal logits."""
    pixels = lb.Examples(torch.arange(256, dtype=torch.uint8)[:, None], levels=256)
    x = pixels.batch(torch.arange(256), DOUBLE)
    equal = lb.Categorical(lb.constant(256), levels=256)().log_prob(x.float()).mean()
    assert pixels.bits_per_dimension(float(equal.detach()), mass=True) == pytest.approx(8, abs=1e-6)
    # Weights of 256 components, each of which has practically one level.
    loc, log_scale = torch.linspace(0, 1, 256, dtype=DOUBLE), torch.tensor(-12.0, dtype=DOUBLE)
    p = DiscretizedLogistics(loc[:, None], log_scale, torch.zeros(256, 1, dtype=DOUBLE))
    found = float(p.log_prob(x).mean())
    assert pixels.bits_per_dimension(found, mass=True) == pytest.approx(8, abs=1e-9)


@pytest.mark.parametrize("components", [1, 4])
def test_discretised_logistics_start_at_the_moments_of_the_data(components):
    torch.manual_seed(0)
    x = (0.3 + 0.1 * torch.randn(4000, 2)).clamp(0, 1).mul(255).round() / 255
    x[:, 1] = 1.0
    likelihood = lb.DiscretizedLogistic(
        lb.constant({1: 4, 4: 24}[components]), components=components
    )
    likelihood.start_from(x)
    p = likelihood().stop_gradient()
    assert float(p.mean[0]) == pytest.approx(0.3, abs=0.01)
    assert float(p.variance[0].sqrt()) == pytest.approx(0.1, rel=0.25)
    assert p.entrywise_log_prob(x[0])[1] > -8


# Codes


def test_codes_are_not_scaled_and_their_point_is_the_most_probable():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]])
    p = FactorialCodes(logits)
    expected = logits.log_softmax(0)
    assert torch.equal(natural_point(p), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(
        p.entrywise_log_prob(torch.tensor([2.0, 0.0])),
        torch.stack([expected[2, 0], expected[0, 1]]),
    )
    assert p.support.check(torch.tensor([[0.0, 2.0], [0.0, 3.0], [0.5, 0.0]])).tolist() == [
        True,
        False,
        False,
    ]
    assert type(p.expand((3,))) is FactorialCodes
    assert p.sample((50,)).unique().tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: lb.Categorical(lb.mlp(2, 12), levels=4, codes=True),
        lambda: lb.Ordinal(lb.mlp(2, 3), levels=4),
        lambda: lb.Ordinal(lb.mlp(2, 3), levels=4, thresholds="shared"),
    ],
)
def test_tables_of_codes_train_and_other_values_are_refused_by_row(make):
    torch.manual_seed(0)
    codes = torch.randint(0, 4, (60, 3))
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), make())
    data = lb.Examples(codes, levels=4, kind="codes")
    run = lb.fit(vae, lb.ELBO(), data, epochs=2, progress=False)
    estimate = lb.evaluate(run.model, lb.ELBO(), data)
    assert estimate.bits_per_dimension == pytest.approx(-estimate.mean / (3 * np.log(2)))
    assert set(vae.reconstruct(data).unique().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    codes[7, 1] = 4
    with pytest.raises(DataError, match=r"row 7 has the value 4, .* whole numbers from 0 to 3"):
        lb.evaluate(vae, lb.ELBO(), lb.Examples(codes, kind="codes"))
    with pytest.raises(DataError, match=r"kind='codes'"):
        lb.evaluate(vae, lb.ELBO(), torch.full((5, 3), 0.5))


def test_ordinal_codes_have_a_cumulative_logit():
    torch.manual_seed(0)
    part = lb.Ordinal(lb.mlp(2, (1, 2, 2)), levels=5).double()
    with torch.no_grad():
        part.gaps.normal_()
    z = torch.randn(7, 2, dtype=DOUBLE)
    p, eta = part(z), part.network(z)
    thresholds = torch.cat(part._bound_gaps()).cumsum(0)
    assert (thresholds.diff(dim=0) > 0).all()
    at_most = p.probs.cumsum(1)
    for level in range(4):
        torch.testing.assert_close(at_most[:, level], (thresholds[level] - eta).sigmoid())
    total = p.logits.logsumexp(1)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0, atol=1e-12)
    far = part.float().from_parameters(torch.full((1, 2, 2), 80.0))
    assert far.logits.isfinite().all()


def test_every_ordinal_code_stays_possible_however_small_its_gap():
    part = lb.Ordinal(lb.mlp(2, 1), levels=3).double()
    with torch.no_grad():
        part.gaps.copy_(torch.tensor([[0.0], [-900.0]]))  # softplus(-900) is 0
    p = part.from_parameters(torch.zeros(1, 1, dtype=DOUBLE))
    middle = torch.tensor(1e-4, dtype=DOUBLE).sigmoid() - 0.5
    torch.testing.assert_close(p.probs[0, 1, 0], middle, rtol=1e-9, atol=0)


def test_shared_thresholds_start_with_each_entry_on_its_own_side():
    torch.manual_seed(0)
    shares = torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.2, 0.7]])
    codes = torch.multinomial(shares, 5000, replacement=True).T.double()
    part = lb.Ordinal(lb.constant(3), levels=3, thresholds="shared").double()
    part.start_from(codes)
    torch.testing.assert_close(part().mean.detach(), codes.mean(0), rtol=0, atol=0.1)


def test_draws_of_each_component_have_its_own_scale():
    """The standard error of each variance, from 50,000 draws, is below 1% of it."""
    torch.manual_seed(0)
    loc = torch.tensor([[0.1], [0.7]], dtype=DOUBLE)
    log_scale = torch.tensor([[0.003], [0.02]], dtype=DOUBLE).log()
    p = DiscretizedLogistics(loc, log_scale, torch.zeros(2, 1, dtype=DOUBLE))
    x = p.sample((100_000,))[:, 0]
    for component, selected in enumerate((x < 0.3, x > 0.3)):
        alone = DiscretizedLogistics(
            *(part[component : component + 1] for part in (loc, log_scale)),
            torch.zeros(1, 1, dtype=DOUBLE),
        )
        ratio = x[selected].var() / alone.variance[0]
        assert 0.93 < float(ratio) < 1.07


def test_two_ordered_codes_are_bernoulli():
    part = lb.Ordinal(lb.mlp(2, 3), levels=2, thresholds="shared")
    z = torch.randn(7, 2)
    eta = part.network(z)
    torch.testing.assert_close(part(z).probs[:, 1], (eta - part.gaps).sigmoid())


@pytest.mark.parametrize("thresholds", ["elementwise", "shared"])
def test_ordinal_codes_start_at_the_frequencies(thresholds):
    torch.manual_seed(0)
    codes = torch.multinomial(torch.tensor([0.1, 0.5, 0.15, 0.25]), 20_000, True).double()
    x = codes.reshape(-1, 2)
    x[:50, 0] = torch.nan
    part = lb.Ordinal(lb.constant(2), levels=4, thresholds=thresholds).double()
    part.start_from(x)
    expected = torch.stack([(x == level).double().mean(0) for level in range(4)])
    torch.testing.assert_close(part().probs, expected, rtol=0, atol=0.02)
    torch.testing.assert_close(part.marginal_outputs(x), part.network.numbers, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: lb.Ordinal(lb.mlp(2, 3), levels=1), "levels=1 must be at least 2"),
        (lambda: lb.Ordinal(lb.mlp(2, 3), 4, "network"), "thresholds='network' is unknown"),
        (lambda: lb.Ordinal(torch.nn.Linear(2, 3), 4), "declares its output_shape"),
    ],
)
def test_invalid_ordinal_likelihoods_say_why(make, message):
    with pytest.raises((SettingsError, ShapeError), match=message):
        make()
