"""Writes docs/results/tables.md from the results of reproductions/tables.py."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from page_text import describe_machines, paragraph, read_results, table


def write_page(folder: Path, names: Iterable[str]) -> None:
    """Write the page from the results in a folder, as far as they are there."""
    done = read_results(folder, names)
    lines = [
        "# Tables: what the recipe and the estimators reach",
        "",
        paragraph(
            "`python reproductions/tables.py` writes this page. The settings are the usual ones,",
            "unless others are named.",
        ),
        "",
    ]
    if "miwae" in done or "miwae-notebook" in done:
        lines += [*_describe_miwae(done), ""]
    if "held-out" in done:
        lines += [*_describe_held_out(done["held-out"]["seeds"]), ""]
    # Each table has a file of its own, so the page shows those that are there.
    coverage = {
        path.stem: json.loads(path.read_text(encoding="utf8"))
        for path in sorted((folder / "coverage").glob("*.json"))
    }
    if coverage:
        lines += [
            "## Intervals from multiple imputation",
            "",
            paragraph(
                "A fifth of the entries are hidden, with ten masks. The intervals reach from the",
                "5% to the 95% quantile of 200 draws of each hidden entry, so they should cover",
                "90% of these entries. The table gives the share that they do cover, averaged over",
                "the masks, with the standard deviation between masks.",
            ),
            "",
            *table(
                "table | covered",
                (
                    [name, f"{np.mean(values):.1%} ± {np.std(values, ddof=1):.1%}"]
                    for name, values in coverage.items()
                ),
            ),
            "",
        ]
    if "outliers" in done:
        areas = done["outliers"]["area"]
        methods = list(dict.fromkeys(method for each in areas.values() for method in each))
        means = {
            method: np.mean([np.mean(each[method]) for each in areas.values() if method in each])
            for method in methods
        }
        lines += [
            "## Outliers",
            "",
            paragraph(
                "A tenth of the rows are from another class. The table gives the area under the",
                "receiver operating characteristic of the scores, averaged over three seeds.",
            ),
            "",
            *table(
                " | ".join(["table", "rows", *methods]),
                [
                    *(
                        [
                            name,
                            f"{done['outliers']['rows'][name]:,}",
                            *(f"{np.mean(each[method]):.3f}" for method in methods),
                        ]
                        for name, each in areas.items()
                    ),
                    ["mean", "", *(f"{means[method]:.3f}" for method in methods)],
                ],
            ),
            "",
        ]
    if "time" in done:
        found = done["time"]
        lines += [
            "## Time and memory",
            "",
            paragraph(
                "Training on a mixed table of 10,000 rows and 50 columns, a tenth of whose entries",
                f"are missing, takes {found['training_seconds']:.0f} s. The bound is",
                f"{found['bound']:.1f} nats, and that of independent columns is",
                f"{found['independent']:.1f}.",
            ),
            "",
        ]
    if "million" in done:
        found = done["million"]
        lines += [
            paragraph(
                "`lowerbound impute` reads a million rows of ten columns from a Parquet file and",
                f"writes the completed table in {found['seconds'] / 60:.1f} minutes, with at most",
                f"{found['peak_gigabytes']:.2f} GB of memory.",
            ),
            "",
        ]
    if "not-at-random" in done:
        lines += [*_describe_not_at_random(done["not-at-random"]["seeds"]), ""]
    if done:
        lines += [describe_machines(result["machine"] for result in done.values()), ""]
    (folder.parent / "tables.md").write_text("\n".join(lines), encoding="utf8")


def _describe_miwae(done: dict[str, Any]) -> list[str]:
    names = {"miwae": "usual", "miwae-notebook": "those of the notebook"}
    return [
        "## Half of breast_cancer is missing",
        "",
        paragraph(
            "This is the experiment of Mattei & Frellsen 2019: the 30 columns are standardised,",
            "and half of the entries are missing completely at random. The authors' notebook",
            "reports a bound of -5.24 nats and a mean squared error of imputations of 0.300 after",
            "601 epochs. As there, training maximises the IWAE bound with 20 draws. The bound in",
            "the table uses 50 draws, and is that of the observed entries of the training rows, so",
            "it also rewards memorising these rows. The usual settings reduce this effect by",
            "dropout and by hiding entries. The settings of the notebook are 601 epochs of batches",
            "of 64 rows, a learning rate of 0.001 and ReLU, without dropout or hidden entries. The",
            "second table has the bounds of rows that were not used in training.",
        ),
        "",
        *table(
            "settings | seed | bound, nats | error of imputations | training",
            (
                [
                    settings,
                    str(seed),
                    f"{row['bound']:.2f}",
                    f"{row['error']:.3f}",
                    f"{row['seconds']:.0f} s",
                ]
                for name, settings in names.items()
                if name in done
                for seed, row in enumerate(done[name]["seeds"])
            ),
        ),
    ]


def _describe_not_at_random(rows: list[dict[str, Any]]) -> list[str]:
    recipes = "table", "missing-not-at-random"
    return [
        "## Large values are missing more often",
        "",
        paragraph(
            "A table of 3,000 rows has eight columns of standard deviation 1, which share two",
            "factors. In four of them, the log odds that a value is missing rise by 1.5 for each",
            "unit of the value. The table gives the mean of these columns, and the mean squared",
            "error of the imputed values.",
        ),
        "",
        *table(
            "seed | true mean | mean of what is observed | "
            + " | ".join(f"`{name}`: mean, error" for name in recipes)
            + " | learned slopes",
            (
                [
                    str(seed),
                    f"{row['true']:.3f}",
                    f"{row['observed']:.3f}",
                    *(f"{row[name]['mean']:.3f}, {row[name]['error']:.2f}" for name in recipes),
                    ", ".join(f"{slope:.2f}" for slope in row["slopes"].values()),
                ]
                for seed, row in enumerate(rows)
            ),
        ),
    ]


def _describe_held_out(rows: list[dict[str, Any]]) -> list[str]:
    return [
        paragraph(
            "If the model is trained on four fifths of the rows, the remaining rows have these",
            "bounds and errors, with the usual dropout and without dropout:",
        ),
        "",
        *table(
            "seed | dropout | bound of the training rows | bound, 50 draws | 5,000 draws | error",
            (
                [
                    str(seed),
                    name,
                    f"{row[name]['bound_of_training_rows']:.2f}",
                    f"{row[name]['bound']:.2f}",
                    f"{row[name]['bound_5000']:.2f}",
                    f"{row[name]['error']:.3f}",
                ]
                for seed, row in enumerate(rows)
                for name in ("usual", "no dropout")
            ),
        ),
    ]
