"""Long runs of NumPyro's NUTS for the posteriors of posterior_data.py, as a reference.

    make reference
    .venv-mcmc/bin/python reproductions/reference_draws.py [schools logistic hierarchical]

Neither lowerbound nor torch is used. The result of each posterior is
docs/results/posteriors/reference/NAME.json and NAME.npz. The first has diagnostics, means, standard
deviations, covariance, quantiles, the evidence, and log densities at some points, which are
compared with those of lowerbound's models. The second has thinned draws. If the files exist, the
posterior is not sampled again. Eight schools are sampled non-centred. The centred form is the same
posterior in other coordinates, so its draws are those draws, transformed. The evidence is found by
bridge sampling and by importance sampling, and for eight schools by quadrature.
"""

import csv
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from choices import choose_parts
from posterior_data import EFFECT, ERROR, FIRMS, GRUNFELD, PROBLEMS, RESULTS, Arrays

try:
    import jax
    import numpyro
    import numpyro.distributions as dist
    from jax.scipy.special import logsumexp
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
    from numpyro.infer import MCMC, NUTS
    from numpyro.infer.util import potential_energy
except ModuleNotFoundError as error:
    raise SystemExit(
        f"{error}; run `make reference`, which installs it into an environment of its own"
    ) from None

jax.config.update("jax_enable_x64", True)

CHAINS, WARMUP, DRAWS = 4, 2_000, 10_000
TARGET_ACCEPTANCE = 0.95
THINNED = 1_000
POINTS = 20
PROPOSALS = 20_000
# Degrees of freedom of the Student-t that is the proposal of importance sampling.
FREEDOM = 10
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

Results = dict[str, Any]


def schools(effect: Any, error: Any) -> None:
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = numpyro.sample("spread", dist.HalfCauchy(5.0))
    standardised = numpyro.sample(
        "standardised", dist.Normal(0.0, 1.0).expand([len(EFFECT)]).to_event(1)
    )
    numpyro.sample(
        "effect", dist.Normal(mean + spread * standardised, error).to_event(1), obs=effect
    )


def centred_schools(effect: Any, error: Any) -> None:
    mean = numpyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = numpyro.sample("spread", dist.HalfCauchy(5.0))
    effects = numpyro.sample("effects", dist.Normal(mean, spread).expand([len(EFFECT)]).to_event(1))
    numpyro.sample("effect", dist.Normal(effects, error).to_event(1), obs=effect)


def logistic(inputs: Any, outcome: Any) -> None:
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 1.0))
    weights = numpyro.sample("weights", dist.Normal(0.0, 1.0).expand([inputs.shape[1]]).to_event(1))
    numpyro.sample(
        "outcome", dist.Bernoulli(logits=intercept + inputs @ weights).to_event(1), obs=outcome
    )


def hierarchical(invest: Any, value: Any, capital: Any, firm: Any) -> None:
    level, slope, of_value = (
        numpyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("level", "slope", "value")
    )
    level_spread, slope_spread, noise = (
        numpyro.sample(name, dist.HalfNormal(1.0))
        for name in ("level_spread", "slope_spread", "noise")
    )
    levels = numpyro.sample("levels", dist.Normal(level, level_spread).expand([FIRMS]).to_event(1))
    slopes = numpyro.sample("slopes", dist.Normal(slope, slope_spread).expand([FIRMS]).to_event(1))
    fitted = levels[firm] + slopes[firm] * capital + of_value * value
    numpyro.sample("invest", dist.Normal(fitted, noise).to_event(1), obs=invest)


MODELS: dict[str, Callable[..., None]] = {
    "schools": schools,
    "schools-centred": centred_schools,
    "logistic": logistic,
    "hierarchical": hierarchical,
}


def log_density(name: str, u: np.ndarray) -> np.ndarray:
    """The log joint density of real vectors ``[N, J]``, with the change of volume: ``[N]``."""
    data = PROBLEMS[name].data()

    def one(parts: Arrays) -> Any:
        return -potential_energy(MODELS[name], (), data, parts)

    return np.asarray(
        jax.jit(lambda parts: jax.lax.map(one, parts, batch_size=500))(PROBLEMS[name].split(u))
    )


def sample(name: str) -> tuple[np.ndarray, Results]:
    """Draws of u, ``[chains, draws, J]``, and a record of how they were made."""
    problem = PROBLEMS[name]
    kernel = NUTS(MODELS[name], target_accept_prob=TARGET_ACCEPTANCE, dense_mass=True)
    sampler = MCMC(
        kernel,
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    start = time.perf_counter()
    sampler.run(jax.random.PRNGKey(0), extra_fields=("diverging", "num_steps"), **problem.data())
    values = sampler.get_samples(group_by_chain=True)
    values |= {part: np.log(values[part]) for part in problem.positive}
    parts = [np.asarray(values[part]) for part in problem.unknowns]
    extra = sampler.get_extra_fields()
    return np.concatenate([part.reshape(CHAINS, DRAWS, -1) for part in parts], -1), {
        "sampler": f"NumPyro {numpyro.__version__} NUTS, JAX {jax.__version__}",
        "chains": CHAINS,
        "warmup": WARMUP,
        "draws": DRAWS,
        "target_acceptance": TARGET_ACCEPTANCE,
        "divergences": int(extra["diverging"].sum()),
        "mean_leapfrog_steps": float(extra["num_steps"].mean()),
        "seconds": time.perf_counter() - start,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
    }


def centre(u: np.ndarray) -> np.ndarray:
    """Draws of the centred coordinates, from draws of the non-centred ones, ``[..., J]``."""
    parts = PROBLEMS["schools"].split(u)
    effects = parts["mean"][..., None] + np.exp(parts["spread"])[..., None] * parts["standardised"]
    return np.concatenate([u[..., :2], effects], -1)


def describe(names: list[str], draws: np.ndarray) -> Results:
    """Moments, quantiles and diagnostics of ``[chains, draws, J]``."""
    effective = effective_sample_size(draws)
    pooled = draws.reshape(-1, draws.shape[-1])
    return {
        "names": names,
        "mean": rounded(pooled.mean(0)),
        "sd": rounded(pooled.std(0, ddof=1)),
        "quantiles": {
            str(level): rounded(np.quantile(pooled, level, axis=0)) for level in QUANTILES
        },
        "r_hat": rounded(split_gelman_rubin(draws)),
        "effective": rounded(effective),
        "effective_squares": rounded(effective_sample_size((draws - pooled.mean(0)) ** 2)),
    }


def rounded(values: Any) -> Any:
    """Ten significant digits, which keep the JSON short."""
    return np.vectorize(lambda value: float(f"{value:.10g}"))(np.asarray(values)).tolist()


def evidence(name: str, draws: np.ndarray) -> Results:
    """Two estimates of log p(x) from draws ``[chains, draws, J]``, without lowerbound."""
    rng = np.random.default_rng(0)
    bridges = [
        bridge(name, draws[chain], np.concatenate(np.delete(draws, chain, 0)), rng)
        for chain in range(len(draws))
    ]
    pooled = draws.reshape(-1, draws.shape[-1])
    mean, root = pooled.mean(0), np.linalg.cholesky(np.cov(pooled.T) * (FREEDOM - 2) / FREEDOM)
    proposals, log_q = student(mean, root, rng)
    log_w = log_density(name, proposals) - log_q
    weights = np.exp(log_w - log_w.max())
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return {
        "bridge": float(np.mean(bridges)),
        "bridge_error": float(np.std(bridges, ddof=1) / math.sqrt(len(bridges))),
        "student": float(logsumexp(log_w) - math.log(PROPOSALS)),
        "student_error": math.sqrt(1 / effective - 1 / PROPOSALS),
        "student_effective": effective,
    }


def bridge(
    name: str, held_out: np.ndarray, fitted_to: np.ndarray, rng: np.random.Generator
) -> float:
    """Bridge sampling with the best bridge (Meng & Wong 1996).

    The other end of the bridge is a Gaussian, fitted to draws of other chains.
    """
    mean, root = fitted_to.mean(0), np.linalg.cholesky(np.cov(fitted_to.T))
    noise = rng.normal(size=(PROPOSALS, len(mean)))
    proposals = mean + noise @ root.T

    def log_q(u: np.ndarray) -> np.ndarray:
        standard = np.linalg.solve(root, (u - mean).T)
        return (
            -0.5 * (standard**2).sum(0)
            - np.log(np.diag(root)).sum()
            - 0.5 * len(mean) * math.log(2 * math.pi)
        )

    of_posterior = log_density(name, held_out) - log_q(held_out)
    of_proposals = log_density(name, proposals) - log_q(proposals)
    share = len(held_out) / (len(held_out) + PROPOSALS)
    estimate = float(np.median(of_posterior))
    for _ in range(1000):
        above = logsumexp(
            of_proposals
            - np.logaddexp(math.log(share) + of_proposals, math.log1p(-share) + estimate)
        )
        below = logsumexp(
            -np.logaddexp(math.log(share) + of_posterior, math.log1p(-share) + estimate)
        )
        last, estimate = (
            estimate,
            float(above - math.log(PROPOSALS) - below + math.log(len(held_out))),
        )
        if abs(estimate - last) < 1e-10:
            return estimate
    raise ArithmeticError(f"{name}: bridge sampling did not converge")


def student(
    mean: np.ndarray, root: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draws from a multivariate Student-t, and their log densities.

    Args:
        mean: its location.
        root: a root of its scale matrix.
        rng: of the draws.
    """
    size = len(mean)
    noise = rng.normal(size=(PROPOSALS, size)) / np.sqrt(
        rng.chisquare(FREEDOM, (PROPOSALS, 1)) / FREEDOM
    )
    constant = (
        math.lgamma((FREEDOM + size) / 2)
        - math.lgamma(FREEDOM / 2)
        - 0.5 * size * math.log(FREEDOM * math.pi)
    )
    log_q = (
        constant
        - np.log(np.diag(root)).sum()
        - 0.5 * (FREEDOM + size) * np.log1p((noise**2).sum(1) / FREEDOM)
    )
    return mean + noise @ root.T, log_q


def schools_by_quadrature() -> Results:
    """Eight schools: closed form given the spread, trapezium rule over its logarithm."""
    log_spread = np.linspace(-25.0, 12.0, 200_001)
    spread = np.exp(log_spread)[:, None]
    variances = ERROR**2 + spread**2
    variance = 1 / (1 / 25 + (1 / variances).sum(1))  # of the mean, given the spread
    mean = variance * (EFFECT / variances).sum(1)
    log_p = -0.5 * (np.log(2 * math.pi * variances) + EFFECT**2 / variances).sum(1)
    log_p += 0.5 * np.log(variance / 25) + 0.5 * mean**2 / variance
    log_p += math.log(2 / (5 * math.pi)) - np.log1p((spread[:, 0] / 5) ** 2) + log_spread
    top, step = log_p.max(), log_spread[1] - log_spread[0]
    weights = np.exp(log_p - top)
    total = weights.sum()
    weights /= total
    pull = spread / variances
    means = np.column_stack([mean, log_spread, pull * (EFFECT - mean[:, None])])
    spreads = np.column_stack([variance, 0 * mean, 1 - spread * pull + pull**2 * variance[:, None]])
    average = weights @ means
    return {
        "log_evidence": float(top + math.log(total * step)),
        "mean": rounded(average),
        "sd": rounded(np.sqrt(weights @ (spreads + (means - average) ** 2))),
        "spread": float(weights @ spread[:, 0]),
    }


def write(name: str, draws: np.ndarray, how: Results) -> None:
    """Write the files of one posterior."""
    problem = PROBLEMS[name]
    pooled = draws.reshape(-1, draws.shape[-1])
    originals = problem.originals(pooled)
    thinned = pooled[:: len(pooled) // THINNED]
    rng = np.random.default_rng(0)
    mean, covariance = pooled.mean(0), np.cov(pooled.T)
    far = mean + 2 * pooled.std(0) * rng.normal(size=(POINTS // 2, len(mean)))
    points = np.concatenate([pooled[rng.choice(len(pooled), POINTS // 2, replace=False)], far])
    points = np.array(rounded(points))
    result = {
        **how,
        "evidence": evidence(name, draws),
        "unconstrained": describe(problem.coordinates, draws),
        "covariance": rounded(covariance),
        "original": describe(
            list(originals),
            np.stack([value.reshape(draws.shape[:2]) for value in originals.values()], -1),
        ),
        "points": points.tolist(),
        "log_densities": log_density(name, points).tolist(),
    }
    if name == "schools":
        result["quadrature"] = schools_by_quadrature()
    folder = RESULTS / "reference"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result) + "\n", encoding="utf8")
    np.savez_compressed(folder / f"{name}.npz", draws=thinned.astype(np.float32))
    least, worst = (
        min(result["unconstrained"]["effective"]),
        max(result["unconstrained"]["r_hat"]),
    )
    print(
        f"{name}: R-hat at most {worst:.4f}, effective sample size at least {least:,.0f}, "
        f"{how['divergences']} divergences, {result['evidence']}",
        file=sys.stderr,
    )


def write_grunfeld() -> None:
    """Write Grunfeld's data, from the copy in statsmodels (public domain)."""
    from statsmodels.datasets import grunfeld

    table = grunfeld.load_pandas().data
    with GRUNFELD.open("w", encoding="utf8", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["firm", "year", "invest", "value", "capital"])
        for row in table.itertuples():
            writer.writerow([row.firm, int(row.year), row.invest, row.value, row.capital])


def main() -> None:
    chosen = choose_parts(__name__, [name for name in PROBLEMS if name != "schools-centred"])
    if not GRUNFELD.exists():
        write_grunfeld()
    for name in chosen:
        if (RESULTS / "reference" / f"{name}.json").exists():
            print(f"{name}: exists already", file=sys.stderr)
            continue
        draws, how = sample(name)
        write(name, draws, how)
        if name == "schools":
            write("schools-centred", centre(draws), how)


if __name__ == "__main__":
    main()
