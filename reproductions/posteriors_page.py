"""docs/results/posteriors.md and its pictures, from the figures that reproductions/posteriors.py
measured."""

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
COLOURS = {
    "schools": "#1f6f8b",
    "schools-centred": "#d1495b",
    "logistic": "#edae49",
    "hierarchical": "#66a182",
}
FAMILIES = {
    "mean-field": "mean field",
    "full-rank": "full rank",
    "low-rank": "low rank, 3",
    "flow": "spline flow",
}

Figures = dict[str, Any]


def read() -> tuple[dict[str, Figures], dict[str, Figures]]:
    """The references by problem, and the cells by problem/family, that are there."""
    references = {name: RESULTS / "reference" / f"{name}.json" for name in PROBLEMS}
    cells = {
        f"{name}/{family}": RESULTS / f"{name}-{family}.json"
        for name in PROBLEMS
        for family in FAMILIES
    }
    return tuple(  # type: ignore[return-value]
        {
            name: json.loads(path.read_text(encoding="utf8"))
            for name, path in paths.items()
            if path.exists()
        }
        for paths in (references, cells)
    )


def worst(cell: Figures, where: str) -> list[float]:
    """For each seed, the largest error of a mean."""
    return [float(np.abs(seed[where]["errors"]).max()) for seed in cell["seeds"]]


def left(cell: Figures, which: str) -> float:
    """What is left of means or variances, the largest over variables and seeds."""
    return max(float(np.abs(seed["left"][which]).max()) for seed in cell["seeds"])


def predicted(truth: Figures) -> np.ndarray:
    """The ratio of standard deviations of mean field on a Gaussian with the reference's covariance:
    1 / sqrt(P_ii C_ii)."""
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
        rows.append(
            f"| {name} | {found} | {wanted} | {'holds' if holds else '**does not hold**'} |"
        )

    apart = max(cell["densities_apart"] for cell in cells.values())
    check(
        "log densities in torch and in NumPyro, largest relative difference",
        f"{apart:.1g}",
        f"below {WANTED_DENSITIES:g}",
        apart < WANTED_DENSITIES,
    )
    r_hat = max(max(truth["unconstrained"]["r_hat"]) for truth in references.values())
    check("sampler: largest R-hat", f"{r_hat:.4f}", f"below {WANTED_R_HAT:g}", r_hat < WANTED_R_HAT)
    if truth := references.get("schools"):
        exact, unconstrained = truth["quadrature"], truth["unconstrained"]
        off = np.abs(np.subtract(unconstrained["mean"], exact["mean"])) / exact["sd"]
        errors = float((off * np.sqrt(unconstrained["effective"])).max())
        check(
            "sampler: eight schools against quadrature, largest error of a mean",
            f"{off.max():.4f} sd, {errors:.1f} standard errors",
            "below 4 standard errors",
            errors < 4,
        )
    for problem, title in problems_of(cells, "full-rank"):
        cell = cells[f"{problem}/full-rank"]
        for where, coordinates in (("unconstrained", "unconstrained"), ("original", "original")):
            found = worst(cell, where)
            check(
                f"full rank, {title}: largest error of a mean, {coordinates} coordinates",
                f"{span(found, 3)} sd",
                f"below {WANTED_ERROR:g} sd",
                max(found) < WANTED_ERROR,
            )
    for problem, title in problems_of(cells, "mean-field"):
        cell = cells[f"{problem}/mean-field"]
        off = np.abs(ratios(cell) / predicted(references[problem]) - 1)
        within = f"{(off < WANTED_FACTOR).sum()} of {len(off)} variables within {WANTED_FACTOR:g}"
        check(
            f"mean field, {title}: sd against theory for a Gaussian posterior, largest relative "
            "difference",
            f"{off.max():.3f}; {within}",
            f"below {WANTED_FACTOR:g}",
            bool(off.max() < WANTED_FACTOR),
        )
        found = left(cell, "variance_steps")
        check(
            f"mean field, {title}: variances against theory for any posterior, largest relative "
            "difference",
            f"{found:.3f}",
            f"below {WANTED_FACTOR:g}",
            found < WANTED_FACTOR,
        )
    for problem, title in problems_of(cells, "full-rank"):
        cell = cells[f"{problem}/full-rank"]
        errors = [
            seed["log_likelihood"] - evidence_of(references[problem]) for seed in cell["seeds"]
        ]
        doubtful = [seed["warning"] is not None for seed in cell["seeds"]]
        if problem == "schools-centred":
            k_hat = [seed["pareto_k"] for seed in cell["seeds"]]
            check(
                f"full rank, {title}: is called bad",
                f"k-hat {span(k_hat)}, a warning in {sum(doubtful)} of {len(doubtful)} fits",
                "a warning in all",
                all(doubtful),
            )
        else:
            check(
                f"full rank, {title}: log p(x) minus the independent figure",
                f"{span(errors, 3)} nat",
                f"within {WANTED_EVIDENCE:g}",
                max(map(abs, errors)) < WANTED_EVIDENCE,
            )
    return rows


def problems_of(cells: dict[str, Figures], family: str) -> list[tuple[str, str]]:
    return [
        (name, problem.title) for name, problem in PROBLEMS.items() if f"{name}/{family}" in cells
    ]


def reference_rows(references: dict[str, Figures]) -> list[str]:
    rows = []
    for name, truth in references.items():
        found, evidence = truth["unconstrained"], truth["evidence"]
        exact = f"{truth['quadrature']['log_evidence']:.4f}" if "quadrature" in truth else ""
        rows.append(
            f"| {PROBLEMS[name].title} | {len(found['mean'])} | {max(found['r_hat']):.4f} | "
            f"{min(found['effective']):,.0f} | "
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
            f"| {PROBLEMS[problem].title} | {FAMILIES[family]} | "
            f"{span(worst(cell, 'unconstrained'))} | {span(worst(cell, 'original'))} | "
            f"{left(cell, 'mean_steps'):.3f} | {span(ratios(cell))} | "
            f"{left(cell, 'variance_steps'):.3f} | "
            f"{span(worst(cell, 'resampled_unconstrained'))} | "
            f"{span(worst(cell, 'resampled_original'))} | "
            f"{span(np.mean([seed['resampled_unconstrained']['ratios'] for seed in seeds], 0))} | "
            f"{average(cell, 'seconds'):.0f} s |"
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
            f"| {PROBLEMS[problem].title} | {FAMILIES[family]} | "
            f"{average(cell, 'elbo') - truth:.3f} | {span(errors, 3)} | "
            f"{max(seed['log_likelihood_error'] for seed in seeds):.3f} | "
            f"{span([seed['pareto_k'] for seed in seeds])} | {share:.1%} | "
            f"{doubtful} of {len(seeds)} | "
            f"{', '.join(sorted({seed['verdict'] for seed in seeds}))} |"
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
    finish(figure, axes, "factors.png")


def draw_errors(cells: dict[str, Figures]) -> None:
    """The errors of means of full rank, and what is left of them after resampling: every variable
    and seed, but for the centred schools."""
    names = [
        (problem, title)
        for problem, title in problems_of(cells, "full-rank")
        if problem != "schools-centred"
    ]
    figure, (axes,) = new_figure(7.2, 3.6, 1)
    rng = np.random.default_rng(0)
    for place, (problem, _) in enumerate(names):
        seeds = cells[f"{problem}/full-rank"]["seeds"]
        for shift, where, colour in (
            (-0.18, "unconstrained", "#1f6f8b"),
            (0.18, "resampled_unconstrained", "#edae49"),
        ):
            errors = np.concatenate([seed[where]["errors"] for seed in seeds])
            label = {-0.18: "full rank", 0.18: "its draws, resampled"}[shift] if not place else None
            axes.scatter(
                place + shift + 0.1 * (rng.random(len(errors)) - 0.5),
                errors,
                s=12,
                color=colour,
                label=label,
                alpha=0.7,
                linewidths=0,
            )
    for side in (-WANTED_ERROR, WANTED_ERROR):
        axes.axhline(side, color="#999999", linewidth=0.8, zorder=0)
    axes.set_xticks(range(len(names)), [title.replace(", ", ",\n") for _, title in names])
    axes.set(ylabel="error of the mean, in posterior sd", ylim=(-0.16, 0.16))
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
    draw_spread(cells)
    (RESULTS.parent / "posteriors.md").write_text(
        "\n".join(page(references, cells)) + "\n", encoding="utf8"
    )


def page(references: dict[str, Figures], cells: dict[str, Figures]) -> list[str]:
    """The lines of the page."""
    truth = next(iter(references.values()))
    cell = cells.get("logistic/full-rank") or next(iter(cells.values()))
    return [
        "# Posteriors of log joints against long runs of NUTS",
        "",
        f"Written by `python reproductions/posteriors.py`. The reference is {truth['sampler']}: "
        f"{truth['chains']} chains of "
        f"{truth['draws']:,} draws after {truth['warmup']:,} of warm-up, in float64 (`make "
        "reference`, "
        "`reproductions/reference_draws.py`). Each model is written twice, for torch and for "
        "NumPyro, and both log densities are compared "
        f"at {len(truth['points'])} points. The sampler's summaries and thinned draws are in "
        "`posteriors/reference`. All "
        "errors of means are in standard deviations (sd) of the reference; a range is over seeds "
        "or over variables, as said.",
        "",
        "- *Eight schools* (Rubin 1981): mean ~ N(0, 5), spread ~ half-Cauchy(5). Non-centred (the "
        "unknowns are standardised effects) "
        "and centred (the effects themselves, which have a funnel).",
        "- *Logistic regression*: 569 tumours, 30 standardised columns (Wolberg, Mangasarian & "
        "Street 1993), priors N(0, 1).",
        "- *Hierarchical regression*: log investment of 11 firms in 20 years on log value and log "
        "capital (Grunfeld 1958), standardised; each "
        "firm has a level and a slope of its own.",
        "",
        f"Every fit begins with `model.start()` and stops by itself, `lb.fit(..., "
        f"tolerance={cell['settings']['tolerance']:g})`, with "
        f"{cell['samples']} draws a step and the gradient {cell['gradient']!r}; the flow takes a "
        "fixed number of steps. Nothing was tuned for one problem. Each fit was made with 3 seeds.",
        "",
        "| check | found | wanted | verdict |",
        "|---|---|---|---|",
        *verdicts(references, cells),
        "",
        *reasons(references, cells),
        "## The reference",
        "",
        "The evidence log p(x), in nats, is found without lowerbound: by bridge sampling between "
        "the draws and a Gaussian fitted to those of other "
        "chains (Meng & Wong 1996), by importance sampling from a Student-t fitted to the draws, "
        "and for eight schools by quadrature "
        "over the spread, given which all else is Gaussian. The centred draws are the non-centred "
        "ones in other coordinates.",
        "",
        "| posterior | unknowns | largest R-hat | least effective draws | divergences | bridge | "
        "Student-t | quadrature |",
        "|---|---|---|---|---|---|---|---|",
        *reference_rows(references),
        "",
        "## The fits",
        "",
        "Errors are the largest over variables, their range is over seeds; ratios are of sd, their "
        "range is over variables. *Left* is how far "
        "the fit is from the best q of its family, to first order: the Newton step that is left "
        "for a mean, in sd, and the part by which a variance is "
        "off, each the largest over variables and seeds, and each an estimate whose own error is "
        "in the JSON. Both vanish at the optimum of any of "
        "these families, whatever the posterior. An error well above what is left is the family's. "
        "*Resampled* draws are "
        "`posterior_sample(n, resample=True)`. Times are on a machine that other work shared.",
        "",
        "| posterior | family | error, unconstrained | error, original | left of means | sd ratio "
        "| left of variances | "
        "resampled: error, unconstrained | error, original | sd ratio | time |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *fit_rows(cells),
        "",
        "![errors of means](posteriors/errors.png)",
        "",
        "*Full rank, unconstrained coordinates: every variable and seed. The lines are at 0.1 sd. "
        "The centred schools are far outside.*",
        "",
        "![the spread of eight schools](posteriors/spread.png)",
        "",
        "*The logarithm of the spread has a long tail to the left, where the schools are alike. No "
        "Gaussian has it.*",
        "",
        "## The evidence",
        "",
        "The bound and the importance-sampled log p(x) (`lb.log_likelihood`), both minus the "
        "independent figure (quadrature where there is one, else the "
        f"bridge), with {cell['likelihood_samples']:,} draws; its own standard error, by the "
        "effective sample size; k-hat; the share of "
        "effective draws; in how many fits it carries a warning, and the verdicts of "
        "`lb.posterior_health`, from 10,000 draws.",
        "",
        "| posterior | family | bound | log p(x) | standard error | k-hat | effective | warnings | "
        "verdicts |",
        "|---|---|---|---|---|---|---|---|---|",
        *evidence_rows(references, cells),
        "",
        "## Mean field's standard deviations",
        "",
        "On a Gaussian posterior with precision P and covariance C, the best mean-field q has the "
        "variances 1 / P_ii, so its standard deviations are "
        "those of the posterior times 1 / sqrt(P_ii C_ii) (Bishop 2006, section 10.1). P is the "
        "inverse of the reference's covariance. For any "
        "posterior, the best q has the variances 1 / E_q[-d^2 log p / du_i^2] (Opper & Archambeau "
        "2009): the curvature is averaged over q, not over the "
        "posterior. Where the posterior is no Gaussian the two differ. In the hierarchical "
        "regression the coefficients of the firms are on the line; the "
        "means and spreads from which these come are below it, since mean field puts the spreads "
        "too low and the curvature of a mean is that of "
        "its coefficients divided by the spread squared. In eight schools it is the spread. The "
        "second theory is checked by the column *left of variances*. "
        "A variance that is off by a relative r costs r^2 / 4 nat, so training to a tolerance of "
        "0.01 nat can leave a variance 20% off.",
        "",
        "![measured against predicted](posteriors/factors.png)",
        "",
        *factor_rows(references, cells),
        "",
        f"Machine: {'; '.join(sorted({part['machine'] for part in cells.values()}))}, "
        f"{cell['threads']} thread.",
    ]


def factor_rows(references: dict[str, Figures], cells: dict[str, Figures]) -> list[str]:
    rows = [
        "| posterior | predicted, range over variables | measured / predicted, range | correlation "
        "|",
        "|---|---|---|---|",
    ]
    for problem, title in problems_of(cells, "mean-field"):
        found, expected = ratios(cells[f"{problem}/mean-field"]), predicted(references[problem])
        rows.append(
            f"| {title} | {span(expected)} | {span(found / expected)} | "
            f"{np.corrcoef(found, expected)[0, 1]:.4f} |"
        )
    return rows


def reasons(references: dict[str, Figures], cells: dict[str, Figures]) -> list[str]:
    """Where a mean is off by more than is wanted, and whether the fit or the family is at fault."""
    rows = []
    for name, cell in cells.items():
        problem, family = name.split("/")
        for where in ("unconstrained", "original"):
            by_seed = np.array([seed[where]["errors"] for seed in cell["seeds"]])
            same = (
                references[problem]["original"]["names"]
                == references[problem]["unconstrained"]["names"]
            )
            if np.abs(by_seed).max() < WANTED_ERROR or (where == "original" and same):
                continue
            at = int(np.abs(by_seed.mean(0)).argmax())
            rows.append(
                f"| {PROBLEMS[problem].title} | {FAMILIES[family]} | "
                f"{references[problem][where]['names'][at]} | {by_seed[:, at].mean():+.3f} | "
                f"{by_seed[:, at].std(ddof=1):.3f} | {left(cell, 'mean_steps'):.3f} | "
                f"{span(worst(cell, f'resampled_{where}'))} |"
            )
    return (
        [
            f"## Where a mean is off by more than {WANTED_ERROR:g} sd",
            "",
            "Of the Gaussian families the seeds agree, and what is left of any mean (see below) is "
            "smaller than the error: the family is at fault, not the training or its "
            "Monte-Carlo error, so neither more steps, nor more draws, nor averages would mend it. "
            "In "
            "eight schools, non-centred, it is the spread: its "
            "logarithm has a long tail to the left, which no Gaussian has. The mean of the "
            "logarithm "
            "comes out right all the same, that of the spread does "
            "not; weighted draws mend the latter, and cannot mend the former, whose tail q does "
            "not "
            "reach. Where k-hat is above 0.7 weights do "
            "not help either, and the fit is called bad.",
            "",
            *flow_lines(cells),
            "| posterior | family | worst variable | error, averaged over seeds | its sd over "
            "seeds | "
            "left of means | worst error, resampled |",
            "|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
        if rows
        else []
    )


def flow_lines(cells: dict[str, Figures]) -> list[str]:
    """Why the flow is off, if it was fitted."""
    if not (cell := cells.get("schools/flow")):
        return []
    return [
        f"The flow is another case: it has the tail, but {cell['settings']['steps']:,} steps do "
        "not bring it to its optimum, as what is left of its variances "
        f"shows, {left(cell, 'variance_steps'):.2f}. Its errors are those of a training that is "
        "too short. Weights mend them.",
        "",
    ]


def draw_spread(cells: dict[str, Figures]) -> None:
    """The logarithm of the schools' spread, the variable that no Gaussian fits: the reference and
    three families."""
    figure, (axes,) = new_figure(6.4, 3.6, 1)
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
    finish(figure, axes, "spread.png")
