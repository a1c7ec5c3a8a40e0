"""Tables in files: the types of cells, reading in parts, and writing wholly or not at all."""

import csv
import gzip
import resource
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import csv as arrow_csv
from pyarrow import parquet

import lowerbound as lb
from lowerbound.data.columns import Column, Schema
from lowerbound.data.completing import complete_text, keep_types, widen_columns
from lowerbound.data.csv_text import convert_to_schema
from lowerbound.data.dictionaries import join_orders, share_dictionaries
from lowerbound.data.frames import open_table
from lowerbound.data.inference import infer_schema
from lowerbound.data.known_columns import read_column
from lowerbound.data.schema import fill_table
from lowerbound.data.table_files import iterate_parts, iterate_tables, load_table
from lowerbound.data.table_writing import TableWriter
from lowerbound.errors import DataError, StorageError

HEADER = "code,smokes,height,region,note,born,count"
ROWS = [
    '00001,False,-1.4,NA,"a, ""b""",2001-02-03,7',
    "00002,True,nan,null,,2001-02-04,8",
    "00003,,2.50,x,c,,",
    "00004,False,NA,NA,d,2001-02-05,1e1",
]
SCHEMA = Schema(
    (
        Column("code", "identifier", "String"),
        Column("smokes", "boolean", "Boolean", categories=(False, True)),
        Column("height", "real"),
        Column("region", "categorical", "String", categories=("NA", "null", "x")),
        Column("note", "categorical", "String", categories=('a, "b"', "c", "d")),
        Column("born", "time", "Date"),
        Column("count", "count"),
    ),
    "pyarrow",
)


def write_cells(folder: Path, times: int = 1) -> Path:
    path = folder / "cells.csv"
    path.write_text("\n".join([HEADER, *(ROWS * times), ""]))
    return path


def test_types_of_columns_in_csv_files(tmp_path):
    path = write_cells(tmp_path)
    table = load_table(path)
    assert [str(field.type) for field in table.schema] == [
        *("string", "bool", "double", "string", "string", "date32[day]", "double")
    ]
    assert table["code"].to_pylist()[0] == "00001"
    assert table["region"].to_pylist() == ["NA", "null", "x", "NA"]
    assert table["height"].null_count == 2
    path = tmp_path / "more.csv"
    path.write_text(
        "whole,zone,time,mark,nothing,quoted,large\n"
        '1,2020-01-01T10:00Z,2020-01-01 10:00,?,NA,"1",1\n'
        'null,,2020-01-02,3.5,,"",1152921504606846977\n'
    )
    table = load_table(path, missing_values=("?",))
    assert [str(field.type) for field in table.schema] == [
        *("int64", "timestamp[s, tz=UTC]", "timestamp[s]", "double", "null", "int64", "string")
    ]


def test_a_schema_gives_the_types_of_cells_in_all_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("lowerbound.data.csv_text._BLOCK_BYTES", 100)
    path = write_cells(tmp_path, 10)
    parts = list(iterate_parts(path, 3, SCHEMA))
    assert [len(part) for part, _ in parts] == [3] * 13 + [1]
    assert len({str(part.schema) for part, _ in parts}) == 1
    joined = pa.concat_tables([part for part, _ in parts])
    assert joined.equals(load_table(path, SCHEMA))
    texts = pa.concat_tables([text for _, text in parts])
    assert texts["smokes"].to_pylist()[:3] == ["False", "True", None]
    assert sum(len(part) for part in iterate_tables(path, 3)) == 40


@pytest.mark.parametrize(
    ("column", "good", "kind", "bad"),
    [
        (Column("x", "count", "Int64"), "007", "int64", "seven"),
        (Column("x", "real", "Float64"), "7", "double", "7,5"),
        (Column("x", "boolean", "Boolean", categories=(False, True)), "TRUE", "bool", "yes"),
        (Column("x", "boolean", "Int64", categories=(0, 1)), "1", "int64", "yes"),
        (Column("x", "time", "Datetime"), "2001-02-03T04:05", "timestamp[s]", "3.2.2001"),
        (Column("x", "ordinal", "Int64", categories=(1, 2)), "2", "int64", "two"),
        (Column("x", "categorical", "String", categories=("01", "2")), "01", "string", None),
        (Column("x", "identifier", "Int64"), "12", "int64", None),
        (Column("x", "identifier", "Int64"), "0012", "string", None),
        (Column("x", "identifier", "Int64"), "1152921504606846977", "string", None),
        (Column("x", "real", "Int64"), "1152921504606846977", "double", "1x"),
    ],
)
def test_cells_are_converted_to_the_types_of_a_schema(column, good, kind, bad):
    cells = [good, None]
    found = convert_to_schema(pa, pa.table({"x": cells}), Schema((column,)), name="file")
    assert str(found.schema.field("x").type) == kind
    assert found["x"].null_count == 1
    if bad is None:
        return
    text = pa.table({"x": [*cells, bad]})
    with pytest.raises(DataError, match=f"file: the column 'x' is '{bad}' in row 12, which is"):
        convert_to_schema(pa, text, Schema((column,)), name="file", first_row=10)


@pytest.mark.parametrize(
    ("cells", "values", "column", "filled"),
    [
        (["TRUE", None], [True, False], SCHEMA.find("smokes"), ["TRUE", "FALSE"]),
        (["1", "NA"], [1.0, 2.6], Column("x", "real", "Int64"), ["1", "3"]),
        (["1.50", "NA"], [1.5, 2.25], Column("x", "real"), ["1.50", "2.25"]),
        (
            ["2001-02-03T04:05", ""],
            [0, 86400 * 10**6 + 7],
            Column("x", "time", "Datetime"),
            ["2001-02-03T04:05", "1970-01-02T00:00"],
        ),
        (
            ["2001-02-03 04:05:00", "2001-02-03 04:05", ""],
            [0, 0, 86400 * 10**6],
            Column("x", "time", "Datetime"),
            ["2001-02-03 04:05:00", "2001-02-03 04:05", "1970-01-02 00:00:00"],
        ),
        (["", "NA"], [0, 0], Column("x", "time", "Datetime"), ["1970-01-01 00:00:00.000000"] * 2),
        (
            ["2001-02-03 04:05Z", "", ""],
            [0, 60 * 10**6, 61 * 10**6],
            Column("x", "time", "Datetime", zone="UTC"),
            ["2001-02-03 04:05Z", "1970-01-01 00:01Z", "1970-01-01 00:01:01Z"],
        ),
    ],
)
def test_filled_cells_look_like_the_others(cells, values, column, filled):
    schema = Schema((Column("x", column.type, column.dtype, categories=column.categories),))
    text = pa.table({"x": cells})
    table = convert_to_schema(pa, text, schema, name="file")
    wide = widen_columns(table, schema)
    completed = pa.table({"x": pa.array(values).cast(wide["x"].type)})
    kept = keep_types(table, completed, schema)
    assert kept.schema == table.schema
    assert complete_text(text, table, kept, schema)["x"].to_pylist() == filled


@pytest.mark.parametrize(("step", "zone"), [(3600.0, "UTC"), (0.0, "Europe/Berlin"), (1.0, "")])
def test_a_part_without_any_time_is_completed_by_times_of_the_same_zone(step, zone):
    column = Column("t", "time", "Datetime[s]", step=step, zone=zone, high=9e8)
    schema = Schema((column, Column("x", "real")), "pyarrow")
    text = pa.table({"t": pa.array([None, "NA"]), "x": ["1.5", "2.5"]})
    table = convert_to_schema(pa, text, schema, name="file")
    filled = fill_table(widen_columns(table, schema), {"t": np.full(2, 7200.0)}, schema)
    completed = complete_text(text, table, keep_types(table, filled, schema), schema)
    again = convert_to_schema(pa, completed, schema, name="again")
    assert read_column(open_table(again)["t"], column, ()).tolist() == [7200.0, 7200.0]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
def test_what_separates_cells_is_detected(tmp_path, delimiter, suffix):
    rows = [["age", "job", "note"], *([number, "cook", "a, b"] for number in range(30, 60))]
    path = tmp_path / f"people{suffix}"
    with (gzip.open if suffix.endswith("gz") else open)(path, "wt", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    table = load_table(path)
    assert table.to_pydict() == dict(
        zip(rows[0], map(list, zip(*rows[1:], strict=True)), strict=True)
    )
    (part,) = iterate_tables(path, 1000, infer_schema(open_table(table), types={"age": "real"}))
    assert part.equals(table)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a;b,c\n1;2,3\n", ["a;b", "c"]),
        ("a;b\n1\n2;3\n", ["a;b"]),
        ("note\nx; y\nz\n", ["note"]),
        ("a|b\n1|x, y\n2|z\n", ["a", "b"]),
        ("a,b\n1,x|y\n2,z|u\n", ["a", "b"]),
        ("a,b;c\n1,5;2\n3,5,;4\n", ["a,b", "c"]),
    ],
)
def test_semicolons_and_bars_separate_cells_only_if_all_rows_have_equally_many(
    tmp_path, text, names
):
    path = tmp_path / "a.csv"
    path.write_text(text)
    assert load_table(path).column_names == names


@pytest.mark.parametrize("name", ["unicode.csv", "unicode.csv.gz"])
def test_text_in_utf16_is_refused_with_the_remedy(name, tmp_path):
    path = tmp_path / name
    write = gzip.open if path.suffix == ".gz" else open
    with write(path, "wt", encoding="utf16") as file:
        file.write("a,b\n" + "1,x\n" * 200)
    with pytest.raises(DataError, match=r"\(it is text in UTF-16\); write it in UTF-8"):
        load_table(path)


def test_a_folder_with_the_name_of_a_table_is_refused(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="cannot be read as a table"):
        load_table(tmp_path / "folder.csv")


def test_cells_of_spaces_only_are_missing_and_are_filled(tmp_path):
    path = tmp_path / "spaces.csv"
    path.write_text("a,g\n" + "1.5,u\n2.5, \n ,v\n" * 10)
    schema = infer_schema(open_table(load_table(path)))
    assert schema.find("g").categories == ("u", "v")
    ((part, text),) = iterate_parts(path, 1000, schema)
    new = fill_table(part, {"a": np.full(30, 3.5), "g": np.full(30, 1.0)}, schema)
    completed = complete_text(text, part, keep_types(part, new, schema), schema)
    assert completed.slice(0, 3).to_pydict() == {"a": ["1.5", "2.5", "3.5"], "g": ["u", "v", "v"]}


def test_two_columns_of_one_name_are_refused_with_the_name_of_the_file(tmp_path):
    path = tmp_path / "twice.csv"
    path.write_text("a,a\n1,2\n")
    with pytest.raises(DataError, match=r"twice\.csv: two columns are called 'a'"):
        load_table(path)


def test_rows_may_be_long(tmp_path):
    path = tmp_path / "long.csv"
    path.write_text(f"a,b\n1,{'x' * 3_000_000}\n2,y\n")
    assert load_table(path)["a"].to_pylist() == [1, 2]


def test_the_index_of_pandas_in_a_file_is_not_modelled(tmp_path):
    frame = pd.DataFrame({"a": np.random.default_rng(0).normal(size=100)})
    frame[frame["a"] > 0].to_parquet(tmp_path / "part.parquet")
    table = load_table(tmp_path / "part.parquet")
    assert table.column_names == ["a", "__index_level_0__"]
    schema = infer_schema(open_table(table))
    assert [column.type for column in schema.columns] == ["positive", "identifier"]
    types = {"__index_level_0__": "count"}
    assert infer_schema(open_table(table), types=types).columns[1].type == "count"


def write_parts(path: Path, *tables: pa.Table, interrupted: bool = False) -> None:
    with TableWriter(path) as writer:
        for table in tables:
            writer.write(table)
        if interrupted:
            raise KeyboardInterrupt


@pytest.fixture
def small_files():
    """No file may have more than 20,000 bytes, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather"])
@pytest.mark.usefixtures("small_files")
def test_a_table_that_cannot_be_written_whole_leaves_no_file(tmp_path, suffix):
    path = tmp_path / f"large{suffix}"
    table = pa.table({"x": np.random.default_rng(0).normal(size=10_000)})
    with pytest.raises(StorageError, match="raise the limit"):
        write_parts(path, table)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_table_leaves_no_file_and_keeps_an_earlier_one(tmp_path):
    for suffix in (".csv", ".parquet"):
        path = tmp_path / f"table{suffix}"
        path.write_text("earlier")
        with pytest.raises(KeyboardInterrupt):
            write_parts(path, pa.table({"x": [1.0]}), interrupted=True)
        assert path.read_text() == "earlier"
    assert len(list(tmp_path.iterdir())) == 2


def test_written_cells_are_read_again(tmp_path):
    texts = ["plain", 'with "quotes"', "a,b", "two\nlines", "", None, "007"]
    table = pa.table({"a, b": texts, "number": [1, 2, 3, 4, 5, 6, None]})
    write_parts(tmp_path / "out.csv", table.slice(0, 3), table.slice(3))
    lines = (tmp_path / "out.csv").read_text()
    assert lines.startswith('"a, b",number\nplain,1\n')
    options = arrow_csv.ParseOptions(newlines_in_values=True)
    found = arrow_csv.read_csv(
        tmp_path / "out.csv",
        parse_options=options,
        convert_options=arrow_csv.ConvertOptions(
            strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )
    assert found.to_pydict() == table.to_pydict()
    with pytest.raises(DataError, match="cannot be written as text"):
        write_parts(tmp_path / "list.csv", pa.table({"x": [[1, 2]]}))
    with pytest.raises(DataError, match="another type than in the rows before"):
        write_parts(tmp_path / "a.parquet", pa.table({"x": [1]}), pa.table({"x": ["text"]}))
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_orders_of_categories_agree_with_all_lists_or_with_the_first():
    levels = ["low", "middle", "high"]
    assert join_orders(["a"], ["b"], ["b", "a"]) == ["b", "a"]
    assert join_orders(["low", "high"], ["middle"], ["low", "middle", "high"]) == levels
    assert join_orders(["a", "b"], ["b", "a", "c"]) == ["a", "b", "c"]
    assert join_orders(["a", "c"], ["b"]) == ["a", "c", "b"]


def test_ordered_categories_of_three_groups_of_rows_have_the_order_of_all(tmp_path):
    levels = ["low", "middle", "high"]
    kind = pa.dictionary(pa.int8(), pa.string(), ordered=True)
    chunks = [
        pa.DictionaryArray.from_arrays(
            pa.array([0, len(labels) - 1] * 15, pa.int8()), labels, ordered=True
        )
        for labels in (["low", "high"], ["middle"], levels)
    ]
    path = tmp_path / "levels.parquet"
    with parquet.ParquetWriter(path, pa.schema([("level", kind)])) as writer:
        for chunk in chunks:
            writer.write_table(pa.table({"level": chunk}))
    schema = lb.load_data(path, test_fraction=0).train.preprocessing.schema
    assert schema.find("level").categories == tuple(levels)


class CopiedColumns:
    """A table that counts the columns that are copied into new tables."""

    def __init__(self, table, counts):
        self.table, self.counts = table, counts

    def __getattr__(self, name):
        return getattr(self.table, name)

    def set_column(self, *arguments):
        self.counts.append(self.table.num_columns)
        return CopiedColumns(self.table.set_column(*arguments), self.counts)


def test_dictionaries_of_many_columns_are_shared_at_once():
    names = [f"x{number}" for number in range(50)]
    cells = pa.array(["a", "b"]).dictionary_encode()
    table, copied = pa.table(dict.fromkeys(names, cells)), []
    categories = {name: ["z", "b", "a"] for name in names[:-1]}
    shared = share_dictionaries(CopiedColumns(table, copied), categories)
    assert sum(copied) <= len(names)
    assert shared.to_pydict() == table.to_pydict()
    assert shared["x0"].chunk(0).dictionary.to_pylist() == ["z", "b", "a"]
    assert shared["x49"].chunk(0).dictionary.to_pylist() == ["a", "b"]


def test_feather_files_with_categories_as_views_of_text_are_read(tmp_path):
    pl = pytest.importorskip("polars")
    values = ["a", "b", None] * 20
    frame = pl.DataFrame({"c": pl.Series(values).cast(pl.Categorical), "x": [1.5, 2.0, 7.25] * 20})
    frame.write_ipc(tmp_path / "p.feather")
    schema = lb.load_data(tmp_path / "p.feather", test_fraction=0).train.preprocessing.schema
    assert schema.find("c").categories == ("a", "b")
