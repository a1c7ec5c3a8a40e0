"""Paired differences: intervals and their coverage, doubt, and the sentence."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from lowerbound.errors import DataError, SettingsError, ShapeError
from lowerbound.evaluation import AnnealedEstimate, Estimate, LikelihoodEstimate, mean_interval
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


def test_a_score_beside_a_bound_and_other_objects_are_refused():
    values = torch.randn(9, dtype=DOUBLE)
    bound, score = (Estimate(values, label=label) for label in ("bound", "score"))
    assert paired_difference(score, score).mean == 0
    for pair, message in [
        ((bound, score), "the first estimate is not a score and the second a score"),
        (
            (score, LikelihoodEstimate(values)),
            "the first estimate is a score and the second not a score",
        ),
        ((bound, 1.0), "compare two estimates, .* not float"),
    ]:
        with pytest.raises(SettingsError, match=message):
            paired_difference(*pair)


def test_the_interval_is_the_hull_of_students_and_the_studentised_bootstrap():
    """The second is computed here with other noise.

    The error of a quantile of 20,000 resamples is below 3% of the standard error of the mean.
    """
    a, b = estimates(count=40)
    values = (a.per_example - b.per_example).numpy()
    error = float(stats.sem(values))
    student = stats.t.interval(0.95, 39, values.mean(), error)
    drawn = np.random.default_rng(1).choice(values, (20_000, 40))
    ratios = (drawn.mean(1) - values.mean()) / stats.sem(drawn, axis=1)
    low, high = np.quantile(ratios, [0.975, 0.025])
    ours = paired_difference(a, b, resamples=20_000)
    assert ours.low == pytest.approx(min(student[0], values.mean() - low * error), abs=0.1 * error)
    assert ours.high == pytest.approx(
        max(student[1], values.mean() - high * error), abs=0.1 * error
    )
    # The values are skewed to the left, so the bootstrap decides the lower end.
    assert ours.low < student[0] - 0.1 * error


@pytest.mark.parametrize(("count", "law", "least"), [
    (10, lambda generator: generator.exponential(size=10) - 1, 0.93),
    (10, lambda generator: generator.normal(size=10), 0.93),
    (3, lambda generator: generator.normal(size=3), 0.93),
])  # fmt: skip
def test_intervals_of_a_few_values_cover_their_mean(count, law, least):
    """The true coverages are 0.95, 0.96 and 0.95, so with 1,000 samples one false alarm in 100.

    The bias-corrected bootstrap covers 0.87, 0.90 and 0.71.
    """
    generator = np.random.default_rng(count)
    covered = 0
    for seed in range(1000):
        values = torch.from_numpy(law(generator))
        low, high = mean_interval(values, resamples=300, seed=seed)
        covered += low <= 0 <= high
    assert covered >= 1000 * least


@pytest.mark.parametrize("jitter", [0.0, 1e-6, 1e-3])
@pytest.mark.parametrize("count", [5, 20, 100])
def test_resamples_of_almost_equal_values_do_not_widen_the_interval_greatly(count, jitter):
    """Between a twentieth and a tenth of the values are 1, and the others are almost 0."""
    values = jitter * torch.randn(count, generator=torch.Generator().manual_seed(0))
    values[: max(1, count // 20)] += 1
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(count)
    low, high = mean_interval(values)
    assert low < mean < high
    assert high - low < 12 * error


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_interval_of_non_finite_values_is_refused(value):
    values = torch.tensor([0.0, 1.0, value, 2.0])
    with pytest.raises(DataError, match=rf"example 2 .* is {value:g}"):
        Estimate(values).interval()


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
    monkeypatch.setattr("lowerbound.evaluation.intervals._PASS_SIZE", 7 * 200)
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


def test_a_doubtful_estimate_neither_loses_nor_wins():
    a, b = estimates()
    assert str(paired_difference(a, b)).startswith("the first is better by 0.")
    sizes = torch.full((200,), 100.0, dtype=DOUBLE)
    shapes = torch.full((200,), 0.1, dtype=DOUBLE)
    shapes[:150] = 2.0
    doubtful = {"samples": 1000, "effective_sample_sizes": sizes, "pareto_k": shapes}
    winner = paired_difference(LikelihoodEstimate(a.per_example, **doubtful), b)
    assert winner.doubtful == (0.75, 0.0)
    loser = paired_difference(a, LikelihoodEstimate(b.per_example, **doubtful))
    for difference, name in ((winner, "r/a"), (loser, "r/b")):
        assert difference.excludes_zero
        assert not difference.is_certain
        sentence = difference.sentence("r/a", "r/b")
        assert sentence.startswith(
            "it is unclear which is better: the estimate of r/a is higher by 0."
        )
        assert f"that of {name} is doubtful in 75% of the examples" in sentence
        assert "until neither estimate is doubtful" in sentence


def annealed(per_example, *, effective=12.0, apart=0.2, growth=0.0, chains=16, **more):
    """An annealed estimate with the given diagnostics in each example."""
    return AnnealedEstimate(
        per_example,
        acceptance=torch.full_like(per_example, 0.65),
        effective_sample_sizes=torch.full_like(per_example, effective),
        halves=torch.stack([per_example, per_example + apart]),
        shorter=per_example - growth + 0.01 * torch.randn_like(per_example),
        settings={"distributions": 100, "chains": chains, "leapfrog_steps": 5, "seed": 0},
        **more,
    )


@pytest.mark.parametrize("doubt", [{"effective": 1.2}, {"apart": 3.0}, {"growth": 2.0}])
def test_an_annealed_estimate_in_doubt_gives_no_verdict(doubt):
    """Few effective chains, halves that disagree, or a mean that still grows with the length."""
    a, b = estimates()
    sound = annealed(a.per_example)
    assert sound.warning is None
    assert paired_difference(sound, annealed(b.per_example)).is_certain
    doubtful = annealed(b.per_example, **doubt)
    assert doubtful.is_doubtful
    assert "not to be trusted" in doubtful.warning
    for difference in (paired_difference(sound, doubtful), paired_difference(doubtful, sound)):
        assert difference.excludes_zero
        assert not difference.is_certain
        assert "it is unclear which is better" in str(difference)


def test_a_small_growth_matters_only_to_a_small_difference():
    a, b = estimates()
    grown = annealed(b.per_example, growth=0.3)
    assert not grown.is_doubtful
    assert not paired_difference(annealed(a.per_example), grown).is_certain
    assert paired_difference(annealed(a.per_example + 5), grown).is_certain


def test_one_effective_chain_of_four_is_doubtful():
    values = torch.zeros(30, dtype=DOUBLE)
    assert annealed(values, chains=4, effective=1.9).is_doubtful
    assert not annealed(values, chains=4, effective=2.1).is_doubtful
    assert annealed(values, chains=3, effective=3.0).is_doubtful


def test_the_growth_of_a_single_example_counts():
    grown = annealed(torch.zeros(1, dtype=DOUBLE), growth=400.0)
    assert grown.shortfall == pytest.approx(400.0, abs=1.0)
    assert grown.is_doubtful
    assert "by up to 4e+02 nats" in grown.warning


def test_a_non_finite_estimate_is_doubtful_and_does_not_affect_the_others():
    values = torch.zeros(30, dtype=DOUBLE)
    values[3] = -math.inf
    estimate = annealed(values, growth=0.1)
    assert estimate.doubtful.nonzero().flatten().tolist() == [3]
    assert estimate.shortfall == pytest.approx(0.1, abs=0.02)
    assert "1 of 30 examples have no finite estimate. It is" in estimate.warning


def test_the_warning_of_an_upper_bound_says_that_it_is_too_high():
    values = torch.zeros(30, dtype=DOUBLE)
    assert "most likely too low" in annealed(values, effective=1.0).warning
    assert "most likely too high" in annealed(values, effective=1.0, is_upper=True).warning
