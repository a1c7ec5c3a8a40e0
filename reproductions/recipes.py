"""What each recipe reaches with its usual settings, on data that are installed with scikit-learn.

    python reproductions/recipes.py [--only RECIPE ...] [--report]

Each recipe is trained once, in a process of its own on one thread, and its bound is evaluated on
the test part. Recipes that already have results in docs/results/recipes/ are skipped. At the end,
and with --report at once, docs/results/recipes.md is written from all results, and also
src/lowerbound/recipes/reached.json, from which `lowerbound train RECIPE --help` says what the
recipe reaches.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from page_text import describe_machine, describe_machines, paragraph, table
from sklearn.datasets import load_breast_cancer

import lowerbound as lb
from lowerbound.recipes import RECIPES, Recipe, find_recipe

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "recipes"
PACKAGED = ROOT / "src" / "lowerbound" / "recipes" / "reached.json"

LABELLED = 100  # examples of the recipe semi-supervised
HIDDEN = 0.3  # of the large values, for the recipe missing-not-at-random
LEVELS = 17  # of a pixel of digits


def load(recipe: Recipe) -> tuple[str, lb.Examples, lb.Examples]:
    """What the data are, and their training and test parts."""
    if recipe.name in ("table", "missing-not-at-random"):
        frame, about = load_breast_cancer(as_frame=True).frame, "the table breast_cancer"
        if recipe.name == "missing-not-at-random":
            hidden = np.random.default_rng(0).random(frame.shape) < HIDDEN
            large = (frame > frame.median()) & (frame.columns != "target")
            frame = frame.mask(hidden & large)
            about += f" without {HIDDEN:.0%} of the values above each column's median"
        data = lb.load_data(frame, test_fraction=0.1, seed=0)
        return about, data.train, data.test
    if recipe.kind:
        parts = [convert(part, recipe) for part in read_digits("as-is")]
        return f"digits as {recipe.kind}", *parts
    train, test = read_digits(recipe.pixels)
    if recipe.name == "semi-supervised":
        labels = train.labels.clone()
        labels[LABELLED:] = -1
        train = lb.Examples(train.values, levels=LEVELS, labels=labels, name="digits")
        train = train.prepare(recipe.pixels)
        return f"digits with {LABELLED} labels", train, test
    return "digits", train, test


def read_digits(pixels: str) -> tuple[lb.Examples, lb.Examples]:
    """The data set digits."""
    data = lb.load_data("digits", pixels=pixels)
    return data.train, data.test


def convert(part: lb.Examples, recipe: Recipe) -> lb.Examples:
    """Digits as whole numbers: counts, or sequences of codes from left to right and downwards."""
    values = part.values.flatten(1).long()
    if recipe.kind == "counts":
        return lb.Examples(values, kind="counts", name="digits")
    return lb.Examples(values, kind="codes", levels=LEVELS, name="digits")


def run(name: str) -> None:
    """Train and evaluate a recipe, and write its result."""
    recipe = find_recipe(name)
    about, train, test = load(recipe)
    model, objective = recipe.build(train, {}, seed=0)
    start = time.process_time()
    trained = lb.fit(model, objective, train, seed=0, progress=False, **recipe.training)
    seconds = time.process_time() - start
    bound = lb.evaluate(trained.model, trained.objective, test)
    result = {
        "recipe": name,
        "data": about,
        "train_examples": len(train),
        "test_examples": len(test),
        "steps": trained.history[-1]["step"],
        "cpu_seconds": seconds,
        "bound": bound.mean,
        "standard_error": bound.standard_error,
        "independent_entries": bound.baseline,
        "machine": describe_machine(),
    }
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")


def read_results() -> dict[str, dict[str, Any]]:
    """The results by recipe, in the order of the recipes."""
    paths = {name: RESULTS / f"{name}.json" for name in RECIPES}
    return {
        name: json.loads(path.read_text(encoding="utf8"))
        for name, path in paths.items()
        if path.exists()
    }


def show(value: float | None) -> str:
    """A bound, or nothing."""
    return "" if value is None else f"{value:,.2f}"


def write_page(results: dict[str, dict[str, Any]]) -> None:
    """Write docs/results/recipes.md."""
    head = "recipe | data | bound | independent entries | steps | CPU s"
    rows = [
        [
            f"`{name}`",
            result["data"],
            f"{result['bound']:,.2f} ± {result['standard_error']:.2f}",
            show(result["independent_entries"]),
            f"{result['steps']:,}",
            f"{result['cpu_seconds']:.0f}",
        ]
        for name, result in results.items()
    ]
    lines = [
        "# What the recipes reach",
        "",
        paragraph(
            "`python reproductions/recipes.py` writes this page. Each recipe is trained once, with",
            "its usual settings, on one thread, and its bound is evaluated on the test part, in",
            "nats per example; ± is the standard error over the examples. The baseline models the",
            "entries as independent, with one distribution each; it is left empty where a recipe",
            "reports a score that is not a bound. The bounds of recipes for binary pixels, for",
            "pixels with 17 levels, and for real numbers cannot be compared with each other. The",
            "data come with scikit-learn: 1,797 digits of 8 x 8 pixels, and 569 rows of the table",
            "breast_cancer.",
        ),
        "",
        *table(head, rows),
        "",
        *describe_worse(results),
        describe_machines(result["machine"] for result in results.values()),
        "",
    ]
    (RESULTS.parent / "recipes.md").write_text("\n".join(lines), encoding="utf8")


def describe_worse(results: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence on the recipes whose bound is below that of independent entries."""
    worse = [
        f"`{name}`"
        for name, result in results.items()
        if result["independent_entries"] is not None
        and result["bound"] < result["independent_entries"]
    ]
    if not worse:
        return []
    sentence = "These recipes are below independent entries here, with so few examples or steps:"
    return [paragraph(sentence, f"{', '.join(worse)}."), ""]


def describe_data(result: dict[str, Any]) -> str:
    """The data as a recipe's help names them, with the treatment of pixels."""
    recipe, about = find_recipe(result["recipe"]), result["data"]
    if recipe.kind is None and about.startswith("digits"):
        kinds = {"binarize": "binary pixels", "as-is": "pixels as they are"}
        about += f", {kinds[recipe.pixels]}"
    return about.replace("digits", "the data set digits", 1)


def write_packaged(results: dict[str, dict[str, Any]]) -> None:
    """Write what the package says about its recipes, once all of them were run."""
    if missing := RECIPES.keys() - results:
        print(f"{PACKAGED} is as before; not run: {', '.join(sorted(missing))}", file=sys.stderr)
        return
    names = ("bound", "independent_entries")
    reached = {
        name: {"data": describe_data(result)}
        | {key: result[key] for key in names}
        | {"cpu_seconds": round(result["cpu_seconds"])}
        for name, result in results.items()
    }
    PACKAGED.write_text(json.dumps(reached, indent=1) + "\n", encoding="utf8")


def main() -> int:
    """Run what was asked for, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=RECIPES, default=[*RECIPES], metavar="RECIPE")
    parser.add_argument("--report", action="store_true", help="only write the page")
    parser.add_argument("--here", choices=RECIPES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    if asked.here:
        run(asked.here)
        return 0
    problems = []
    for name in [] if asked.report else asked.only:
        if (RESULTS / f"{name}.json").exists():
            print(f"{name} was run already", file=sys.stderr)
            continue
        print(name, file=sys.stderr, flush=True)
        paths = filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, "--here", name]
        if subprocess.run(command, env=environment, check=False).returncode:
            problems.append(name)
    results = read_results()
    write_page(results)
    write_packaged(results)
    if problems:
        print(f"These recipes failed: {', '.join(problems)}", file=sys.stderr)
    return min(1, len(problems))


if __name__ == "__main__":
    raise SystemExit(main())
