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
from lowerbound.data.columns import Column
from lowerbound.data.frames import open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.raw_values import is_missing
from lowerbound.data.schema import fill_table, make_table, read_table
from lowerbound.describe import build as build_part
from lowerbound.describe import complete, describe
from lowerbound.recipes import find_recipe
from lowerbound.sklearn import VAE

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


@pytest.mark.parametrize("kind", FRAMES)
def test_new_rows_have_the_types_of_the_training_also_from_a_file(kind, tmp_path):
    frame = FRAMES[kind]()
    if kind == "pandas":
        frame = frame.drop(columns="truth")  # without missing values, these are not objects
    if kind == "pyarrow":
        frame = frame.drop("text")  # the text of new categories is not large, as polars' is
    model = build(frame)
    wanted = list_types(frame)
    assert list_types(model.sample(3, seed=0)) == wanted
    lb.save(model, tmp_path / "model.safetensors")
    drawn = lb.load(tmp_path / "model.safetensors").sample(3, seed=0)
    assert list_types(drawn) == wanted


NUMBERS, TEXTS, TRUTHS = [4, 0, 3, 1, 2], list("ebdac"), [True, False, True, True, False]
PRICES = [Decimal(each) / 4 for each in NUMBERS]
TIMES = [datetime.datetime(2024, 1, 1 + each) for each in NUMBERS]

COLUMNS_OF_PANDAS = [
    *(pd.Series(NUMBERS, dtype=each) for each in ("int8", "uint16", "float32", "float64")),
    *(pd.Series(NUMBERS, dtype=each) for each in ("Int8", "UInt16", "Int64", "Float32", "Float64")),
    *(pd.Series(TRUTHS, dtype=each) for each in ("bool", "boolean")),
    *(pd.Series(TEXTS, dtype=each) for each in ("str", "string", "category")),
    pd.Series(pd.Categorical(TEXTS, categories=list("edcba"), ordered=True)),
    *(pd.Series(TIMES, dtype=each) for each in ("datetime64[s]", "datetime64[ns, Asia/Tokyo]")),
]

COLUMNS_OF_ARROW = [
    *(pa.array(NUMBERS, each) for each in (pa.int8(), pa.uint16(), pa.int64())),
    *(pa.array(map(float, NUMBERS), each) for each in (pa.float32(), pa.float64())),
    pa.array(PRICES, pa.decimal128(6, 2)),
    pa.array(TRUTHS),
    pa.array(TEXTS),
    pa.array(TEXTS, pa.dictionary(pa.int32(), pa.string())),
    pa.array(TEXTS, pa.dictionary(pa.int32(), pa.string(), ordered=True)),
    pa.array(TIMES, pa.date32()),
    pa.array(TIMES, pa.timestamp("s")),
    pa.array(TIMES, pa.timestamp("ns")),
    pa.array(TIMES, pa.timestamp("us", "Asia/Tokyo")),
]

COLUMNS = COLUMNS_OF_PANDAS + [
    pd.Series(pd.array(cells, dtype=pd.ArrowDtype(cells.type))) for cells in COLUMNS_OF_ARROW
]


@pytest.mark.parametrize("rows", [range(5), [3]], ids=["several values", "one value"])
@pytest.mark.parametrize("column", COLUMNS, ids=[str(each.dtype) for each in COLUMNS])
def test_each_type_of_pandas_is_that_of_new_rows(column, rows):
    kept = column.take(list(rows) * (ROWS // len(rows))).reset_index(drop=True)
    frame = pd.DataFrame({"number": np.random.default_rng(0).normal(size=ROWS), "kept": kept})
    drawn = build(frame).sample(4, seed=0)["kept"]
    assert not drawn.isna().any()
    if isinstance(kept.dtype, pd.CategoricalDtype):
        assert drawn.cat.ordered == kept.cat.ordered
        assert set(drawn.cat.categories) <= set(kept.cat.categories)
    else:
        assert drawn.dtype == kept.dtype
    if len(rows) == 1:
        assert drawn.tolist() == kept[:4].tolist()


def test_new_rows_keep_missing_values_and_fractions_in_the_type_of_the_backend():
    frame = pd.DataFrame({"key": [3, 7] * 20, "amount": range(0, 4000, 100)})
    for backend, kinds in {
        "numpy_nullable": ("Int64", "Float64"),
        "pyarrow": ("int64[pyarrow]", "double[pyarrow]"),
    }.items():
        schema = infer_schema(
            open_table(frame.convert_dtypes(dtype_backend=backend)),
            types={"key": "categorical", "amount": "real"},
            unknown="other",
        )
        made = make_table({"key": np.array([2.0, 1.0]), "amount": np.array([0.5, 2.0])}, schema)
        assert tuple(map(str, made.dtypes)) == kinds
        assert made["key"].isna().tolist() == [True, False]
        assert made["key"][1] == 7
        assert made["amount"].tolist() == [0.5, 2.0]


BACKENDS = {
    "numpy": lambda frame: frame,
    "nullable": lambda frame: frame.convert_dtypes(),
    "arrow-backed": lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
}


def make_plain() -> pd.DataFrame:
    return make_pandas(number="float64", text="str", time="datetime64[us]").assign(
        count=np.arange(ROWS)[::-1] * 7 % 90, truth=np.arange(ROWS) % 3 == 0
    )


@pytest.mark.parametrize("later", BACKENDS)
@pytest.mark.parametrize("first", BACKENDS)
def test_a_frame_of_another_backend_is_the_same_table(first, later, tmp_path):
    frame, other = (BACKENDS[each](make_plain()) for each in (first, later))
    schema = infer_schema(open_table(frame))
    assert infer_schema(open_table(other)) == schema
    values, observed = read_table(frame, schema)
    values_of_other, observed_of_other = read_table(other, schema)
    assert values_of_other.equal(values)
    assert observed_of_other.equal(observed)
    model = build(frame)
    assert list_types(model.reconstruct(other)) == list_types(other)
    assert list_types(model.sample(2, given=other, seed=0)) == list_types(other)
    only_number = pd.DataFrame({"number": other["number"][:3]})
    drawn = model.sample(1, given=only_number, seed=0)
    assert list_types(drawn) == {**list_types(frame), "number": other["number"].dtype}


def test_a_run_goes_on_with_a_frame_of_another_backend(tmp_path):
    settings = {"directory": tmp_path, "batch_size": 20, "progress": False, "pictures_every": 0}
    for epochs, (backend, convert) in enumerate(BACKENDS.items(), 1):
        data = lb.load_data(convert(make_plain()), test_fraction=0.0)
        model, objective = find_recipe("table").build(data, {"hidden": 4}, seed=0)
        run = lb.fit(model, objective, data.train, epochs=epochs, resume=epochs > 1, **settings)
        assert len(run.history) == epochs, backend


def test_an_estimator_goes_on_with_a_frame_of_another_backend():
    vae = VAE(hidden=4, steps=2, warm_start=True, random_state=0)
    models = [vae.fit(convert(make_plain())).model_ for convert in BACKENDS.values()]
    assert all(each is models[0] for each in models)


def test_a_description_without_the_backend_is_compared_without_it():
    column = Column("1.5", "real", label=1.5, backend="pyarrow")
    earlier = {"kind": "Column", "name": "1.5", "type": "real"}
    assert build_part(earlier).backend == ""
    assert complete(earlier, describe(column)) == describe(column)
    assert build_part(describe(column)).label == 1.5


def test_what_an_objective_must_have_is_compared():
    one, other = (describe(lb.FactorVAE(lb.mlp(2, width, 1))) for width in (4, 8))
    assert complete(one, other) == one != other


@pytest.mark.parametrize("kind", ["int8", "uint8", "int32", "uint16", "uint32", "uint64", "UInt16"])
def test_whole_numbers_of_all_types_are_replaced_in_pandas(kind):
    frame = pd.DataFrame({"a": np.arange(ROWS).astype(kind.lower()) % 19}).astype(kind)
    answer = build(frame).reconstruct(frame)
    assert answer["a"].dtype == kind


def test_sparse_whole_numbers_of_pandas_are_replaced():
    frame = pd.DataFrame({"a": np.arange(ROWS) % 19})
    answer = build(frame).reconstruct(frame.astype(pd.SparseDtype(int)))
    assert answer["a"].dtype == int


@pytest.mark.parametrize("kind", [pl.Int128, pl.UInt128])
def test_whole_numbers_of_128_bits_are_replaced(kind):
    frame = pl.DataFrame({"a": pl.Series(np.arange(ROWS) % 19).cast(kind)})
    schema = infer_schema(open_table(frame))
    filled = fill_table(frame, {"a": np.full(ROWS, 2.0**70)}, schema, everything=True)
    assert filled["a"].to_list() == [2**70] * ROWS
    assert build(frame).reconstruct(frame)["a"].dtype == kind


def test_objects_of_decimals_are_numbers_and_remain_decimals():
    values = [None, Decimal("0.25"), Decimal("NaN"), Decimal("0.75"), Decimal("4.50")] * 10
    frame = pd.DataFrame({"a": values, "b": np.arange(50) / 7})
    schema = infer_schema(open_table(frame), types={"a": "positive"})
    assert (schema.find("a").low, schema.find("a").high) == (0.25, 4.5)
    other = pl.DataFrame({"a": [each and float(each) for each in values], "b": frame["b"]})
    other = other.with_columns(pl.col("a").fill_nan(None).cast(pl.Decimal(5, 2)))
    for each in (frame, other):
        assert np.array_equal(
            read_table(each, schema)[0], read_table(frame, schema)[0], equal_nan=True
        )
    filled = fill_table(frame, {"a": np.full(50, 1.1)}, schema)["a"]
    assert filled.tolist()[:4] == [Decimal(each) for each in ("1.1", "0.25", "1.1", "0.75")]
    assert sum(filled[1:]) == sum(filled) - Decimal("1.1")  # floats and decimals cannot be added
    array = np.array(frame, dtype=object)
    array[2, 0] = Decimal("sNaN")
    schema = infer_schema(open_table(array), types={"x0": "positive"})
    assert fill_table(array, {"x0": np.full(50, 1.1)}, schema)[0, 0] == Decimal("1.1")


def test_arrays_of_objects_are_filled_with_objects_of_their_types():
    times = [datetime.datetime(2024, 1, 1 + row % 9, row % 7) for row in range(40)]
    rows = zip(times, np.arange(40) / 7 - 2, ["u", "v"] * 20, [True, False] * 20, strict=True)
    array = np.array([*rows], dtype=object)
    array[::5] = None
    schema = infer_schema(open_table(array))
    new = {name: np.ones(40) for name in schema.names}
    new["x0"] = np.full(40, 1.7e9)
    filled = fill_table(array, new, schema)
    assert [type(each) for each in filled[0]] == [datetime.datetime, float, str, bool]
    assert [each.type for each in infer_schema(open_table(filled)).columns] == [
        each.type for each in schema.columns
    ]


@pytest.mark.parametrize("mark", [Decimal("4.50"), [4.5]])
def test_decimals_can_stand_for_missing_values(mark):
    values = [Decimal("0.25"), Decimal("0.75"), Decimal("4.50"), Decimal("1.20")] * 9
    frame = pd.DataFrame({"a": values, "b": np.arange(36) / 7})
    data = lb.load_data(frame, missing_values=mark, columns={"a": "real"})
    assert data.train.preprocessing.schema.find("a").high == 1.2


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_decimals_can_be_categories(library):
    values = [Decimal("0.1"), Decimal("0.2"), None] * 8
    frame = pd.DataFrame({"a": values, "b": np.arange(24) / 7})
    frame = frame if library == "pandas" else pl.from_pandas(frame)
    schema = infer_schema(open_table(frame), types={"a": "categorical"})
    assert schema.find("a").categories == (0.1, 0.2)
    filled = fill_table(frame, {"a": np.full(24, 1.0)}, schema)["a"]
    assert list(filled)[:3] == [Decimal("0.1"), Decimal("0.2"), Decimal("0.2")]


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


def test_truth_values_may_be_labels():
    values = np.random.default_rng(0).normal(size=(ROWS, 2))
    frame = pd.DataFrame(values, columns=[True, False])
    assert list(build(frame).reconstruct(frame).columns) == [True, False]


def test_text_that_cannot_be_a_label_beside_numbers_remains_text():
    names = ["1", "2.5", "[3]", "{[]: 1}", "([],)", "'a'", " 4"]
    values = np.random.default_rng(0).normal(size=(ROWS, len(names)))
    model = build(pd.DataFrame(values, columns=names))
    drawn = model.sample(1, given=pd.DataFrame({1: [0.5]}), seed=0)
    assert list(drawn.columns) == [1, 2.5, *names[2:]]


@pytest.mark.parametrize(
    "labels",
    [
        pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]),
        pd.MultiIndex.from_product([[1.5], ["x"], [True, False, 7]]),
        pd.Index([1.5, 2.0, 4.0]),
        pd.Index([3, 2, 7]),
        pd.Index(["x", 2, 2.5]),
        pd.Index(["x", ("a", 1), ("b",)], tupleize_cols=False),
        pd.Index(["(1, 2)", "1.5", "3"]),
    ],
)
def test_new_rows_have_the_labels_of_the_training_also_from_a_file(labels, tmp_path):
    values = np.random.default_rng(0).normal(size=(ROWS, 3))
    model = build(pd.DataFrame(values, columns=labels))
    pd.testing.assert_index_equal(model.sample(2, seed=0).columns, labels)
    lb.save(model, tmp_path / "model.safetensors")
    loaded = lb.load(tmp_path / "model.safetensors")
    pd.testing.assert_index_equal(loaded.sample(2, seed=0).columns, labels)


def test_labels_that_a_file_cannot_hold_become_text():
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, 2)))
    frame.columns = pd.to_datetime(["2024-01-01", "2024-01-02"])
    assert list(build(frame).sample(2, seed=0)) == ["2024-01-01 00:00:00", "2024-01-02 00:00:00"]


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
