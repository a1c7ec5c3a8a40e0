"""The checks of docs/results/posteriors.md: what was found, what was wanted, the verdict."""

import numpy as np
from page_text import verdict
from posteriors_summary import (
    WANTED_ERROR,
    Results,
    evidence_of,
    largest_errors,
    predicted,
    problems_of,
    ratios,
    remainder,
    span,
)

WANTED_DENSITIES = 1e-5
WANTED_R_HAT = 1.005
WANTED_FACTOR = 0.05
WANTED_EVIDENCE = 0.05

Row = list[str]


def checks(references: dict[str, Results], cells: dict[str, Results]) -> list[Row]:
    """A row for each check."""
    rows = [check_densities(cells), check_r_hat(references)]
    if "schools" in references:
        rows.append(check_sampler(references["schools"]))
    for problem, title in problems_of(cells, "full-rank"):
        for where in ("unconstrained", "original"):
            rows.append(check_means(cells[f"{problem}/full-rank"], title, where))
    for problem, title in problems_of(cells, "mean-field"):
        rows += check_mean_field(cells[f"{problem}/mean-field"], references[problem], title)
    for problem, title in problems_of(cells, "full-rank"):
        cell = cells[f"{problem}/full-rank"]
        if problem == "schools-centred":
            rows.append(check_warnings(cell, title))
        else:
            rows.append(check_evidence(cell, references[problem], title))
    return rows


def check_densities(cells: dict[str, Results]) -> Row:
    apart = max(cell["densities_apart"] for cell in cells.values())
    return [
        "log densities in torch and in NumPyro, largest relative difference",
        f"{apart:.1g}",
        f"below {WANTED_DENSITIES:g}",
        verdict(apart < WANTED_DENSITIES),
    ]


def check_r_hat(references: dict[str, Results]) -> Row:
    r_hat = max(max(truth["unconstrained"]["r_hat"]) for truth in references.values())
    return [
        "sampler: largest R-hat",
        f"{r_hat:.4f}",
        f"below {WANTED_R_HAT:g}",
        verdict(r_hat < WANTED_R_HAT),
    ]


def check_sampler(truth: Results) -> Row:
    exact, found = truth["quadrature"], truth["unconstrained"]
    off = np.abs(np.subtract(found["mean"], exact["mean"])) / exact["sd"]
    errors = float((off * np.sqrt(found["effective"])).max())
    return [
        "sampler: eight schools compared with quadrature, largest error of a mean",
        f"{off.max():.4f} sd, {errors:.1f} standard errors",
        "below 4 standard errors",
        verdict(errors < 4),
    ]


def check_means(cell: Results, title: str, where: str) -> Row:
    found = largest_errors(cell, where)
    return [
        f"full rank, {title}: largest error of a mean, {where} coordinates",
        f"{span(found, 3)} sd",
        f"below {WANTED_ERROR:g} sd",
        verdict(max(found) < WANTED_ERROR),
    ]


def check_mean_field(cell: Results, truth: Results, title: str) -> list[Row]:
    off = np.abs(ratios(cell) / predicted(truth) - 1)
    left = remainder(cell, "variance_steps")
    return [
        [
            f"mean field, {title}: sd compared with theory for a Gaussian posterior, largest "
            "relative difference",
            f"{off.max():.3f}; {(off < WANTED_FACTOR).sum()} of {len(off)} variables within "
            f"{WANTED_FACTOR:g}",
            f"below {WANTED_FACTOR:g}",
            verdict(bool(off.max() < WANTED_FACTOR)),
        ],
        [
            f"mean field, {title}: variances compared with theory for any posterior, largest "
            "relative difference",
            f"{left:.3f}",
            f"below {WANTED_FACTOR:g}",
            verdict(left < WANTED_FACTOR),
        ],
    ]


def check_warnings(cell: Results, title: str) -> Row:
    warned = [seed["warning"] is not None for seed in cell["seeds"]]
    return [
        f"full rank, {title}: is called bad",
        f"k-hat {span([seed['pareto_k'] for seed in cell['seeds']])}, a warning in {sum(warned)} "
        f"of {len(warned)} fits",
        "a warning in all",
        verdict(all(warned)),
    ]


def check_evidence(cell: Results, truth: Results, title: str) -> Row:
    errors = [seed["log_likelihood"] - evidence_of(truth) for seed in cell["seeds"]]
    return [
        f"full rank, {title}: log p(x) minus the independent estimate",
        f"{span(errors, 3)} nat",
        f"within {WANTED_EVIDENCE:g}",
        verdict(max(map(abs, errors)) < WANTED_EVIDENCE),
    ]
