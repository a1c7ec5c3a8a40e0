"""Units and starts, entry by entry: the Jacobian, constant columns, and what is reported."""

import contextlib
import math
import re
import warnings

import pandas as pd
import pytest
import torch
from torch import nn
from torch.distributions import Independent

import lowerbound as lb
from lowerbound.conditionals import Standardized
from lowerbound.conditionals.moments import average_entries, estimate_variances, smooth_frequencies
from lowerbound.conditionals.standardized import Standardization
from lowerbound.distributions import entrywise_log_prob
from lowerbound.errors import NonFiniteError, TrainingWarning
from lowerbound.evaluation import score_independent_entries
from lowerbound.networks import set_output_bias

DOUBLE = torch.float64


def measure(x):
    units = Standardization(tuple(x.shape[1:])).double()
    units.measure(x)
    return units


def test_pictures_have_the_jacobian_of_every_pixel():
    x = torch.randn(50, 2, 3, 4, dtype=DOUBLE) * torch.tensor([0.1, 30.0])[:, None, None]
    units = measure(x)
    likelihood = Standardized(lb.Gaussian(lb.mlp(2, (4, 3, 4))).double(), units)
    z = torch.randn(50, 2, dtype=DOUBLE)
    p, inner = likelihood(z), likelihood.part(z)
    jacobian = 12 * units.spread.log().sum()
    expected = inner.log_prob(units.apply_to(x)) - jacobian
    torch.testing.assert_close(p.log_prob(x), expected)
    entries = entrywise_log_prob(p, x)
    torch.testing.assert_close(entries.flatten(1).sum(1), expected)
    of_channels = entries - entrywise_log_prob(inner, units.apply_to(x))
    torch.testing.assert_close(of_channels, -units.spread.log().expand_as(x))
    torch.testing.assert_close(p.variance, units.spread.square() * inner.variance)


def test_a_constant_column_keeps_its_unit():
    x = torch.randn(100, 3, dtype=DOUBLE)
    x[:, 1] = 0.1 + 0.2  # its mean over 100 rows is another number, by rounding
    x[:, 2] *= 1e-9
    units = measure(x)
    assert units.spread[1] == 1
    torch.testing.assert_close(units.spread[2], x[:, 2].std(correction=0), rtol=1e-6, atol=0)


def test_a_standardized_likelihood_starts_at_the_moments_of_the_data():
    x = 50 + torch.randn(400, 3, dtype=DOUBLE) * torch.tensor([0.01, 1.0, 100.0])
    likelihood = Standardized(lb.Gaussian(lb.constant(6)).double(), measure(x))
    likelihood.start_from(x)
    p = likelihood()
    torch.testing.assert_close(p.mean, x.mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(p.variance, x.var(0, correction=0), rtol=1e-3, atol=0)


def test_frequencies_and_moments_are_those_of_the_observed_entries():
    x = torch.tensor([[1.0, math.nan, 5.0], [math.nan, math.nan, 5.0], [0.0, math.nan, 5.0]])
    torch.testing.assert_close(smooth_frequencies(x[:, :2]), torch.tensor([1.5 / 3, 0.5]))
    assert average_entries(x)[1] == 16 / 5
    # Entries without a spread of their own have that of the others, divided by their number + 1.
    torch.testing.assert_close(estimate_variances(x), torch.tensor([0.25, 0.25, 0.25 / 4]))


@pytest.mark.parametrize(
    ("spreads", "said"),
    [
        ((1e-3, 3e-3, 2e-3), "of column 0 (0.001), column 2 (0.002), column 1 (0.003) are far "),
        ((1.0, 1.0, 0.01), "the standard deviation of column 2 (0.01) is far from 1. "),
        ((1.0, 1.0, 1.0, 1.0, 9410.0), "deviation of column 4 (9.41e+03) is far from 1. "),
        ((0.2, 1.0, 10.0), "deviations of column 2 (10), column 0 (0.2) are far from each other. "),
        ((0.5, 1.0, 10.0), None),
        (tuple(1e-3 * n for n in range(1, 9)), "column 5 (0.006) and 2 more are far from 1. "),
    ],
)
@pytest.mark.parametrize("progress", [False, True])
def test_columns_with_unsuitable_units_are_named_and_no_others(spreads, said, progress):
    count = len(spreads)
    x = torch.randn(300, count)
    x = (x - x.mean(0)) / x.std(0, correction=0) * torch.tensor(spreads)
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(count, 4)), lb.Gaussian(lb.mlp(2, 2 * count))
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrainingWarning)
        lb.fit(model, lb.ELBO(), x, steps=1, progress=progress)
    found = [warning for warning in caught if "--standardize" in str(warning.message)]
    assert [warning.filename for warning in found] == [__file__] * (said is not None)
    if said is not None:
        assert said in str(found[0].message)


@pytest.mark.parametrize(
    "make",
    [
        lb.LogNormal,
        lb.Gamma,
        lambda network: lb.Hurdle(lb.Gamma(network), lb.constant(2)),
        lambda network: lb.Masked(lb.Gamma(network)),
    ],
)
def test_positive_values_in_unsuitable_units_are_reported_with_a_remedy_that_works(make):
    """Amounts of money, for example: without logarithms the first bound is astronomical."""
    x = (torch.tensor([9.0, 0.0]) + torch.randn(300, 2)).exp()

    def train(wrap):
        posterior = wrap(lb.Gaussian(lb.mlp(2, 8, 4)))
        model = lb.LatentModel(lb.StandardNormal(2), posterior, make(lb.mlp(2, 4)))
        return lb.fit(model, lb.ELBO(), x, epochs=30, learning_rate=3e-3, progress=False)

    said = r"^the standard deviation of column 0 .* is far from 1\. .*lb\.LogInput\(posterior\)"
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.suppress(NonFiniteError),  # of gradients
    ):
        warnings.simplefilter("always", TrainingWarning)
        train(lambda posterior: posterior)
    assert re.search(said, str(caught[0].message))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrainingWarning)
        train(lb.LogInput)
    assert not any("standard deviation" in str(warning.message) for warning in caught)


def test_the_units_of_named_columns_and_of_pictures_are_reported():
    x = torch.randn(300, 1, 2, 2)
    likelihood = lb.Gaussian(lb.mlp(2, (2, 2, 2)))
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp((1, 2, 2), 4)), likelihood)
    with pytest.warns(TrainingWarning, match=r"^the data has the standard deviation 9\d\.\d\. "):
        lb.fit(model, lb.ELBO(), 97 * x, steps=1, progress=False)
    frame = pd.DataFrame({"height": 1e-3 * x[:, 0, 0, 0], "width": x[:, 0, 0, 1]})
    data = lb.Examples.of(frame)
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(2, 4)), lb.Gaussian(lb.mlp(2, 4))
    )
    with pytest.warns(TrainingWarning, match=r"deviation of height \(0\.00\d+\) is far from 1"):
        lb.fit(model, lb.ELBO(), data, steps=1, progress=False)


def test_the_examples_of_the_start_follow_from_the_seed():
    x, starts = torch.randn(3000, 3).exp(), []
    for outer in (1, 2):
        torch.manual_seed(0)
        model = lb.LatentModel(
            lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6))
        )
        torch.manual_seed(outer)
        run = lb.fit(model, lb.ELBO(), x, steps=1, seed=5, progress=False)
        starts.append(run.history[0]["start"])
    assert starts[0] == starts[1]


def test_the_weights_of_a_transposed_convolution_are_scaled_by_channel():
    network = lb.conv(3, 2, (2, 8, 8))
    last = [module for module in network.modules() if hasattr(module, "bias")][-1]
    before = last.weight.detach().clone()
    factors = torch.tensor([0.1, 0.5])[:, None, None].expand(2, 8, 8)
    assert set_output_bias(network, torch.zeros(2, 8, 8), factors)
    assert last.transposed
    expected = before * torch.tensor([0.1, 0.5])[None, :, None, None]
    torch.testing.assert_close(last.weight.detach(), expected)


def test_pseudo_inputs_start_at_examples_from_the_first_to_the_last():
    x = torch.randn(9, 3)
    prior = lb.VampPrior(lb.Gaussian(lb.mlp(3, 4)), 5)
    prior.start_prior_from(x)
    assert torch.equal(prior.pseudo_inputs.detach(), x[::2])


def score_entries(likelihood, data):
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(data.shape, 4)), likelihood)
    return score_independent_entries(model, data)


def test_the_yardstick_scores_observed_entries_alone():
    x = torch.randn(200, 2, dtype=DOUBLE) * torch.tensor([0.5, 3.0])
    x[:150, 1] = math.nan
    expected = 0.0
    for column in x.T:
        seen = column[~column.isnan()]
        entropy = 0.5 * math.log(2 * math.pi * math.e * float(seen.var(correction=0)))
        expected -= (len(seen) * entropy + 2) / 200
    data = lb.Examples.of(x.float(), missing="nan")
    found = score_entries(lb.Masked(lb.Gaussian(lb.mlp(2, 4))), data)
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_yardstick_of_pixels_has_bins_of_width_one():
    levels = torch.arange(100, 112, dtype=torch.uint8)[:, None].expand(12, 50)
    data = lb.Examples(levels.contiguous(), levels=256)
    entropy = 0.5 * math.log(2 * math.pi * math.e * (143 / 12 + 1 / 12))
    found = score_entries(lb.Categorical(lb.mlp(2, 256 * 50)), data)
    assert found == pytest.approx(50 * (-entropy - 2 / 12), rel=1e-6)


class Pareto(nn.Module):
    """Values above a bound that is a tensor."""

    def __init__(self):
        super().__init__()
        self.network = lb.mlp(2, 2)

    def forward(self, z):
        alpha = nn.functional.softplus(self.network(z)) + 0.1
        return Independent(torch.distributions.Pareto(torch.full_like(alpha, 0.01), alpha), 1)


def test_values_above_a_bound_that_is_a_tensor_have_units_that_cannot_be_changed():
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(2, 4)), Pareto())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TrainingWarning)
        lb.fit(model, lb.ELBO(), 100 * torch.rand(30, 2) + 1, steps=1, progress=False)
    assert not any("standard deviation" in str(warning.message) for warning in caught)
