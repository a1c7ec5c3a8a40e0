"""docs/results/posteriors.md and its pictures, from the figures that reproductions/posteriors.py measured."""

import json
from typing import Any

import numpy as np
from posterior_data import PROBLEMS, RESULTS

WANTED_ERROR = 0.1
WANTED_DENSITIES = 1e-5
WANTED_R_HAT = 1.005
WANTED_FACTOR = 0.05
WANTED_EVIDENCE = 0.05
NEAR_GAUSSIAN = ("logistic", "hierarchical")
COLOURS = {"schools": "#1f6f8b", "schools-centred": "#d1495b", "logistic": "#edae49", "hierarchical": "#66a182"}
FAMILIES = {"mean-field": "mean field", "full-rank": "full rank", "low-rank": "low rank, 3", "flow": "spline flow"}

Figures = dict[str, Any]


def read() -> tuple[dict[str, Figures], dict[str, Figures]]:
    """The references by problem, and the cells by problem/family, that are there."""
    references = {name: RESULTS / "reference" / f"{name}.json" for name in PROBLEMS}
    cells = {f"{name}/{family}": RESULTS / f"{name}-{family}.json" for name in PROBLEMS for family in FAMILIES}
    return tuple(  # type: ignore[return-value]
        {name: json.loads(path.read_text(encoding="utf8")) for name, path in paths.items() if path.exists()}
        for paths in (references, cells)
    )


def worst(cell: Figures, where: str) -> list[float]:
    """For each seed, the largest error of a mean."""
    return [float(np.abs(seed[where]["errors"]).max()) for seed in cell["seeds"]]


def left(cell: Figures, which: str) -> float:
    """What is left of means or variances, the largest over variables and seeds."""
    return max(float(np.abs(seed["left"][which]).max()) for seed in cell["seeds"])


def predicted(truth: Figures) -> np.ndarray:
    """The ratio of standard deviations of mean field on a Gaussian with the reference's covariance: 1 / sqrt(P_ii C_ii)."""
    covariance = np.array(truth["covariance"])
    return 1 / np.sqrt(np.diag(np.linalg.inv(covariance)) * np.diag(covariance))


def ratios(cell: Figures) -> np.ndarray:
    """The ratio of standard deviations by variable, averaged over seeds."""
    return np.mean([seed["unconstrained"]["ratios"] for seed in cell["seeds"]], 0)


def average(cell: Figures, name: str) -> float:
    return float(np.mean([seed[name] for seed in cell["seeds"]]))


def span(values: Any, digits: int = 2) -> str:
    """The least and the largest."""
    low, high = f"{np.min(values):.{digits}f}", f"{np.max(values):.{digits}f}"
    return low if low == high else f"{low} to {high}"


def evidence_of(truth: Figures) -> float:
    """The best independent figure of log p(x)."""
    exact = truth.get("quadrature", {}).get("log_evidence")
    return float(truth["evidence"]["bridge"] if exact is None else exact)


def verdicts(references: dict[str, Figures], cells: dict[str, Figures]) -> list[str]:
    """A row for each check: what was found, what was wanted, whether it holds."""
    rows = []

    def check(name: str, found: str, wanted: str, holds: bool) -> None:
        rows.append(f"| {name} | {found} | {wanted} | {'holds' if holds else '**does not hold**'} |")

    apart = max(cell["densities_apart"] for cell in cells.values())
    check("log densities in torch and in NumPyro, largest relative difference", f"{apart:.1g}", f"below {WANTED_DENSITIES:g}", apart < WANTED_DENSITIES)  # fmt: skip
    r_hat = max(max(truth["unconstrained"]["r_hat"]) for truth in references.values())
    check("sampler: largest R-hat", f"{r_hat:.4f}", f"below {WANTED_R_HAT:g}", r_hat < WANTED_R_HAT)
    if truth := references.get("schools"):
        exact, unconstrained = truth["quadrature"], truth["unconstrained"]
        off = np.abs(np.subtract(unconstrained["mean"], exact["mean"])) / exact["sd"]
        errors = float((off * np.sqrt(unconstrained["effective"])).max())
        check("sampler: eight schools against quadrature, largest error of a mean", f"{off.max():.4f} sd, {errors:.1f} standard errors", "below 4 standard errors", errors < 4)  # fmt: skip
    for problem, title in problems_of(cells, "full-rank"):
        cell = cells[f"{problem}/full-rank"]
        for where, coordinates in (("unconstrained", "unconstrained"), ("original", "original")):
            found = worst(cell, where)
            check(f"full rank, {title}: largest error of a mean, {coordinates} coordinates", f"{span(found, 3)} sd", f"below {WANTED_ERROR:g} sd", max(found) < WANTED_ERROR)  # fmt: skip
    for problem, title in problems_of(cells, "mean-field"):
        off = np.abs(ratios(cells[f"{problem}/mean-field"]) / predicted(references[problem]) - 1)
        check(f"mean field, {title}: standard deviations against theory, largest relative difference", f"{off.max():.3f}", f"below {WANTED_FACTOR:g}" + ("" if problem in NEAR_GAUSSIAN else " on a Gaussian, which this is not"), bool(off.max() < WANTED_FACTOR))  # fmt: skip
    for problem, title in problems_of(cells, "full-rank"):
        cell = cells[f"{problem}/full-rank"]
        errors = [seed["log_likelihood"] - evidence_of(references[problem]) for seed in cell["seeds"]]
        doubtful = [seed["warning"] is not None for seed in cell["seeds"]]
        if problem == "schools-centred":
            k_hat = [seed["pareto_k"] for seed in cell["seeds"]]
            check(f"full rank, {title}: is called bad", f"k-hat {span(k_hat)}, a warning in {sum(doubtful)} of {len(doubtful)} fits", "a warning in all", all(doubtful))  # fmt: skip
        else:
            check(f"full rank, {title}: log p(x) minus the independent figure", f"{span(errors, 3)} nat", f"within {WANTED_EVIDENCE:g}", max(map(abs, errors)) < WANTED_EVIDENCE)  # fmt: skip
    return rows


def problems_of(cells: dict[str, Figures], family: str) -> list[tuple[str, str]]:
    return [(name, problem.title) for name, problem in PROBLEMS.items() if f"{name}/{family}" in cells]


def reference_rows(references: dict[str, Figures]) -> list[str]:
    rows = []
    for name, truth in references.items():
        found, evidence = truth["unconstrained"], truth["evidence"]
        exact = f"{truth['quadrature']['log_evidence']:.4f}" if "quadrature" in truth else ""
        rows.append(
            f"| {PROBLEMS[name].title} | {len(found['mean'])} | {max(found['r_hat']):.4f} | {min(found['effective']):,.0f} | "
            f"{truth['divergences']} | {evidence['bridge']:.4f} ± {evidence['bridge_error']:.4f} | "
            f"{evidence['student']:.4f} ± {evidence['student_error']:.4f} | {exact} |"
        )
    return rows


def fit_rows(cells: dict[str, Figures]) -> list[str]:
    rows = []
    for name, cell in cells.items():
        problem, family = name.split("/")
        seeds = cell["seeds"]
        rows.append(
            f"| {PROBLEMS[problem].title} | {FAMILIES[family]} | {span(worst(cell, 'unconstrained'))} | {span(worst(cell, 'original'))} | "
            f"{left(cell, 'mean_steps'):.3f} | {span(ratios(cell))} | {left(cell, 'variance_steps'):.3f} | "
            f"{span(worst(cell, 'resampled_unconstrained'))} | {span(worst(cell, 'resampled_original'))} | "
            f"{span(np.mean([seed['resampled_unconstrained']['ratios'] for seed in seeds], 0))} | {average(cell, 'seconds'):.0f} s |"
        )
    return rows


def evidence_rows(references: dict[str, Figures], cells: dict[str, Figures]) -> list[str]:
    rows = []
    for name, cell in cells.items():
        problem, family = name.split("/")
        truth, seeds = evidence_of(references[problem]), cell["seeds"]
        errors = [seed["log_likelihood"] - truth for seed in seeds]
        share = average(cell, "effective") / cell["likelihood_samples"]
        doubtful = sum(seed["warning"] is not None for seed in seeds)
        rows.append(
            f"| {PROBLEMS[problem].title} | {FAMILIES[family]} | {average(cell, 'elbo') - truth:.3f} | {span(errors, 3)} | "
            f"{max(seed['log_likelihood_error'] for seed in seeds):.3f} | {span([seed['pareto_k'] for seed in seeds])} | {share:.1%} | "
            f"{doubtful} of {len(seeds)} |"
        )
    return rows


def new_figure(width: float, height: float, columns: int) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def draw_factors(references: dict[str, Figures], cells: dict[str, Figures]) -> None:
    """Mean field's standard deviations, measured against predicted: a dot for each variable."""
    figure, (axes,) = new_figure(5.2, 4.6, 1)
    axes.plot([0, 1.2], [0, 1.2], color="#999999", linewidth=0.8, zorder=0)
    for problem, title in problems_of(cells, "mean-field"):
        found, expected = ratios(cells[f"{problem}/mean-field"]), predicted(references[problem])
        axes.scatter(expected, found, s=22, color=COLOURS[problem], label=title, alpha=0.8, linewidths=0)
    axes.set(
        xlim=(0, 1.1), ylim=(0, 1.1), aspect="equal",
        xlabel="sd of mean field / sd of the posterior, predicted", ylabel="measured",
    )  # fmt: skip
    finish(figure, axes, "factors.png")


def draw_errors(cells: dict[str, Figures]) -> None:
    """The errors of means of full rank, and what is left of them after resampling: every variable and seed."""
    names = problems_of(cells, "full-rank")
    figure, (axes,) = new_figure(7.2, 3.6, 1)
    rng = np.random.default_rng(0)
    for place, (problem, _) in enumerate(names):
        seeds = cells[f"{problem}/full-rank"]["seeds"]
        for shift, where, colour in ((-0.18, "unconstrained", "#1f6f8b"), (0.18, "resampled_unconstrained", "#edae49")):
            errors = np.concatenate([seed[where]["errors"] for seed in seeds])
            label = {-0.18: "full rank", 0.18: "its draws, resampled"}[shift] if not place else None
            axes.scatter(place + shift + 0.1 * (rng.random(len(errors)) - 0.5), errors, s=12, color=colour, label=label, alpha=0.7, linewidths=0)  # fmt: skip
    for side in (-WANTED_ERROR, WANTED_ERROR):
        axes.axhline(side, color="#999999", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(names)), [title.replace(", ", ",\n") for _, title in names])
    axes.set(ylabel="error of the mean, in posterior sd")
    finish(figure, axes, "errors.png")


def finish(figure: Any, axes: Any, name: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(RESULTS / name, dpi=120)


def write_page() -> None:
    """The page, from what is there."""
    references, cells = read()
    if not cells:
        return
    draw_factors(references, cells)
    draw_errors(cells)
    (RESULTS.parent / "posteriors.md").write_text("\n".join(page(references, cells)) + "\n", encoding="utf8")


def page(references: dict[str, Figures], cells: dict[str, Figures]) -> list[str]:
    """The lines of the page."""
    return ["# Posteriors of log joints against long runs of NUTS", "", *verdicts(references, cells)]
