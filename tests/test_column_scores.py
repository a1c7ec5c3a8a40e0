"""Which columns of a table a model explains, and how columns and draws are displayed."""

import json
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.cli.tables import _describe_effective
from lowerbound.data import inspect_table
from lowerbound.errors import UnsupportedError
from lowerbound.evaluation import ColumnScore, score_columns, tabulate_columns
from lowerbound.evaluation.column_scores import describe_columns_explained

sys.path.insert(0, str(Path(__file__).parent))
from example_tables import make_frame
from test_table_model import NAMES, UNITS, log_density, make_model, make_table

QUICK = ["--steps", "30", "--hidden", "8", "--latent", "2", "--samples", "2", "--batch-size", "50"]


def test_columns_given_the_others_agree_with_the_closed_form():
    frame = make_table(400)
    found = {each.column: each for each in score_columns(make_model(1.2), frame, samples=2000)}
    for name in NAMES:
        seen = frame[name].notna().to_numpy()
        given = (log_density(frame) - log_density(frame.assign(**{name: np.nan})))[seen]
        variance = frame[name].var(ddof=0)
        alone = -0.5 * np.log(2 * np.pi * np.e * variance) - 2 / seen.sum()
        assert found[name].observed == seen.sum()
        assert found[name].alone == pytest.approx(alone, abs=1e-4)  # per value, not per row
        assert found[name].given_others == pytest.approx(given.mean(), abs=0.03)
        assert found[name].gain == found[name].given_others - found[name].alone
    gains = [each.gain for each in score_columns(make_model(), frame)]
    assert gains == sorted(gains, reverse=True)


def test_columns_of_which_nothing_is_observed_are_left_out_and_long_tables_are_thinned():
    frame = make_table(1500).assign(b=np.nan)
    found = score_columns(make_model(), frame, samples=20)
    assert {each.column for each in found} == {"a", "c", "d"}
    some = frame.iloc[lb.Examples.of(np.arange(1500.0)[:, None]).spread(1000).values[:, 0].int()]
    assert {each.column: each.observed for each in found} == dict(
        some[["a", "c", "d"]].notna().sum()
    )
    table = tabulate_columns(found)
    assert list(table) == ["column", "type", "observed", "alone", "given_others", "gain"]


def test_a_value_that_is_far_off_is_scored_by_draws_that_it_does_not_decide():
    """The draws of z that it allows suit no other value, so the weights cannot remove it."""
    model, frame = make_model(), make_table(30, missing=0.0)
    frame.loc[3, "c"] += 6 * UNITS[2]
    found = lb.score(model, frame).columns
    for name in NAMES:
        expected = log_density(frame) - log_density(frame.assign(**{name: np.nan}))
        assert float(found[name][3]) == pytest.approx(expected[3], rel=0.04)


def test_other_models_have_no_columns():
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6))
    )
    with pytest.raises(UnsupportedError, match=r"takes a lowerbound\.TableModel"):
        score_columns(model, torch.zeros(3, 3))


def test_of_many_columns_the_best_and_the_worst_are_shown_with_a_count_of_the_rest():
    many = [ColumnScore(f"column {n}", "real", 9, -1.0, 2.0 - n) for n in range(40)]
    lines = describe_columns_explained(many).splitlines()
    assert [line.split()[1] for line in lines[2:10]] == [str(n) for n in range(8)]
    assert lines[10] == "  ... 28 columns between these"
    assert [line.split()[1] for line in lines[11:]] == ["36", "37", "38", "39"]
    assert lines[2].split()[2:] == ["2.00", "-1.00", "+3.00"]
    assert len(describe_columns_explained(many[:12]).splitlines()) == 2 + 12


def test_the_columns_of_a_frame_are_inspected_in_its_own_library():
    frame = pd.DataFrame({"age": [34, 51, -999, 28], "job": ["cook", "clerk", None, "cook"]})
    shown = inspect_table(frame, columns={"age": "real"}, missing_values=[-999])
    assert list(shown["type"]) == ["real", "categorical"]
    assert list(shown["missing"]) == ["25.0%", "25.0%"]
    pl = pytest.importorskip("polars")
    assert isinstance(inspect_table(pl.from_pandas(frame)), pl.DataFrame)


@pytest.mark.parametrize("marks", ["-999", "?,-999", -999, ["?", -999]])
def test_marks_and_types_of_an_inspected_table_are_written_as_for_load_data(marks):
    frame = pd.DataFrame({"age": [1, 5, 9, -999, 30, 44] * 20, "job": ["9", "a", "b"] * 40})
    unmatched = pytest.warns(UserWarning, match=r"no entry is '\?'")
    with unmatched if "?" in str(marks) else nullcontext():
        shown = inspect_table(frame, columns="age=real", missing_values=marks)
        data = lb.load_data(frame, missing_values=marks if marks != -999 else [marks])
    assert shown["type"].tolist() == ["real", "categorical"]
    assert shown["missing"].tolist() == ["16.7%", ""]
    assert data.schema.find("age").high == 44


def test_a_dataset_knows_the_columns_of_its_table():
    data = lb.load_data(make_frame(60))
    assert data.schema is data.train.preprocessing.schema
    assert "height" in data.schema.names
    assert lb.load_data(np.zeros((20, 3))).schema is None


def run(capsys, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.mark.usefixtures("trains", "without_learning_curves")
def test_training_evaluate_and_sample_say_which_columns_and_draws_to_trust(tmp_path, capsys):
    make_frame(120).to_csv(tmp_path / "people.csv", index=False)
    words = ["train", "table", "--data", tmp_path / "people.csv", "--out", tmp_path / "run", *QUICK]
    code, out, _ = run(capsys, *words)
    assert code == 0
    shown = out[out.index("which columns the model explains") :].splitlines()
    assert {line.split()[0] for line in shown[2:12]} == {
        *("height", "income", "gift", "share", "visits", "answer", "job", "smokes", "born", "year")
    }
    code, out, _ = run(capsys, "evaluate", tmp_path / "run")
    assert "\n".join(shown[:12]) in out
    code, out, _ = run(capsys, "evaluate", tmp_path / "run", "--json")
    columns = json.loads(out)["columns"]
    assert len(columns) == 10
    assert columns[0]["gain"] == max(each["gain"] for each in columns)
    known = tmp_path / "known.csv"
    words = ["sample", tmp_path / "run", "--count", "2", "--given", known]
    words += ["--out", tmp_path / "drawn.csv"]
    pd.DataFrame({"job": ["cook", "nurse"]}).to_csv(known, index=False)
    code, out, _ = run(capsys, *words)
    model, given = lb.load(tmp_path / "run"), pd.read_csv(known)
    _, effective = model.sample_given(given, 2, seed=0)
    assert code == 0
    start = f"wrote 4 rows to {tmp_path / 'drawn.csv'}; effective sample size of 1,000"
    assert out.startswith(start)
    assert f"smallest {float(effective.min()):,.0f} (row {int(effective.argmin())}, " in out
    assert f"median {float(effective.mean()):,.0f}" in out


def test_few_effective_samples_are_said_in_words():
    few = _describe_effective([812.0, 3.0, 950.0])
    assert "smallest 3 (row 1, counted from 0), median 812" in few
    assert "not to be trusted" in few
    assert _describe_effective([812.4]) == "; effective sample size of 1,000 draws of z: 812"
