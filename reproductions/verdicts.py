"""Verdicts of posterior_health on posteriors of known quality.

    python reproductions/verdicts.py [NAME ...]

Each posterior of reproductions/verdict_posteriors.py is fitted once and judged with 20 seeds. The
results are in docs/results/verdicts/NAME.json, and a posterior with results is not measured again.
At the end, docs/results/verdicts.md is written from all results.
"""

import json
import math
import re
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from page_text import paragraph, table
from torch import Tensor
from verdict_posteriors import BOUNDARY, POSTERIORS, Known, Values, fit

import lowerbound as lb
from lowerbound.errors import DoubtfulEstimateWarning

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "verdicts"

SEEDS = 20
EXACT_DRAWS = 400_000
DRAWS = 20_000
RESAMPLED, RESAMPLED_SEEDS = 2000, 5
KL_DRAWS = 40_000

# What a verdict promises, in standard deviations of the posterior and ratios of them: draws as they
# are, and resampled draws.
GOOD_MEAN, GOOD_SCALE = 1 / 3, 1.25
USABLE_MEAN, USABLE_SCALE = 0.2, 1.2
WANTED_STABLE = 19

ORDER = ("bad", "usable", "good")

Results = dict[str, Any]


def measure(known: Known) -> Results:
    """Fit a posterior, measure how good it really is, and judge it with each seed."""
    model = fit(known)
    torch.manual_seed(1)
    exact = flatten(known.draw(EXACT_DRAWS))
    plain = compare(flatten(model.posterior_sample(DRAWS, seed=0)), exact)
    resampled = [
        compare(flatten(model.posterior_sample(RESAMPLED, resample=True, seed=seed)), exact)
        for seed in range(RESAMPLED_SEEDS)
    ]
    worst = tuple(max(errors) for errors in zip(*resampled, strict=True))
    bound = lb.evaluate(model, lb.ELBO(samples=KL_DRAWS // 100, kl="sampled"))
    healths = [lb.posterior_health(model, seed=seed) for seed in range(SEEDS)]
    return {
        "kind": known.kind,
        "kl": -bound.mean,
        "draws": plain,
        "resampled": worst,
        "truth": judge(plain, worst),
        "verdicts": [health.verdict for health in healths],
        "pareto_k": [round(health.pareto_k, 3) for health in healths],
        "effective_share": [round(health.effective_samples / 10_000, 4) for health in healths],
        "log_evidence": [round(health.log_evidence, 4) for health in healths],
        "log_evidence_error": [round(health.log_evidence_error, 4) for health in healths],
        "is_lower_bound": [health.is_lower_bound for health in healths],
        "missed": [round(health.missed, 3) for health in healths],
        "report": str(healths[0]),
    }


def flatten(values: Values) -> Tensor:
    """The values of all variables side by side, ``[count, J]``."""
    return torch.cat([value.double().reshape(len(value), -1) for value in values.values()], 1)


def compare(draws: Tensor, exact: Tensor) -> tuple[float, float]:
    """The largest error of a mean, in standard deviations, and the largest ratio of two of these.

    A standard deviation of 0 counts as infinitely wrong.
    """
    spread = exact.std(0)
    error = float(((draws.mean(0) - exact.mean(0)) / spread).abs().max())
    ratio = draws.std(0) / spread
    if not bool((ratio > 0).all()):
        return error, math.inf
    return error, math.exp(float(ratio.log().abs().max()))


def judge(plain: tuple[float, float], resampled: tuple[float, float]) -> str:
    """The best verdict that the true errors allow."""
    if plain[0] <= GOOD_MEAN and plain[1] <= GOOD_SCALE:
        return "good"
    if resampled[0] <= USABLE_MEAN and resampled[1] <= USABLE_SCALE:
        return "usable"
    return "bad"


def describe(name: str, result: Results) -> list[str]:
    """The row of a posterior in the table."""
    counts = Counter(result["verdicts"]).most_common()
    missed = [share for share in result["missed"] if share]
    shares = [100 * share for share in result["effective_share"]]
    return [
        name,
        result["kind"],
        f"{result['kl']:.3f}",
        f"{result['draws'][0]:.2f} sd, x {result['draws'][1]:.2f}",
        f"{result['resampled'][0]:.2f} sd, x {result['resampled'][1]:.2f}",
        result["truth"],
        ", ".join(f"{verdict} {count}" for verdict, count in counts),
        f"{min(result['pareto_k']):.2f} to {max(result['pareto_k']):.2f}",
        f"{min(shares):.3g} to {max(shares):.3g}%",
        f"{min(result['log_evidence']):+.2f} to {max(result['log_evidence']):+.2f}",
        f"{100 * max(missed, default=0):.0f}%, {len(missed)} seeds",
    ]


def is_too_good(result: Results) -> bool:
    """Whether any seed has a better verdict than the true errors allow."""
    return any(
        ORDER.index(verdict) > ORDER.index(result["truth"]) for verdict in result["verdicts"]
    )


def count_stable(result: Results) -> int:
    """The number of seeds with the most frequent verdict."""
    return Counter(result["verdicts"]).most_common(1)[0][1]


def write_page(results: dict[str, Results]) -> str:
    """The page from all results."""
    judged = {name: results[name] for name in POSTERIORS if name in results}
    boundary = {name: results[name] for name in BOUNDARY if name in results}
    stable = sum(count_stable(result) >= WANTED_STABLE for result in judged.values())
    too_good = sum(is_too_good(result) for result in judged.values())
    silent = sum(
        verdict == "bad" and not bound
        for result in judged.values()
        for verdict, bound in zip(result["verdicts"], result["is_lower_bound"], strict=True)
    )
    head = (
        "posterior | kind | KL(q, posterior) | draws: mean, scale | resampled: mean, scale | truth "
        "| verdicts | k-hat | effective | log p(x), exactly 0 | found missing"
    )
    introduction = paragraph(
        "`python reproductions/verdicts.py` writes this page. Each density integrates to 1 and can",
        "be sampled exactly, so log p(x) is 0, minus the bound is the exact KL(q || posterior),",
        f"and the errors of draws are known. Each is fitted once and judged {SEEDS} times by",
        "`lb.posterior_health`, with 10,000 draws and another seed each time. *draws* and",
        "*resampled* are the largest error of a mean, in standard deviations of the posterior, and",
        "the largest ratio of two standard deviations. *truth* is the best verdict that these",
        "errors allow:",
        f"good if draws have errors of at most {GOOD_MEAN:.2f} and {GOOD_SCALE}, usable if",
        f"resampled draws have at most {USABLE_MEAN} and {USABLE_SCALE} ({RESAMPLED:,} draws, the",
        f"worst of {RESAMPLED_SEEDS} seeds).",
    )
    at_the_limit = paragraph(
        "Here k-hat or the gap lies at a limit, so the verdict depends on the seed or is worse",
        "than the truth. These do not count in the first table.",
    )
    checks = [
        ["posteriors", f"{len(judged)}", f"{len(POSTERIORS)}"],
        [
            f"the same verdict in at least {WANTED_STABLE} of {SEEDS} seeds",
            f"{stable} of {len(judged)}",
            "all",
        ],
        ["a verdict better than the truth, in any seed", f"{too_good}", "0"],
        ["a bad verdict without *at least* before log p(x)", f"{silent}", "0"],
    ]
    lines = ["# Verdicts on posteriors of known quality", "", introduction, ""]
    lines += [*table("check | found | wanted", checks), ""]
    lines += [*table(head, [describe(*result) for result in judged.items()]), ""]
    lines += ["## Posteriors at the limit of two verdicts", "", at_the_limit, ""]
    lines += [*table(head, [describe(*result) for result in boundary.items()]), ""]
    return "\n".join(lines)


def main(names: list[str]) -> None:
    """Measure what is missing, and write the page."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", DoubtfulEstimateWarning)
    torch.set_num_threads(1)
    results: dict[str, Results] = {}
    for name, known in {**POSTERIORS, **BOUNDARY}.items():
        path = RESULTS / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"
        if not path.exists() and (not names or any(part in name for part in names)):
            result = {**measure(known), "at_the_limit": name in BOUNDARY}
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(name, flush=True)
        if path.exists():
            results[name] = json.loads(path.read_text(encoding="utf-8"))
    (RESULTS.parent / "verdicts.md").write_text(write_page(results), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
