"""When estimates are doubtful: each threshold from both sides."""

import math

import pytest
import torch

from lowerbound.evaluation.annealed_estimate import AnnealedEstimate
from lowerbound.evaluation.comparison import paired_difference
from lowerbound.evaluation.estimate import Estimate
from lowerbound.evaluation.importance import LikelihoodEstimate


def likelihood(effective, pareto_k, samples=1000):
    return LikelihoodEstimate(
        torch.zeros(1, dtype=torch.float64),
        samples=samples,
        effective_sample_sizes=torch.tensor([effective]),
        pareto_k=torch.tensor([pareto_k]),
    )


@pytest.mark.parametrize(
    ("effective", "pareto_k", "is_doubtful"),
    [
        (9.0, 0.1, True),  # a few weights determine the average
        (11.0, 0.1, False),
        (500.0, 0.65, False),
        (500.0, 0.68, True),  # above 1 - 1 / log10(1000)
        (890.0, 0.9, True),
        (910.0, 0.9, False),  # so even that the tail does not matter
        (910.0, 1.1, True),  # unless the tail has no mean
        (math.nan, 0.1, True),
        (500.0, math.nan, True),
    ],
)
def test_a_log_likelihood_is_doubtful(effective, pareto_k, is_doubtful):
    assert likelihood(effective, pareto_k).doubtful.tolist() == [is_doubtful]


class Doubted(Estimate):
    share, short = 0.0, 0.0

    @property
    def doubtful_share(self):
        return self.share

    @property
    def shortfall(self):
        return self.short


@pytest.mark.parametrize(
    ("share", "short", "is_doubtful"),
    [(0.0, 0.0, False), (0.04, 0.4, False), (0.06, 0.0, True), (0.0, 0.6, True)],
)
def test_an_estimate_is_doubtful_as_a_whole(share, short, is_doubtful):
    estimate = Doubted(torch.zeros(3))
    object.__setattr__(estimate, "share", share)
    object.__setattr__(estimate, "short", short)
    assert estimate.is_doubtful is is_doubtful


def annealed(values, *, effective=8.0, apart=0.0, shorter=None, chains=16):
    values = torch.as_tensor(values, dtype=torch.float64)
    return AnnealedEstimate(
        values,
        acceptance=torch.full_like(values, 0.65),
        effective_sample_sizes=torch.full_like(values, effective),
        halves=torch.stack([values + apart, values]),
        settings={"chains": chains, "distributions": 100, "leapfrog_steps": 5, "seed": 0},
        shorter=shorter,
    )


@pytest.mark.parametrize(
    ("settings", "is_doubtful"),
    [
        ({}, False),
        ({"effective": 3.9}, True),
        ({"effective": 4.1}, False),
        ({"effective": 9.9, "chains": 64}, True),
        ({"effective": 10.1, "chains": 64}, False),
        ({"effective": 3.0, "chains": 3}, True),
        ({"apart": 1.9}, False),
        ({"apart": -2.1}, True),
    ],
)
def test_an_annealed_estimate_is_doubtful(settings, is_doubtful):
    assert annealed([0.0, 0.0], **settings).doubtful.tolist() == [is_doubtful] * 2


def test_the_shortfall_is_the_upper_end_of_the_growth():
    growth = torch.tensor([0.1, 0.4, 0.2, 0.5, 0.3, 0.3], dtype=torch.float64)
    estimate = annealed(torch.zeros(6), shorter=-growth)
    assert torch.equal(estimate.growth.per_example, growth)
    assert estimate.shortfall == Estimate(growth).interval()[1] > 0.4
    assert annealed(torch.zeros(6), shorter=growth).shortfall == 0.0


def test_examples_without_a_finite_estimate_are_left_out_of_the_growth():
    values = torch.zeros(30, dtype=torch.float64)
    values[3] = -torch.inf
    for shorter in (values - 5, torch.zeros(30, dtype=torch.float64) - 5):
        warning = annealed(values, shorter=shorter).warning
        assert "1 of 30 examples have no finite estimate" in warning
        assert "give 5 nats less on average" in warning


def test_a_difference_needs_both_estimates_free_of_doubt():
    low = Doubted(torch.linspace(0.0, 0.1, 20, dtype=torch.float64))
    high = Doubted(low.per_example + torch.linspace(0.9, 1.1, 20, dtype=torch.float64))
    assert paired_difference(high, low).is_certain
    assert str(paired_difference(low, high)).startswith("the second is better by 1 nats [0.9")
    for doubted in (low, high):
        object.__setattr__(doubted, "share", 0.5)
        assert not paired_difference(high, low).is_certain
        object.__setattr__(doubted, "share", 0.0)
        # The interval is 0.97 to 1.03.
        for short, is_certain in ((0.9, True), (1.0, False), (2.0, False)):
            object.__setattr__(doubted, "short", short)
            assert paired_difference(high, low).is_certain is is_certain
        object.__setattr__(doubted, "short", 0.0)


def test_the_sides_of_a_skewed_interval():
    """The interval of a mean of values with a long upper tail reaches farther up."""
    values = torch.tensor([0.1, 0.2, 0.15, 0.3, 0.1, 0.25, 0.2, 3.0], dtype=torch.float64)
    estimate = Estimate(values)
    low, high = estimate.interval()
    assert high - estimate.mean > 1.5 * (estimate.mean - low)
    difference = paired_difference(Estimate(-values), Estimate(0 * values))
    assert (difference.low, difference.high) == pytest.approx((-high, -low), rel=0.2)
    assert estimate.standard_error == pytest.approx(float(values.std()) / math.sqrt(8))
