"""Dates that are written as text are pointed out, with the way to convert them in each library."""

import warnings

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.data import inspect_table
from lowerbound.data.columns import Column, Schema
from lowerbound.data.frames import open_table
from lowerbound.data.schema import read_table
from lowerbound.data.text_times import find_text_times
from lowerbound.errors import DataError

DAYS = ["2024-01-03", "2024-02-29", "2024-03-01", None] * 5
CONVERSIONS = {
    "pandas": "pd.to_datetime(frame['day'], format='ISO8601')",
    "polars": "frame['day'].str.to_datetime()",
    "pyarrow": "table['day'].cast('timestamp[us]')",
}


def make_frame(library="pandas"):
    columns = {"day": DAYS, "height": [1.5 + row * row / 7 for row in range(20)]}
    return {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[library](columns)


@pytest.mark.parametrize(
    ("values", "is_found"),
    [
        (DAYS, True),
        (["2024-01-03T10:00", " 2024-01-03 10:00:07.5 ", "2024-01-03T10:00+01:00"], True),
        (["2024-01-03", "n/a", "", "2024-01-04"], True),
        (["2024-01-03", "later", "2024-01-04"], False),
        (["2024-01-03", "2024-01-03"], False),  # constant, whatever its type
        (["2024-02-30", "2024-01-04"], False),
        (["20240103", "20240104"], False),
        (["03.01.2024", "31.12.2024"], True),
        (["1/31/2024 10:00", "12/1/2024 9:30"], True),
        (["13/13/2024", "01/01/2024"], False),
        (["31.01.2024", "1/31/2024"], False),  # of two forms
        (["1.2.34", "1.2.35"], False),
        (["2024-W01-1", "2024-W02-1"], False),
        ([1.0, 2.0], False),
        (pd.to_datetime(["2024-01-03", "2024-01-04"]), False),
        (pd.Categorical(["2024-01-03", "2024-01-04"]), False),  # declared
        (pd.Categorical([1, 2]), False),
    ],
)
def test_columns_of_text_whose_values_are_all_dates_are_found(values, is_found):
    assert list(find_text_times(open_table(pd.DataFrame({"day": values})))) == ["day"] * is_found


@pytest.mark.parametrize("library", CONVERSIONS)
def test_the_hints_name_a_conversion_that_works(library):
    frame, conversion = make_frame(library), CONVERSIONS[library]
    with pytest.warns(UserWarning, match="'day' are text that looks like dates") as caught:
        lb.load_data(frame, test_fraction=0.0)
    assert len(caught) == 1
    assert conversion in str(caught[0].message)
    assert f"; dates? {conversion}" in str(inspect_table(frame)["values"][0])
    with pytest.raises(
        DataError, match="contains text, such as '2024-01-03' in row 0, so it cannot be time"
    ) as error:
        lb.load_data(frame, columns={"day": "time"})
    assert conversion in str(error.value)
    schema = Schema((Column("day", "time", dtype="Datetime[us]"),), library)
    with pytest.raises(DataError, match="trained on times") as error:
        read_table(frame, schema)
    assert conversion in str(error.value)
    converted = eval(conversion, {"pd": pd, "frame": frame, "table": frame})
    data = {"day": converted, "height": frame["height"]}
    converted = pa.table(data) if library == "pyarrow" else type(frame)(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train = lb.load_data(converted, test_fraction=0.0).train
    assert train.preprocessing.schema.columns[0].type == "time"


@pytest.mark.parametrize("library", CONVERSIONS)
@pytest.mark.parametrize(
    ("days", "formats"),
    [
        (["31/01/2024", "01/02/2024"], ["%d/%m/%Y"]),
        (["01/31/2024", "02/01/2024"], ["%m/%d/%Y"]),
        (["11/01/2024", "01/02/2024"], ["%d/%m/%Y", "%m/%d/%Y"]),
        (["01/31/2024 10:15 PM", "01/01/2024 09:00 AM"], ["%m/%d/%Y %I:%M %p"]),
        (["31.01.2024 10:15", "01.02.2024 09:00"], ["%d.%m.%Y %H:%M"]),
        (["2024/01/31", "2024/02/01"], ["%Y/%m/%d"]),
    ],
)
def test_other_forms_of_dates_have_a_conversion_that_works(library, days, formats):
    columns = {"day": days * 10, "height": [row * row / 7 for row in range(20)]}
    make = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.table}[library]
    frame = make(columns)
    (conversion,) = find_text_times(open_table(frame)).values()
    code, *others = conversion.split(", or ")
    assert formats[0] in code
    assert others == [f"format={each!r} if months come first" for each in formats[1:]]
    with pytest.raises(DataError, match="so it cannot be time") as error:
        lb.load_data(frame, columns={"day": "time"})
    assert conversion in str(error.value)
    converted = eval(code, {"pd": pd, "pc": pc, "frame": frame, "table": frame})
    found = [f"{each:{formats[0]}}" for each in pd.Series(converted.to_numpy())]
    assert found == columns["day"]


def test_a_declared_type_is_not_questioned_and_a_csv_file_has_times(tmp_path):
    make_frame().to_csv(tmp_path / "days.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("categorical", "identifier"):
            lb.load_data(make_frame(), columns={"day": kind})
        lb.load_data(tmp_path / "days.csv")


def test_the_command_shows_the_hint_for_a_file_whose_columns_have_types(tmp_path, capsys):
    make_frame().to_parquet(tmp_path / "days.parquet")
    with pytest.raises(SystemExit, match="0"):
        main(["data", "inspect", str(tmp_path / "days.parquet")])
    # Brackets are not styles of the text.
    assert CONVERSIONS["pyarrow"] in " ".join(capsys.readouterr().out.split())


def test_another_table_with_a_column_of_the_same_name_has_the_hint_too():
    frame = make_frame()
    for given in (frame, frame.iloc[:-1]):
        with pytest.warns(UserWarning, match="looks like dates"):
            lb.load_data(given)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lb.load_data(frame)
