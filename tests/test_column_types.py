"""Columns of tables keep the types that they have in frames of pandas, polars and pyarrow."""

import datetime
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import lowerbound as lb
from lowerbound.data import Schema
from lowerbound.data.frames import open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.schema import decode_columns, fill_table, make_table, read_table
from lowerbound.describe import build, describe
from lowerbound.errors import DataError
from lowerbound.recipes import find_recipe

sys.path.insert(0, str(Path(__file__).parent))
from example_tables import make_frame


def infer(frame, **settings) -> Schema:
    return infer_schema(open_table(frame), **settings)


def convert(frame: pd.DataFrame, library: str):
    if library == "pandas":
        return frame
    other = pytest.importorskip(library)
    return other.from_pandas(frame) if library == "polars" else other.Table.from_pandas(frame)


def come_back(frame, **settings):
    schema = infer(frame, **settings)
    return make_table(decode_columns(read_table(frame, schema)[0], schema), schema)


@pytest.mark.parametrize(
    ("values", "categories", "ordered"),
    [
        (["mid", "high", "mid"], ["low", "mid", "high"], True),
        ([3, 1, 3], [3, 2, 1], True),
        ([2, 1, 2], [1, 2], False),
        ([0.5, 1.5, 0.5], [0.5, 1.5], False),
        ([True, False, True], [False, True], False),
    ],
)
def test_categories_are_those_that_the_type_declares(values, categories, ordered):
    column = pd.Categorical(values * 5, categories=categories, ordered=ordered)
    frame = pd.DataFrame({"a": column})
    found = infer(frame).find("a")
    assert found.categories == tuple(categories)
    assert found.type == ("ordinal" if ordered else "categorical")
    pd.testing.assert_frame_equal(come_back(frame), frame)
    assert build(describe(infer(frame))) == infer(frame)


def test_categories_of_intervals_and_times_are_text():
    times = pd.Categorical(pd.to_datetime(["2020-01-01", "2021-01-01", "2020-01-01"] * 5))
    frame = pd.DataFrame({"cut": pd.cut([0.0, 1.0, 2.0] * 5, [-1, 0.5, 3]), "time": times})
    schema = infer(frame)
    assert schema.find("cut").categories == ("(-1.0, 0.5]", "(0.5, 3.0]")
    assert schema.find("cut").type == "ordinal"
    assert schema.find("time").categories == ("2020-01-01 00:00:00", "2021-01-01 00:00:00")
    holes = frame.copy()
    holes.loc[1, ["cut", "time"]] = None
    codes = {each.name: np.ones(len(frame)) for each in schema.modelled}
    pd.testing.assert_frame_equal(fill_table(holes, codes, schema), frame)


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_declared_categories_of_other_libraries(library):
    other = pytest.importorskip(library)
    order, values = ["low", "mid", "high"], ["mid", "high"] * 5
    if library == "polars":
        frame = other.DataFrame({"a": other.Series(values, dtype=other.Enum(order))})
    else:
        codes = other.array([order.index(each) for each in values])
        array = other.DictionaryArray.from_arrays(codes, other.array(order), ordered=True)
        frame = other.table({"a": array})
    found = infer(frame).find("a")
    assert (found.type, found.categories) == ("ordinal", tuple(order))
    back = come_back(frame)
    if library == "polars":
        assert back.schema == frame.schema
        assert back.equals(frame)
    else:
        assert back["a"].to_pylist() == values
        assert back["a"].type.ordered


ZONE = "America/New_York"


@pytest.mark.parametrize("zone", [ZONE, "UTC"])
@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_times_are_read_in_utc_and_keep_their_zone(library, zone):
    times = pd.date_range("2020-01-01 03:00", periods=40, freq="30h", tz=zone, unit="us")
    frame = convert(pd.DataFrame({"t": times}), library)
    schema = infer(frame)
    column = schema.find("t")
    assert (column.type, column.zone) == ("time", zone)
    assert column.low == times[0].timestamp()
    back = make_table(decode_columns(read_table(frame, schema)[0], schema), schema)
    found = back.to_pandas() if library != "pandas" else back
    # float32 holds about seven digits of a time.
    assert (found["t"] - pd.Series(times)).abs().max() < pd.Timedelta("5s")
    assert str(found["t"].dt.tz) == zone
    holes = pd.DataFrame({"t": times.where(np.arange(40) != 3)})
    filled = fill_table(convert(holes, library), {"t": np.full(40, column.low)}, schema)
    filled = filled.to_pandas() if library != "pandas" else filled
    assert filled["t"][3] == times[0]
    assert str(filled["t"].dt.tz) == zone


def test_times_with_and_without_a_zone_are_not_mixed():
    naive = pd.DataFrame({"t": pd.date_range("2020-01-01", periods=20)})
    aware = pd.DataFrame({"t": naive["t"].dt.tz_localize(ZONE)})
    with pytest.raises(DataError, match="'t': its times have no time zone, and those on which"):
        read_table(naive, infer(aware))
    with pytest.raises(DataError, match=r"'t': its times are in the time zone America/New_York"):
        read_table(aware, infer(naive))
    mixed = pd.DataFrame({"t": pd.Series([aware["t"][0], naive["t"][1]], dtype=object)})
    with pytest.raises(DataError, match="in row 1, and some times of the column have a zone"):
        infer(mixed)


def test_zeros_and_ones_are_atoms_whatever_else_is_frequent():
    column = infer(pd.DataFrame({"a": [0, 0.5, 1.0] * 30})).find("a")
    assert column.type == "proportion"
    assert column.atoms == (0.0, 1.0)
    assert np.isfinite([column.centre, column.spread]).all()
    positive = infer(pd.DataFrame({"a": [0.0, 1.5] * 30}), types={"a": "positive"}).find("a")
    assert positive.atoms == (0.0,)
    zeros = pd.DataFrame({"a": [0.0] * 9, "b": [0.5, 0.25, 0.75] * 3})
    assert infer(zeros, types={"a": "positive"}).find("a").type == "constant"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_ends_that_were_not_seen_are_refused(value):
    schema = infer(pd.DataFrame({"a": np.linspace(0.01, 0.99, 50)}))
    with pytest.raises(DataError, match=rf"'a' is {value:g} in row 1, .*columns=\{{'a': 'real'\}}"):
        read_table(pd.DataFrame({"a": [0.5, value]}), schema)
    if value == 0:
        schema = infer(pd.DataFrame({"a": np.linspace(0.01, 99, 50)}))
        assert schema.find("a").type == "positive"
        with pytest.raises(DataError, match="'a' is 0 in row 1"):
            read_table(pd.DataFrame({"a": [0.5, value]}), schema)


def test_rounded_draws_are_values_that_can_be_read():
    frame = pd.DataFrame({"a": np.round(np.linspace(0.01, 0.99, 99), 2)})
    schema = infer(frame)
    draws = make_table(decode_columns(torch.tensor([[-30.0], [30.0], [0.3]]), schema), schema)
    assert draws["a"][0] == 0.01
    assert draws["a"][1] == 0.99
    read_table(draws, schema)
    assert (come_back(frame)["a"] == frame["a"]).all()
    exact = infer(pd.DataFrame({"a": np.random.default_rng(0).random(50)}))
    read_table(make_table({"a": exact.find("a").round(np.array([0.0, 1.0]))}, exact), exact)


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_a_column_of_missing_values_is_filled_whatever_its_type(library):
    rows = 30
    train = pd.DataFrame(
        {"job": ["cook", "nurse"] * 15, "day": pd.date_range("2020-01-01", periods=rows)}
    )
    train["size"] = np.random.default_rng(0).normal(0, 100, rows)
    frame = convert(train, library)
    schema = infer(frame)
    columns = decode_columns(read_table(frame, schema)[0], schema)
    empty = pd.DataFrame({name: pd.Series([None] * rows, dtype=object) for name in train})
    if library == "polars":
        import polars

        empty = polars.DataFrame({name: [None] * rows for name in train})
    elif library == "pyarrow":
        import pyarrow

        empty = pyarrow.table({name: pyarrow.nulls(rows) for name in train})
    filled = fill_table(empty, columns, schema)
    filled = filled if library == "pandas" else filled.to_pandas()
    assert list(filled["job"]) == list(train["job"])
    assert filled["day"].dtype.kind == "M"
    np.testing.assert_allclose(filled["size"], train["size"], rtol=1e-5)
    if library == "pandas":
        floats = fill_table(empty.astype(float), columns, schema)
        assert list(floats["job"]) == list(train["job"])


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_filled_whole_numbers_are_rounded_and_of_a_type_that_holds_them(library):
    random = np.random.default_rng(0)
    schema = infer(
        convert(pd.DataFrame({"a": random.normal(0, 99, 30), "b": random.random(30)}), library)
    )
    holes = pd.DataFrame(
        {
            "a": pd.array([1, None, 3], dtype="Int8"),
            "b": pd.array([None, 1, 1], dtype="Int64"),
        }
    )
    columns = {"a": np.array([0, -299.6, 0]), "b": np.array([0.25, 0, 0])}
    filled = fill_table(convert(holes, library), columns, schema)
    filled = filled if library == "pandas" else filled.to_pandas()
    assert list(filled["a"]) == [1, -300, 3]
    assert "int" in str(filled["a"].dtype).lower()
    assert list(filled["b"]) == [0.25, 1, 1]


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow"])
def test_filled_categories_are_declared(library):
    job = pd.Categorical(["clerk", "cook", "nurse"] * 5)
    schema = infer(convert(pd.DataFrame({"job": job}), library))
    holes = pd.DataFrame({"job": pd.Categorical(["cook", None, "nurse"])})
    holes = convert(holes, library)
    filled = fill_table(holes, {"job": np.zeros(3)}, schema)
    if library == "pyarrow":
        assert filled["job"].type == holes["job"].type
    filled = filled if library == "pandas" else filled.to_pandas()
    assert list(filled["job"]) == ["cook", "clerk", "nurse"]
    assert filled["job"].dtype == "category"


def test_filled_entries_of_an_enum_extend_it():
    polars = pytest.importorskip("polars")
    kind = polars.Enum(["cook", "nurse", "smith"])
    schema = infer(polars.DataFrame({"job": ["cook", "nurse", "smith"] * 9}, schema={"job": kind}))
    holes = polars.DataFrame({"job": ["nurse", None]}, schema={"job": polars.Enum(["nurse"])})
    filled = fill_table(holes, {"job": np.array([0.0, 2.0])}, schema)
    assert filled["job"].to_list() == ["nurse", "smith"]
    assert filled["job"].dtype == kind


def test_the_category_of_others_has_a_name_of_its_own():
    jobs = ["cook", "other"] * 20 + ["pilot"]
    declared = pd.DataFrame({"job": pd.Categorical(jobs), "code": [1, 5] * 20 + [9]})
    schema = infer(declared, unknown="other", types={"code": "categorical"})
    job, code = schema.find("job"), schema.find("code")
    assert job.categories == ("cook", "other")
    assert (job.other_code, job.other_name) == (2, "other_")
    assert (code.categories, code.other_code, code.other_name) == ((1, 5), 2, None)
    back = make_table({"job": np.array([2.0, 1.0]), "code": np.array([2.0, 1.0])}, schema)
    assert list(back["job"]) == ["other_", "other"]
    assert np.isnan(back["code"][0])
    assert back["code"][1] == 5


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_types_and_names_come_back(library):
    frame = make_frame()
    frame = pd.DataFrame(
        {
            "job": pd.Categorical(frame["job"]),
            "small": np.arange(200, dtype=np.uint8) % 60,
            "single": frame["height"].astype(np.float32),
            "answer": frame["answer"].astype(np.int8),
            "born": frame["born"].astype("datetime64[ms]"),
            "year": frame["year"],
        }
    )
    native = convert(frame, library)
    back = come_back(native)
    if library == "polars":
        assert back.schema == native.schema
        return
    assert back.dtypes.to_dict() == frame.dtypes.to_dict()
    schema = infer(frame)
    assert make_table({"small": np.array([-7.0, 300.0])}, schema)["small"].tolist() == [0, 255]
    numbered = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 2)))
    assert list(come_back(numbered).columns) == [0, 1]
    assert build(describe(infer(numbered))) == infer(numbered)


def test_large_whole_numbers_with_a_small_spread_are_real():
    values = 10**12 + np.random.default_rng(0).integers(0, 1000, 200)
    column = infer(pd.DataFrame({"a": values})).find("a")
    assert (column.type, column.step) == ("real", 1.0)
    assert column.spread == pytest.approx(values.std())
    factors = 10 ** np.random.default_rng(0).integers(3, 12, 200)
    assert infer(pd.DataFrame({"a": factors})).find("a").type == "positive"


def test_marks_are_compared_by_their_type():
    table = open_table(
        pd.DataFrame(
            {
                "single": np.array([-99.9, 1, 2, 3], dtype=np.float32),
                "number": [-999.0, 1, 2, 3],
                "truth": pd.Series([True, False, None, True], dtype=object),
                "time": pd.to_datetime(["1900-01-01", "2020-01-01", "2020-01-02", "2020-01-03"]),
                "object": pd.Series(["a", np.float32("nan"), "b", "1"], dtype=object),
            }
        )
    )
    marks = (-99.9, "-999", 1, datetime.date(1900, 1, 1))
    missing = {
        each: np.flatnonzero(table[each].find_missing(marks)).tolist() for each in table.names
    }
    assert missing == {"single": [0, 1], "number": [0, 1], "truth": [2], "time": [0], "object": [1]}


def test_a_mark_of_text_is_among_numbers():
    frame = pd.DataFrame({"a": pd.Series([1.5, "?", 2.5, 3.5], dtype=object)})
    schema = infer(frame, placeholders=["?"])
    assert schema.find("a").type == "real"
    filled = fill_table(frame, {"a": np.full(4, 9.5)}, schema)
    assert list(filled["a"]) == [1.5, 9.5, 2.5, 3.5]


def test_marks_are_saved():
    marks = (np.nan, "?", None, np.int64(-999), datetime.date(1900, 1, 1))
    schema = infer(make_frame(), placeholders=marks)
    assert schema.missing_values == ("?", -999, "1900-01-01")
    assert build(describe(schema)) == schema


def test_draws_are_kept_near_the_range_and_observed_values_are_not():
    frame = make_frame()[["born", "height", "income"]]
    schema = infer(frame)
    for far in (-1e6, 1e6):
        draws = torch.full((1, len(schema.entries)), far)
        back = make_table(decode_columns(draws, schema), schema)
        for name in ("born", "height"):
            column, width = schema.find(name), schema.find(name).high - schema.find(name).low
            value = back[name][0].timestamp() if name == "born" else back[name][0]
            assert column.low - width - 1 <= value <= column.high + width + 1
    income = schema.find("income")
    assert decode_columns(draws, schema)["income"][0] == pytest.approx(
        income.high**2 / income.low, rel=1e-6
    )
    new = pd.DataFrame({"height": [5e4], "income": [1e20], "born": [pd.Timestamp("1700-01-01")]})
    values, observed = read_table(new, schema)
    same = make_table(decode_columns(values, schema, observed), schema)
    np.testing.assert_allclose(same["height"], new["height"], rtol=1e-6)
    np.testing.assert_allclose(same["income"], new["income"], rtol=1e-4)
    assert same["born"][0] == new["born"][0]
    make_table({"born": np.array([-1e15, 1e15])}, schema)


@pytest.mark.parametrize("decimals", [2, 8])
@pytest.mark.parametrize("share", [0.02, 0.05, 0.17, 0.5])
def test_amounts_that_are_sometimes_0_are_positive(share, decimals):
    values = np.exp(np.random.default_rng(0).normal(7, 1.2, 500)).round(decimals)
    values[: int(share * 500)] = 0.0
    column = infer(pd.DataFrame({"a": values})).find("a")
    assert (column.type, column.atoms) == ("positive", (0.0,))
    numbers, observed = column.encode(np.array([0.0, 1000.0]))
    assert numbers[:, 0].tolist() == [1.0, 0.0]
    assert observed.all(1).tolist() == [False, True]


def test_zeros_that_do_not_stand_out_are_no_amounts():
    random = np.random.default_rng(0)
    rounded = np.exp(random.normal(1, 2, 500)).round(1)
    assert (rounded == 0.0).mean() > 0.02
    few = np.exp(random.normal(7, 1.2, 500))
    few[:9] = 0.0
    narrow = random.uniform(20.0, 30.0, 500)
    narrow[:80] = 0.0
    below = np.append(few, [-1.5])
    below[:80] = 0.0
    for values in (rounded, few, narrow, below):
        assert infer(pd.DataFrame({"a": values})).find("a").type == "real"


def test_large_amounts_with_zeros_are_positive():
    values = np.random.default_rng(0).integers(200, 90_000, 200)
    values[:10] = 0
    assert infer(pd.DataFrame({"a": values})).find("a").type == "positive"
    column = infer(pd.DataFrame({"a": [1200, 0, 3100, 2500, 0] * 20})).find("a")
    assert (column.type, 0.0 in column.atoms, column.step) == ("positive", True, 100.0)
    assert infer(pd.DataFrame({"a": [12, 0, 31, 2, 0] * 20})).find("a").type == "count"


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_filled_times_have_the_unit_of_the_column(unit):
    polars = pytest.importorskip("polars")
    times = [None, *(datetime.datetime(2020, 1, day) for day in range(1, 21))]
    frame = polars.DataFrame({"t": times}, schema={"t": polars.Datetime(unit)})
    schema = infer(frame)
    filled = fill_table(frame, {"t": np.full(21, schema.find("t").low)}, schema)
    assert filled.schema == frame.schema
    assert filled["t"][0] == times[1]


def test_arrays_have_categories_and_not_their_codes():
    array = np.random.default_rng(0).integers(2, 6, (40, 2)).astype(float)
    schema = infer(array)
    assert schema.find("x0").categories == (2, 3, 4, 5)
    back = make_table(decode_columns(read_table(array, schema)[0], schema), schema)
    assert (back == array).all()
    assert back.dtype == np.float64


def test_whole_numbers_of_an_array_do_not_lose_their_fractions():
    schema = infer(np.random.default_rng(0).normal(size=(40, 2)), placeholders=[-999])
    filled = fill_table(np.array([[1, -999]]), {"x0": np.zeros(1), "x1": np.array([2.5])}, schema)
    assert filled.tolist() == [[1.0, 2.5]]


def test_filled_arrays_hold_longer_text_and_larger_numbers():
    jobs = np.array([["electrician", "a"], ["cook", "b"], ["nurse", "a"]] * 10)
    filled = fill_table(
        np.array([["", "a"], ["cook", "b"]]), {"x0": np.ones(2), "x1": np.zeros(2)}, infer(jobs)
    )
    assert filled.tolist() == [["electrician", "a"], ["cook", "b"]]
    numbers = np.random.default_rng(0).integers(0, 400, (99, 1))
    schema = infer(numbers, placeholders=[-9])
    filled = fill_table(np.array([[-9], [3]], dtype=np.int8), {"x0": np.full(2, 300.0)}, schema)
    assert filled.tolist() == [[300], [3]]


@pytest.mark.parametrize("library", ["pandas", "polars", "pyarrow", "object"])
def test_spaces_around_a_mark_do_not_matter(library):
    frame = pd.DataFrame({"job": [" cook", " ?", "?", "nurse", " ", ""]})
    frame = frame.astype(object) if library == "object" else convert(frame, library)
    missing = open_table(frame)["job"].find_missing(("?", -999))
    assert missing.tolist() == [False, True, True, False, True, True]


def test_text_in_the_order_of_the_alphabet_is_reported():
    frame = pd.DataFrame({"size": ["small", "large", "medium"] * 10})
    with pytest.warns(UserWarning, match="order is that of the alphabet: large, medium, small"):
        assert infer(frame, types={"size": "ordinal"}).find("size").type == "ordinal"
    ordered = frame.astype(pd.CategoricalDtype(["small", "medium", "large"], ordered=True))
    assert infer(ordered, types={"size": "ordinal"}).find("size").categories[0] == "small"


def test_sparse_columns_of_pandas_are_filled():
    values = np.random.default_rng(0).normal(size=40)
    values[::4] = np.nan
    frame = pd.DataFrame({"a": pd.arrays.SparseArray(values)})
    filled = fill_table(frame, {"a": np.full(40, 9.5)}, infer(frame))
    assert np.array_equal(filled["a"], np.where(np.isnan(values), 9.5, values))


def test_a_frame_that_is_not_computed_is_refused():
    pl = pytest.importorskip("polars")
    lazy = pl.DataFrame({"a": [1.5, -2.5, 3.5]}).lazy()
    for read in (lb.load_data, open_table):
        with pytest.raises(DataError, match=r"give data\.collect\(\)"):
            read(lazy)


def test_zones_without_a_name_are_read_in_utc():
    zone = datetime.timezone(datetime.timedelta(hours=2), "here")
    times = [datetime.datetime(2020, 1, day, tzinfo=zone) for day in range(1, 21)]
    frame = pd.DataFrame({"t": pd.Series(times, dtype=object)})
    assert infer(frame).find("t").zone == "UTC"
    assert (come_back(frame)["t"] == frame["t"]).all()


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([36, 60] * 5, "ordinal"),
        ([-1, 1] * 5, "ordinal"),
        ([0, 1], "boolean"),
        ([0.5, 2.5] * 5, "real"),
        ([36, 60] * 4 + [36], "count"),
        ([36, 60, 72] * 5, "count"),
    ],
)
def test_two_frequent_whole_numbers_are_ordinal(values, kind):
    frame = pd.DataFrame({"term": values, "other": range(100, 100 + len(values))})
    data = lb.load_data(frame, test_fraction=0.0)
    assert data.schema.find("term").type == kind
    if kind == "ordinal":
        assert data.schema.find("term").categories == tuple(sorted(set(values)))
        model, _ = find_recipe("table").build(data, {"hidden": 4}, seed=0)
        with pytest.raises(DataError, match=r"train with columns=\{'term': 'real'\}"):
            model.sample(1, given=pd.DataFrame({"term": [48]}))
