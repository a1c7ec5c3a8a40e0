"""The figures of docs/results/posteriors.md."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from posterior_data import RESULTS
from posteriors_summary import FAMILIES, WANTED_ERROR, Results, predicted, problems_of, ratios

COLOURS = {
    "schools": "#1f6f8b",
    "schools-centred": "#d1495b",
    "logistic": "#edae49",
    "hierarchical": "#66a182",
}


def new_figure(width: float, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def save(figure: Figure, axes: Any, name: str) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(RESULTS / name, dpi=120)


def draw_factors(references: dict[str, Results], cells: dict[str, Results]) -> None:
    """Mean field's standard deviations, measured against predicted: a dot for each variable."""
    figure, axes = new_figure(5.2, 4.6)
    axes.plot([0, 1.2], [0, 1.2], color="#999999", linewidth=0.8, zorder=0)
    for problem, title in problems_of(cells, "mean-field"):
        found, expected = ratios(cells[f"{problem}/mean-field"]), predicted(references[problem])
        axes.scatter(
            expected, found, s=22, color=COLOURS[problem], label=title, alpha=0.8, linewidths=0
        )
    axes.set(
        xlim=(0, 1.1),
        ylim=(0, 1.1),
        aspect="equal",
        xlabel="sd of mean field / sd of the posterior, predicted",
        ylabel="measured",
    )
    save(figure, axes, "factors.png")


def draw_errors(cells: dict[str, Results]) -> None:
    """The errors of full rank's means, and of its resampled draws: every variable and seed.

    The centred schools are left out.
    """
    names = [entry for entry in problems_of(cells, "full-rank") if entry[0] != "schools-centred"]
    figure, axes = new_figure(7.2, 3.6)
    rng = np.random.default_rng(0)
    labels = {"unconstrained": "full rank", "resampled_unconstrained": "its draws, resampled"}
    for place, (problem, _) in enumerate(names):
        seeds = cells[f"{problem}/full-rank"]["seeds"]
        for shift, where, colour in (
            (-0.18, "unconstrained", "#1f6f8b"),
            (0.18, "resampled_unconstrained", "#edae49"),
        ):
            errors = np.concatenate([seed[where]["errors"] for seed in seeds])
            axes.scatter(
                place + shift + 0.1 * (rng.random(len(errors)) - 0.5),
                errors,
                s=12,
                color=colour,
                label=labels.pop(where, None),  # once, for the legend
                alpha=0.7,
                linewidths=0,
            )
    for side in (-WANTED_ERROR, WANTED_ERROR):
        axes.axhline(side, color="#999999", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(names)), [title.replace(", ", ",\n") for _, title in names])
    axes.set(ylabel="error of the mean, in posterior sd", ylim=(-0.16, 0.16))
    save(figure, axes, "errors.png")


def draw_spread(cells: dict[str, Results]) -> None:
    """The logarithm of the schools' spread, by the reference and three families.

    No Gaussian fits this variable.
    """
    figure, axes = new_figure(6.4, 3.6)
    reference = np.load(RESULTS / "reference" / "schools.npz")["draws"][:, 1]
    edges = np.arange(-8.0, 5.01, 0.25)
    axes.hist(reference, edges[::2], density=True, color="#d8d8d8", label="NUTS")
    for family, colour in (
        ("mean-field", "#d1495b"),
        ("full-rank", "#1f6f8b"),
        ("flow", "#66a182"),
    ):
        if cell := cells.get(f"schools/{family}"):
            density = np.mean([seed["log_spread"] for seed in cell["seeds"]], 0)
            axes.plot((edges[1:] + edges[:-1]) / 2, density, color=colour, label=FAMILIES[family])
    axes.set(xlim=(-6, 5), xlabel="log spread, eight schools, non-centred", ylabel="density")
    save(figure, axes, "spread.png")
