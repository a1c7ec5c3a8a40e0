"""Scores of disentanglement, on codes whose scores are known.

The cases are those that disentanglement_lib (Locatello et al. 2019) publishes as its tests: ten
independent factors of ten values each, with a code that is the factors themselves, the factors
twice, the factors of each example in random order, or nothing.
"""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import lowerbound as lb
from lowerbound.data import make_sprites
from lowerbound.errors import DataError, SettingsError
from lowerbound.evaluation import score_codes
from lowerbound.evaluation.factor_scores import (
    Factor,
    compute_completeness,
    compute_disentanglement,
    compute_factor_vae_score,
    compute_gaps,
    compute_importance,
    compute_information,
    compute_mig,
    compute_modularity,
    compute_sap,
    divide_into_bins,
)


def make_factors(count=3000, factors=10, *, numeric=True):
    random = np.random.default_rng(0)
    values = random.integers(1, 11, size=(count, factors))
    if numeric:
        values = values.astype(np.float64)
    return [Factor.of(f"factor {i}", column, 20) for i, column in enumerate(values.T)]


def make_codes(factors, kind):
    codes = np.stack([factor.values for factor in factors], 1).astype(np.float64)
    if kind == "nothing":
        return np.zeros_like(codes)
    if kind == "twice":
        return np.hstack([codes, codes])
    if kind == "shuffled":
        return np.random.default_rng(1).permuted(codes, axis=1)
    return codes


def halves(codes):
    order = np.arange(len(codes))
    split = order[::2], order[1::2]
    return *(codes[rows] for rows in split), split


CASES = pytest.mark.parametrize(
    ("kind", "low", "high"), [("same", 0.9, 1.0), ("nothing", 0.0, 0.2), ("twice", 0.0, 0.1)]
)


@CASES
def test_mig(kind, low, high):
    factors = make_factors()
    information = compute_information(make_codes(factors, kind), factors, bins=10)
    assert low <= compute_mig(information, factors).mean() <= high + 1e-12


@CASES
@pytest.mark.parametrize("numeric", [True, False])
def test_sap(kind, low, high, numeric):
    factors = make_factors(numeric=numeric)
    train, test, split = halves(make_codes(factors, kind))
    gaps = compute_gaps(compute_sap(train, test, factors, split))
    chance = 0.0 if numeric else 0.1  # the balanced accuracy of a unit that says nothing
    assert low * (1 - chance) - 0.02 <= gaps.mean() <= high + 1e-12


@pytest.mark.parametrize(
    ("kind", "low", "high"), [("same", 0.9, 1.0), ("shuffled", 0.0, 0.2), ("twice", 0.9, 1.0)]
)
def test_modularity(kind, low, high):
    factors = make_factors(20_000 if kind == "shuffled" else 3000)
    information = compute_information(make_codes(factors, kind), factors, bins=10)
    assert low <= compute_modularity(information) <= high


@pytest.mark.parametrize(("kind", "low", "high"), [("same", 0.9, 1.0), ("nothing", 0.0, 0.2)])
def test_factor_vae_score(kind, low, high):
    factors = make_factors()
    score = compute_factor_vae_score(make_codes(factors, kind), factors, seed=0)
    assert low <= score <= high


HALVED = 1 - math.log(2) / math.log(10)  # two of ten share the importance


@pytest.mark.parametrize(
    ("kind", "disentangled", "complete"),
    [
        ("same", (0.9, 1.0), (0.9, 1.0)),
        ("shuffled", (0.0, 0.2), (0.0, 0.2)),
        ("twice", (0.9, 1.0), (HALVED - 0.1, HALVED + 0.1)),
    ],
)
def test_dci(kind, disentangled, complete):
    factors = make_factors(2000)
    train, test, split = halves(make_codes(factors, kind))
    importance, quality = compute_importance(train, test, factors, split)
    assert disentangled[0] <= compute_disentanglement(importance) <= disentangled[1] + 1e-12
    assert complete[0] <= compute_completeness(importance) <= complete[1]
    assert (quality.mean() > 0.9) == (kind != "shuffled")


def test_dci_of_categories():
    factors = [
        Factor.of("parity", np.arange(400) % 2, 20),
        Factor.of("rest", np.arange(400) % 5, 20),
    ]
    codes = np.random.default_rng(1).permutation(make_codes(factors, "same"))
    factors = [Factor.of(f.name, codes[:, i].astype(int), 20) for i, f in enumerate(factors)]
    train, test, split = halves(codes)
    importance, quality = compute_importance(train, test, factors, split)
    assert compute_disentanglement(importance) > 0.99
    assert quality.tolist() == [1.0, 1.0]


DIAGONAL = np.diag(5 * np.ones(5))
ENTROPY_OF_A_THIRD = math.log(3) - 2 / 3 * math.log(2)
ENTROPY_OF_A_QUARTER = math.log(4) - 3 / 4 * math.log(3)
# The columns' concentrations, each with its share of all importance.
MIXED = 0.4 + 0.6 * (1 - ENTROPY_OF_A_THIRD / math.log(2))
LEANING = 2 / 6 + 4 / 6 * (1 - ENTROPY_OF_A_QUARTER / math.log(2))


@pytest.mark.parametrize(
    ("matrix", "disentangled", "complete", "modular"),
    [
        (DIAGONAL, 1.0, 1.0, 1.0),
        (np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), 1.0, 1.0, 2 / 3),
        (np.zeros((10, 10)), 0.0, 0.0, 0.0),
        (np.vstack([DIAGONAL, DIAGONAL]), 1.0, HALVED, 1.0),
        (DIAGONAL[:2], 1.0, 1.0, 1.0),
        (np.hstack([DIAGONAL, DIAGONAL]), HALVED, 1.0, 1 - 1 / 9),
        (np.array([[4.0, 4.0], [0.0, 2.0]]), 2 / 10, MIXED, 0.5),
        (
            np.array([[2.0, 1.0], [0.0, 3.0]]),
            1 - 0.5 * ENTROPY_OF_A_THIRD / math.log(2),
            LEANING,
            0.875,
        ),
    ],
    ids=[
        "diagonal",
        "empty code",
        "zero",
        "redundant codes",
        "missed factors",
        "two factors",
        "weights",
        "squares",
    ],
)
def test_scores_of_a_matrix(matrix, disentangled, complete, modular):
    assert compute_disentanglement(matrix) == pytest.approx(disentangled)
    assert compute_completeness(matrix) == pytest.approx(complete)
    assert compute_modularity(matrix) == pytest.approx(modular)


def test_the_information_of_equal_variables_is_their_entropy():
    factors = make_factors(2000, 2)
    information = compute_information(make_codes(factors, "same"), factors, bins=10)
    shares = np.bincount(factors[0].levels) / 2000
    assert information[0, 0] == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-12)
    assert information[0, 1] < 0.05
    chances = np.array([[0.5, 0.25], [0.0, 0.25]])
    pairs = [(0, 0)] * 2 + [(0, 1), (1, 1)]
    codes, levels = np.array(pairs, dtype=float).T
    found = compute_information(codes[:, None], [Factor.of("one", levels, 20)], bins=2)[0, 0]
    outer = np.outer(chances.sum(1), chances.sum(0))
    expected = sum(p * math.log(p / o) for p, o in zip(chances.flat, outer.flat, strict=True) if p)
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_largest_code_is_in_the_last_bin():
    bins = divide_into_bins(np.linspace(0, 1, 11)[:, None], 10)[:, 0]
    assert bins.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]


def test_sap_is_the_squared_correlation_of_numbers_and_the_balanced_accuracy_of_categories():
    random = np.random.default_rng(0)
    numbers = random.standard_normal(20_000)
    noisy = numbers + random.standard_normal(20_000)  # a squared correlation of 1/2
    rare = (random.random(20_000) < 0.1).astype(int)  # a threshold finds all, or 80% of the others
    guess = np.where(rare == 1, 1.0, (random.random(20_000) < 0.2).astype(float))
    factors = [Factor.of("number", numbers, 20), Factor.of("rare", rare, 20)]
    scores = compute_sap(*halves(np.stack([noisy, guess], 1))[:2], factors, halves(noisy)[2])
    assert scores[0, 0] == pytest.approx(0.5, abs=0.02)
    assert scores[1, 1] == pytest.approx(0.9, abs=0.02)


def test_the_factor_vae_score_is_that_of_new_votes_and_of_units_with_one_spread():
    """Ten units of noise win a tenth of new votes; 5,000 of them have a standard error of 0.4%."""
    factors = make_factors()
    noise = np.random.default_rng(1).standard_normal((3000, 10))
    scores = [compute_factor_vae_score(noise, factors, seed=seed) for seed in range(5)]
    assert np.mean(scores) == pytest.approx(0.1, abs=0.018)
    codes = make_codes(factors, "same") + 0.5 * noise
    scaled = codes * 10.0 ** np.arange(-5, 5)
    first, second = (compute_factor_vae_score(some, factors, seed=0) for some in (codes, scaled))
    assert first == second > 0.9


def test_informativeness_is_that_of_examples_that_were_not_learned():
    random = np.random.default_rng(0)
    factors = {"a": random.integers(2, size=400), "b": random.integers(2, size=400)}
    scores = score_codes(random.standard_normal((400, 3)), factors)
    assert scores.informativeness < 0.65  # chance is 0.5


def test_continuous_factors_are_scored_in_bins():
    values = np.random.default_rng(0).random((2000, 3))
    scores = score_codes(values**3, dict(zip("abc", values.T, strict=True)))
    assert min(scores.factor_vae, scores.modularity, scores.disentanglement) > 0.9
    assert scores.mig > 0.6
    assert list(scores.by_factor) == ["a", "b", "c"]


def test_scores_do_not_depend_on_the_scale_of_units():
    values = np.random.default_rng(0).random((300, 2))
    factors = {"a": (3 * values[:, 0]).astype(int), "b": values[:, 1]}
    first, second = (score_codes(values * scale + 3, factors) for scale in (1.0, 1000.0))
    for name in ("mig", "sap", "factor_vae", "modularity", "completeness"):
        assert getattr(first, name) == pytest.approx(getattr(second, name), abs=0.02)


class Encoder(torch.nn.Module):
    """Mean and log variance of q: the values themselves, and a variance of 1."""

    def forward(self, x):
        return torch.cat([x, torch.zeros_like(x)], -1)


def identity_model():
    return lb.LatentModel(
        lb.StandardNormal(3), lb.Gaussian(Encoder()), lb.Gaussian(lb.mlp(3, 3), scale=1.0)
    )


def labelled(count=400):
    values = torch.rand(count, 3)
    fields = {"a": values[:, 0], "b": values[:, 1], "c": (4 * values[:, 2]).long()}
    return lb.Examples(values, fields=fields | {"wide": torch.zeros(count, 2)})


def test_a_model_is_scored_by_its_code_and_the_fields_of_its_data():
    data = labelled()
    scores = lb.disentanglement(identity_model(), data)
    assert list(scores.by_factor) == ["a", "b", "c"]  # and not "wide", which has two values
    assert (scores.units, scores.examples) == (3, 400)
    assert min(scores.sap, scores.factor_vae, scores.disentanglement, scores.completeness) > 0.6
    again = lb.disentanglement(
        identity_model(), data, factors=data.fields | {"wide": data.fields["a"]}
    )
    assert again.by_factor["b"]["mig"] == scores.by_factor["b"]["mig"]
    few = lb.disentanglement(identity_model(), data, factors=["a", "c"])
    assert list(few.by_factor) == ["a", "c"]
    assert str(few).splitlines()[0] == "3 units of 400 examples"
    assert "a: mig 0." in str(few)


def test_a_seed_gives_the_same_scores():
    data, model = labelled(), identity_model()
    one, two = (lb.disentanglement(model, data, ["a", "b"], seed=3) for _ in range(2))
    assert one.by_factor == two.by_factor
    assert one.factor_vae == two.factor_vae


def test_many_examples_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr("lowerbound.evaluation.disentangling._MOST_EXAMPLES", 100)
    values = torch.rand(400, 3)
    factors = {"a": values[:, 0], "b": values[:, 1]}
    scores = lb.disentanglement(identity_model(), values, factors)
    assert scores.examples == 100
    assert scores.sap > 0.8


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        (["a", "z"], "'z' is not a field of data; the fields are: a, b, c, wide"),
        (["a"], r"too few examples \(400\) or factors \(1\)"),
        (["a", "wide"], r"factor 'wide' has the shape \(400, 2\)"),
        ({"a": torch.rand(7), "b": torch.rand(7)}, r"factor 'a' has the shape \(7,\)"),
        ({"a": torch.rand(400), "b": torch.zeros(400)}, "'b' has the same value for all"),
        ({"a": torch.rand(400), "b": torch.full((400,), torch.nan)}, "'b' has non-finite values"),
        ({"a": torch.rand(400), "b": torch.arange(400)}, "'b' has 400 categories"),
    ],
)
def test_factors_that_do_not_fit_are_named(factors, message):
    with pytest.raises(DataError, match=message):
        lb.disentanglement(identity_model(), labelled(), factors)


def test_a_factor_that_hardly_varies_is_named():
    """Its second value does not occur in the half from which predictions are learned."""
    rare = np.zeros(60, dtype=int)
    rare[np.random.default_rng(0).permutation(60)[0]] = 1
    with pytest.raises(DataError, match="nearly all examples have the same value of 'rare'"):
        score_codes(np.ones((60, 2)), {"a": np.arange(60) % 2, "rare": rare})


def test_codes_that_do_not_fit_are_refused():
    factors = {"a": np.arange(60) % 2, "b": np.arange(60) % 3}
    for codes in (np.full((60, 2), np.inf), np.zeros(60)):
        with pytest.raises(DataError, match="must be finite and have the shape"):
            score_codes(codes, factors)
    with pytest.raises(SettingsError, match="bins=0"):
        score_codes(np.zeros((60, 2)), factors, bins=0)


def test_the_true_factors_of_sprites_are_a_disentangled_code():
    """Every score is near 1, with two exceptions that follow from its definition.

    With fewer bins than a factor has values, a unit has less information than the factor's entropy:
    log 20 of log 40, for the orientations. And chance alone predicts a third of the shapes, so the
    best unit is ahead of the next by two thirds.
    """
    sprites = make_sprites(3000)
    codes = np.stack([values.double().numpy() for values in sprites.fields.values()], 1)
    scores = score_codes(codes, sprites.fields, bins=40)
    assert scores.mig > 0.9
    assert min(found["sap"] for name, found in scores.by_factor.items() if name != "shape") > 0.98
    assert scores.by_factor["shape"]["sap"] == pytest.approx(2 / 3, abs=0.05)
    assert min(scores.disentanglement, scores.completeness, scores.informativeness) > 0.98
    assert scores.factor_vae == 1.0
    assert scores.modularity > 0.98
    few = score_codes(codes, sprites.fields, bins=20).by_factor["orientation"]["mig"]
    assert few == pytest.approx(math.log(20) / math.log(40), abs=0.05)
    assert few < scores.by_factor["orientation"]["mig"] - 0.1
    shuffled = np.random.default_rng(0).permutation(codes)
    assert score_codes(shuffled, sprites.fields, bins=40).mig < 0.1


@pytest.mark.parametrize(
    ("factors", "settings", "message"),
    [
        ("scal", {}, "'scal' is not a field of sprites; the fields are: .*scale"),
        (["scale", "size"], {}, "'size' is not a field"),
        ("scale", {}, r"or factors \(1\)"),
        (["scale", "shape"], {"bins": 0}, "bins=0"),
        (["scale", "shape"], {"seed": -1}, "seed=-1"),
    ],
)
def test_nothing_is_encoded_before_all_is_checked(factors, settings, message, monkeypatch):
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp((1, 64, 64), 4)),
        lb.Bernoulli(lb.mlp(2, (1, 64, 64))),
    )

    def encode(self, data):
        raise AssertionError("something was encoded")

    monkeypatch.setattr(lb.LatentModel, "encode", encode)
    with pytest.raises((DataError, SettingsError), match=message):
        lb.disentanglement(model, make_sprites(60), factors, **settings)


@pytest.mark.parametrize("kind", [object, "string", "category"])
def test_a_factor_may_be_a_column_of_text(kind):
    codes, known = np.random.default_rng(0).random((100, 2)), np.arange(100) % 2
    names = ["clerk", "cook"] * 50
    found = score_codes(codes, {"job": pd.Series(names, dtype=kind), "b": known})
    assert str(found) == str(score_codes(codes, {"job": names, "b": known}))


def test_factors_of_other_types_and_a_single_bin_are_refused():
    codes, known = np.random.default_rng(0).random((100, 2)), np.arange(100) % 2
    with pytest.raises(DataError, match="'a' has values of type object; give numbers, or names"):
        score_codes(codes, {"a": np.array([None, "x"] * 50), "b": known})
    with pytest.raises(DataError, match="'a' has values of type object"):
        score_codes(codes, {"a": np.array([math.nan, "x"] * 50, dtype=object), "b": known})
    with pytest.raises(SettingsError, match="bins=1 tells no values apart"):
        score_codes(codes, {"a": known, "b": known}, bins=1)
