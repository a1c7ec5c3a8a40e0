"""Writes docs/results/imputation.md from the results of reproductions/imputation.py."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from page_text import item, paragraph, table

OURS = "lowerbound"
COMPARED = ("mean-mode", "knn", "iterative", "miceforest", "missforest")
TREES = ("miceforest", "missforest")
NAMES = {
    OURS: "lowerbound",
    "mean-mode": "mean, mode",
    "knn": "KNNImputer",
    "iterative": "IterativeImputer",
    "miceforest": "miceforest",
    "missforest": "missForest",
}
KINDS = {
    "real": "real",
    "pos": "positive",
    "count": "count",
    "cat": "categorical",
    "ordinal": "ordinal",
}

Cell = tuple[str, int]
Results = dict[tuple[str, int, int, str], dict[str, Any]]


def read(folder: Path) -> Results:
    """The results by table, share of missing entries, mask and method."""
    found = [json.loads(path.read_text(encoding="utf8")) for path in sorted(folder.glob("*.json"))]
    return {(each["table"], each["share"], each["mask"], each["method"]): each for each in found}


def average(results: Results) -> dict[Cell, dict[str, list[float]]]:
    """The errors of each table and share by method, one for each mask that all its methods have."""
    found: dict[Cell, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for (name, share, mask, method), result in results.items():
        found[name, share][method][mask] = result["error"]
    cells = {}
    for cell, methods in sorted(found.items()):
        masks = sorted(set.intersection(*(set(errors) for errors in methods.values())))
        if masks:
            cells[cell] = {
                method: [errors[mask] for mask in masks] for method, errors in methods.items()
            }
    return cells


def count_wins(cells: dict[Cell, dict[str, list[float]]], other: str) -> tuple[int, int]:
    """In how many cells our average error is at most that of another method, of how many."""
    compared = [errors for errors in cells.values() if OURS in errors and other in errors]
    wins = sum(np.mean(errors[OURS]) <= np.mean(errors[other]) for errors in compared)
    return int(wins), len(compared)


def describe(errors: list[float]) -> str:
    if len(errors) < 2:
        return f"{np.mean(errors):.4f}"
    return f"{np.mean(errors):.4f} ± {np.std(errors, ddof=1):.4f}"


def write_page(folder: Path) -> Path | None:
    """Write the page, unless there are no results."""
    results = read(folder)
    cells = average(results)
    if not cells:
        return None
    methods = [OURS, *(name for name in COMPARED if any(name in each for each in cells.values()))]
    rows = []
    for (name, share), errors in cells.items():
        means = {method: np.mean(errors[method]) for method in methods if method in errors}
        best = min(means.values())
        shown = [
            ("**{}**" if means[method] == best else "{}").format(describe(errors[method]))
            if method in errors
            else ""
            for method in methods
        ]
        rows.append([name, f"{share}%", *shown])
    lines = [
        "# Imputation of mixed tables",
        "",
        paragraph(
            "`python reproductions/imputation.py` writes this page. The tables and the masks are",
            "those of Nazábal et al. 2020: entries are missing completely at random. The error is",
            "also theirs, an average over the columns. For numbers, it is the root mean squared",
            "error divided by the range of the column; for categories, the share of wrong ones;",
            "for ordered categories, the mean absolute difference divided by the number of",
            "categories. Each value is the average over the masks that all methods of its row",
            "have, with the standard deviation between them if there are several; the smallest",
            "average in a row is bold. lowerbound is the",
            "recipe `table` with its default settings and the column types that come with the",
            "tables. *mean, mode* fills numbers with the mean, ordered categories with the",
            "median, and other categories with the most frequent one. KNNImputer and",
            "IterativeImputer get standardised numbers and one column for each category;",
            "IterativeImputer does not get the last category of a column, because it would compute",
            "it from the others. miceforest and missForest get ordered categories as numbers.",
            "missForest is the algorithm of Stekhoven & Bühlmann 2012, written in",
            "`reproductions/imputation.py` with scikit-learn's random forests. Cells that were not",
            "run are empty.",
        ),
        "",
        *table(" | ".join(["table", "missing", *(NAMES[each] for each in methods)]), rows),
        "",
        "In how many rows is the error of lowerbound at most that of the other method?",
        "",
    ]
    for other in methods[1:]:
        wins, total = count_wins(cells, other)
        lines.append(item(f"{NAMES[other]}: {wins} of {total}"))
    lines += ["", *describe_losses(results), ""]
    page = folder.parent / "imputation.md"
    page.write_text("\n".join(lines), encoding="utf8")
    return page


def describe_losses(results: Results) -> list[str]:
    """By type of column, how our errors compare with those of each other method."""
    by_kind: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for (name, share, mask, method), ours in results.items():
        if method != OURS or len(ours["columns"]) != len(ours["kinds"]):
            continue
        for other in COMPARED:
            theirs = results.get((name, share, mask, other))
            if theirs is None:
                continue
            pairs = zip(ours["kinds"], ours["columns"], theirs["columns"], strict=True)
            for kind, own, their in pairs:
                by_kind[other, kind].append((own, their))
    rows = [
        [
            NAMES[other],
            KINDS[kind],
            str(len(pairs)),
            f"{np.mean([own <= their for own, their in pairs]):.0%}",
            f"{np.mean([own for own, _ in pairs]):.4f}",
            f"{np.mean([their for _, their in pairs]):.4f}",
        ]
        for (other, kind), pairs in sorted(by_kind.items())
    ]
    return [
        paragraph(
            "The share of columns in which the error of lowerbound is at most that of the other",
            "method, by the type of the column:",
        ),
        "",
        *table("method | type | columns | share | error of lowerbound | error of the method", rows),
    ]
