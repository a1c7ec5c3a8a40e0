"""Columns of a later table contain what those of the training table contained."""

import numpy as np
import pandas as pd
import pytest

from lowerbound.data.columns import Column
from lowerbound.data.frames import open_table
from lowerbound.data.inference import infer_column
from lowerbound.data.known_columns import read_column
from lowerbound.errors import DataError

CODES = ["10115", "20095"] * 10
TRUTHS = [True, False] * 10
NUMBERS = np.linspace(-1.0, 2.0, 20)
TIME = pd.Timestamp("2020-05-01")


def infer(values, asked=None, unknown="error") -> Column:
    raw = open_table(pd.DataFrame({"a": values}))["a"]
    return infer_column(raw, asked, unknown=unknown)


def read(values, column):
    return read_column(open_table(pd.DataFrame({"a": values}))["a"], column, ()).tolist()


@pytest.mark.parametrize("unknown", ["error", "other"])
@pytest.mark.parametrize(
    ("trained", "values", "found", "known"),
    [
        (CODES, [10115, 20095], "numbers", "text"),
        (CODES, [10115.0, None], "numbers", "text"),
        (CODES, pd.Categorical([10115, 20095]), "numbers", "text"),
        (CODES, [True], "truth values", "text"),
        (CODES, [TIME], "times", "text"),
        (pd.Categorical([1, 2, 3] * 8), ["1", "2"], "text", "numbers"),
        (pd.Categorical([1, 2, 3] * 8), pd.Categorical(["1", "2"]), "text", "numbers"),
        (pd.Categorical([1, 2, 3] * 8), [True], "truth values", "numbers"),
        ([0, 1, 2, 3] * 8, [True], "truth values", "numbers"),
        (TRUTHS, ["False"], "text", "truth values"),
        (TRUTHS, ["yes"], "text", "truth values"),
        (TRUTHS, [TIME], "times", "truth values"),
        ([0, 1] * 10, ["1"], "text", "numbers"),
        (NUMBERS, [True], "truth values", "numbers"),
        (NUMBERS, ["1.5"], "text", "numbers"),
        ([TIME, TIME + pd.Timedelta("1D")] * 10, [5], "numbers", "times"),
    ],
)
def test_a_column_of_another_kind_is_refused(trained, values, found, known, unknown):
    column = infer(trained, unknown=unknown)
    message = (
        f"the column 'a' contains {found}, but the model was trained on {known} "
        rf"\({column.type}\); convert the column to {known}"
    )
    with pytest.raises(DataError, match=message):
        read(values, column)


@pytest.mark.parametrize(
    ("trained", "values", "codes"),
    [
        (CODES, pd.Categorical(["20095", None, "10115"]), [1.0, np.nan, 0.0]),
        (pd.Categorical(CODES), ["20095"], [1.0]),
        (pd.Categorical([1, 2, 3] * 8), [3.0, None], [2.0, np.nan]),
        (pd.Categorical([1, "one"] * 8), pd.Categorical([1, "one"]), [0.0, 1.0]),
        (TRUTHS, [0, 1], [0.0, 1.0]),
        (TRUTHS, [1.0, None], [1.0, np.nan]),
        (TRUTHS, np.array([True, None], dtype=object), [1.0, np.nan]),
        ([0, 1] * 10, TRUTHS[:2], [1.0, 0.0]),
    ],
)
def test_the_same_values_in_another_type_are_accepted(trained, values, codes):
    np.testing.assert_array_equal(read(values, infer(trained)), codes)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (10115, "give a column values of one type"),
        ([10115], "values of the type list cannot be modelled"),
    ],
)
def test_objects_of_several_kinds_are_refused(value, message):
    column = infer(CODES, unknown="other")
    values = np.array([None, "20095"], dtype=object)
    values[0] = value
    with pytest.raises(DataError, match=message):
        read(values, column)


@pytest.mark.parametrize("asked", ["real", "count", "proportion", "positive"])
def test_truth_values_are_not_numbers(asked):
    with pytest.raises(DataError, match=f"contains truth values, so it cannot be {asked}"):
        infer(TRUTHS, asked)


@pytest.mark.parametrize(
    ("trained", "asked", "value", "ending"),
    [
        (TRUTHS, None, 2, "or by a missing value"),
        ([0, 1] * 10, None, 2, r"or train with columns=\{'a': 'real'\}"),
        (CODES, None, "1", "or train with unknown='other'"),
        (CODES, "boolean", "1", r"columns=\{'a': 'categorical'\} and unknown='other'"),
    ],
)
def test_the_remedy_for_an_unknown_category_suits_the_column(trained, asked, value, ending):
    column = infer(trained, asked)
    with pytest.raises(DataError, match=f"is {value!r} in row 0, which is not a .*{ending}$"):
        read([value], column)


def test_a_model_that_was_trained_on_truth_values_as_numbers_still_reads_them():
    column = Column("a", "real", dtype="Boolean", centre=0.5, spread=0.5)
    np.testing.assert_array_equal(read(np.array([True, False]), column), [1, 0])
