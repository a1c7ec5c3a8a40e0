"""Text that turns a column of numbers into text is pointed out, with few false alarms."""

import warnings

import pandas as pd
import pytest

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.data import inspect_table, text_numbers
from lowerbound.data.frames import open_table
from lowerbound.data.text_numbers import find_stray_text
from lowerbound.errors import DataError
from lowerbound.sklearn import VAE

AGES = [str(age) for age in range(20, 60)]
SIZES = [row * row / 7 for row in range(41)]
FOUND = "'thirty' in row 40"


def find_in(values, *placeholders, **types):
    table = open_table(pd.DataFrame({"age": values}))
    return find_stray_text(table, placeholders, types).get("age")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([*AGES, "thirty"], FOUND),
        ([*AGES, None, "?", "NA", "thirty", "thirty"], "'thirty' in row 43"),
        ([*AGES, "1,234.50", " 40+ "], "'1,234.50' in row 40 and 1 other"),
        (["1,5", "-2,75", "8,25", "7"], "'1,5' in row 0 and 2 others"),
        (["1,5", "2,75", "low", "7"], None),  # too many others
        (["187.07", "4,011.48", "1,234,567"], "'4,011.48' in row 1 and 1 other"),
        (["€18,855.72", "-€5.00", "(€7)"], "'€18,855.72' in row 0 and 2 others"),
        (["(1,234.50)", "−5,5", ".5%", "₹5"], "'(1,234.50)' in row 0 and 3 others"),
        (["1.234,50", "1.234.567,5", "1 234 €"], "'1.234,50' in row 0 and 2 others"),
        (["€ 1.234", "€1 234 567"], "'€ 1.234' in row 0 and 1 other"),
        (["(1)", "(2)"], None),  # codes
        (["1)", "2)"], None),
        (["1,234.567,8", "1'234,567"], None),
        (["001,002", "100,200,30"], None),
        (["16.1%", "3 %", "low", *["7,5%"] * 9], "'16.1%' in row 0 and 3 others"),
        (["18'855.72", "4\u202f011,48", "4 011,48 €", "1.5"], '"18\'855.72" in row 0 and 2 others'),
        (["416 555 123", "647 555 456"], None),  # telephone numbers
        (["12:30", "10:15"], None),
        (["192.168.0.1", "10.0.0.1"], None),
        (["192.168.100.200", "416.555.123"], None),
        (["12-34", "45-67"], None),
        (AGES, None),  # text in a frame is what the user has chosen
        ([*AGES, "?"], None),  # another hint warns of markers of missing values
        (["Bern", "Chur", "12"], None),
        (pd.Categorical([*AGES, "thirty"]), None),  # declared
        ([1.0, 2.0], None),
        (pd.Series([None, None], dtype="str"), None),
    ],
)
def test_text_in_columns_of_numbers_is_found(values, found):
    assert find_in(values) == found


def test_a_text_that_occurs_often_is_looked_at_once(monkeypatch):
    looked = []
    monkeypatch.setattr(text_numbers, "_is_number", lambda text: looked.append(text) or True)
    assert find_in([*AGES, "thirty"] * 50) is None
    assert len(looked) == 41


def test_declared_text_and_columns_are_not_suspected():
    values = [*AGES, "thirty"]
    assert find_in(values, "thirty") is None
    assert find_in(values, age="categorical") is None


def test_a_training_an_inspection_and_an_estimator_point_out_the_text(tmp_path, capsys):
    frame = pd.DataFrame({"age": [*AGES, "thirty"], "size": SIZES})
    assert "; numbers? text is 'thirty' in row 40" in str(inspect_table(frame)["values"][0])
    with pytest.warns(UserWarning, match=rf"look like numbers.*'age' \(text: {FOUND}\)"):
        lb.load_data(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lb.load_data(frame)  # the hint was given
    with pytest.warns(UserWarning, match=r"^X: .*look like numbers"):
        VAE(steps=1, hidden=4).fit(frame)
    frame["name"] = [f"n{row}" for row in range(len(frame))]
    with pytest.warns(
        UserWarning, match=r"^X: left out as identifiers: name\. .*'name': 'identifier'"
    ):
        VAE(steps=1, hidden=4, columns={"age": "categorical"}).fit(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        columns = {"age": "categorical", "name": "identifier"}
        VAE(steps=1, hidden=4, columns=columns).fit(frame)
    frame.to_csv(tmp_path / "people.csv", index=False)
    with pytest.raises(SystemExit, match="0"):
        main(["data", "inspect", str(tmp_path / "people.csv")])
    assert "numbers? text" in capsys.readouterr().out


def test_a_type_that_text_cannot_have_is_refused_with_the_first_text_that_is_not_a_number():
    frame = pd.DataFrame({"age": [*AGES, "thirty"], "size": SIZES})
    place = rf"'age' contains text, such as {FOUND}, so it cannot be count"
    with pytest.raises(DataError, match=place):
        lb.load_data(frame, columns={"age": "count"})
    with pytest.raises(DataError, match=r"contains text, such as '20' in row 0, so"):
        lb.load_data(frame.iloc[:40], columns={"age": "count"})
    with pytest.raises(DataError, match="contains text, so it cannot be count"):
        lb.load_data(frame.astype({"age": "category"}), columns={"age": "count"})


def test_a_table_of_decimal_commas_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "commas.csv"
    path.write_text("size\n" + "".join(f'"{row},5"\n' for row in range(30)))
    said = (
        r"no column can be modelled.*decimal point: 'size' \(text: '0,5' in row 0 and 29 others\)"
    )
    with pytest.raises(DataError, match=said):
        lb.load_data(path)
