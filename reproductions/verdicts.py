"""Verdicts of posterior_health on posteriors of known quality.

    python reproductions/verdicts.py [NAME ...]

Each posterior of reproductions/verdict_posteriors.py is fitted once and judged with 20 seeds. The
results are in docs/results/verdicts/NAME.json. A posterior is measured again if its results come
from another version of the code. At the end, docs/results/verdicts.md is written from all results.
"""

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from choices import choose_parts
from torch import Tensor
from verdict_posteriors import BOUNDARY, HOLD_OUT, POSTERIORS, Known, Values, fit
from verdicts_page import KL_NATS, MEAN_ERROR, SCALE_RATIO, SEEDS, WANTED_STABLE, write_page

import lowerbound as lb
from lowerbound.evaluation import PosteriorHealth

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "verdicts"
SETS = {"hold-out": HOLD_OUT, "chosen": POSTERIORS, "limit": BOUNDARY}

# The files on which the results depend.
CODE = [
    *sorted((ROOT / "src/lowerbound/evaluation").glob("posterior*.py")),
    *(
        ROOT / f"src/lowerbound/{name}.py"
        for name in ("evaluation/optima_search", "evaluation/pareto", "models/pathfinder")
    ),
    ROOT / "reproductions/verdict_posteriors.py",
]

EXACT_DRAWS, DRAWS, WEIGHTED_DRAWS = 400_000, 100_000, 10_000

# The weighted draws whose errors are measured have seeds that no verdict uses.
FIRST_WEIGHTED_SEED = 1000

COLUMNS = (
    "verdict",
    "pareto_k",
    "effective",
    "elbo",
    "log_evidence",
    "log_evidence_error",
    "log_evidence_limit",
    "is_lower_bound",
    "missed",
)

Results = dict[str, Any]


def measure(known: Known) -> Results:
    """Fit a posterior, measure how good it really is, and judge it with each seed."""
    model = fit(known)
    torch.manual_seed(1)
    exact = flatten(known.draw(EXACT_DRAWS))
    moments = exact.mean(0), exact.std(0)
    values, log_w = draw(model, DRAWS, seed=1)
    plain = compare(values, torch.full((DRAWS,), 1.0 / DRAWS, dtype=torch.float64), *moments)
    weighted = []
    for seed in range(FIRST_WEIGHTED_SEED, FIRST_WEIGHTED_SEED + SEEDS):
        some, log_weights = draw(model, WEIGHTED_DRAWS, seed)
        weighted.append(compare(some, log_weights.softmax(0), *moments))
    kl = -float(log_w.mean())
    healths = [lb.posterior_health(model, seed=seed) for seed in range(SEEDS)]
    return {
        "kind": known.kind,
        "truth": judge(kl, plain, weighted),
        "kl": round_off(kl),
        "draws": [round_off(error) for error in plain],
        "weighted_draws": [[round_off(error) for error in errors] for errors in weighted],
        "columns": COLUMNS,
        "seeds": [make_row(health) for health in healths],
        "report": str(healths[0]).splitlines(),
    }


def draw(model: lb.LogJoint, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Values of all variables at draws from q, ``[count, J]``, and their log weights."""
    torch.manual_seed(seed)
    with torch.no_grad():
        drawn = model.draw(model.repetition, count)
        log_w = (drawn.log_likelihood - drawn.log_q)[:, 0].double()
        return flatten(model.values(drawn.z[:, 0])[0]), log_w


def flatten(values: Values) -> Tensor:
    """The values of all variables side by side, ``[count, J]``."""
    return torch.cat([value.double().reshape(len(value), -1) for value in values.values()], 1)


def compare(values: Tensor, weights: Tensor, mean: Tensor, spread: Tensor) -> tuple[float, float]:
    """The largest error of a mean, in standard deviations, and the largest ratio of two of them.

    A standard deviation of 0 counts as infinitely wrong.
    """
    found = weights @ values
    scale = (weights @ (values - found).square()).sqrt()
    ratio = torch.maximum(scale / spread, spread / scale)
    return float(((found - mean) / spread).abs().max()), float(ratio.max())


def judge(kl: float, plain: tuple[float, float], weighted: list[tuple[float, float]]) -> str:
    """The best verdict that the true errors allow."""
    if kl <= KL_NATS and are_small(plain):
        return "good"
    if sum(map(are_small, weighted)) >= WANTED_STABLE:
        return "usable"
    return "bad"


def are_small(errors: tuple[float, float]) -> bool:
    return errors[0] <= MEAN_ERROR and errors[1] <= SCALE_RATIO


def make_row(health: PosteriorHealth) -> list[Any]:
    """The values of a verdict that are stored, in the order of COLUMNS."""
    measured = {**vars(health), "effective": health.effective_samples}
    return [round_off(measured[name]) for name in COLUMNS]


def round_off(value: Any) -> Any:
    """Four digits of a number, or None for one that JSON does not allow."""
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return float(f"{value:.4g}")


def format_lines(result: Results) -> str:
    """JSON with one line for each seed."""
    parts = []
    for key, value in result.items():
        text = json.dumps(value)
        if key in ("seeds", "report"):
            text = "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def name_file(name: str) -> Path:
    return RESULTS / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.json"


def main() -> None:
    """Measure what is missing, and write the page."""
    names = choose_parts(__name__, [name for known in SETS.values() for name in known])
    RESULTS.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    version = hashlib.sha256(b"".join(path.read_bytes() for path in CODE)).hexdigest()[:12]
    results: dict[str, dict[str, Results]] = {}
    for group, posteriors in SETS.items():
        results[group] = {}
        for name, known in posteriors.items():
            path = name_file(name)
            stored: Results = {}
            if path.exists():
                stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.get("version") != version and name in names:
                stored = {"name": name, "set": group, "version": version, **measure(known)}
                path.write_text(format_lines(stored), encoding="utf-8")
                print(name, stored["truth"], [seed[0] for seed in stored["seeds"]], flush=True)
            if stored:
                results[group][name] = stored
    (RESULTS.parent / "verdicts.md").write_text(write_page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
