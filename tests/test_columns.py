"""Columns of tables: their types are inferred, and values become numbers and come back."""

import datetime
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import lowerbound as lb
from lowerbound.data import Schema
from lowerbound.data.frames import open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.schema import decode_columns, make_table, read_table
from lowerbound.describe import build, describe
from lowerbound.errors import DataError, SettingsError

sys.path.insert(0, str(Path(__file__).parent))
from example_tables import TYPES, make_frame


def infer(frame, **settings) -> Schema:
    return infer_schema(open_table(frame), **settings)


def test_types_are_inferred():
    schema = infer(make_frame())
    assert {column.name: column.type for column in schema.columns} == TYPES
    assert schema.find("gift").atoms == (0.0,)
    assert schema.find("year").step == 1.0
    assert schema.find("born").step == 86400.0
    assert schema.find("job").categories == ("clerk", "cook", "nurse")


def test_a_user_corrects_a_type():
    schema = infer(make_frame(), types={"answer": "categorical", "id": "real"})
    assert schema.find("answer").type == "categorical"
    assert schema.find("answer").categories == (0, 1, 2, 3, 4)
    assert schema.find("id").type == "real"


@pytest.mark.parametrize(
    ("types", "error", "message"),
    [
        ({"hight": "real"}, SettingsError, "'hight', which is not a column"),
        ({"height": "number"}, SettingsError, "'number'} is unknown"),
        ({"height": "count"}, DataError, r"the column 'height' is .* in row 0, but counts are"),
        ({"height": "proportion"}, DataError, "in row 0, but a proportion is from 0 to 1"),
        (
            {"job": "real"},
            DataError,
            "the column 'job' contains text, such as 'clerk' in row 0, so it cannot be real",
        ),
        ({"job": "boolean"}, DataError, "'job' has 3 values .* a boolean column has two"),
    ],
)
def test_types_that_do_not_suit_the_values_are_refused(types, error, message):
    with pytest.raises(error, match=message):
        infer(make_frame(), types=types)


def test_every_value_comes_back():
    frame = make_frame()
    schema = infer(frame)
    values, observed = read_table(frame, schema)
    assert values.dtype == torch.float32
    assert observed[:, [schema.places[c.name].start for c in schema.modelled]].all()
    again = make_table(decode_columns(values, schema), schema).set_axis(frame.index)
    assert list(again.columns) == [name for name in frame if TYPES[name] != "identifier"]
    assert (again.index == frame.index).all()
    for name in ("job", "answer", "smokes", "visits", "year", "born"):
        assert (again[name] == frame[name]).all(), name
    for name in ("height", "income", "gift", "share"):
        np.testing.assert_allclose(again[name], frame[name], rtol=2e-6, err_msg=name)


def test_missing_values_are_recognised_in_every_form():
    frame = pd.DataFrame(
        {
            "float": [1.5, np.nan, 2.5, 3.0, -999.0],
            "Int64": pd.array([1, None, 30, 4, -999], dtype="Int64"),
            "text": ["a", None, "b", "", "?"],
            "object": pd.Series(["a", np.nan, "b", None, pd.NA], dtype=object),
            "time": pd.to_datetime(["2020-01-01", None, "2021-05-01", "2020-01-02", None]),
            "truth": pd.array([True, None, False, True, None], dtype="boolean"),
            "category": pd.Categorical(["u", None, "v", "v", "u"]),
        }
    )
    table = open_table(frame)
    marks = ("?", -999)
    missing = {name: np.flatnonzero(table[name].find_missing(marks)).tolist() for name in frame}
    assert missing == {
        "float": [1, 4],
        "Int64": [1, 4],
        "text": [1, 3, 4],
        "object": [1, 3, 4],
        "time": [1, 4],
        "truth": [1, 4],
        "category": [1],
    }


def test_columns_are_found_by_name():
    frame = make_frame()
    schema = infer(frame)
    expected = read_table(frame, schema)
    shuffled = frame[list(reversed(frame.columns))]
    for found, wanted in zip(read_table(shuffled, schema), expected, strict=True):
        assert torch.equal(found, wanted)
    with pytest.warns(UserWarning, match="has no column job; the model takes it as not observed"):
        values, observed = read_table(frame.drop(columns="job"), schema)
    place = schema.places["job"]
    assert not observed[:, place].any()
    others = [each for each in range(values.shape[1]) if each != place.start]
    assert torch.equal(values[:, others], expected[0][:, others])


def test_a_model_of_named_columns_refuses_an_array():
    frame = make_frame()[["height", "income"]]
    with pytest.raises(DataError, match="an array has no names of columns"):
        read_table(frame.to_numpy(), infer(frame))


def test_an_unknown_category_is_an_error_or_another_one():
    frame = pd.DataFrame({"job": ["cook", "nurse"] * 20 + ["pilot"]})
    new = pd.DataFrame({"job": ["nurse", "smith"]})
    with pytest.raises(DataError, match="'job' is 'smith' in row 1, which is not a category"):
        read_table(new, infer(frame))
    schema = infer(frame, unknown="other")
    assert schema.find("job").categories == ("cook", "nurse")
    values, _ = read_table(new, schema)
    assert values.flatten().tolist() == [1, 2]
    assert list(make_table(decode_columns(values, schema), schema)["job"]) == ["nurse", "other"]


def test_a_column_of_another_type_is_refused_by_name():
    frame = make_frame()
    schema = infer(frame)
    with pytest.raises(DataError, match="'height' contains text, but the model was trained on num"):
        read_table(frame.assign(height="tall"), schema)
    with pytest.raises(DataError, match=r"'visits' is -1 in row 0, but counts are whole numbers"):
        read_table(frame.assign(visits=-1), schema)
    # A column of a fold may have whole numbers only, and a later one fractions.
    with pytest.raises(DataError, match=r"columns=\{'visits': 'real'\}"):
        read_table(frame.assign(visits=42.5), schema)


def test_values_of_several_types_are_refused_with_their_row():
    frame = pd.DataFrame({"a": pd.Series([1, 2, "three"], dtype=object)})
    with pytest.raises(
        DataError, match="'a' is 'three' in row 2, and the rows before have numbers"
    ):
        infer(frame)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ([2.5, 1, "?"], r"if '\?' stands for missing values, name it: missing_values=\['\?'\]"),
        (["-", 2.5, " - "], r"missing_values=\['-'\]\. Otherwise give a column values"),
        ([2.5, "?", "n/a"], r"'\?' and 'n/a' stand for .* missing_values=\['\?', 'n/a'\]"),
        (["red", "green", 5, "blue"], "have text; give a column values of one type"),
        ([1.5, "2.5", 3], "have numbers; give a column values of one type"),
        ([1.5, "2020-01-02"], "have numbers; give a column values of one type"),
    ],
)
def test_the_markers_among_numbers_are_named(values, named):
    """Columns of spreadsheets have both."""
    frame = pd.DataFrame({"a": pd.Series([None, *values] * 9, dtype=object)})
    with pytest.raises(DataError, match=named):
        infer(frame)


def test_numbers_with_a_named_marker_are_a_column_of_numbers():
    frame = pd.DataFrame({"a": pd.Series([None, 2.5, 1, "?"] * 9, dtype=object)})
    assert infer_schema(open_table(frame), placeholders=["?"]).find("a").type == "real"
    mixed = pd.DataFrame({"a": pd.Series([1, True], dtype=object)})
    with pytest.raises(DataError, match="have numbers; give a column values of one type"):
        infer(mixed)


@pytest.mark.parametrize("value", [pd.Period("2020", "Y"), 1j, datetime.time(1), [1], ("a",)])
def test_values_that_cannot_be_modelled_are_named(value):
    frame = pd.DataFrame({"a": pd.Series([None, value, value], dtype=object), "b": [0.5, 2, -1]})
    message = rf"in row 1, and values of the type {type(value).__name__} cannot be modelled.*"
    with pytest.raises(DataError, match=message + r"columns=\{'a': 'identifier'\}"):
        infer(frame)
    assert infer(frame, types={"a": "identifier"}).find("a").type == "identifier"


def test_types_that_cannot_be_modelled_are_named():
    frame = pd.DataFrame({"a": pd.to_timedelta([1, 2, 3]), "b": [0.5, 2, -1]})
    with pytest.raises(DataError, match=r"Duration.*columns=\{'a': 'identifier'\}"):
        infer(frame)


def test_columns_of_objects_of_polars_are_refused_because_they_cannot_be_completed():
    pl = pytest.importorskip("polars")
    frame = pl.DataFrame({"a": pl.Series([1, None, 3], dtype=pl.Object), "b": [0.5, 2.0, -1.0]})
    with pytest.raises(DataError, match=r"of type Object, .*columns=\{'a': 'identifier'\}"):
        infer(frame)
    assert infer(frame, types={"a": "identifier"}).find("a").type == "identifier"


@pytest.mark.parametrize("kind", [object, "str", "category", "pyarrow", "polars"])
def test_text_of_spaces_only_is_missing(kind):
    values = ["u", " ", "v", "\t\xa0", None] * 8
    frame = pd.DataFrame({"a": values, "b": np.random.default_rng(0).normal(size=40)})
    if kind == "polars":
        frame = pytest.importorskip("polars").DataFrame({"a": values, "b": frame["b"].tolist()})
    elif kind == "pyarrow":
        frame = pa.table(frame)
    else:
        frame["a"] = frame["a"].astype(kind)
    assert infer(frame).find("a").categories == ("u", "v")
    column = open_table(frame)["a"]
    for marks, is_marked in [((), False), (("u",), True), ((), False)]:
        missing = column.find_missing(marks)
        assert missing.tolist() == [is_marked, True, False, True, True] * 8
        missing[:] = True
    lb.load_data(frame, missing_values=[" "], test_fraction=0.0)  # without a warning


def test_declared_categories_of_spaces_only_are_missing():
    kind = pd.CategoricalDtype(["u", " ", "v"], ordered=True)
    frame = pd.DataFrame({"a": pd.Series(["u", " ", "v"] * 8, dtype=kind), "b": np.arange(24) / 7})
    assert infer(frame).find("a").categories == ("u", "v")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("people.csv", r"expected a table, got a path; read the file"),
        (Path("people.csv"), r"expected a table, got a path; read the file"),
        ({"a": [1]}, r"expected a table, got a dictionary; make a frame of it"),
        ([{"a": 1}], r"expected a table, got a list of dictionaries; make a frame of it"),
        (pd.Series([1.0]), r"expected a table, got a single column; give a frame that contains it"),
        ([1.0], r"expected a table \[rows, columns\] .* got the shape \(1,\)"),
    ],
)
def test_other_objects_than_tables_are_refused_with_the_remedy(data, message):
    with pytest.raises(DataError, match="given: " + message):
        open_table(data, "given")


@pytest.mark.parametrize("mark", [-999, [-999], "-999", ["z", -999.0], np.float32(-999)])
def test_numbers_that_stand_for_missing_values_do_so_as_text_too(mark):
    frame = pd.DataFrame({"a": ["x", "y", "-999"] * 9, "b": [1.5, -999, -2.5] * 9})
    if isinstance(mark, list) and "z" in mark:
        frame.loc[0, "a"] = "z"
    schema = lb.load_data(frame, missing_values=mark).train.preprocessing.schema
    assert schema.find("a").categories == ("x", "y")
    assert schema.find("a").has_missing
    assert schema.find("b").low == -2.5


def test_columns_are_named_by_whole_numbers_if_the_frame_does():
    frame = pd.DataFrame(np.random.default_rng(0).integers(1, 1000, (40, 2)))
    for name in (1, np.int64(1), "1"):
        schema = lb.load_data(frame, columns={name: "real"}).train.preprocessing.schema
        assert [column.type for column in schema.columns] == ["count", "real"]


def test_two_columns_of_one_name_are_refused():
    frame = pd.DataFrame([[1.0, 2.0]], columns=["a", "a"])
    with pytest.raises(DataError, match="two columns are called 'a'"):
        open_table(frame)


def test_a_column_may_have_any_name():
    frame = pd.DataFrame({"column_names": [1.5, 2.5, -3.5], "columns": [1.5, 2.5, -3.5]})
    assert infer(frame).names == ("column_names", "columns")


def test_a_schema_is_saved():
    schema = infer(make_frame(), placeholders=("?", -999))
    assert build(describe(schema)) == schema


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_frames_of_other_libraries_have_the_same_numbers(library):
    frame = make_frame().reset_index(drop=True)
    other = pytest.importorskip(library)
    native = other.from_pandas(frame) if library == "polars" else other.Table.from_pandas(frame)
    schema, expected = infer(native), infer(frame)
    assert schema.library == library
    for column, wanted in zip(schema.columns, expected.columns, strict=True):
        assert (column.name, column.type, column.categories) == (
            wanted.name,
            wanted.type,
            wanted.categories,
        )
    for found, wanted in zip(read_table(native, schema), read_table(frame, expected), strict=True):
        assert torch.equal(found, wanted)


def test_load_data_reads_a_frame_as_a_table():
    data = lb.load_data(make_frame(), columns="answer=categorical", test_fraction=0.2)
    assert data.preprocessing.schema.find("answer").type == "categorical"
    assert len(data.train) == 160
    assert data.train.fields["observed"].shape == data.train.values.shape


def test_dates_come_back_as_dates():
    days = [datetime.date(2020, 1, 1) + datetime.timedelta(days=day) for day in range(30)]
    frame = pd.DataFrame({"day": pd.Series(days, dtype=object)})
    schema = infer(frame)
    values, _ = read_table(frame, schema)
    assert list(make_table(decode_columns(values, schema), schema)["day"]) == days
