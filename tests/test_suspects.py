"""Values that usually stand for missing ones are pointed out, with few false alarms."""

import warnings

import numpy as np
import pandas as pd
import pytest

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.data import inspect_table
from lowerbound.data.frames import open_table
from lowerbound.data.suspects import find_suspects

CITIES = ["Bern", "St. Gallen, CH", "n/a", "Bern", "NaN", "Chur"]


def make_messy(rows: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "income": random.lognormal(7, 1, rows).round(2),
            "age": random.integers(18, 80, rows),
            "city": (CITIES * rows)[:rows],
        }
    )
    frame.loc[::14, "income"] = -999
    frame.loc[3, "income"] = 5e8
    return frame


def find_in(values, *placeholders, **types):
    suspects = find_suspects(open_table(pd.DataFrame({"a": values})), placeholders, types)
    return suspects.get("a", {})


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1.5, 3, 200, -999, -999], {-999: 2}),  # the only negative numbers
        ([-9, -99, -9, -99, 120, 0], {-99: 2, -9: 2}),
        ([-20, 30, 12, 999, 999], {999: 2}),  # far from all others
        ([-20, 30, 12, -9999, -9999], {-9999: 2}),
        ([2001, 2020, 9999, 9999, None], {9999: 2}),
        ([1.5, 3, 200, 300, -999], {}),  # once
        ([0, 500, 999, 999, 20], {}),  # among the others
        ([-20, 30, 12, -9, -9], {}),
        ([-500.0, -999, -999, 200, 31], {}),
        ([-999, -999], {}),
        ([-5, -5, 1, 2, 3], {}),  # not of nines
        (["a", "N/A", " none", "b", "null", "N/A"], {" none": 1, "N/A": 2, "null": 1}),
        (["1", "20", "?", "31", "-999"], {"?": 1, "-999": 1}),
        (["+", "-", "+", "-"], {}),
        (["yes", "-", "no", "unknown"], {"-": 1}),
        ([True, False, True], {}),
        (pd.to_datetime(["2020-01-01", "2021-01-01"]), {}),
    ],
)
def test_usual_marks_are_found(values, found):
    assert find_in(values) == found


def test_declared_marks_and_columns_that_are_left_out_are_not_suspected():
    assert find_in(["a", "n/a", "?"], "n/a") == {"?": 1}
    assert find_in([1.0, 2, -999, -999], "-999") == {}
    assert find_in(["a", 1, "n/a"], a="identifier") == {}


def test_training_data_with_them_get_one_warning_that_names_the_option(tmp_path):
    make_messy().to_csv(tmp_path / "messy.csv", index=False)
    for source in (make_messy(), tmp_path / "messy.csv"):
        with pytest.warns(UserWarning, match="'income' is -999 in 5 rows") as caught:
            lb.load_data(source)
        assert len(caught) == 1
        assert "'city' is 'NaN' in 10 rows, 'n/a' in 10 rows" in str(caught[0].message)
        assert "missing_values=[-999, 'NaN', 'n/a']" in str(caught[0].message)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lb.load_data(source, missing_values=[-999, "NaN", "n/a"])


def test_an_inspected_table_shows_them():
    shown = inspect_table(make_messy())["values"].tolist()
    assert shown[0] == "-999 to 5e+08, in steps of 0.01; missing? -999 in 5 rows"
    assert "missing" not in shown[1]
    assert shown[2] == (
        "5 categories: Bern, Chur, NaN, 'St. Gallen, CH', n/a; missing? 'NaN' in 10 rows, 'n/a' in "
        "10 rows"
    )


def test_the_warning_comes_once_for_the_same_data_in_a_session(tmp_path):
    frame = make_messy()
    frame.to_csv(tmp_path / "messy.csv", index=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="is -999 in 5 rows"):
            lb.load_data(frame)
    with pytest.warns(UserWarning, match="is -999 in 5 rows"):
        lb.load_data(frame)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lb.load_data(frame)
        lb.load_data(frame, missing_values=["n/a"])
    with pytest.warns(UserWarning, match="'income' is -999 in 4 rows") as caught:
        lb.load_data(frame[1:])
    assert "'city'" not in str(caught[0].message)  # in as many rows as before
    with pytest.warns(UserWarning, match="messy.csv: the column 'income' is -999 in 5 rows"):
        lb.load_data(tmp_path / "messy.csv")
    for _ in range(2):
        assert "missing? -999 in 5 rows" in str(inspect_table(frame)["values"][0])


def run(capsys, *words) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code, *capsys.readouterr()


@pytest.mark.filterwarnings("default")
def test_the_command_says_which_option_to_add(tmp_path, capsys):
    file = tmp_path / "messy.csv"
    make_messy().to_csv(file, index=False)
    code, out, err = run(capsys, "data", "inspect", file, "--missing-values", "n/a")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1].endswith("--missing-values -999,n/a,NaN")
    code, out, err = run(capsys, "data", "inspect", file, "--missing-values", "-999,NaN,n/a,foo")
    assert code == 0
    assert "warning: " in err
    assert "no entry is 'foo'" in err
    assert "missing?" not in out


def test_marks_that_nothing_matches_are_named(tmp_path):
    frame = pd.DataFrame({"a": [1.5, 2.5, None] * 10, "b": ["x", "?", "y"] * 10})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    for source in (frame, tmp_path / "a.csv", tmp_path / "a.parquet"):
        with pytest.warns(UserWarning, match="no entry is '-9' or 'foo'") as caught:
            lb.load_data(source, missing_values=["?", "foo", -9, "NA", float("nan")])
        assert len(caught) == 1


def test_a_mark_of_a_column_of_numbers_in_a_file_is_matched(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,x\n?,y\n-9,x\n7,y\n")
    data = lb.load_data(tmp_path / "a.csv", missing_values=["?", -9], test_fraction=0)
    assert data.train.fields["observed"].sum() == 6


def test_an_estimator_warns_too():
    from lowerbound.sklearn import VAE

    frame = make_messy().drop(columns="city")
    with pytest.warns(UserWarning, match="X: the column 'income' is -999 in 5 rows"):
        VAE(latent=1, steps=1, hidden=4).fit(frame)
