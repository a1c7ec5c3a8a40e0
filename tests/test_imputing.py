"""Imputation: what is computed for which rows, points by column, and independence of batches."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import lowerbound as lb
from lowerbound.distributions import choose_distributions
from lowerbound.errors import DataError, DoubtfulEstimateWarning, SettingsError
from lowerbound.evaluation.imputing import _find_modes
from lowerbound.models import table as table_models
from lowerbound.recipes import find_recipe

SAMPLES = 37


def make_frame(rows=40) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "length": random.normal(size=rows),
            "income": np.exp(2 * random.normal(size=rows)),
            "visits": random.negative_binomial(2, 0.05, size=rows).astype(float),
            "job": random.choice(["clerk", "cook", "nurse"], size=rows),
        }
    )
    holes = random.random(frame.shape) < 0.3
    holes[::4] = False
    return frame.mask(holes)


@pytest.fixture(scope="module")
def untrained():
    frame = make_frame()
    data = lb.load_data(frame, test_fraction=0.0, columns={"visits": "count"})
    return find_recipe("table").build(data, {}, seed=0)[0], frame


@pytest.fixture
def decoded(untrained):
    """The numbers of draws and rows of each batch that the decoder receives."""
    shapes = []

    def record(module, inputs, output):
        shapes.append(tuple(inputs[0].shape[:2]))

    handle = untrained[0].likelihood.network.register_forward_hook(record)
    yield shapes
    handle.remove()


@pytest.mark.parametrize("draws", [None, 3])
def test_batches_change_no_imputation(draws, untrained, monkeypatch):
    model, frame = untrained
    whole = lb.impute(model, frame, draws, samples=SAMPLES).tables
    monkeypatch.setattr(table_models, "_MOST_VALUES", 1)  # batches of one row
    for one, other in zip(
        whole, lb.impute(model, frame, draws, samples=SAMPLES).tables, strict=True
    ):
        pd.testing.assert_frame_equal(one, other, rtol=1e-4)


def test_batches_change_no_conditional_draw(untrained, monkeypatch):
    model, frame = untrained
    arguments = {"given": frame, "seed": 0, "samples": SAMPLES}
    whole = model.sample(2, **arguments)
    monkeypatch.setattr(table_models, "_MOST_VALUES", 1)
    pd.testing.assert_frame_equal(whole, model.sample(2, **arguments), rtol=1e-4)


def test_each_draw_is_decoded_once_and_those_of_complete_rows_never(untrained, decoded):
    model, frame = untrained
    incomplete = frame.isna().any(axis=1).to_numpy()
    lb.impute(model, frame, samples=SAMPLES)
    rows = [rows for draws, rows in decoded if draws == SAMPLES]
    assert sum(rows) == incomplete.sum()
    assert all(draws != 200 for draws, _ in decoded)  # those of which points are made


def test_complete_rows_have_no_weights(untrained):
    model, frame = untrained
    found = lb.impute(model, frame, samples=SAMPLES)
    complete = ~frame.isna().any(axis=1).to_numpy()
    assert found.effective_sample_sizes.isnan().numpy().tolist() == complete.tolist()
    assert (~found.incomplete).tolist() == complete.tolist()
    assert not found.doubtful[~found.incomplete].any()


def test_a_column_that_a_frame_lacks_is_not_imputed(untrained, decoded):
    model, frame = untrained
    without = frame.drop(columns="income")
    with pytest.warns(UserWarning, match="the table has no column income"):
        examples = model.examples(without)
    with pytest.warns(UserWarning, match="the table has no column income"):
        found = lb.impute(model, without, samples=SAMPLES)
    incomplete = without.isna().any(axis=1).to_numpy()
    assert 0 < incomplete.sum() < len(frame)
    assert found.incomplete.tolist() == incomplete.tolist()
    assert sum(rows for draws, rows in decoded if draws == SAMPLES) == incomplete.sum()
    assert list(found.table.columns) == list(without.columns)
    # Examples are answered by a table of all columns.
    found = lb.impute(model, examples, samples=SAMPLES)
    assert found.incomplete.all()
    assert found.table["income"].nunique() > 1


def test_columns_whose_holes_stay_are_named():
    frame = make_frame()
    frame["name"] = [f"n{row}" if row % 6 else None for row in range(len(frame))]
    data = lb.load_data(frame, test_fraction=0.0, columns={"visits": "count"})
    model = find_recipe("table").build(data, {}, seed=0)[0]
    with pytest.warns(UserWarning, match="impute: the missing entries of name stay missing"):
        found = lb.impute(model, frame, samples=SAMPLES)
    assert found.table.isna().sum().tolist() == [0, 0, 0, 0, frame["name"].isna().sum()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DoubtfulEstimateWarning)
        lb.impute(model, frame.fillna({"name": "none"}), samples=SAMPLES)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_holes_of_a_type_that_is_not_modelled_stay(library):
    frame = make_frame()
    if library == "pandas":
        frame["age"] = pd.to_timedelta([None, *range(len(frame) - 1)], unit="D")
    else:
        polars = pytest.importorskip("polars")
        frame = polars.from_pandas(frame).with_columns(age=polars.Series([None, *[[1, 2]] * 39]))
    types = {"visits": "count", "age": "identifier"}
    data = lb.load_data(frame, test_fraction=0.0, columns=types)
    model = find_recipe("table").build(data, {}, seed=0)[0]
    with pytest.warns(UserWarning, match="impute: the missing entries of age stay missing"):
        found = lb.impute(model, frame, samples=SAMPLES)
    assert found.table["age"].to_list()[1:3] == frame["age"].to_list()[1:3]


def test_a_complete_table_is_not_decoded(untrained, decoded):
    model, frame = untrained
    complete = frame.dropna()
    found = lb.impute(model, complete, 2, samples=SAMPLES)
    assert not decoded
    for each in found.tables:
        pd.testing.assert_frame_equal(each, complete)


def test_chosen_distributions_are_those_of_the_draws(untrained):
    model, frame = untrained
    examples = model.examples(frame)
    x, observed = examples.batch(torch.arange(5)), examples.fields["observed"][:5]
    with torch.no_grad():
        p = model.likelihood(torch.randn(6, 5, 10), observed=observed)
        index = torch.tensor([[0, 1, 2, 3, 4], [5, 5, 5, 5, 5], [0, 0, 1, 1, 2]])
        chosen = choose_distributions(p, index)
    assert chosen.batch_shape == (3, 5)
    assert torch.equal(chosen.log_prob(x), p.log_prob(x).gather(0, index))


def test_points_by_the_names_of_columns(untrained):
    model, frame = untrained
    usual, means, mixed = (
        lb.impute(model, frame, samples=SAMPLES, point=point).table
        for point in ("auto", "mean", {"visits": "mean"})
    )
    assert not np.allclose(usual["visits"], means["visits"])
    pd.testing.assert_series_equal(mixed["visits"], means["visits"])
    pd.testing.assert_series_equal(mixed["job"], usual["job"])


@pytest.fixture(scope="module")
def counting():
    """A model of a column of integers, and its frame."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame({"length": random.normal(size=60), "visits": random.poisson(0.7, 60)})
    frame["visits"] = frame["visits"].astype("Int64").mask(random.random(60) < 0.3)
    data = lb.load_data(frame, test_fraction=0.0, columns={"visits": "count"})
    return find_recipe("table").build(data, {}, seed=0)[0], frame


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_means_of_counts_are_not_rounded_in_columns_of_integers(library, counting):
    """Otherwise all means of a rare event, for example, are 0."""
    model, frame = counting
    holes = frame["visits"].isna().to_numpy()
    means = lb.impute(model, frame.astype(float), samples=SAMPLES, point="mean").table["visits"]
    assert (means[holes] % 1 != 0).any()
    own = frame
    if library != "pandas":
        other = pytest.importorskip(library)
        own = other.from_pandas(frame) if library == "polars" else other.Table.from_pandas(frame)
    found = lb.impute(model, own, samples=SAMPLES, point="mean").table["visits"]
    np.testing.assert_allclose(np.array(found.to_numpy(), dtype=float), means)
    usual = lb.impute(model, own, samples=SAMPLES).table["visits"]
    assert str(usual.type if library == "pyarrow" else usual.dtype).lower() == "int64"


def test_means_of_counts_where_no_entry_is_known_are_not_rounded_either(counting):
    model, frame = counting
    empty = frame.assign(visits=pd.array([pd.NA] * len(frame), dtype="Int64"))
    found = lb.impute(model, empty, samples=SAMPLES, point="mean").table["visits"]
    assert (found % 1 != 0).any()
    assert lb.impute(model, empty, samples=SAMPLES).table["visits"].dtype == "Int64"
    of_examples = lb.impute(model, model.examples(empty), samples=SAMPLES, point="mean").table
    pd.testing.assert_series_equal(of_examples["visits"], found)


def test_points_that_are_not_asked_for_as_means_keep_the_type_of_integers(counting):
    model, frame = counting
    assert model.reconstruct(frame)["visits"].dtype == "Int64"
    assert model.sample(3, mean=True, seed=0)["visits"].dtype == "Int64"
    given = model.sample(3, given=frame[["length"]], mean=True, seed=0)
    assert given["visits"].dtype == "Int64"


def test_means_do_not_follow_draws_beyond_the_values_seen(untrained):
    model, frame = untrained
    last = model.likelihood.network.layers[-1]
    usual = last.bias.detach().clone()
    try:
        with torch.no_grad():
            last.bias += 20.0  # all draws of numbers are far above
        found = lb.impute(model, frame, samples=SAMPLES, point="mean").table
    finally:
        with torch.no_grad():
            last.bias.copy_(usual)
    for name in ("length", "income", "visits"):
        assert found[name].max() <= frame[name].max() * (1 + 1e-6)


@pytest.mark.parametrize(
    ("point", "error", "message"),
    [
        ({"visits": "best"}, SettingsError, "point='best' is unknown"),
        ({"weight": "mean"}, DataError, "there is no column 'weight'"),
        (3, SettingsError, "point=3 is unknown"),
    ],
)
def test_wrong_points_are_refused(point, error, message, untrained):
    with pytest.raises(error, match=message):
        lb.impute(*untrained, point=point)


def test_modes_are_the_most_frequent_values():
    draws = np.random.default_rng(0).integers(0, 5, size=(30, 200)).astype(float)
    expected = stats.mode(draws, axis=0).mode
    assert _find_modes(draws).tolist() == expected.tolist()
    assert _find_modes(np.array([[7.0, 1.0]])).tolist() == [7.0, 1.0]
