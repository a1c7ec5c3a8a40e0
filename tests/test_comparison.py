"""Paired differences: agreement with scipy's bootstrap, coverage, and the sentence."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.evaluation import Estimate, LikelihoodEstimate
from lowerbound.evaluation.comparison import paired_difference

DOUBLE = torch.float64


def estimates(count: int = 200, shift: float = 0.5) -> tuple[Estimate, Estimate]:
    """Two estimates that are far noisier than their difference, which is skewed."""
    hardness = 30 * torch.randn(count, dtype=DOUBLE)
    own = torch.empty(count, dtype=DOUBLE).exponential_()
    return Estimate(hardness - own + 1 + shift), Estimate(hardness)


def test_the_mean_is_the_first_minus_the_second():
    a, b = estimates()
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx(a.mean - b.mean, rel=1e-9)
    expected = float((a.per_example - b.per_example).std()) / math.sqrt(200)
    assert difference.standard_error == pytest.approx(expected, rel=1e-12)
    assert difference.low < difference.mean < difference.high


def test_the_interval_is_scipy_s():
    """Both resample 20,000 times.

    The error of a quantile is below 3% of the standard error of the mean.
    """
    a, b = estimates(count=40)
    values = (a.per_example - b.per_example).numpy()
    scipy = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        method="BCa",
        rng=np.random.default_rng(1),
        batch=1000,
    )
    ours = paired_difference(a, b, resamples=20_000)
    error = ours.standard_error
    assert ours.low == pytest.approx(scipy.confidence_interval.low, abs=0.1 * error)
    assert ours.high == pytest.approx(scipy.confidence_interval.high, abs=0.1 * error)
    percentile = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=1, batch=1000
    )
    # The correction for skewness is larger than the tolerance, so the test can fail.
    assert ours.low < percentile.confidence_interval.low - 0.1 * error


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_the_interval_covers_as_often_as_it_says(level):
    """The share of 400 skewed samples of 60 whose interval covers the mean is binomial.

    The tolerance is four standard errors of that share, one false alarm in 16,000 runs, and 0.03
    for the bias of the bootstrap with 60 examples.
    """
    generator = np.random.default_rng(7)
    covered = 0
    for repetition in range(400):
        values = torch.from_numpy(1 - generator.exponential(size=60))
        difference = paired_difference(
            Estimate(values),
            Estimate(torch.zeros(60, dtype=DOUBLE)),
            resamples=1000,
            level=level,
            seed=repetition,
        )
        covered += difference.low <= 0 <= difference.high
    assert abs(covered / 400 - level) < 4 * math.sqrt(level * (1 - level) / 400) + 0.03


def test_pairing_finds_a_difference_that_two_standard_errors_hide():
    a, b = estimates()
    assert a.mean - b.mean < a.standard_error + b.standard_error
    assert paired_difference(a, b).is_certain


def test_swapping_the_two_changes_all_signs():
    a, b = estimates()
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert (one.low, one.high) == pytest.approx(
        (-other.high, -other.low), abs=0.1 * one.standard_error
    )
    assert one.sentence("runs/a", "runs/b").startswith("runs/a is better by 0.")
    assert other.sentence("runs/b", "runs/a").startswith("runs/a is better by 0.")


def test_the_interval_depends_on_the_seed_and_not_on_the_chunks(monkeypatch):
    a, b = estimates()
    whole = paired_difference(a, b, resamples=500)
    monkeypatch.setattr("lowerbound.evaluation.comparison._CHUNK_VALUES", 7 * 200)
    chunked = paired_difference(a, b, resamples=500)
    assert (whole.low, whole.high) == (chunked.low, chunked.high)
    assert paired_difference(a, b, resamples=500, seed=1).low != whole.low


def test_an_interval_that_covers_zero_tells_no_difference():
    a, _ = estimates()
    b = Estimate(a.per_example + torch.randn(200, dtype=DOUBLE))
    difference = paired_difference(a, b)
    assert not difference.is_certain
    assert str(difference).startswith("the two cannot be distinguished: the first - the second is ")
    same = paired_difference(a, a)
    assert (same.mean, same.low, same.high, same.is_certain) == (0.0, 0.0, 0.0, False)


def test_a_constant_difference_is_certain():
    a, _ = estimates()
    difference = paired_difference(Estimate(a.per_example + 0.25), a)
    assert difference.low == pytest.approx(0.25, abs=1e-9)
    assert difference.is_certain


def test_one_example_tells_nothing():
    one = Estimate(torch.ones(1, dtype=DOUBLE))
    difference = paired_difference(one, Estimate(torch.zeros(1, dtype=DOUBLE)))
    assert math.isnan(difference.low)
    assert not difference.is_certain
    assert "single example" in str(difference)


def test_mistakes_are_named():
    a, b = estimates()
    with pytest.raises(ShapeError, match="199 examples and the second over 200"):
        paired_difference(Estimate(a.per_example[1:]), b)
    for wrong in ({"level": 1.0}, {"level": math.nan}, {"resamples": 3}, {"seed": -1}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            paired_difference(a, b, **wrong)


@pytest.mark.parametrize("value", [-math.inf, math.inf, math.nan])
def test_a_value_that_is_not_finite_is_refused_by_its_row(value):
    a, b = estimates()
    values = b.per_example.clone()
    values[[3, 7]] = value
    with pytest.raises(
        DataError,
        match=rf"the second estimate is {value} at row 3 .*2 such of 200 examples.*more samples",
    ) as raised:
        paired_difference(a, Estimate(values))
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="the first estimate"):
        paired_difference(Estimate(values), Estimate(values))


def test_a_doubtful_estimate_cannot_lose():
    """It is too low by an unknown amount, so its model may be the better one.

    If the doubtful estimate is the higher one, the verdict stands.
    """
    a, b = estimates()
    assert str(paired_difference(a, b)).startswith("the first is better by 0.")
    sizes = torch.full((200,), 100.0, dtype=DOUBLE)
    shapes = torch.full((200,), 0.1, dtype=DOUBLE)
    shapes[:150] = 2.0
    doubtful = {"samples": 1000, "effective_sample_sizes": sizes, "pareto_k": shapes}
    winner = paired_difference(LikelihoodEstimate(a.per_example, **doubtful), b)
    assert winner.doubtful == (0.75, 0.0)
    assert winner.is_certain
    assert winner.sentence().startswith("the first is better by 0.")
    loser = paired_difference(a, LikelihoodEstimate(b.per_example, **doubtful))
    assert loser.excludes_zero
    assert not loser.is_certain
    assert loser.sentence("r/a", "r/b").startswith(
        "it is unclear which is better: the estimate of r/a is higher by 0."
    )
    assert (
        "that of r/b is doubtful in 75% of the examples, and too low there by an unknown amount; "
        "anneal" in loser.sentence("r/a", "r/b")
    )
