"""docs/results/posteriors.md and its figures, from the results of reproductions/posteriors.py."""

import numpy as np
from page_text import item, paragraph, table
from posterior_data import PROBLEMS, RESULTS
from posteriors_checks import checks
from posteriors_figures import draw_errors, draw_factors, draw_spread
from posteriors_summary import (
    FAMILIES,
    WANTED_ERROR,
    Results,
    average,
    evidence_of,
    largest_errors,
    predicted,
    problems_of,
    ratios,
    read,
    remainder,
    span,
)

Row = list[str]


REFERENCE_HEAD = (
    "posterior | unknowns | largest R-hat | least effective draws | divergences | bridge | "
    "Student-t | quadrature"
)


def reference_row(name: str, truth: Results) -> Row:
    found, evidence, exact = truth["unconstrained"], truth["evidence"], ""
    if "quadrature" in truth:
        exact = f"{truth['quadrature']['log_evidence']:.4f}"
    return [
        PROBLEMS[name].title,
        f"{len(found['mean'])}",
        f"{max(found['r_hat']):.4f}",
        f"{min(found['effective']):,.0f}",
        f"{truth['divergences']}",
        f"{evidence['bridge']:.4f} ± {evidence['bridge_error']:.4f}",
        f"{evidence['student']:.4f} ± {evidence['student_error']:.4f}",
        exact,
    ]


FITS_HEAD = (
    "posterior | family | error, unconstrained | error, original | distance of mean | sd ratio | "
    "distance of variance | resampled: error, unconstrained | error, original | sd ratio | time"
)


def fit_row(name: str, cell: Results) -> Row:
    problem, family = name.split("/")
    resampled = [seed["resampled_unconstrained"]["ratios"] for seed in cell["seeds"]]
    return [
        PROBLEMS[problem].title,
        FAMILIES[family],
        span(largest_errors(cell, "unconstrained")),
        span(largest_errors(cell, "original")),
        f"{remainder(cell, 'mean_steps'):.3f}",
        span(ratios(cell)),
        f"{remainder(cell, 'variance_steps'):.3f}",
        span(largest_errors(cell, "resampled_unconstrained")),
        span(largest_errors(cell, "resampled_original")),
        span(np.mean(resampled, 0)),
        f"{average(cell, 'seconds'):.0f} s",
    ]


EVIDENCE_HEAD = (
    "posterior | family | bound | log p(x) | standard error | k-hat | effective | warnings | "
    "verdicts"
)


def evidence_row(name: str, cell: Results, truth: Results) -> Row:
    problem, family = name.split("/")
    log_evidence, seeds = evidence_of(truth), cell["seeds"]
    warned = sum(seed["warning"] is not None for seed in seeds)
    return [
        PROBLEMS[problem].title,
        FAMILIES[family],
        f"{average(cell, 'elbo') - log_evidence:.3f}",
        span([seed["log_likelihood"] - log_evidence for seed in seeds], 3),
        f"{max(seed['log_likelihood_error'] for seed in seeds):.3f}",
        span([seed["pareto_k"] for seed in seeds]),
        f"{average(cell, 'effective') / cell['likelihood_samples']:.1%}",
        f"{warned} of {len(seeds)}",
        ", ".join(sorted({seed["verdict"] for seed in seeds})),
    ]


FACTORS_HEAD = (
    "posterior | predicted, range over variables | measured / predicted, range | correlation"
)


def factor_row(title: str, cell: Results, truth: Results) -> Row:
    found, expected = ratios(cell), predicted(truth)
    correlation = np.corrcoef(found, expected)[0, 1]
    return [title, span(expected), span(found / expected), f"{correlation:.4f}"]


ERRORS_HEAD = (
    "posterior | family | worst variable | error, averaged over seeds | its sd over seeds | "
    "distance of mean | worst error, resampled"
)


def error_row(name: str, cell: Results, truth: Results, where: str) -> Row | None:
    """The variable whose mean is off most, if it is off by more than is wanted."""
    problem, family = name.split("/")
    by_seed = np.array([seed[where]["errors"] for seed in cell["seeds"]])
    if np.abs(by_seed).max() < WANTED_ERROR:
        return None
    worst = int(np.abs(by_seed.mean(0)).argmax())
    return [
        PROBLEMS[problem].title,
        FAMILIES[family],
        truth[where]["names"][worst],
        f"{by_seed[:, worst].mean():+.3f}",
        f"{by_seed[:, worst].std(ddof=1):.3f}",
        f"{remainder(cell, 'mean_steps'):.3f}",
        span(largest_errors(cell, f"resampled_{where}")),
    ]


def error_rows(references: dict[str, Results], cells: dict[str, Results]) -> list[Row]:
    rows = []
    for name, cell in cells.items():
        truth = references[name.split("/")[0]]
        rows.append(error_row(name, cell, truth, "unconstrained"))
        if truth["original"]["names"] != truth["unconstrained"]["names"]:
            rows.append(error_row(name, cell, truth, "original"))
    return [row for row in rows if row is not None]


def explain_errors(references: dict[str, Results], cells: dict[str, Results]) -> list[str]:
    """Where a mean is off by more than is wanted, and whether the fit or the family is at fault."""
    rows = error_rows(references, cells)
    if not rows:
        return []
    return [
        f"## Where a mean is off by more than {WANTED_ERROR:g} sd",
        "",
        paragraph(
            "For the Gaussian families the seeds agree, and the distance of every mean from the",
            "optimum (see below) is smaller than its error. So the error is due to the family, and",
            "not to training or its Monte-Carlo error: more steps, more draws or averages would",
            "not reduce it. In the non-centred eight schools, the variable is the spread. Its",
            "logarithm has a long tail to the left, which no Gaussian has. The mean of the",
            "logarithm is nevertheless right, but the mean of the spread is not. In most seeds",
            "weighted draws correct the mean of the spread. They cannot correct that of the",
            "logarithm, because q hardly reaches its tail. Where k-hat is above 0.7, weights do",
            "not help either. All these fits are called bad.",
        ),
        "",
        *explain_flow(cells),
        *table(ERRORS_HEAD, rows),
        "",
    ]


def explain_flow(cells: dict[str, Results]) -> list[str]:
    """Why the flow is off, if it was fitted."""
    if not (cell := cells.get("schools/flow")):
        return []
    text = paragraph(
        f"The flow is different. It has the tail, but {cell['settings']['steps']:,} steps do not",
        "bring it to its optimum: the distance of its variances is",
        f"{remainder(cell, 'variance_steps'):.2f}. Its errors come from training for too short a",
        "time, and weights correct them.",
    )
    return [text, ""]


def introduction(truth: Results, cell: Results) -> list[str]:
    """What was compared, with what settings."""
    return [
        "# Posteriors of log joints against long runs of NUTS",
        "",
        paragraph(
            "`python reproductions/posteriors.py` writes this page. The reference is",
            f"{truth['sampler']}: {truth['chains']} chains of {truth['draws']:,} draws after",
            f"{truth['warmup']:,} of warm-up, in float64 (`make reference`,",
            "`reproductions/reference_draws.py`). Each model is written twice, for torch and for",
            f"NumPyro, and the two log densities are compared at {len(truth['points'])} points.",
            "The sampler's summaries and thinned draws are in `posteriors/reference`. All errors",
            "of means are in standard deviations (sd) of the reference. A range is over seeds or",
            "over variables, as stated.",
        ),
        "",
        item(
            "*Eight schools* (Rubin 1981): mean ~ N(0, 5), spread ~ half-Cauchy(5). The model",
            "is written non-centred (the unknowns are standardised effects) and centred (the",
            "unknowns are the effects themselves, which have a funnel).",
        ),
        item(
            "*Logistic regression*: 569 tumours, 30 standardised columns (Wolberg, Mangasarian &",
            "Street 1993), priors N(0, 1).",
        ),
        item(
            "*Hierarchical regression*: log investment of 11 firms in 20 years on log value and",
            "log capital (Grunfeld 1958), standardised; each firm has a level and a slope of its",
            "own.",
        ),
        "",
        paragraph(
            "Every fit begins with `model.start()` and stops by itself (`lb.fit(...,",
            f"tolerance={cell['settings']['tolerance']:g})`), with {cell['samples']} draws a step",
            f'and `gradient="{cell["gradient"]}"`. The flow takes a fixed number of steps.',
            "Settings were not tuned for single problems. Each fit was made with 3 seeds.",
        ),
        "",
    ]


def section_fits(cells: dict[str, Results]) -> list[str]:
    return [
        "## The fits",
        "",
        paragraph(
            "Errors are the largest over variables, and their range is over seeds. Ratios are",
            "ratios of sd, and their range is over variables. A *distance* is that of the fit from",
            "the best q of its family, to first order: for a mean, the remaining Newton step, in",
            "sd; for a variance, its relative error. Each is the largest over variables and seeds,",
            "and is an estimate, whose own error is in the JSON. Both distances vanish at the",
            "optimum of any of these families, whatever the posterior. So an error well above the",
            "distance is due to the family. *Resampled* draws are",
            "`posterior_sample(n, resample=True)`, in proportion to the weights and with",
            "replacement. Where k-hat is 0.6 or more, a single draw far in the tail may carry much",
            "of the weight. In some seeds the resampled means are then further off than q's own,",
            "and `lb.posterior_health` calls these fits bad. Times are from a machine that was",
            "shared with other work.",
        ),
        "",
        *table(FITS_HEAD, (fit_row(name, cell) for name, cell in cells.items())),
        "",
        "![errors of means](posteriors/errors.png)",
        "",
        paragraph(
            "*Full rank, unconstrained coordinates: every variable and seed. The lines are at 0.1",
            "sd. The centred schools are far outside, and so are some resampled means of one",
            "seed.*",
        ),
        "",
        "![the spread of eight schools](posteriors/spread.png)",
        "",
        paragraph(
            "*The logarithm of the spread has a long tail to the left, where the schools are",
            "alike. No Gaussian has such a tail.*",
        ),
        "",
    ]


def section_mean_field(references: dict[str, Results], cells: dict[str, Results]) -> list[str]:
    rows = (
        factor_row(title, cells[f"{problem}/mean-field"], references[problem])
        for problem, title in problems_of(cells, "mean-field")
    )
    return [
        "## Mean field's standard deviations",
        "",
        paragraph(
            "On a Gaussian posterior with precision P and covariance C, the best mean-field q has",
            "the variances 1 / P_ii, so its standard deviations are those of the posterior times 1",
            "/ sqrt(P_ii C_ii) (Bishop 2006, section 10.1). P is the inverse of the reference's",
            "covariance. For any posterior, the best q has the variances 1 / E_q[-d^2 log p /",
            "du_i^2] (Opper & Archambeau 2009): the curvature is averaged over q, and not over the",
            "posterior. The two differ where the posterior is not Gaussian. In the hierarchical",
            "regression, the firms' coefficients are on the line. The means and spreads of these",
            "coefficients are below it: mean field underestimates the spreads, and the curvature",
            "of a mean is that of its coefficients divided by the spread squared. In eight",
            "schools, the spread is below the line. The column *distance of variance* checks the",
            "second theory. A variance that is off by a relative r costs r^2 / 4 nat, so training",
            "to a tolerance of 0.01 nat can leave a variance 20% off.",
        ),
        "",
        "![measured against predicted](posteriors/factors.png)",
        "",
        *table(FACTORS_HEAD, rows),
        "",
    ]


def page(references: dict[str, Results], cells: dict[str, Results]) -> list[str]:
    """The lines of the page."""
    cell = cells.get("logistic/full-rank") or next(iter(cells.values()))
    evidence_rows = (
        evidence_row(name, cell, references[name.split("/")[0]]) for name, cell in cells.items()
    )
    return [
        *introduction(next(iter(references.values())), cell),
        *table("check | found | wanted | verdict", checks(references, cells)),
        "",
        *explain_errors(references, cells),
        "## The reference",
        "",
        paragraph(
            "The evidence log p(x), in nats, is found without lowerbound: by bridge sampling",
            "between the draws and a Gaussian that is fitted to the draws of other chains (Meng &",
            "Wong 1996), by importance sampling from a Student-t that is fitted to the draws, and",
            "for eight schools by quadrature over the spread: given the spread, all other unknowns",
            "are Gaussian.",
            "The centred draws are the non-centred ones in other coordinates.",
        ),
        "",
        *table(REFERENCE_HEAD, (reference_row(*entry) for entry in references.items())),
        "",
        *section_fits(cells),
        "## The evidence",
        "",
        paragraph(
            "The bound and the importance-sampled log p(x) (`lb.log_likelihood`) are given minus",
            "the independent estimate (by quadrature if available, else by bridge sampling), with",
            f"{cell['likelihood_samples']:,} draws. The other columns are the standard error of",
            "log p(x) by the effective sample size, k-hat, the share of effective draws, the",
            "number of fits with a warning, and the verdicts of `lb.posterior_health`, from",
            "10,000 draws.",
        ),
        "",
        *table(EVIDENCE_HEAD, evidence_rows),
        "",
        *section_mean_field(references, cells),
        paragraph(
            f"Machine: {'; '.join(sorted({part['machine'] for part in cells.values()}))},",
            f"{cell['threads']} thread.",
        ),
    ]


def write_page() -> None:
    """Write the page and its figures from what was measured."""
    references, cells = read()
    if not cells:
        return
    draw_factors(references, cells)
    draw_errors(cells)
    draw_spread(cells)
    lines = page(references, cells)
    (RESULTS.parent / "posteriors.md").write_text("\n".join(lines) + "\n", encoding="utf8")
