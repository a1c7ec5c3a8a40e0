"""The page docs/results/verdicts.md: what verdicts mean, and how often they are right."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from page_text import item, paragraph, table

SEEDS, WANTED_STABLE = 20, 19
ORDER = ("bad", "usable", "good")

# What a verdict promises of draws: the largest error of a mean, in standard deviations of the
# posterior, the largest ratio of two standard deviations, and the largest KL(q || posterior).
MEAN_ERROR, SCALE_RATIO, KL_NATS = 0.1, 1.1, 0.05

# An estimate of log p(x) counts as wrong if it is off by more than this many standard errors.
MOST_ERRORS = 4.0

Results = dict[str, Any]

HEAD = (
    "posterior | KL(q, posterior) | draws: mean, scale | weighted: mean, scale | truth | "
    "verdicts | k-hat | effective | log p(x) - truth | at least | missed"
)


def column(result: Results, name: str) -> list[Any]:
    """The values of all seeds."""
    place = result["columns"].index(name)
    return [seed[place] for seed in result["seeds"]]


def is_too_good(result: Results) -> bool:
    """Whether any seed has a better verdict than the true errors allow."""
    best = max(column(result, "verdict"), key=ORDER.index)
    return ORDER.index(best) > ORDER.index(result["truth"])


def count_stable(result: Results) -> int:
    """The number of seeds with the most frequent verdict."""
    return Counter(column(result, "verdict")).most_common(1)[0][1]


def count_wrong_estimates(result: Results) -> int:
    """The seeds whose log p(x), which is 0, is given without "at least" and is off by too much."""
    columns = (
        column(result, name) for name in ("log_evidence", "log_evidence_error", "is_lower_bound")
    )
    return sum(
        not at_least and abs(estimate) > MOST_ERRORS * error + 1e-3
        for estimate, error, at_least in zip(*columns, strict=True)
    )


def count_wrong_limits(result: Results) -> int:
    """The seeds with "at least" whose limit is above the true log p(x), 0."""
    columns = (column(result, name) for name in ("log_evidence_limit", "is_lower_bound"))
    return sum(at_least and limit > 0 for limit, at_least in zip(*columns, strict=True))


def show_range(values: Iterable[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    low, high = (format(value, form) for value in (min(known), max(known)))
    if low == high:
        return low
    return f"{low} to {high}"


def show_errors(errors: Iterable[float | None]) -> str:
    mean, scale = ("infinity" if error is None else f"{error:.2f}" for error in errors)
    return f"{mean} sd, x {scale}"


def describe(name: str, result: Results) -> list[str]:
    """The row of a posterior in a table."""
    counts = Counter(column(result, "verdict")).most_common()
    weighted = zip(*result["weighted_draws"], strict=True)
    worst = tuple(None if None in errors else sorted(errors)[-2] for errors in weighted)
    return [
        name,
        f"{result['kl']:.3f}",
        show_errors(result["draws"]),
        show_errors(worst),
        result["truth"],
        ", ".join(f"{verdict} {count}" for verdict, count in counts),
        show_range(column(result, "pareto_k"), ".2f"),
        show_range((share / 100 for share in column(result, "effective")), ".3g") + "%",
        show_range(column(result, "log_evidence"), "+.2f"),
        f"{sum(column(result, 'is_lower_bound'))} of {SEEDS}",
        show_range((100 * share for share in column(result, "missed")), ".0f") + "%",
    ]


def make_checks(results: dict[str, Results]) -> list[str]:
    """The lines of the table of checks, with what was found."""
    every = list(results.values())
    count = len(every)
    stable = sum(count_stable(result) >= WANTED_STABLE for result in every)
    same = sum(
        verdict == result["truth"] for result in every for verdict in column(result, "verdict")
    )
    given = sum(not at_least for result in every for at_least in column(result, "is_lower_bound"))
    wrong = sum(map(count_wrong_estimates, every))
    limits = sum(map(count_wrong_limits, every))
    rows = [
        [
            f"the same verdict in at least {WANTED_STABLE} of {SEEDS} seeds",
            f"{stable} of {count} posteriors",
        ],
        [
            "a verdict better than the truth in any seed",
            f"{sum(map(is_too_good, every))} of {count}",
        ],
        ["verdicts equal to the truth", f"{same} of {SEEDS * count}"],
        [
            f"log p(x) without *at least*, off by more than {MOST_ERRORS:.0f} standard errors",
            f"{wrong} of {given}",
        ],
        ["*at least* a value above the true log p(x)", f"{limits} of {SEEDS * count - given}"],
    ]
    return table("check | found", rows)


def name_exceptions(results: dict[str, Results]) -> list[str]:
    """Sentences that name the posteriors whose verdicts or estimates are not as wanted."""
    sentences = {
        "The verdict depends on the seed for": lambda one: count_stable(one) < WANTED_STABLE,
        "A verdict is better than the truth for": is_too_good,
        "An estimate of log p(x) is wrong for": count_wrong_estimates,
    }
    lines = []
    for sentence, is_exception in sentences.items():
        names = [name for name, result in results.items() if is_exception(result)]
        if names:
            lines.append(f"{sentence} *{'*, *'.join(names)}*.")
    return lines


def show_set(results: dict[str, Results]) -> list[str]:
    """The checks of a set, its exceptions, and its table."""
    rows = [describe(*result) for result in results.items()]
    exceptions = name_exceptions(results)
    if exceptions:
        exceptions = [paragraph(*exceptions), ""]
    return [*make_checks(results), "", *exceptions, *table(HEAD, rows), ""]


def write_page(results: dict[str, dict[str, Results]]) -> str:
    """The page from the results of all sets."""
    introduction = paragraph(
        "`python reproductions/verdicts.py` writes this page. Each density integrates to 1 and can",
        "be sampled exactly. So log p(x) is 0, the bound is -KL(q || posterior), and the errors of",
        f"draws are known. Each posterior is fitted once and judged {SEEDS} times by",
        "{func}`lowerbound.posterior_health`, with 10,000 draws and a different seed each time.",
    )
    meaning = [
        item(
            f"*good*: every mean of draws from q is within {MEAN_ERROR} standard deviations of the",
            "posterior's, every standard deviation is within 10%, and KL(q || posterior) is at",
            f"most {KL_NATS} nats. By Pinsker's inequality no probability is then off by more than",
            "0.16. You can use the draws as they are.",
        ),
        item(
            "*usable*: the means and standard deviations of 10,000 weighted draws are within these",
            f"limits for at least {WANTED_STABLE} of {SEEDS} other seeds. You can use resampled",
            "draws.",
        ),
        item("*bad*: neither."),
    ]
    truth = paragraph(
        "The truth is measured with 400,000 exact draws, 100,000 draws from q, and the weighted",
        "draws of those 20 other seeds. `posterior_health` uses none of these. It calls a",
        "posterior good or usable only if its own measurements, with two standard errors added,",
        "are within the same limits, so it may give a worse verdict than the truth and should",
        "never give a better one.",
    )
    columns = paragraph(
        "In the tables, *draws* and *weighted* show the largest error of a mean, in standard",
        "deviations (sd), and the largest ratio of two standard deviations. For weighted draws,",
        "these are the second largest of the errors with 20 seeds. *k-hat* and *effective* are",
        "those of the weights of draws from q, and *missed* is the share of the posterior that",
        "these draws miss, as `posterior_health` estimates it.",
    )
    rules = [
        item(
            "k-hat of the N weighted points, with two standard errors added, is at most",
            "min(1 - 1 / log10 N, 0.7) (Vehtari et al. 2024).",
        ),
        item(
            "At least a tenth of the weighted points are effective. With fewer, most of the",
            "posterior lies at the edge of what the points cover.",
        ),
        item(
            "Weighted draws miss less than a twentieth of the posterior. They miss the part where",
            "the weight exceeds the number of draws (Chatterjee & Diaconis 2018).",
        ),
    ]
    lines = ["# Verdicts on posteriors of known quality", "", introduction, ""]
    lines += ["## What the verdicts mean", "", *meaning, "", truth, ""]
    lines += [
        paragraph(
            "Three more conditions apply: *good* needs the first two, and *usable* needs all",
            "three. If one of the first two is not met, log p(x) is given as *at least* a value.",
        ),
        "",
        *rules,
        "",
        columns,
        "",
        "## Twenty posteriors",
        "",
        paragraph("These posteriors were used to develop the rules."),
        "",
        *show_set(results["chosen"]),
        "## Twenty other posteriors",
        "",
        paragraph(
            "These have other dimensions, correlations and shapes. They were chosen before they",
            "were measured, and the rules were not changed afterwards. Two good posteriors are",
            "called bad in most seeds, because a limit is exceeded once two standard errors are",
            "added, and the weights are not shown to be usable. For the funnel of scale .3 it is",
            "the limit on the gap, which is 0.043 nats. For the Dirichlet it is the limit on the",
            "k-hat of the weighted points, which is about 0.6 with a standard error of 0.08. For",
            "the funnel of scale 2, log p(x) is given as *at least* a value in 18 seeds. In one",
            "of the two other seeds it is 0.12 nats too low, with a standard error of 0.02. The",
            "weights of the points cannot show a part of the posterior that no point reaches.",
        ),
        "",
        *show_set(results["hold-out"]),
        "## Posteriors at a limit",
        "",
        paragraph(
            "These were also used to develop the rules. Their k-hat or an error of their draws is",
            "at a limit, so the verdict may depend on the seed or be worse than the truth.",
        ),
        "",
        *show_set(results["limit"]),
    ]
    return "\n".join(lines)
