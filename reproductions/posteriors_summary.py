"""What the results of reproductions/posteriors.py come to, for its page and its figures."""

from typing import Any

import numpy as np
from page_text import read_results
from posterior_data import PROBLEMS, RESULTS

FAMILIES = {
    "mean-field": "mean field",
    "full-rank": "full rank",
    "low-rank": "low rank, 3",
    "flow": "spline flow",
}
# The error of a mean that is wanted, in standard deviations of the reference.
WANTED_ERROR = 0.1

Results = dict[str, Any]


def read() -> tuple[dict[str, Results], dict[str, Results]]:
    """The references by problem, and the cells by problem/family, as far as they are there."""
    references = read_results(RESULTS / "reference", PROBLEMS)
    files = {f"{name}-{family}": f"{name}/{family}" for name in PROBLEMS for family in FAMILIES}
    found = read_results(RESULTS, files)
    return references, {files[name]: cell for name, cell in found.items()}


def largest_errors(cell: Results, where: str) -> list[float]:
    """For each seed, the largest error of a mean."""
    return [float(np.abs(seed[where]["errors"]).max()) for seed in cell["seeds"]]


def remainder(cell: Results, which: str) -> float:
    """What is left of means or variances: the largest over variables and seeds."""
    return max(float(np.abs(seed["left"][which]).max()) for seed in cell["seeds"])


def predicted(truth: Results) -> np.ndarray:
    """The standard deviations of mean field over those of the posterior, for a Gaussian posterior.

    They are 1 / sqrt(P_ii C_ii), with the reference's covariance C and precision P.
    """
    covariance = np.array(truth["covariance"])
    return 1 / np.sqrt(np.diag(np.linalg.inv(covariance)) * np.diag(covariance))


def ratios(cell: Results) -> np.ndarray:
    """The ratio of standard deviations by variable, averaged over seeds."""
    return np.mean([seed["unconstrained"]["ratios"] for seed in cell["seeds"]], 0)


def average(cell: Results, name: str) -> float:
    return float(np.mean([seed[name] for seed in cell["seeds"]]))


def span(values: Any, digits: int = 2) -> str:
    """The least and the largest value."""
    low, high = f"{np.min(values):.{digits}f}", f"{np.max(values):.{digits}f}"
    if low == high:
        return low
    return f"{low} to {high}"


def evidence_of(truth: Results) -> float:
    """The best independent estimate of log p(x)."""
    if "quadrature" in truth:
        return float(truth["quadrature"]["log_evidence"])
    return float(truth["evidence"]["bridge"])


def problems_of(cells: dict[str, Results], family: str) -> list[tuple[str, str]]:
    """Names and titles of the problems to which a family was fitted."""
    return [
        (name, problem.title) for name, problem in PROBLEMS.items() if f"{name}/{family}" in cells
    ]
