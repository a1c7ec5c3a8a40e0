"""What the recipe `table` and the estimators reach: imputation, intervals, outliers, time, memory.

    python reproductions/tables.py [CELL ...] [--pyod PYTHON] [--report]

Cells whose results are there already are skipped. Results go to docs/results/tables/, and at the
end docs/results/tables.md is written from all of them. The cell `outliers` compares with PyOD,
which needs an environment of its own, whose packages reproductions/tables-pyod.txt pins: --pyod
names its interpreter. Some of its tables are in the folder hivae of $LOWERBOUND_DATA, and are left
out without it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from page_text import describe_machine
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from tables_page import write_page

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "tables"

MASKS = 10
DRAWS = 200
LEVEL = 0.9
CONTAMINATION = 0.1
SEEDS = 3
MILLION = 1_000_000
SLOPE = 1.5
LOSSY = 4


def fit_table(
    frame: pd.DataFrame,
    seed: int = 0,
    *,
    name: str = "table",
    training: dict[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """Train a recipe of tables on all rows of a frame, by default with its usual settings."""
    import lowerbound as lb
    from lowerbound.recipes import find_recipe

    data = lb.load_data(frame, test_fraction=0.0)
    recipe = find_recipe(name)
    model, objective = recipe.build(data, arguments, seed=seed)
    training = recipe.training if training is None else training
    return lb.fit(model, objective, data.train, seed=seed, progress=False, **training).model


def hide(values: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hide entries completely at random; every row keeps one."""
    hidden = np.random.default_rng(seed).random(values.shape) < share
    hidden[hidden.all(1), 0] = False
    return np.where(hidden, np.nan, values), hidden


def as_frame(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(values, columns=[f"c{number}" for number in range(values.shape[1])])


def run_miwae(**settings: Any) -> dict[str, Any]:
    """The experiment of MIWAE's authors: standardised breast_cancer with half of it missing."""
    import lowerbound as lb

    raw = load_breast_cancer().data
    values = (raw - raw.mean(0)) / raw.std(0)
    rows = []
    for seed in range(SEEDS):
        holes, hidden = hide(values, 0.5, seed)
        frame = as_frame(holes)
        start = time.perf_counter()
        model = fit_table(frame, seed, samples=20, **settings)
        seconds = time.perf_counter() - start
        bound = lb.evaluate(model, lb.IWAE(50), frame).mean
        filled = lb.impute(model, frame, samples=1000).table.to_numpy()
        error = float(((filled - values)[hidden] ** 2).mean())
        rows.append({"bound": bound, "error": error, "seconds": seconds})
    return {"seeds": rows}


def run_miwae_notebook() -> dict[str, Any]:
    """The same with the settings of their notebook, which does not regularise."""
    training = {"batch_size": 64, "epochs": 601, "learning_rate": 1e-3}
    return run_miwae(training=training, activation="relu", dropout=0.0, hide=0.0)


def run_held_out() -> dict[str, Any]:
    """The same table: a fifth of the rows, which the training does not see, and no dropout."""
    import lowerbound as lb

    raw = load_breast_cancer().data
    values = (raw - raw.mean(0)) / raw.std(0)
    rows = []
    for seed in range(SEEDS):
        holes, hidden = hide(values, 0.5, seed)
        held = np.random.default_rng(seed).random(len(holes)) < 0.2
        seen, held_rows = as_frame(holes[~held]), as_frame(holes[held])
        found: dict[str, Any] = {"rows": int(held.sum())}
        for name, arguments in (("usual", {}), ("no dropout", {"dropout": 0.0})):
            model = fit_table(seen, seed, samples=20, **arguments)
            filled = lb.impute(model, held_rows, samples=1000).table.to_numpy()
            found[name] = {
                "bound": lb.evaluate(model, lb.IWAE(50), held_rows).mean,
                "bound_5000": lb.evaluate(model, lb.IWAE(5000), held_rows).mean,
                "bound_of_training_rows": lb.evaluate(model, lb.IWAE(50), seen).mean,
                "error": float(((filled - values[held])[hidden[held]] ** 2).mean()),
            }
        rows.append(found)
        print(found, flush=True)
    return {"seeds": rows}


def run_coverage() -> dict[str, Any]:
    """How often intervals from multiple imputation cover what was hidden, over ten masks.

    Each table's result is written when it is there, and is not computed again.
    """
    tables = {"wine": load_wine, "diabetes": load_diabetes, "breast_cancer": load_breast_cancer}
    found = {
        name: compute_once(
            RESULTS / "coverage" / f"{name}.json",
            lambda load=load: [_find_coverage(load().data, mask) for mask in range(MASKS)],
        )
        for name, load in tables.items()
    }
    return {"coverage": found}


def _find_coverage(values: np.ndarray, mask: int) -> float:
    """The share of hidden values that intervals of 90% cover, with one mask."""
    import lowerbound as lb

    holes, hidden = hide(values, 0.2, mask)
    frame = as_frame(holes)
    model = fit_table(frame, mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        many = lb.impute(model, frame, DRAWS, samples=500, seed=mask).tables
    draws = np.stack([each.to_numpy(float) for each in many])
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    covered = float(((low <= values) & (values <= high))[hidden].mean())
    print(f"mask {mask}: {covered:.1%} covered", flush=True)
    return covered


def compute_once(path: Path, compute: Callable[[], Any]) -> Any:
    """Read a result, or compute and write it."""
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(compute(), indent=1) + "\n", encoding="utf8")
        print(path.stem, path.read_text(encoding="utf8"), flush=True)
    return json.loads(path.read_text(encoding="utf8"))


def list_outlier_tables() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Labelled tables: rows of one or several classes, and a tenth of rows of another class."""
    random = np.random.default_rng(0)

    def mix(X: np.ndarray, is_outlier: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        usual = np.flatnonzero(~is_outlier)
        count = min(int(is_outlier.sum()), round(CONTAMINATION / (1 - CONTAMINATION) * len(usual)))
        chosen = random.choice(np.flatnonzero(is_outlier), count, replace=False)
        rows = np.concatenate([usual, chosen])
        return X[rows], is_outlier[rows]

    cancer, wine, digits = load_breast_cancer(), load_wine(), load_digits()
    yield "breast_cancer", *mix(cancer.data, cancer.target == 0)
    yield "wine", *mix(wine.data, wine.target == 2)
    yield "digits", *mix(digits.data, digits.target == 9)
    folder = Path(os.environ.get("LOWERBOUND_DATA", "")) / "hivae"
    for name, outlier in (("Breast", 2), ("letter", 24), ("spam", 1)):
        path = folder / name / "data.csv"
        if path.exists():
            values = pd.read_csv(path, header=None).to_numpy(float)
            values = np.where(np.isnan(values), np.nanmedian(values, 0), values)
            place = 0 if name == "letter" else -1
            labels = values[:, place]
            classes = np.unique(labels)
            is_outlier = labels == classes[min(outlier, len(classes)) - 1]
            if name == "letter":  # the letters A to J are usual
                usual = labels <= classes[9]
                values, is_outlier = values[usual | is_outlier], is_outlier[usual | is_outlier]
            yield name, *mix(np.delete(values, place, 1), is_outlier)


def run_outliers(pyod: Path | None) -> dict[str, Any]:
    """The area under the curve of scores of outliers, beside other detectors.

    Each table's result is written when it is there, and is not computed again.
    """
    found = {
        name: compute_once(
            RESULTS / "outliers" / f"{name}.json",
            lambda X=X, y=is_outlier: {"rows": len(X), "area": _compare_detectors(X, y, pyod)},
        )
        for name, X, is_outlier in list_outlier_tables()
    }
    return {
        "area": {name: result["area"] for name, result in found.items()},
        "rows": {name: result["rows"] for name, result in found.items()},
    }


def _compare_detectors(
    X: np.ndarray, is_outlier: np.ndarray, pyod: Path | None
) -> dict[str, list[float]]:
    from lowerbound.sklearn import VAEOutlierDetector

    scores: dict[str, list[float]] = {"lowerbound": [], "IsolationForest": []}
    for seed in range(SEEDS):
        ours = VAEOutlierDetector(random_state=seed).fit(X)
        forest = IsolationForest(random_state=seed).fit(X)
        for method, detector in (("lowerbound", ours), ("IsolationForest", forest)):
            area = roc_auc_score(is_outlier, -detector.score_samples(X))
            scores[method].append(float(area))
    if pyod is not None:
        scores |= _run_pyod(pyod, X, is_outlier)
    return scores


_PYOD = """
import json, sys
import numpy as np
from pyod.models.ecod import ECOD
from pyod.models.vae import VAE
from sklearn.metrics import roc_auc_score
data = np.load(sys.argv[1])
X, y = data["X"], data["y"]
areas = {"ECOD": [float(roc_auc_score(y, ECOD().fit(X).decision_scores_))], "PyOD's VAE": []}
for seed in range(int(sys.argv[2])):
    detector = VAE(random_state=seed, verbose=0).fit(X)
    areas["PyOD's VAE"].append(float(roc_auc_score(y, detector.decision_scores_)))
print(json.dumps(areas))
"""


def _run_pyod(python: Path, X: np.ndarray, is_outlier: np.ndarray) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, X=X, y=is_outlier)
        command = [str(python), "-W", "ignore", "-c", _PYOD, str(path), str(SEEDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def make_mixed_table(rows: int, columns: int = 50) -> pd.DataFrame:
    """A table with columns of five types that share five factors, and a tenth of it missing."""
    random = np.random.default_rng(0)
    factors = random.normal(size=(rows, 5))
    made: dict[str, Any] = {}
    for number in range(columns):
        signal = factors @ random.normal(size=5) + random.normal(size=rows)
        kind = number % 5
        if kind == 0:
            values: Any = 100 * signal + 50
        elif kind == 1:
            values = np.exp(signal)
        elif kind == 2:
            values = random.poisson(np.exp(0.5 * signal + 1)).astype(float)
        elif kind == 3:
            values = np.array(["low", "middle", "high"], dtype=object)[
                np.digitize(signal, (-1.0, 1.0))
            ]
        else:
            values = (signal > 0).astype(float)
        missing = random.random(rows) < 0.1
        if kind == 3:
            values[missing] = None
        else:
            values[missing] = np.nan
        made[f"c{number}"] = values
    return pd.DataFrame(made)


def run_time() -> dict[str, Any]:
    """The seconds to train on 10,000 rows of 50 columns with the usual settings."""
    import lowerbound as lb

    frame = make_mixed_table(10_000)
    start = time.perf_counter()
    model = fit_table(frame)
    seconds = time.perf_counter() - start
    from lowerbound.evaluation.baseline import score_independent_entries

    examples = model.examples(frame)
    return {
        "training_seconds": seconds,
        "bound": lb.evaluate(model, lb.IWAE(20), examples).mean,
        "independent": score_independent_entries(model, examples),
    }


def run_million() -> dict[str, Any]:
    """The memory that the command needs to impute a million rows of a Parquet file."""
    frame = make_mixed_table(MILLION, 10)
    with tempfile.TemporaryDirectory() as folder:
        big, small = Path(folder) / "big.parquet", Path(folder) / "small.parquet"
        frame.to_parquet(big)
        frame.head(5000).to_parquet(small)
        command = [sys.executable, "-m", "lowerbound"]
        run = str(Path(folder) / "run")
        train = ["train", "table", "--data", str(small), "--steps", "1000", "--out", run]
        subprocess.run([*command, *train], check=True, capture_output=True)
        out = str(Path(folder) / "completed.parquet")
        start = time.perf_counter()
        subprocess.run([*command, "impute", run, "--data", str(big), "--out", out], check=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return {"rows": MILLION, "seconds": seconds, "peak_gigabytes": peak * 1024 / 1e9}


def run_not_at_random() -> dict[str, Any]:
    """What two recipes recover where large values are missing more often than small ones."""
    import lowerbound as lb

    rows: list[dict[str, Any]] = []
    for seed in range(SEEDS):
        values, frame = make_table_not_at_random(seed)
        holes = frame.isna().to_numpy()
        found: dict[str, Any] = {"observed": float(np.nanmean(frame.to_numpy()[:, :LOSSY]))}
        found["true"] = float(values[:, :LOSSY].mean())
        for name in ("table", "missing-not-at-random"):
            model = fit_table(frame, seed, name=name)
            drawn = lb.impute(model, frame, 20, samples=500, seed=seed).tables
            completed = np.mean([each.to_numpy(float) for each in drawn], 0)
            found[name] = {
                "mean": float(completed[:, :LOSSY].mean()),
                "error": float(((completed - values)[holes] ** 2).mean()),
            }
        found["slopes"] = _find_slopes(model, frame)
        rows.append(found)
        print(found, flush=True)
    return {"seeds": rows}


def make_table_not_at_random(seed: int) -> tuple[np.ndarray, pd.DataFrame]:
    """Standardised values of two factors, and a table in which large values are often missing."""
    random = np.random.default_rng(seed)
    loadings = random.normal(size=(2, 8))
    loadings *= 0.8 / np.linalg.norm(loadings, axis=0)
    values = random.normal(size=(3000, 2)) @ loadings + 0.6 * random.normal(size=(3000, 8))
    odds = np.exp(SLOPE * values[:, :LOSSY] - 0.5)
    missing = np.zeros(values.shape, bool)
    missing[:, :LOSSY] = random.random(odds.shape) < odds / (1 + odds)
    return values, as_frame(np.where(missing, np.nan, values))


def _find_slopes(model: Any, frame: pd.DataFrame) -> dict[str, float]:
    """The learned slopes of the log odds that columns are missing, for each unit of a value."""
    import torch

    ends = pd.DataFrame({name: [0.0, 1.0] for name in frame})
    log_odds = model.log_odds_of_missing(model.examples(ends).batch(torch.arange(2)))
    return {name: float(odds[1] - odds[0]) for name, odds in log_odds.items()}


CELLS: dict[str, Callable[..., dict[str, Any]]] = {
    "miwae": run_miwae,
    "miwae-notebook": run_miwae_notebook,
    "held-out": run_held_out,
    "coverage": run_coverage,
    "outliers": run_outliers,
    "time": run_time,
    "million": run_million,
    "not-at-random": run_not_at_random,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cells", nargs="*", help=", ".join(CELLS))
    parser.add_argument("--pyod", type=Path, help="the interpreter of an environment with PyOD")
    parser.add_argument("--report", action="store_true", help="only write the page")
    asked = parser.parse_args()
    for unknown in set(asked.cells) - CELLS.keys():
        parser.error(f"{unknown} is not one of {', '.join(CELLS)}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in [] if asked.report else asked.cells or CELLS:
        target = RESULTS / f"{name}.json"
        if target.exists():
            print(f"{target} exists already", file=sys.stderr)
            continue
        found = run_outliers(asked.pyod) if name == "outliers" else CELLS[name]()
        found["machine"] = describe_machine()
        target.write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")
        print(name, found, flush=True)
    write_page(RESULTS, CELLS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
