"""What columns, their types, and the distributions of tables compute, beside values by hand."""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import lowerbound as lb
from lowerbound.data import Column, Schema
from lowerbound.data.frames import open_table
from lowerbound.data.grids import Grid
from lowerbound.data.inference import infer_schema
from lowerbound.evaluation.imputing import (
    Imputation,
    _choose_point,
    _find_half_sample_modes,
    _summarise,
)
from lowerbound.evaluation.row_scores import _estimate_errors
from lowerbound.evaluation.sensitivity import _find_normal_scores
from lowerbound.models.table import choose_by_weight, count_effective_samples
from lowerbound.runtime import noise

sys.path.insert(0, str(Path(__file__).parent))
from example_tables import make_frame
from test_table_model import NAMES, ORIGINS, UNITS, log_density, make_model, make_table


def infer(values, **settings) -> Column:
    frame = pd.DataFrame({"a": values, "b": np.arange(len(values)) % 7 - 0.5})
    return infer_schema(open_table(frame), **settings).columns[0]


def test_numbers_of_columns():
    share = Column("a", "proportion", centre=0.5, spread=2.0)
    values, _ = share.encode(np.array([0.2]))
    assert values[0, 0] == pytest.approx((math.log(0.2 / 0.8) - 0.5) / 2)
    rounded = Column("a", "real", spread=4.0, step=1.0, low=0.0, high=10.0)
    assert rounded.entries[0].least_scale == pytest.approx(0.25 / 4)
    assert rounded.round(np.array([2.7, -2.7])).tolist() == [3.0, -3.0]
    assert rounded.clip(np.array([15.0, 25.0, -15.0])).tolist() == [15.0, 20.0, -10.0]
    amount = Column("a", "positive", atoms=(1.0, 5.0))
    values, observed = amount.encode(np.array([1.0, 5.0, 2.0, np.nan]))
    assert values[:, 0].tolist() == [1.0, 2.0, 0.0, 0.0]
    assert observed[:, 1].tolist() == [False, False, True, False]
    np.testing.assert_allclose(amount.decode(values)[:3], [1.0, 5.0, 2.0])


ROUNDED = np.random.default_rng(0).normal(size=300).round(1)
SCALINGS = [(100.0, 0.0), (1e-5, 0.0), (0.3, 0.0), (100.0, 7.0), (5 / 9, -160 / 9), (-2.0, 1e6)]


def test_the_step_is_the_largest_of_which_differences_are_multiples():
    assert infer(ROUNDED).step == pytest.approx(0.1, rel=1e-12)
    assert infer(np.array([-3.5, 1.5, 4.5, 6.5] * 9)).step == 1.0
    assert infer(np.array([-0.5, 0.25, 0.5, 1.5, 4.0] * 9)).step == 0.25
    assert infer(np.array([0.1 + 0.2, 0.3, -0.5, 0.9] * 9)).step == pytest.approx(0.2)
    assert infer(ROUNDED.astype(np.float32)).step == pytest.approx(0.1, rel=1e-6)
    assert infer(np.random.default_rng(0).normal(size=300)).step == 0.0
    assert infer(np.random.default_rng(0).normal(size=300).astype(np.float32)).step == 0.0
    assert infer(np.array([-5.13, 2.98] + [np.nan] * 30)).step == 0.0
    # A power of ten is found even if it is so small that it says nothing about the density.
    column = infer(np.append(1e5 * ROUNDED, 0.5))
    assert column.step == 0.1
    assert column.entries[0].least_scale < 1e-6
    assert infer(np.append(1e5 * ROUNDED, np.pi)).step == 0.0


@pytest.mark.parametrize(("factor", "shift"), SCALINGS)
def test_the_step_is_in_proportion_to_the_values(factor, shift):
    column = infer(factor * ROUNDED + shift, types={"a": "real"})
    assert column.step == pytest.approx(abs(factor) * 0.1, rel=1e-9)
    assert column.entries[0].least_scale == pytest.approx(infer(ROUNDED).entries[0].least_scale)
    values = np.sort(factor * ROUNDED + shift)
    np.testing.assert_allclose(column.round(values + 0.3 * column.step), values, rtol=1e-12)


def test_rounded_numbers_are_written_with_few_digits():
    assert Grid(0.35, 0.05).round(np.array([0.41, 0.56])).tolist() == [0.4, 0.55]
    assert Grid(7.0, 10.0).round(np.array([52.1])).tolist() == [57.0]
    assert Grid(3e-6, 1e-6).round(np.array([5.7e-5])).tolist() == [5.7e-5]
    np.testing.assert_allclose(Grid(0.0, 1 / 3).round(np.array([0.6])), [2 / 3], rtol=1e-15)


def test_draws_of_amounts_over_many_orders_are_rounded_as_the_values_are():
    amounts = np.exp(np.random.default_rng(0).normal(10, 1.5, 1000))
    assert amounts.std() > 1e5
    for decimals in (2, 0):
        column = infer(np.round(amounts, decimals), types={"a": "real"})
        assert column.step == 10.0**-decimals
        assert column.round(amounts[::-1]).tolist() == np.round(amounts[::-1], decimals).tolist()
    assert infer(amounts).step == 0


def test_rounded_positive_numbers_and_proportions_stay_inside_of_their_range():
    amount = Column("a", "positive", step=10.0, low=7.0, high=207.0)
    assert amount.round(np.array([0.5, 15.0])).tolist() == [7.0, 17.0]
    assert Column("a", "positive", step=0.1, low=0.3).round(np.array([0.01])).tolist() == [0.1]
    assert Column("a", "positive", step=2.0).round(np.array([0.01])).tolist() == [2.0]
    share = Column("a", "proportion", step=0.25, low=0.25, high=0.5)
    assert share.round(np.array([0.01, 0.99])).tolist() == [0.25, 0.75]


def test_observed_values_that_are_not_rounded_come_back():
    column = Column("a", "real", spread=4.0, step=5.0, low=0.0, high=50.0)
    values, observed = column.encode(np.array([7.0, 15.0]))
    values = values.astype(np.float32).astype(float) * (1 + 1e-7)
    np.testing.assert_allclose(column.decode(values, observed), [7.0, 15.0], rtol=1e-6)
    assert column.decode(values, observed)[1] == 15.0
    assert column.decode(values).tolist() == [5.0, 15.0]
    whole = Column("a", "real", dtype="Int64", spread=4.0, step=5.0, low=0.0, high=50.0)
    assert whole.decode(values, observed).tolist() == [7.0, 15.0]


def test_a_schema_orders_its_entries_by_name():
    schema = Schema((Column("b", "real"), Column("a", "count")))
    assert [entry.column for entry in schema.entries] == ["a", "b"]
    assert schema.places == {"a": slice(0, 1), "b": slice(1, 2)}


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([100, 101, 99, 102, 98, 100] * 5, "real"),  # they vary less than counts do
        ([10, 40, 90, 3, 20, 70] * 5, "count"),
        ([-0.5, 0.25, 0.75, -0.25] * 5, "real"),
        ([0.5, 0.25, 0.75, 0.3] * 5, "proportion"),
        ([0.0, 0.0, 1.5, 30.5, 200.25] * 8, "positive"),
        ([f"name {number}" for number in range(20)] + ["name 1"], "identifier"),
        (["one"] * 20 + [None], "constant"),
    ],
)
def test_types_by_hand(values, type_):
    assert infer(values).type == type_


def test_two_equal_values_are_not_an_atom_and_atoms_do_not_move_the_mean():
    random = np.random.default_rng(0)
    values = random.normal(50.0, 9.0, 60)
    values[1] = values[0]
    assert infer(values).atoms == ()
    values[:30] = 0.25
    column = infer(values, types={"a": "real"})
    assert column.atoms == (0.25,)
    assert column.centre == pytest.approx(values[30:].mean())
    assert column.spread == pytest.approx(values[30:].std())


def test_rare_categories_are_others_only_if_they_are_asked_for():
    values = ["cook", "nurse"] * 10 + ["pilot"]
    assert infer(values).categories == ("cook", "nurse", "pilot")
    column = infer(values, unknown="other")
    assert (column.categories, column.other_code) == (("cook", "nurse"), 2)


def test_unknown_categories_are_read_as_the_others():
    frame = pd.DataFrame({"a": ["cook", "nurse"] * 10 + ["pilot"]})
    schema = infer_schema(open_table(frame), unknown="other")
    model_values = lb.data.schema.read_table(pd.DataFrame({"a": ["smith", "cook"]}), schema)[0]
    assert model_values[:, 0].tolist() == [2.0, 0.0]


def test_placeholders_of_the_schema_are_missing():
    frame = pd.DataFrame({"a": [1.5, -999.0, 2.5, 7.25] * 5})
    schema = infer_schema(open_table(frame), placeholders=(-999,))
    _, observed = lb.data.schema.read_table(frame, schema)
    assert observed[:4, 0].tolist() == [True, False, True, True]


def test_inputs_of_an_encoder():
    schema = Schema(
        (
            Column("a", "count", centre=1.0, spread=0.5),
            Column("b", "real", centre=7.0, spread=3.0),
            Column("c", "categorical", categories=("x", "y")),
        )
    )
    inputs = lb.ColumnInputs(schema)(torch.tensor([[3.0, 2.0, 1.0, 1.0, 1.0, 1.0]]))
    # log(1 + count) standardised, the number, one-hot codes, the mask
    expected = [(math.log(4.0) - 1.0) / 0.5, 2.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    np.testing.assert_allclose(inputs[0], expected, rtol=1e-6)
    hidden = lb.ColumnInputs(schema)(torch.tensor([[3.0, 2.0, 1.0, 0.0, 0.0, 0.0]]))
    assert not hidden.any()


def test_densities_in_the_units_of_the_table():
    schema = Schema(
        (
            Column("a", "real", centre=10.0, spread=2.0),
            Column("b", "positive", centre=1.0, spread=0.5),
            Column("c", "proportion", centre=-0.5, spread=0.8),
        )
    )
    outputs = torch.tensor([0.2, -0.3, 0.1, 0.4, 0.0, -0.2])  # means, then log scales
    likelihood = lb.Columns(lb.constant(6), schema)
    raw = np.array([11.5, 4.0, 0.3])
    values = [column.encode(raw[[n]])[0][0, 0] for n, column in enumerate(schema.columns)]
    p = likelihood.from_parameters(outputs.double())
    found = p.entrywise_log_prob(torch.tensor(values, dtype=torch.float64)).detach()
    t = [10.0 + 2.0 * 0.2, 1.0 + 0.5 * -0.3, -0.5 + 0.8 * 0.1]
    scales = [2.0 * math.exp(0.4), 0.5, 0.8 * math.exp(-0.2)]
    logit = math.log(0.3 / 0.7)
    expected = [
        stats.t(30.0, t[0], scales[0]).logpdf(11.5),  # the first degrees of freedom
        stats.t(1000.0, t[1], scales[1]).logpdf(math.log(4.0)) - math.log(4.0),
        stats.t(1000.0, t[2], scales[2]).logpdf(logit) - math.log(0.3 * 0.7),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_ordered_categories_bend_and_have_no_others():
    schema = Schema(
        (
            Column("a", "ordinal", categories=(0, 1, 2)),
            Column("b", "ordinal", categories=(0, 1, 2, 3)),
        )
    )
    likelihood = lb.Columns(lb.constant(4), schema)
    slopes, curvatures = [0.3, -0.4], [0.5, -0.2]
    p = likelihood.from_parameters(torch.tensor([*slopes, *curvatures]))
    for n, levels in enumerate((3, 4)):
        ranks = math.sqrt(12) * (np.linspace(0, 1, levels) - 0.5)
        logits = slopes[n] * ranks - curvatures[n] * ranks**2
        expected = logits - np.log(np.exp(logits).sum())
        rows = torch.zeros(levels, 2)
        rows[:, n] = torch.arange(float(levels))
        np.testing.assert_allclose(p.entrywise_log_prob(rows)[:, n].detach(), expected, atol=1e-5)


def test_a_likelihood_starts_at_the_deviations_of_its_columns():
    schema = Schema((Column("a", "real"),))
    x = torch.linspace(-3, 3, 101)[:, None]
    found = lb.Columns(lb.constant(2), schema).marginal_outputs(x)
    np.testing.assert_allclose(found, [0.0, math.log(x.std())], atol=0.02)


def test_weights_choose_draws_and_are_counted():
    log_w = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    effective = count_effective_samples(log_w)
    np.testing.assert_allclose(effective, [1 / (0.25**2 + 0.75**2), 2.0])
    with noise.per_example(0, torch.arange(2)):
        chosen = choose_by_weight(log_w, 4000)
    np.testing.assert_allclose(chosen.double().mean(0), [0.75, 0.5], atol=0.04)
    np.testing.assert_allclose(_estimate_errors(torch.tensor([100.0, 50.0]), 100), [0.0, 0.1])


def test_points_by_the_type_of_a_column():
    draws = np.array([[1.0], [2.0], [9.0]])
    for column, expected in ((Column("a", "count"), 2.0), (Column("a", "real"), 4.0)):
        point = _choose_point("auto", column)
        assert _summarise(draws, column, point).tolist() == [expected]
    # Between two draws in the middle, the median of counts is still a count.
    middle = np.array([[2.0], [3.0], [6.0], [9.0]])
    assert _summarise(middle, Column("a", "count"), "median").tolist() == [4.0]
    assert _summarise(middle, Column("a", "count"), "mean").tolist() == [5.0]
    five = np.array([[0.0], [1.0], [1.25], [5.0], [9.0]])
    # The densest three are 0, 1 and 1.25, and the densest two of them 1 and 1.25.
    assert _find_half_sample_modes(five).tolist() == [1.125]


def test_only_incomplete_rows_are_doubtful():
    few, tails = torch.tensor([2.0, 2.0, 500.0]), torch.zeros(3)
    found = Imputation((), 1000, few, tails, torch.tensor([True, False, True]))
    assert found.doubtful.tolist() == [True, False, False]


def test_equal_values_share_a_normal_score():
    observed = np.array([1.0, 2.0, 2.0, 3.0])
    found = _find_normal_scores(np.array([2.0, 0.0]), observed)
    np.testing.assert_allclose(found, stats.norm.ppf([2.5 / 5, 0.5 / 5]), atol=1e-12)


def test_the_score_of_a_value_given_the_others_is_that_of_the_closed_form():
    frame = make_table(12, missing=0.3, seed=3)
    found = lb.score(make_model(), frame, samples=4000).columns
    for name in NAMES:
        expected = log_density(frame) - log_density(frame.assign(**{name: np.nan}))
        seen = frame[name].notna().to_numpy()
        assert np.isnan(found[name].numpy()[~seen]).all()
        assert np.median(np.abs(found[name].numpy() - expected)[seen]) < 0.05


def test_draws_of_a_condition_belong_to_its_rows():
    given = pd.DataFrame({"b": ORIGINS[1] + UNITS[1] * np.array([-3.0, 3.0]), "c": [0.5, np.nan]})
    rows = make_model().sample(3, given=given, seed=0)
    np.testing.assert_allclose(rows["b"], given["b"].repeat(3))
    assert (rows["c"][:3] == 0.5).all()
    assert rows["c"][3:].notna().all()


def test_what_is_observed_is_scored_in_evaluations_and_some_of_it_in_training(monkeypatch):
    schema = infer_schema(open_table(make_frame(40)[["height", "income", "visits"]]))
    model = lb.TableModel(
        lb.StandardNormal(1),
        lb.Given(lb.Gaussian(lb.mlp(6, 2)), "observed"),
        lb.Masked(lb.Columns(lb.mlp(1, 6), schema)),
        hide=0.5,
    )
    x, observed = torch.zeros(400, 3), torch.ones(400, 3, dtype=torch.bool)
    observed[:, 1] = False
    seen: list[torch.Tensor] = []
    original = lb.LatentModel.conditioned

    def conditioned(self, x, given=None):
        seen.append(given["observed"])
        return original(self, x, given)

    monkeypatch.setattr(lb.LatentModel, "conditioned", conditioned)
    model.eval().conditioned(x, {"observed": observed})
    model.train().conditioned(x, {"observed": observed})
    assert torch.equal(seen[0], observed)
    hidden = seen[1]
    assert not hidden[:, 1].any()
    complete = float((hidden[:, 0] & hidden[:, 2]).float().mean())
    assert 0.5 < complete < 0.8
