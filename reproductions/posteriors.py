"""Posteriors of log joints compared with long runs of an established sampler.

    python reproductions/posteriors.py [logistic/full-rank schools/flow ...]

The reference is in docs/results/posteriors/reference/ and comes from
reproductions/reference_draws.py. Every posterior is fitted with three seeds. The result of each
pair of problem and family is docs/results/posteriors/PROBLEM-FAMILY.json; if that file exists, the
pair is not fitted again. At the end, docs/results/posteriors.md and its figures are written from
all results (posteriors_page.py).
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from choices import choose_parts
from page_text import describe_machine
from posterior_data import PROBLEMS, RESULTS
from posterior_models import log_density, log_joint_model
from posteriors_page import write_page
from torch import Tensor, nn

import lowerbound as lb

SEEDS = (0, 1, 2)
SAMPLES = 10
# Draws from q for moments without a closed form, and for the gradients that are left.
DRAWS, GRADIENT_DRAWS = 100_000, 100_000
LIKELIHOOD_SAMPLES = 100_000
# Draws in proportion to their weights, and how often so many are taken.
RESAMPLED, TIMES = 4_000, 4
# Bins of the logarithm of the schools' spread.
BINS = np.arange(-8.0, 5.01, 0.25)
RANK = 3

Results = dict[str, Any]


def flow(size: int) -> nn.Module:
    """Three spline couplings (Durkan et al. 2019), within a shift and a scale of each coordinate.

    The shift and the scale reach beyond the box of the splines.
    """
    import zuko

    splines = zuko.flows.NSF(size, transforms=3, hidden_features=(64, 64), passes=2)
    affine = zuko.lazy.UnconditionalTransform(
        zuko.transforms.MonotonicAffineTransform, torch.zeros(size), torch.zeros(size)
    )
    return zuko.flows.Flow([affine, *splines.transform.transforms], splines.base)


# The training of a Gaussian stops by itself: when no window of steps gains more than TOLERANCE
# nats. A flow takes a fixed number of steps.
TOLERANCE = 0.01
UNATTENDED = {"tolerance": TOLERANCE}
FIXED_STEPS = {"steps": 1500, "learning_rate": 0.01, "schedule": "cosine"}
FAMILIES: dict[
    str,
    tuple[Callable[[int], nn.Module], Literal["sticking-the-landing", "pathwise"], dict[str, Any]],
] = {
    "mean-field": (lb.mean_field, "sticking-the-landing", UNATTENDED),
    "full-rank": (lb.full_rank, "sticking-the-landing", UNATTENDED),
    "low-rank": (lb.low_rank(RANK), "sticking-the-landing", UNATTENDED),
    "flow": (flow, "pathwise", FIXED_STEPS),
}
CELLS = [
    *(f"{problem}/{family}" for family in ("full-rank", "mean-field") for problem in PROBLEMS),
    "schools/flow",
    "logistic/low-rank",
    "hierarchical/low-rank",
]


def reference(problem: str) -> Results:
    """What the sampler found."""
    result: Results = json.loads(
        (RESULTS / "reference" / f"{problem}.json").read_text(encoding="utf8")
    )
    return result


def fitted(problem: str, family: str, seed: int, **settings: Any) -> tuple[lb.LogJoint, lb.Run]:
    """A posterior of that family, trained with the family's settings or with others."""
    make, gradient, usual = FAMILIES[family]
    torch.manual_seed(seed)
    model = log_joint_model(problem, make).start(seed=seed)
    run = lb.fit(
        model,
        lb.ELBO(samples=SAMPLES, gradient=gradient),
        seed=seed,
        progress=False,
        **(settings or usual),
    )
    return model, run


def real_numbers(model: lb.LogJoint, v: Tensor) -> Tensor:
    """The problem's vector u for points v of the space in which the posterior is fitted.

    ``start`` standardises that space.
    """
    return model.centre + model.spread * v


def moments(draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return draws.mean(0), draws.std(0, ddof=1)


def compare(mean: np.ndarray, sd: np.ndarray, truth: Results) -> Results:
    """For each variable, the error of its mean in the reference's sd, and the ratio of both sd."""
    errors = (mean - np.array(truth["mean"])) / np.array(truth["sd"])
    return {"errors": errors.tolist(), "ratios": (sd / np.array(truth["sd"])).tolist()}


def measure_remainder(model: lb.LogJoint, truth: Results) -> Results:
    """The distance of the fit from the best q of its family, to first order, for any posterior.

    Write u = m + s (what q draws at m = 0, s = 1). Every family here can move the mean m_i and the
    scale s_i of each coordinate alone, so at its optimum E_q[d_i log p] = 0 and
    E_q[(u_i - m_i) d_i log p] = -1 (Opper & Archambeau 2009). The first expectation, times the
    reference's covariance, is the Newton step that is left, here in standard deviations. The second
    gives the relative amount by which a variance is off. Both are estimated with the gradient of
    log p - log q, which has the same averages and varies less.
    """
    covariance, sd = np.array(truth["covariance"]), np.array(truth["unconstrained"]["sd"])
    q = model.posterior()
    v = q.sample((GRADIENT_DRAWS,)).detach().requires_grad_()
    (gradients,) = torch.autograd.grad(
        (log_density(model, real_numbers(model, v)) - q.log_prob(v)).sum(), v
    )
    scaled = ((v - v.mean(0)) * gradients).detach().numpy()
    steps = (gradients / model.spread).numpy() @ covariance / sd
    return {
        "mean_steps": steps.mean(0).tolist(),
        "mean_steps_error": float(steps.std(0).max() / GRADIENT_DRAWS**0.5),
        "variance_steps": scaled.mean(0).tolist(),
        "variance_steps_error": float(scaled.std(0).max() / GRADIENT_DRAWS**0.5),
    }


def resample(model: lb.LogJoint, seed: int) -> Tensor:
    """Draws of u in proportion to their importance weights."""
    values = [
        model.posterior_sample(RESAMPLED, resample=True, seed=TIMES * seed + time)
        for time in range(TIMES)
    ]
    return torch.cat([model.variables.free(part) for part in values])


def measure(problem: str, family: str, seed: int) -> Results:
    """Fit once, and compare the fit with the reference."""
    truth = reference(problem)
    start = time.perf_counter()
    model, run = fitted(problem, family, seed)
    seconds = time.perf_counter() - start
    torch.manual_seed(seed)
    left = measure_remainder(model, truth)
    with torch.no_grad():
        q = model.posterior()
        draws = real_numbers(model, q.sample((DRAWS,))).numpy()
        of_u = moments(draws)
        if family != "flow":
            of_u = (real_numbers(model, q.mean).numpy(), (model.spread * q.variance.sqrt()).numpy())
    result = {
        "seconds": seconds,
        "steps": run.history[-1]["step"],
        "unfinished": list(run.unfinished),
        "unconstrained": compare(*of_u, truth["unconstrained"]),
        "left": left,
    }
    again = resample(model, seed).numpy()
    for prefix, u in (("", draws), ("resampled_", again)):
        originals = np.stack(list(PROBLEMS[problem].originals(u).values()), -1)
        result[f"{prefix}original"] = compare(*moments(originals), truth["original"])
        if problem.startswith("schools"):
            result[f"{prefix}log_spread"] = (
                np.histogram(u[:, 1], BINS, density=True)[0].round(5).tolist()
            )
    result["resampled_unconstrained"] = compare(*moments(again), truth["unconstrained"])
    likelihood = lb.log_likelihood(model, samples=LIKELIHOOD_SAMPLES, seed=seed)
    health = lb.posterior_health(model, seed=seed)
    effective = float(likelihood.effective_sample_sizes)
    return {
        **result,
        "elbo": likelihood.terms["elbo"].mean,
        "log_likelihood": likelihood.mean,
        "log_likelihood_error": (1 / effective - 1 / LIKELIHOOD_SAMPLES) ** 0.5,
        "effective": effective,
        "pareto_k": float(likelihood.pareto_k),
        "warning": likelihood.warning,
        "verdict": health.verdict,
        "health": str(health),
    }


def densities_apart(problem: str) -> float:
    """The largest relative difference of the two log densities at the committed points."""
    truth = reference(problem)
    model = log_joint_model(problem, lb.mean_field)
    theirs = torch.tensor(truth["log_densities"], dtype=torch.float64)
    ours = log_density(model, torch.tensor(truth["points"], dtype=torch.float64))
    return float(((ours - theirs) / theirs).abs().max())


def run(cell: str) -> None:
    """Fit one family to one problem, unless that was done before."""
    problem, family = cell.split("/")
    target = RESULTS / f"{problem}-{family}.json"
    if target.exists():
        print(f"{cell}: {target} exists already", file=sys.stderr)
        return
    result = {
        "problem": problem,
        "family": family,
        "settings": FAMILIES[family][2],
        "samples": SAMPLES,
        "gradient": FAMILIES[family][1],
        "likelihood_samples": LIKELIHOOD_SAMPLES,
        "densities_apart": densities_apart(problem),
        "seeds": [measure(problem, family, seed) for seed in SEEDS],
        "threads": torch.get_num_threads(),
        "machine": describe_machine(),
    }
    target.write_text(json.dumps(result) + "\n", encoding="utf8")


if __name__ == "__main__":
    for chosen in choose_parts(__name__, CELLS):
        run(chosen)
    write_page()
