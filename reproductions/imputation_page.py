"""Writes docs/results/imputation.md from the results of reproductions/imputation.py."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from page_text import item, paragraph, table

OURS = "lowerbound"
COMPARED = (
    "mean-mode",
    "knn",
    "iterative",
    "miceforest",
    "miceforest-predictions",
    "missforest",
)
NAMES = {
    OURS: "lowerbound",
    "mean-mode": "mean, mode",
    "knn": "KNNImputer",
    "iterative": "IterativeImputer",
    "miceforest": "miceforest",
    "miceforest-predictions": "miceforest, predictions",
    "missforest": "missForest",
}
KINDS = {
    "real": "real",
    "pos": "positive",
    "count": "count",
    "cat": "categorical",
    "ordinal": "ordinal",
}

Row = tuple[str, int]
Results = dict[tuple[str, int, int, str], dict[str, Any]]


def read(folder: Path) -> Results:
    """The results by table, share of missing entries, mask and method."""
    found = [json.loads(path.read_text(encoding="utf8")) for path in sorted(folder.glob("*.json"))]
    return {(each["table"], each["share"], each["mask"], each["method"]): each for each in found}


def list_rows(results: Results) -> dict[Row, dict[str, list[float]]]:
    """The errors of each table and share by method, one for each mask."""
    rows: dict[Row, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (name, share, _, method), result in sorted(results.items()):
        rows[name, share][method].append(result["error"])
    return rows


def compare(results: Results, other: str) -> list[tuple[str, float, float]]:
    """Our error and that of another method for each table, share and mask that both have."""
    return [
        (f"{name} {share}%, mask {mask}", ours["error"], theirs["error"])
        for (name, share, mask, method), ours in sorted(results.items())
        if method == OURS and (theirs := results.get((name, share, mask, other))) is not None
    ]


def describe(errors: list[float], most: int) -> str:
    """The average and the standard deviation of errors, and their number if it is below most."""
    text = f"{np.mean(errors):.4f}"
    if len(errors) > 1:
        text += f" ± {np.std(errors, ddof=1):.4f}"
    if len(errors) < most:
        text += f" ({len(errors)})"
    return text


def write_page(folder: Path) -> Path | None:
    """Write the page, unless there are no results."""
    results = read(folder)
    if not results:
        return None
    present = {method for *_, method in results}
    methods = [OURS, *(name for name in COMPARED if name in present)]
    rows = []
    for (name, share), errors in list_rows(results).items():
        best = min(np.mean(each) for each in errors.values())
        most = max(map(len, errors.values()))
        shown = []
        for method in methods:
            text = describe(errors[method], most) if method in errors else ""
            if text and np.mean(errors[method]) == best:
                text = f"**{text}**"
            shown.append(text)
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
            "categories. Each value is the average over three masks, with the standard deviation",
            "between them. If there are fewer masks, their number is in brackets. The smallest",
            "average in a row is bold. lowerbound is the recipe `table` with its default settings",
            "and the column types that come with the tables. *mean, mode* fills numbers with the",
            "mean, ordered categories with the median, and other categories with the most",
            "frequent one. KNNImputer and IterativeImputer get standardised numbers and one",
            "column for each category; IterativeImputer does not get the last category of a",
            "column, because the others determine it. miceforest and missForest get ordered",
            "categories as numbers. By default, miceforest draws each value from those of similar",
            "rows; *miceforest, predictions* fills in the predictions of its forests, which have",
            "smaller errors. The default fails on Adult and defaultCredit, where some categories",
            "are predicted with certainty. missForest is the algorithm of Stekhoven & Bühlmann",
            "2012, written in `reproductions/imputation.py` with scikit-learn's random forests.",
            "Where another value is absent, the method was not run.",
        ),
        "",
        *table(" | ".join(["table", "missing", *(NAMES[each] for each in methods)]), rows),
        "",
        paragraph(
            "A *cell* is one table with one mask. In how many cells is the error of lowerbound at",
            "most that of the other method? The other cells are listed with both errors, that of",
            "lowerbound first.",
        ),
        "",
    ]
    for other in methods[1:]:
        pairs = compare(results, other)
        lost = [f"{cell} ({ours:.4f}, {their:.4f})" for cell, ours, their in pairs if ours > their]
        text = f"{NAMES[other]}: {len(pairs) - len(lost)} of {len(pairs)}"
        if lost:
            text += f"; not in {', '.join(lost)}"
        lines.append(item(text))
    lines += ["", paragraph(describe_lost_cells(results, methods[1:])), ""]
    lines += [*describe_types(results), ""]
    page = folder.parent / "imputation.md"
    page.write_text("\n".join(lines), encoding="utf8")
    return page


def describe_lost_cells(results: Results, others: list[str]) -> str:
    """Describe the cells in which another method has a smaller error than lowerbound."""
    shares = {
        key[1]
        for key, ours in results.items()
        if key[-1] == OURS
        and any(
            (theirs := results.get((*key[:-1], other))) is not None
            and ours["error"] > theirs["error"]
            for other in others
        )
    }
    if not shares:
        return "In all cells, lowerbound has the smallest error."
    text = f"In all cells with more than {max(shares)}% missing, lowerbound has the smallest error."
    if max(shares) < max(share for _, share, *_ in results):
        text += (
            " In the cells listed above, most other entries of a row are known. Some columns are"
            " then almost determined by a few others, such as the bills of consecutive months in"
            " defaultCredit, or rows have near neighbours, as in letter. Trees and neighbours use"
            " this directly, while in lowerbound all that the columns share has to pass through"
            " the latents. With fewer known entries, it matters more to combine all of them."
        )
    return text


def describe_types(results: Results) -> list[str]:
    """Compare our errors with those of each other method, by the type of the column."""
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
            "method, and the average errors, by the type of the column. A column counts once for",
            "each cell.",
        ),
        "",
        *table("method | type | columns | share | error of lowerbound | error of the method", rows),
    ]
