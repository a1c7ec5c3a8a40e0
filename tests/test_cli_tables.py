"""The commands for tables: data inspect, train table, impute, score, sample and encode."""

import csv
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import feather, parquet

import lowerbound as lb
from lowerbound.cli import main, tables
from lowerbound.data import Column, Schema
from lowerbound.data.table_files import load_table
from lowerbound.recipes import find_recipe

sys.path.insert(0, str(Path(__file__).parent))
from example_tables import make_frame

pytestmark = pytest.mark.usefixtures("trains", "without_learning_curves")

QUICK = ["--steps", "30", "--hidden", "8", "--latent", "2", "--samples", "2", "--batch-size", "50"]


def make_holes(rows: int = 120) -> pd.DataFrame:
    frame = make_frame(rows)
    random = np.random.default_rng(0)
    for name in ("height", "gift", "job", "born"):
        frame.loc[random.random(rows) < 0.2, name] = None
    return frame


def run(capsys, *words) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return ended.value.code, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a table and a run that was trained on it."""
    folder = tmp_path_factory.mktemp("tables")
    make_holes().to_csv(folder / "people.csv", index=False)
    words = ["train", "table", "--data", folder / "people.csv", "--out", folder / "run", *QUICK]
    with pytest.raises(SystemExit, match=r"^0$"):
        main([str(word) for word in words])
    return folder


def test_columns_are_shown(folder, capsys):
    code, out, err = run(capsys, "data", "inspect", folder / "people.csv")
    assert (code, err) == (0, "")
    lines = {line.split()[0]: line for line in out.splitlines() if line}
    assert "often exactly 0" in lines["gift"]
    assert "left out" in lines["name"]
    assert "--columns NAME=TYPE" in out
    code, out, _ = run(
        capsys, "data", "inspect", folder / "people.csv", "--columns", "answer=categorical"
    )
    assert "categorical" in next(line for line in out.splitlines() if line.startswith("answer"))


def test_the_next_commands_are_for_tables(folder, tmp_path, capsys):
    words = ["train", "table", "--data", folder / "people.csv", "--out", tmp_path / "run", *QUICK]
    code, out, err = run(capsys, *words)
    assert code == 0
    left_out = "left out: id (identifier), name (identifier), country (constant); cpu"
    assert f"97 training, 11 validation and 12 test rows of 10 columns, {left_out}" in out + err
    assert "--out samples.csv" in out
    assert f"impute {tmp_path / 'run'} --data FILE --out completed.csv" in out
    assert f"sensitivity {tmp_path / 'run'} --data FILE" in out
    assert f"score {tmp_path / 'run'} --data FILE --out scores.csv" in out


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather"])
def test_a_table_is_completed(folder, tmp_path, suffix, capsys):
    out = tmp_path / f"completed{suffix}"
    code, said, _ = run(
        capsys, "impute", folder / "run", "--data", folder / "people.csv", "--out", out
    )
    assert code == 0
    assert "of 120 rows" in said
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".feather": pd.read_feather}[suffix]
    found, holes = read(out), pd.read_csv(folder / "people.csv")
    assert list(found) == list(holes)
    assert not found.isna().any().any()
    there = holes["height"].notna()
    np.testing.assert_array_equal(found["height"][there], holes["height"][there])


@pytest.mark.filterwarnings("default:.*the table has no column:UserWarning")
def test_rows_are_counted_by_the_columns_that_the_table_has(folder, tmp_path, capsys):
    holes = make_holes().drop(columns=["height", "income"])
    incomplete = holes.isna().any(axis=1).sum()
    holes.to_csv(tmp_path / "in.csv", index=False)
    words = ["impute", folder / "run", "--data", tmp_path / "in.csv", "--out", tmp_path / "out.csv"]
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert "the table has no column height, income" in err
    assert f"imputed {incomplete} of {len(holes)} rows to" in out
    assert "because the table does not have them: height, income" in out
    completed = pd.read_csv(tmp_path / "out.csv")
    assert list(completed.columns) == list(holes.columns)
    assert completed.notna().all(axis=None)


def test_a_constant_column_is_completed(tmp_path, capsys):
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"size": random.normal(size=60), "unit": ["kg", None] * 30, "year": [2024, None] * 30}
    )
    frame["year"] = frame["year"].astype("Int64")
    frame["valid"], frame["day"] = ["True", None] * 30, ["2024-02-03", None] * 30
    frame["name"] = [None if row % 9 == 0 else f"person {row}" for row in range(60)]
    frame.loc[::7, "size"] = None
    data, out = tmp_path / "data.csv", tmp_path / "completed.csv"
    frame.to_csv(data, index=False)
    assert run(capsys, "train", "table", "--data", data, "--out", tmp_path / "run", *QUICK)[0] == 0
    code, said, _ = run(capsys, "impute", tmp_path / "run", "--data", data, "--out", out)
    assert code == 0
    assert said.endswith("not filled in, because the model leaves them out: name\n")
    found = pd.read_csv(out)
    assert (found["unit"] == "kg").all()
    assert (found["year"] == 2024).all()
    assert found["valid"].all()
    assert (found["day"] == "2024-02-03").all()
    assert found["size"].notna().all()


def test_several_tables_of_draws_and_files_in_parts(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "draws.parquet"
    words = ["impute", folder / "run", "--data", folder / "people.csv", "--out", out]
    assert run(capsys, *words, "--draws", 2)[0] == 0
    first, second = (pd.read_parquet(tmp_path / f"draws-{number}.parquet") for number in (1, 2))
    assert not first["height"].equals(second["height"])
    assert run(capsys, *words)[0] == 0
    whole = pd.read_parquet(out)
    monkeypatch.setattr("lowerbound.cli.tables._ROWS", 50)
    assert run(capsys, *words)[0] == 0
    pd.testing.assert_frame_equal(pd.read_parquet(out), whole, rtol=1e-4)


def test_rows_are_scored(folder, tmp_path, capsys):
    out = tmp_path / "scores.csv"
    words = ["score", folder / "run", "--data", folder / "people.csv", "--out", out]
    code, said, _ = run(capsys, *words, "--samples", 50)
    assert code == 0
    assert "scored 120 rows" in said
    scores = pd.read_csv(out)
    assert list(scores)[:5] == ["row", "id", "name", "log_p", "standard_error"]
    assert scores["row"].tolist() == list(range(120))
    assert scores["name"].tolist() == make_holes()["name"].tolist()
    assert scores["given_others:height"].isna().sum() == make_holes()["height"].isna().sum()


def test_an_estimated_probability_is_at_most_one(folder, monkeypatch):
    """New draws of z for the rest of the row happen to give it next to no probability."""

    def score_low(model, examples, places, samples, *, seed):
        return {name: torch.full((len(examples),), -1000.0).double() for name in places}

    monkeypatch.setattr("lowerbound.evaluation.row_scores._EFFECTIVE_SHARE", 2)
    monkeypatch.setattr("lowerbound.evaluation.row_scores.score_without", score_low)
    model, frame = lb.load(folder / "run"), make_holes()
    scores = lb.score(model, frame, samples=2).columns
    for name in ("job", "answer", "smokes", "visits"):
        assert (scores[name].nan_to_num() <= 0).all()
    is_atom = torch.tensor((frame["gift"] == 0).tolist())
    assert (scores["gift"][is_atom] <= 0).all()
    assert (scores["gift"][~is_atom].nan_to_num(1) > 0).all()
    assert (scores["share"] > 0).all()


def test_files_of_draws_sort_by_their_numbers(folder, tmp_path, capsys):
    words = ["--data", folder / "people.csv", "--out", tmp_path / "d.csv", "--samples", 10]
    _, said, _ = run(capsys, "impute", folder / "run", *words, "--draws", 10)
    assert f"{tmp_path / 'd-01.csv'}, ..., {tmp_path / 'd-10.csv'}\n" in said
    assert len(list(tmp_path.glob("d-0?.csv"))) == 9


def test_a_column_under_a_similar_name_is_pointed_out(folder, tmp_path):
    frame = make_holes().rename(columns={"height": "Height"})
    with pytest.warns(UserWarning, match="'Height', which is similar, is not used; rename it"):
        lb.load(folder / "run").examples(frame)


def test_a_file_of_known_entries_that_is_not_there(folder, tmp_path, capsys):
    words = ["--given", tmp_path / "no.csv", "--out", tmp_path / "drawn.csv"]
    code, _, err = run(capsys, "sample", folder / "run", *words)
    assert code == 2
    assert "no.csv: there is no such file" in err


def test_rows_that_are_not_to_be_trusted_are_named(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lowerbound.cli.tables._ROWS", 50)
    monkeypatch.setattr("lowerbound.evaluation.imputing.FEWEST_EFFECTIVE", 1000)
    words = [folder / "run", "--data", folder / "people.csv", "--samples", 20]
    _, said, _ = run(capsys, "impute", *words, "--out", tmp_path / "completed.csv")
    incomplete = make_holes()[["height", "gift", "job", "born"]].isna().any(axis=1).to_numpy()
    first = np.flatnonzero(incomplete)[:5]
    assert f"rows ({', '.join(map(str, first))} and" in said
    for count, begins in ((1, "1 row (3, counted from 0)"), (2, "2 rows (3, 3, counted from 0)")):
        assert tables._name_rows([3] * count) == begins
    _, said, _ = run(capsys, "sample", folder / "run", "--count", 1, "--out", tmp_path / "s.csv")
    assert said.startswith("wrote 1 row to")


def test_rows_are_drawn_from_a_run_or_a_file_given_some_columns(folder, tmp_path, capsys):
    known, out = tmp_path / "known.csv", tmp_path / "drawn.csv"
    pd.DataFrame({"job": ["cook", "nurse"]}).to_csv(known, index=False)
    model = lb.save(lb.load(folder / "run"), tmp_path / "model.safetensors")
    for trained in (folder / "run", model):
        words = ["sample", trained, "--count", 3, "--given", known, "--out", out]
        code, said, _ = run(capsys, *words)
        assert code == 0
        assert said.startswith(
            f"wrote 6 rows to {out}; effective sample size of 1,000 draws of z: "
        )
        assert list(pd.read_csv(out)["job"]) == ["cook"] * 3 + ["nurse"] * 3
    assert run(capsys, "sample", model, "--count", 4, "--out", out)[0] == 0
    assert len(pd.read_csv(out)) == 4


def test_rows_of_a_model_of_an_array_are_written(tmp_path, capsys):
    columns = (Column("x0", "real"), Column("x1", "constant", atoms=(7.0,)))
    model, _ = find_recipe("table").build(
        lb.load_data(pd.DataFrame({"x0": np.linspace(-2, 2, 40)})), {"hidden": 4}, seed=0
    )
    model = lb.TableModel(
        model.prior,
        model.posterior,
        lb.Masked(lb.Columns(lb.mlp(10, 4, 2), Schema(columns))),
    )
    lb.save(model, tmp_path / "model.safetensors")
    words = ["sample", tmp_path / "model.safetensors", "--count", "3", "--out", tmp_path / "a.csv"]
    code, _, err = run(capsys, *words)
    assert (code, err) == (0, "")
    found = pd.read_csv(tmp_path / "a.csv")
    assert found.shape == (3, 2)
    assert (found["x1"] == 7).all()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".feather"])
def test_embeddings_of_another_table_are_written_beside_its_identifiers(
    folder, tmp_path, capsys, suffix
):
    frame, new, out = make_holes(30), tmp_path / "new.parquet", tmp_path / f"codes{suffix}"
    frame.to_parquet(new)
    assert run(capsys, "encode", folder / "run", "--data", new, "--out", out)[0] == 0
    found = load_table(out).to_pandas()
    assert list(found) == ["row", "id", "name", "z0", "z1"]
    assert found["row"].tolist() == list(range(30))
    assert found["id"].tolist() == frame["id"].tolist()
    assert found["name"].tolist() == frame["name"].tolist()
    codes = lb.load(folder / "run").encode(frame).to_numpy()
    np.testing.assert_allclose(found[["z0", "z1"]], codes, rtol=1e-5, atol=1e-6)


def test_embeddings_of_a_part_of_the_training_table_have_its_identifiers(folder, tmp_path, capsys):
    out = tmp_path / "codes.parquet"
    assert run(capsys, "encode", folder / "run", "--split", "test", "--out", out)[0] == 0
    found, frame = pd.read_parquet(out), make_holes()
    assert len(found) == 12
    assert found["name"].tolist() == frame["name"].iloc[found["row"]].tolist()


def test_another_table_is_evaluated(folder, tmp_path, capsys):
    new = tmp_path / "new.parquet"
    make_holes(30).to_parquet(new)
    code, said, _ = run(capsys, "evaluate", folder / "run", "--data", new)
    assert code == 0
    assert "independent entries" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["impute", "nowhere", "--data", "people.csv", "--out", "a.csv"],
            "does not exist",
        ),
        (["impute", "run", "--data", "none.csv", "--out", "a.csv"], "none.csv"),
        (["impute", "run", "--data", "people.csv", "--out", "a.txt"], "ends in .parquet"),
        (["sample", "run", "--given", "job=cook", "--out", "a.csv"], "give one file with some"),
        (["sample", "run", "--given", "no.csv", "--out", "a.csv"], "no.csv: there is no such file"),
        (["data", "inspect", "people.csv", "--columns", "age"], "not of the form NAME=TYPE"),
        (["data", "inspect", "people.csv", "--columns", "age=real"], "'age', which is not a col"),
    ],
)
def test_mistakes_get_one_line(folder, words, message, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    code, _, err = run(capsys, *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (folder / "a.csv").exists()


def test_nothing_is_written_if_a_later_part_cannot_be_read(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lowerbound.cli.tables._ROWS", 50)
    frame = make_holes()
    frame.loc[frame.index[-1], "job"] = "pilot"
    frame.to_csv(tmp_path / "new.csv", index=False)
    out = tmp_path / "completed.csv"
    words = ["impute", folder / "run", "--data", tmp_path / "new.csv", "--out", out]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "'pilot' in row 119" in err
    assert [path.name for path in tmp_path.iterdir()] == ["new.csv"]


def test_a_run_that_is_not_of_a_table_is_refused(folder, tmp_path, capsys):
    model = lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6))
    )
    path = lb.save(model, tmp_path / "model.safetensors")
    words = ["score", path, "--data", folder / "people.csv", "--out", tmp_path / "a.csv"]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "is a LatentModel and not one of a table" in err


CELLS = [
    "code,smokes,height,region,note,born,count",
    '00001,False,-1.4,NA,"a, ""b""",2001-02-03,7',
    "00002,True,nan,null,,2001-02-04,8",
    "00003,,2.50,x,c,,",
    "00004,False,NA,NA,d,2001-02-05,1e1",
]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A folder with a table whose cells are written in several ways, and a run trained on it."""
    folder = tmp_path_factory.mktemp("cells")
    header, *rows = CELLS
    (folder / "train.csv").write_text("\n".join([header, *(rows * 10), ""]))
    (folder / "four.csv").write_text("\n".join([*CELLS, ""]))
    words = ["train", "table", "--data", folder / "train.csv", "--out", folder / "run", *QUICK]
    words += ["--columns", "code=identifier,region=categorical,note=categorical,count=real"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*the column 'region' is 'NA'")
        with pytest.raises(SystemExit, match=r"^0$"):
            main([str(word) for word in words])
    return folder


def read_cells(path: Path, delimiter: str = ",") -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file, delimiter=delimiter))


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_cells_that_are_there_stay_as_they_are(cells, tmp_path, suffix, capsys):
    delimiter = "\t" if suffix == ".tsv" else ","
    before = read_cells(cells / "four.csv")
    with (tmp_path / f"in{suffix}").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(before)
    out = tmp_path / f"out{suffix}"
    words = ["impute", cells / "run", "--data", tmp_path / f"in{suffix}", "--out", out]
    code, said, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert "imputed 3 of 4 rows" in said
    after = read_cells(out, delimiter)
    filled = {(2, 2), (2, 4), (3, 1), (3, 5), (3, 6), (4, 2)}
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        for column, (cell, other) in enumerate(zip(old, new, strict=True)):
            if (row, column) in filled:
                assert other not in ("", "NA", "nan"), (row, column)
            else:
                assert other == cell
    assert after[3][1] in ("False", "True")
    assert pd.Timestamp(after[3][5]).year == 2001
    assert len(after[3][5]) == len("2001-02-03")


def test_a_cell_of_another_type_than_the_model_expects_is_named(cells, tmp_path, capsys):
    path = tmp_path / "wrong.csv"
    path.write_text("height,smokes\n1.5,True\n2,maybe\n")
    words = ["score", cells / "run", "--data", path, "--out", tmp_path / "a.csv"]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert "the column 'smokes' is 'maybe' in row 1, which is not true or false" in err
    assert [each.name for each in tmp_path.iterdir()] == ["wrong.csv"]


@pytest.mark.parametrize("suffix", [".parquet", ".feather"])
def test_files_with_types_keep_them(cells, tmp_path, suffix, capsys):
    types = {
        "code": pa.int32(),
        "smokes": pa.bool_(),
        "height": pa.float32(),
        "region": pa.dictionary(pa.int32(), pa.string()),
        "note": pa.large_string(),
        "born": pa.date32(),
        "count": pa.int64(),
    }
    large = 2**53 - 1
    born = pa.array([400, None]).cast(pa.int32()).cast(pa.date32())
    values = [[1, None], [True, None], [1.5, None], ["x", None], ["c", ""], born, [large, None]]
    table = pa.table(
        [pa.array(each, kind) for each, kind in zip(values, types.values(), strict=True)],
        schema=pa.schema(types),
    )
    path, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    write, read = {
        ".parquet": (parquet.write_table, parquet.read_table),
        ".feather": (feather.write_feather, feather.read_table),
    }[suffix]
    write(table, path)
    code, _, err = run(capsys, "impute", cells / "run", "--data", path, "--out", out)
    assert code == 0, err
    found = read(out)
    assert found.schema.equals(table.schema)
    assert found.slice(0, 1).to_pylist() == table.slice(0, 1).to_pylist()
    assert found["code"].to_pylist() == [1, None]
    assert all(found[name].null_count == 0 for name in types if name != "code")


LEVELS = ["low", "middle", "high"]


def make_cells(values: list[str | None], categories: list[str]) -> pa.Table:
    codes = [None if each is None else categories.index(each) for each in values]
    level = pa.DictionaryArray.from_arrays(pa.array(codes, pa.int8()), categories, ordered=True)
    numbers = [int(each == "middle") for each in values]
    number = pa.DictionaryArray.from_arrays(pa.array(numbers, pa.int8()), [7, 5], ordered=True)
    height = np.linspace(0.0, 1.0, len(values)) ** 2
    return pa.table({"level": level, "number": number, "height": height})


@pytest.fixture(scope="module")
def levels(tmp_path_factory):
    """A run that was trained on ordered categories, whose order is not that of the alphabet."""
    folder = tmp_path_factory.mktemp("levels")
    feather.write_feather(
        make_cells(["high", "low", "middle", None] * 20, LEVELS), folder / "a.feather"
    )
    words = ["train", "table", "--data", folder / "a.feather", "--out", folder / "run", *QUICK]
    with pytest.raises(SystemExit, match=r"^0$"):
        main([str(word) for word in words])
    return folder / "run"


@pytest.mark.parametrize("rows", [20_000, 3, 2])
@pytest.mark.parametrize("source", [".parquet", ".feather"])
@pytest.mark.parametrize("target", [".parquet", ".feather"])
def test_categories_keep_their_order_in_all_parts_of_a_file(
    levels, tmp_path, source, target, rows, capsys, monkeypatch
):
    monkeypatch.setattr(tables, "_ROWS", rows)
    before = ["high", "low", None, "high", "middle", None, "low", "high"]
    path, out = tmp_path / f"in{source}", tmp_path / f"out{target}"
    table = make_cells(before, [*LEVELS, "never seen"])
    if source == ".feather":
        feather.write_feather(table, path)
    else:  # two groups of rows with different dictionaries
        groups = [
            make_cells(before[:4], ["low", "high", "never seen"]),
            make_cells(before[4:], LEVELS),
        ]
        with parquet.ParquetWriter(path, table.schema) as writer:
            for group in groups:
                writer.write_table(group)
    code, _, err = run(capsys, "impute", levels, "--data", path, "--out", out)
    assert code == 0, err
    read = {".parquet": parquet.read_table, ".feather": feather.read_table}[target]
    found = read(out)
    assert found.schema.field("level").type == table.schema.field("level").type
    dictionaries = [chunk.dictionary.to_pylist() for chunk in found["level"].chunks]
    assert all(each == [*LEVELS, "never seen"] for each in dictionaries)
    after = found["level"].to_pylist()
    assert [new for new, old in zip(after, before, strict=True) if old is not None] == [
        each for each in before if each is not None
    ]
    assert set(after) <= set(LEVELS)
    assert found["number"].to_pylist() == table["number"].to_pylist()


def test_categories_that_a_file_lacks_are_inserted_in_their_order(levels, tmp_path, capsys):
    path, out = tmp_path / "in.feather", tmp_path / "out.feather"
    feather.write_feather(make_cells(["high", None, "high"], ["high"]), path)
    code, _, err = run(capsys, "impute", levels, "--data", path, "--out", out, "--draws", "2")
    assert code == 0, err
    for number in (1, 2):
        found = feather.read_table(tmp_path / f"out-{number}.feather")
        assert found["level"].chunk(0).dictionary.to_pylist() == LEVELS
        assert found["number"].chunk(0).dictionary.to_pylist() == [7, 5]


def test_the_order_of_categories_is_learned_from_all_groups_of_rows(tmp_path):
    first = make_cells(["low", "high"] * 9, ["low", "high"])
    path = tmp_path / "in.parquet"
    with parquet.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        writer.write_table(make_cells(LEVELS * 5, LEVELS))
    for data in (path, pa.concat_tables([first, make_cells(LEVELS * 5, LEVELS)])):
        schema = lb.load_data(data).train.preprocessing.schema
        assert schema.find("level").categories == tuple(LEVELS)


def corrupt(path: Path, start: int = 4, stop: int = 400) -> Path:
    """Write a parquet file whose row groups cannot be read."""
    table = pa.table({"height": np.random.default_rng(0).normal(size=500)})
    parquet.write_table(table, path, use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[start:stop] = bytes(stop - start)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("command", ["impute", "score"])
def test_files_that_cannot_be_read_get_one_line(folder, tmp_path, command, capsys):
    (tmp_path / "header.csv").write_text(f"{','.join(make_holes(2))}\n")
    (tmp_path / "nothing.csv").write_text("")
    (tmp_path / "latin.csv").write_bytes("job\ncaf\xe9\n".encode("latin1"))
    (tmp_path / "name.csv").write_bytes("caf\xe9,job\n1,cook\n".encode("latin1"))
    (tmp_path / "ragged.csv").write_text("job,height\ncook,1\ncook\n")
    (tmp_path / "noise.parquet").write_bytes(b"PAR1 and nothing else")
    (tmp_path / "noise.feather").write_bytes(b"nothing")
    parquet.write_table(pa.table({"height": pa.array([], pa.float64())}), tmp_path / "no.parquet")
    corrupt(tmp_path / "groups.parquet")
    before = {path.name for path in tmp_path.iterdir()}
    for name, message in [
        ("header.csv", "the table has no rows"),
        ("nothing.csv", "cannot be read as a table"),
        ("latin.csv", "must be text in UTF-8"),
        ("name.csv", "must be text in UTF-8"),
        ("ragged.csv", "the same number of entries"),
        ("noise.parquet", "cannot be read as a table"),
        ("noise.feather", "cannot be read as a table"),
        ("no.parquet", "the table has no rows"),
        ("groups.parquet", "cannot be read as a table"),
        ("none.parquet", "the file does not exist"),
        ("none.csv", "the file does not exist"),
    ]:
        words = ["--data", tmp_path / name, "--out", tmp_path / "out.csv"]
        code, _, err = run(capsys, command, folder / "run", *words)
        assert (name, code) == (name, 2)
        assert message in err
        assert "Traceback" not in err
        assert "bug in lowerbound" not in err
        assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("command", ["impute", "score", "sample"])
def test_places_that_cannot_be_written_are_refused_before_any_work(
    folder, tmp_path, command, capsys, monkeypatch
):
    (tmp_path / "file").touch()
    (tmp_path / "folder.csv").mkdir()
    data = ["--data", folder / "people.csv"] if command != "sample" else []
    if command != "sample":
        monkeypatch.setattr("lowerbound.cli.tables.open_table_model", lambda path: 1 / 0)
    for out, message in [
        ("no/dir/x.csv", "create it (mkdir -p"),
        ("file/x.csv", "is a file and not a folder"),
        ("folder.csv", "a folder has this name"),
    ]:
        code, _, err = run(capsys, command, folder / "run", *data, "--out", tmp_path / out)
        assert code != 0
        assert message in err
        assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.csv"]


def test_what_changes_if_values_are_missing_because_of_their_size(folder, tmp_path, capsys):
    words = ["sensitivity", folder / "run", "--data", folder / "people.csv", "--draws", "20"]
    code, out, err = run(capsys, *words, "--samples", "20", "--slopes", "-1,0,1")
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["column", "missing", "slope", "odds", "mean", "of", "imputed", "mean"]
    heights = [line for line in lines if line and line[0] == "height"]
    assert [line[2] for line in heights] == ["-1", "0", "1"]
    assert float(heights[0][-2]) < float(heights[1][-2]) < float(heights[2][-2])
    code, _, err = run(capsys, *words, "--slopes", "low,high")
    assert (code, "give numbers separated by commas" in err) == (2, True)


@pytest.mark.parametrize(
    ("value", "text"),
    [(10671.3, "10,671"), (8417.2, "8,417"), (3.14159, "3.142"), (-0.0012345, "-0.001234")],
)
def test_means_of_columns_have_four_digits_and_no_exponent(value, text):
    assert tables._show_number(value) == text
    assert tables._show_number(0.0) == "0.000"
    assert tables._show_number(math.nan) == "nan"


def test_a_model_of_why_values_are_missing(folder, tmp_path, capsys):
    data, trained = folder / "people.csv", tmp_path / "run"
    words = ["train", "missing-not-at-random", "--data", data, "--out", trained, *QUICK]
    assert run(capsys, *words)[0] == 0
    out = tmp_path / "completed.csv"
    code, said, _ = run(capsys, "impute", trained, "--data", data, "--out", out)
    assert (code, "imputed" in said) == (0, True)
    assert not pd.read_csv(out)[["height", "gift", "job", "born"]].isna().any().any()
    written = tmp_path / "sensitivity.csv"
    words = ["sensitivity", trained, "--data", data, "--draws", "20", "--samples", "20"]
    code, said, _ = run(capsys, *words, "--out", written)
    assert (code, "learned" in said) == (0, True)
    table = pd.read_csv(written)
    assert set(table["column"]) == {"height", "gift"}
    assert table["slope"].isna().sum() == 2
    code, _, err = run(
        capsys, "train", "missing-not-at-random", "--data", out, "--out", tmp_path / "new", *QUICK
    )
    assert (code, "no column of the table has missing values" in err) == (2, True)


def test_a_run_does_not_take_changed_data_for_its_own(folder, tmp_path, capsys):
    """They are split in another way, so the test part could contain rows of the training part."""
    path, out = tmp_path / "people.csv", tmp_path / "run"
    path.write_bytes((folder / "people.csv").read_bytes())
    assert run(capsys, "train", "table", "--data", path, "--out", out, *QUICK)[0] == 0
    assert run(capsys, "evaluate", out)[0] == 0
    rows = path.read_text().splitlines(keepends=True)
    for changed in ([*rows, rows[-1]], [*rows[:-1], rows[-2]]):
        path.write_text("".join(changed))
        for command in (["evaluate"], ["evaluate", "--split", "train"]):
            code, _, err = run(capsys, command[0], out, *command[1:])
            assert code == 2
            assert f"{path}: the data have changed since the run was trained" in err
            assert f"--data {path}" in err
        code, printed, err = run(capsys, "encode", out, "--out", tmp_path / "z.csv")
        assert (code, err) == (0, "")
        assert f"wrote {len(changed) - 1} embeddings" in printed
    path.write_text("".join(rows))
    assert run(capsys, "evaluate", out)[0] == 0


@pytest.mark.parametrize("delimiter", [";", "|", "\t"])
def test_a_completed_file_has_the_delimiter_of_the_table(folder, tmp_path, capsys, delimiter):
    table, out = tmp_path / "table.csv", tmp_path / "out.csv"
    frame = pd.read_csv(folder / "people.csv", dtype=str, keep_default_na=False).head(20)
    frame.to_csv(table, sep=delimiter, index=False)
    code, _, err = run(capsys, "impute", folder / "run", "--data", table, "--out", out)
    assert (code, err) == (0, "")
    found = pd.read_csv(out, sep=delimiter, dtype=str, keep_default_na=False)
    assert list(found) == list(frame)
    known = frame["height"] != ""
    assert found["height"][known].equals(frame["height"][known])
    code, _, _ = run(capsys, "impute", folder / "run", "--data", table, "--out", tmp_path / "o.tsv")
    assert code == 0
    assert (tmp_path / "o.tsv").read_text().splitlines()[0].split("\t") == list(frame)


@pytest.mark.parametrize("command", ["impute", "score", "sample", "sensitivity", "encode"])
def test_no_command_writes_over_the_table_that_it_reads(folder, tmp_path, capsys, command):
    table = tmp_path / "table.csv"
    table.write_bytes((folder / "people.csv").read_bytes())
    link = tmp_path / "link.csv"
    link.symlink_to(table)
    option = "--given" if command == "sample" else "--data"
    code, _, err = run(capsys, command, folder / "run", option, table, "--out", link)
    assert code == 2
    assert f"{link}: this is the file that is read, and it would be lost" in err
    assert table.read_bytes() == (folder / "people.csv").read_bytes()


def test_the_answers_for_a_path_are_frames(folder):
    model, path = lb.load(folder / "run"), folder / "people.csv"
    table = load_table(path, model.schema)
    assert model.reconstruct(path).equals(model.reconstruct(table))
    assert model.encode(str(path)).equals(model.encode(table))
    drawn = model.sample(2, given=path, seed=0)
    assert drawn.num_rows == 2 * table.num_rows


def test_a_file_that_is_not_compressed_is_named(folder, tmp_path, capsys):
    table = tmp_path / "table.csv.gz"
    table.write_text("a,b\n1,2\n")
    words = ["impute", folder / "run", "--data", table, "--out", tmp_path / "out.csv"]
    code, _, err = run(capsys, *words)
    assert code == 2
    assert f"{table}: cannot be read as a table" in err


def test_runs_are_not_compared_on_data_of_which_one_was_trained_before_a_change(tmp_path, capsys):
    table, before, after = (tmp_path / name for name in ("table.csv", "before", "after"))
    random = np.random.default_rng(0)
    for out, rows in ((before, 40), (after, 50)):
        pd.DataFrame(random.normal(size=(rows, 2)), columns=["a", "b"]).to_csv(table, index=False)
        assert run(capsys, "train", "table", "--data", table, "--out", out, *QUICK)[0] == 0
    for pair in ((before, after), (after, before)):
        code, _, err = run(capsys, "compare", *pair, "--samples", "5")
        assert code == 2
        assert f"{table}: the data have changed since the run was trained" in err
    # The message advises to name the data.
    named = ["compare", after, after, "--samples", "5", "--data", table]
    assert run(capsys, *named)[0] == 0


@pytest.mark.parametrize("validation", [None, 0.2, "array"])
def test_a_run_of_python_that_names_its_data_is_evaluated_on_them(tmp_path, capsys, validation):
    array = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    data = lb.load_data(str(tmp_path / "x.npy"))
    posterior, likelihood = lb.Gaussian(lb.mlp(3, 4)), lb.Gaussian(lb.mlp(2, 6))
    lb.fit(
        lb.LatentModel(lb.StandardNormal(2), posterior, likelihood),
        lb.ELBO(),
        data.train,
        steps=2,
        validation=array[:10] if validation == "array" else validation,
        directory=tmp_path / "run",
        config={"data": {"source": str(tmp_path / "x.npy")}},
        progress=False,
    )
    for part in ("test", "train"):
        assert run(capsys, "evaluate", tmp_path / "run", "--split", part)[0] == 0
    own = tmp_path / "x.npy"
    for command in ("reconstruct", "encode", "compress"):
        code, _, err = run(capsys, command, tmp_path / "run", "--out", own)
        assert code == 2
        assert f"{own}: this is the file that is read" in err
    np.save(own, array[::-1])
    code, _, err = run(capsys, "evaluate", tmp_path / "run")
    assert code == 2
    assert f"{own}: the data have changed" in err
