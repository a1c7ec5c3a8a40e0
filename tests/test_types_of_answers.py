"""Draws given a frame, and reconstructions of it, have the names and types of its columns."""

import datetime
from decimal import Decimal
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import lowerbound as lb
from lowerbound.data.frames import open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.raw_values import is_missing
from lowerbound.data.schema import fill_table, make_table
from lowerbound.recipes import find_recipe

ROWS = 40


def make_values() -> dict:
    """Columns of all contents, each with missing values in different rows."""
    random = np.random.default_rng(0)
    day = datetime.datetime(2024, 1, 1, 7)
    columns = {
        "number": random.normal(size=ROWS).round(4).tolist(),
        "count": random.poisson(30, ROWS).tolist(),
        "truth": random.choice([True, False], ROWS).tolist(),
        "text": random.choice(["a", "b", "c"], ROWS).tolist(),
        "time": [day + datetime.timedelta(hours=row * row) for row in range(ROWS)],
        "price": [Decimal(row * 37 % 50) / 4 for row in range(ROWS)],
    }
    for place, values in enumerate(columns.values()):
        values[place::7] = [None] * len(values[place::7])
    return columns


def make_pandas(**types) -> pd.DataFrame:
    values = make_values()
    frame = pd.DataFrame({name: pd.Series(values[name], dtype=types[name]) for name in types})
    return frame.set_axis([f"row {row}" for row in range(ROWS)])


def make_dictionary(*, ordered: bool = False) -> Any:
    """Cells of a dictionary, as pandas reads categories from a .parquet file into arrow's types."""
    kind = pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string(), ordered=ordered))
    cells = pd.array(["b", "a", None, "c"] * (ROWS // 4), dtype=pd.ArrowDtype(pa.string()))
    return pd.array(pa.array(cells).dictionary_encode().cast(kind.pyarrow_dtype), dtype=kind)


def make_polars() -> pl.DataFrame:
    values = make_values()
    types = {
        "number": pl.Float32,
        "count": pl.UInt16,
        "text": pl.Enum(["c", "b", "a", "z"]),
        "price": pl.Decimal(10, 2),
        "time": pl.Datetime("ms"),
    }
    frame = pl.DataFrame(values, schema_overrides=types)
    return frame.with_columns(large=pl.col("count").cast(pl.Int128))


FRAMES = {
    "pandas": lambda: make_pandas(
        number="float32", truth=object, text="category", time="datetime64[s]"
    ).assign(small=np.arange(ROWS, dtype="int8")[::-1] % 17 - 8),
    "nullable": lambda: make_pandas(
        number="Float32", count="Int64", truth="boolean", text="string"
    ),
    "arrow-backed": lambda: make_pandas(
        number="float[pyarrow]",
        count="int32[pyarrow]",
        truth="bool[pyarrow]",
        text="string[pyarrow]",
        time="timestamp[us][pyarrow]",
        price=pd.ArrowDtype(pa.decimal128(10, 2)),
    ).assign(job=make_dictionary(), grade=make_dictionary(ordered=True)),
    "polars": make_polars,
    "pyarrow": lambda: make_polars().drop("large").to_arrow(),
}


def build(frame, **options):
    data = lb.load_data(frame, test_fraction=0.0, **options)
    return find_recipe("table").build(data, {"hidden": 4}, seed=0)[0]


def list_types(frame) -> dict:
    if isinstance(frame, pd.DataFrame):
        return dict(frame.dtypes)
    if isinstance(frame, pl.DataFrame):
        return dict(frame.schema)
    return dict(zip(frame.schema.names, frame.schema.types, strict=True))


@pytest.mark.parametrize("kind", FRAMES)
def test_answers_to_a_frame_have_its_types(kind):
    frame = FRAMES[kind]()
    model = build(frame)
    wanted = list_types(frame)
    assert list_types(model.reconstruct(frame)) == wanted
    drawn = model.sample(2, given=frame, seed=0)
    assert list_types(drawn) == wanted
    assert list_types(lb.impute(model, frame).table) == wanted
    for name in wanted:
        given, answer = (nw.from_native(each)[name].to_list() for each in (frame, drawn))
        pairs = zip(given, answer[::2], answer[1::2], strict=True)
        assert all(old == one == two for old, one, two in pairs if not is_missing(old))
    if isinstance(frame, pd.DataFrame):
        assert list(drawn.index) == [name for name in frame.index for _ in range(2)]


@pytest.mark.parametrize("kind", ["polars", "pyarrow"])
def test_new_rows_have_the_decimals_of_the_training(kind):
    frame = FRAMES[kind]()
    assert list_types(build(frame).sample(3, seed=0))["price"] == list_types(frame)["price"]


def test_decimals_that_do_not_hold_the_values_become_numbers():
    values = [None, Decimal("0.25"), Decimal("0.50"), Decimal("0.75")] * 10
    frame = pl.DataFrame({"a": pl.Series(values, dtype=pl.Decimal(3, 2))})
    schema = infer_schema(open_table(frame))
    assert fill_table(frame, {"a": np.full(40, 0.254)}, schema)["a"][0] == Decimal("0.25")
    assert fill_table(frame, {"a": np.full(40, 0.001)}, schema)["a"][0] == 0.001
    assert make_table({"a": np.full(1, 12.5)}, schema)["a"].to_list() == [12.5]


@pytest.mark.parametrize(
    "labels",
    [
        pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)], names=["letter", None]),
        pd.Index([1.5, 2.5, 4.0], name="width"),
        pd.Index([3, 2, 7]),
        pd.Index(["x", "y", "z"], name="letter"),
    ],
)
def test_answers_to_a_frame_have_its_labels(labels):
    values = np.random.default_rng(0).normal(size=(ROWS, 3))
    frame = pd.DataFrame(values, columns=labels)
    frame.iloc[::5, 1] = np.nan
    model = build(frame)
    for answer in (
        model.reconstruct(frame),
        lb.impute(model, frame).table,
        model.sample(2, given=frame, seed=0),
        model.sample(2, given=frame.iloc[:3, :2], seed=0),
    ):
        pd.testing.assert_index_equal(answer.columns, labels)


def test_columns_that_a_given_frame_does_not_have_are_of_the_types_of_the_training():
    frame = FRAMES["pandas"]()
    drawn = build(frame).sample(2, given=frame[["number"]].astype("Float64")[:3], seed=0)
    assert drawn["number"].dtype == "Float64"
    assert drawn["small"].dtype == "int8"
    assert drawn["time"].dtype == "datetime64[s]"


def test_an_unknown_category_that_is_given_is_kept_and_reconstructed_as_other():
    frame = make_pandas(number="float64", text="string")
    model = build(frame, unknown="other")
    given = pd.DataFrame({"text": ["new", None], "number": [0.1, 0.2]})
    assert model.sample(2, given=given, seed=0)["text"][:2].tolist() == ["new", "new"]
    assert set(model.reconstruct(given)["text"]) <= {"a", "b", "c", "other"}


def test_a_constant_column_of_other_content_is_not_filled():
    frame = make_pandas(number="float64").assign(constant=1.5)
    given = pd.DataFrame({"constant": ["low", None], "number": [0.1, None]})
    drawn = build(frame).sample(1, given=given, seed=0)
    assert drawn["constant"].isna().tolist() == [False, True]
    assert drawn["number"].notna().all()
