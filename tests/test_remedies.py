"""Messages about frequent mistakes name the mistake, and the command gives remedies as options."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.cli.remedies import write_as_options
from lowerbound.data.table_files import load_table
from lowerbound.data.unused import suggest_names
from lowerbound.errors import DataError, SettingsError, StorageError, UnsupportedError
from lowerbound.recipes import find_recipe


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"a": np.arange(20) / 7, "job": ["cook", "nurse"] * 10})
    frame.to_csv("messy.csv", index=False)
    return frame


@pytest.mark.parametrize(
    ("message", "written"),
    [
        ("train with unknown='other'", "train with --unknown other"),
        ("columns={'my visits': 'real'}.", "--columns 'my visits=real'."),
        ("missing_values=[-999, '?']", "--missing-values '-999,?'"),
        ("use samples=1000. Or more draws=", "use --samples 1000. Or more --draws"),
        ("(standardize=True)", "(--standardize)"),
        ("remove kind='counts'; or not", "remove --kind counts; or not"),
        # These are not options.
        ("lb.impute(model, frame, samples=1000)", "lb.impute(model, frame, samples=1000)"),
        ("training: epochs='x' is not a number", "training: epochs='x' is not a number"),
        ("p(x|z) with rate=0.5", "p(x|z) with rate=0.5"),
        ("--columns=age", "--columns=age"),
        ("lb.Examples.of(x, fields={...})", "lb.Examples.of(x, fields={...})"),
    ],
)
def test_arguments_are_written_as_options(message, written):
    assert write_as_options(message) == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "messy.csv"], "did you mean 'data inspect'?"),
        (["trian"], "did you mean 'train'?"),
        (["train", "messy.csv"], "such as: train table --data messy.csv"),
        (["train", "counts", "--data", "messy.csv"], "train the recipe table, or give the counts"),
        (["data", "inspect", "messy.xlsx"], "ends in .csv, .tsv, .parquet, .feather, .arrow"),
        (["recipes", "tabel"], "did you mean 'table'?"),
        (["train", "--resume", "run", "--latent", "5"], "resumed or repeated keeps its data and"),
    ],
)
def test_the_command_names_the_mistake(table, words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "has no effect" not in error


def test_one_recipe_is_listed(capsys):
    with pytest.raises(SystemExit):
        main(["recipes", "table"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("table ")
    assert not any(line.startswith("aevb") for line in lines)


def test_files_of_other_formats_are_refused(table):
    np.savez("c.npz", x=np.zeros((3, 3)))
    with pytest.raises(DataError, match=r"c\.npz: a table is read from a file that ends in \.csv"):
        load_table(Path("c.npz"))
    with pytest.raises(StorageError, match=r"of data and not of a model.*lb\.load_data\('messy"):
        lb.load("messy.csv")


def test_a_run_or_a_path_in_place_of_a_model_gets_its_own_advice(table, trains):
    data = lb.load_data(table)
    model, objective = find_recipe("table").build(data, {"hidden": 4, "latent": 1}, seed=0)
    run = lb.fit(model, objective, data.train, steps=1, progress=False)
    for function in (lb.impute, lb.score, lb.sensitivity, lb.log_likelihood):
        with pytest.raises(UnsupportedError, match=r"not a Run: give its model, run\.model"):
            function(run, table)
    with pytest.raises(SettingsError, match=r"not Run; give its model, run\.model"):
        lb.evaluate(run, objective, table)
    with pytest.raises(UnsupportedError, match=r"not a str: load it, lb\.load\('stored'\)"):
        lb.impute("stored", table)


def test_marks_of_missing_values_are_given_by_missing_values(table):
    with pytest.raises(SettingsError, match=r"missing=\[-999\] must be 'nan'.*missing_values="):
        lb.load_data(table, missing=[-999])


def test_an_estimator_takes_no_path():
    from lowerbound.sklearn import VAE

    with pytest.raises(TypeError, match=r"is a path; give a DataFrame or an array"):
        VAE().fit("messy.csv")


def test_a_column_of_a_similar_name_is_suggested():
    found = suggest_names(["income", "age"], ["Income ", "zip"])
    assert found == ". 'Income ', which is similar, is not used; rename it to 'income'"


@pytest.mark.parametrize(
    "message",
    [
        "runs/seed=01: the folder does not exist",
        "runs/steps=1000/x: does not exist",
        "epochs=2024-01-01.csv",
        "samples=1e",
        "missing_values=[nan, '?']",
        "train with columns={'Income, EUR': 'real'}",
    ],
)
def test_what_is_no_setting_or_no_option_stays_as_it_is(message):
    assert write_as_options(message) == message
