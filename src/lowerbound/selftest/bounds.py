"""Checks that compare the values of bounds with closed forms and explicit sums."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import torch
from scipy import special, stats
from sklearn.decomposition import PCA, FactorAnalysis

import lowerbound as lb
from lowerbound.models import Gradient
from lowerbound.selftest.known import (
    DOUBLE,
    draw_rank_data,
    errors_above,
    errors_apart,
    largest,
    make_curved_vae,
    make_linear_vae,
    make_some_linear_vae,
    squared_weights,
    standard_error,
)
from lowerbound.selftest.registry import check

_COUNTS = (1, 2, 5, 10, 50)


@check(
    "probabilistic-pca",
    "The best ELBO of a linear VAE is the log likelihood of probabilistic PCA in scikit-learn "
    "(relative)",
    tolerance=1e-12,
)
def compare_with_pca() -> float:
    """See Tipping & Bishop 1999. A diagonal encoder suffices (Lucas et al. 2019)."""
    x = draw_rank_data(300, 5, 2)
    pca = PCA(2).fit(x.numpy())
    noise = torch.tensor(float(pca.noise_variance_), dtype=DOUBLE)
    loadings = torch.from_numpy(pca.components_.T * np.sqrt(pca.explained_variance_ - float(noise)))
    model, _ = make_linear_vae(loadings, torch.from_numpy(pca.mean_), noise.sqrt())
    bound = lb.evaluate(model, lb.ELBO(samples=3, kl="sampled"), x)
    return abs(bound.mean / float(pca.score(x.numpy())) - 1)


@check(
    "factor-analysis",
    "The best ELBO of a linear VAE with a scale for each dimension is the log likelihood of "
    "factor analysis in scikit-learn (relative)",
    tolerance=1e-9,
)
def compare_with_factor_analysis() -> float:
    """The factors are rotated until their posterior is diagonal, which does not change p(x)."""
    x = draw_rank_data(300, 5, 2)
    analysis = FactorAnalysis(2, tol=1e-4).fit(x.numpy())
    noise = torch.from_numpy(np.sqrt(analysis.noise_variance_))
    loadings = torch.from_numpy(analysis.components_.T.copy())
    turn = torch.linalg.eigh(loadings.T @ (loadings / noise[:, None] ** 2))[1]
    model, _ = make_linear_vae(loadings @ turn, torch.from_numpy(analysis.mean_), noise)
    bound = lb.evaluate(model, lb.ELBO(samples=3, kl="sampled"), x)
    return abs(bound.mean / float(analysis.score(x.numpy())) - 1)


@check(
    "exact-posterior",
    "If q(z|x) is the exact posterior, every log weight is the log likelihood",
    tolerance=1e-12,
)
def measure_exact_posterior() -> float:
    """For 50 draws for each of 6 examples."""
    model, evidence = make_some_linear_vae()
    x = torch.randn(6, 5, dtype=DOUBLE)
    return largest(model.draw(x, 50).log_w - evidence.log_prob(x))


@check(
    "elbo-below-by-the-divergence",
    "The ELBO is below the log likelihood by KL(q || posterior), which is known here (in standard "
    "errors)",
    tolerance=4,
)
def measure_elbo_gap() -> float:
    """With the KL term in closed form and sampled. By chance it fails for one seed in 8,000."""
    shift, widen = 0.6, 1.3
    model, evidence = make_some_linear_vae(shift=shift, widen=widen)
    x = evidence.sample(torch.Size((1,))).expand(100_000, -1)
    expected = evidence.log_prob(x[0]) - 2 * (0.5 * (widen**2 + shift**2 - 1) - math.log(widen))
    with torch.no_grad():
        draw = model.draw(x)
        return max(
            errors_apart(lb.ELBO(kl=kl)(draw), expected) for kl in ("closed-form", "sampled")
        )


@check(
    "elbo-written-out",
    "The ELBO is the mean log likelihood minus the KL term, both summed over dimensions, as "
    "computed explicitly with scipy",
    tolerance=1e-12,
)
def compute_elbo_explicitly() -> float:
    """The relative difference, with the KL term in closed form and sampled, for the same z."""
    model, x = make_curved_vae(), torch.rand(4, 6, dtype=DOUBLE)
    with torch.no_grad():
        draw = model.draw(x, 3)
        encoded = model.get_submodule("posterior.network")(x).numpy()
        decoded = model.get_submodule("likelihood.network")(draw.z).numpy()
    mean, deviation = encoded[:, :2], np.exp(0.5 * encoded[:, 2:])
    log_p = (
        stats.norm(decoded[..., :6], np.exp(0.5 * decoded[..., 6:]))
        .logpdf(x.numpy())
        .sum(-1)
        .mean(0)
    )
    kl = 0.5 * (deviation**2 + mean**2 - 1 - 2 * np.log(deviation)).sum(-1)
    z = draw.z.numpy()
    sampled = (stats.norm(mean, deviation).logpdf(z) - stats.norm.logpdf(z)).sum(-1).mean(0)
    found: dict[Any, Any] = {"closed-form": kl, "auto": kl, "sampled": sampled}
    return max(
        largest(lb.ELBO(3, kl=kind)(draw) / torch.from_numpy(log_p - rate) - 1)
        for kind, rate in found.items()
    )


@check(
    "estimators-agree",
    "The ELBO's estimators with sampled and closed-form KL term have the same mean (paired t of "
    "200,000 draws)",
    tolerance=4,
)
def compare_estimators() -> float:
    """Estimators A and B of Kingma & Welling 2013. By chance it fails for one seed in 16,000."""
    model, x = make_curved_vae(), torch.rand(1, 6, dtype=DOUBLE).expand(200_000, -1)
    with torch.no_grad():
        draw = model.draw(x)
        return errors_apart(lb.ELBO(kl="sampled")(draw) - lb.ELBO(kl="closed-form")(draw))


@check(
    "one-sample",
    "The importance-weighted bound of one sample is the ELBO with sampled KL, bit for bit",
    tolerance=0,
)
def compare_one_sample() -> float:
    """On the same draw."""
    draw = make_curved_vae().draw(torch.rand(50, 6, dtype=DOUBLE))
    return largest(lb.IWAE(samples=1)(draw) - lb.ELBO(kl="sampled")(draw))


@check(
    "renyi-at-zero",
    "The Rényi bound is the importance-weighted bound at alpha = 0 and the ELBO at alpha = 1, bit "
    "for bit",
    tolerance=0,
)
def compare_renyi_at_zero() -> float:
    """On the same draw."""
    draw = make_curved_vae().draw(torch.rand(50, 6, dtype=DOUBLE), 7)
    iwae = lb.Renyi(alpha=0.0, samples=7)(draw) - lb.IWAE(samples=7)(draw)
    elbo = lb.Renyi(alpha=1.0, samples=7)(draw) - lb.ELBO(samples=7, kl="sampled")(draw)
    return max(largest(iwae), largest(elbo))


@check(
    "renyi-divergence",
    "The Rényi bound is below the log likelihood by the Rényi divergence of q from the posterior "
    "(in standard errors)",
    tolerance=4,
)
def measure_renyi_gap() -> float:
    """Li & Turner 2016, alpha = 1/2, Gaussians. By chance it fails for one seed in 16,000."""
    shift, widen, draws = 0.6, 1.3, 200_000
    model, evidence = make_some_linear_vae(shift=shift, widen=widen)
    x = evidence.sample(torch.Size((1,)))
    between = 0.5 * (1 + widen**2)
    divergence = 2 * (0.25 * shift**2 / between + math.log(between / widen))
    with torch.no_grad():
        draw = model.draw(x, draws)
        found = lb.Renyi(alpha=0.5, samples=draws)(draw)
        roots = (0.5 * (draw.log_w - draw.log_w.max())).exp()
    error = 2 * standard_error(roots) / roots.mean(0)
    return largest((found - evidence.log_prob(x) + divergence) / error)


@check(
    "rises-with-samples",
    "The importance-weighted bound rises with the number of samples, and stays below the log "
    "likelihood (in standard errors)",
    tolerance=3,
)
def measure_drop_with_samples() -> float:
    """Burda et al. 2016, theorem 1, at 1, 2, 5, 10 and 50 samples.

    By chance it fails for less than one seed in 150.
    """
    model, evidence = make_some_linear_vae(shift=0.8, widen=1.2)
    x = evidence.sample(torch.Size((1,))).expand(4000, -1)
    with torch.no_grad():
        bounds = [lb.IWAE(samples=count)(model.draw(x, count)) for count in _COUNTS]
    drops = [few - many for few, many in pairwise(bounds)]
    return max(
        errors_above(difference) for difference in (*drops, bounds[-1] - evidence.log_prob(x))
    )


@check(
    "gap-of-many-samples",
    "The gap of the importance-weighted bound, times the number of samples, approaches Var(w) / (2 "
    "p(x)^2) (relative)",
    tolerance=0.1,
)
def measure_gap_of_many_samples() -> float:
    """Maddison et al. 2017, at 200 samples, with an error of about 2.5%.

    The control variate is ``mean w / p - 1``, whose mean is 0.
    """
    shift, widen, samples = 0.5, 1.2, 200
    model, evidence = make_some_linear_vae(shift=shift, widen=widen)
    x = evidence.sample(torch.Size((1,))).expand(4000, -1)
    with torch.no_grad():
        relative = lb.IWAE(samples=samples)(model.draw(x, samples)) - evidence.log_prob(x)
    gap = float((relative.exp() - 1 - relative).mean())
    expected = 0.5 * (squared_weights(shift, widen) - 1)
    return abs(samples * gap / expected - 1)


@check(
    "groups-written-out",
    "MIWAE averages the bounds of groups of an example's samples, and CIWAE mixes in the ELBO, as "
    "computed explicitly",
    tolerance=1e-12,
)
def compute_groups_explicitly() -> float:
    """With 4 groups of 3 samples for 5 examples, so that all sizes differ."""
    draw = make_curved_vae().draw(torch.rand(5, 6, dtype=DOUBLE), 12)
    log_w_MGB = draw.log_w.detach().numpy().reshape(4, 3, 5)
    grouped = special.logsumexp(log_w_MGB, axis=1, b=1 / 3).mean(0)
    whole = special.logsumexp(log_w_MGB, axis=(0, 1), b=1 / 12)
    elbo = log_w_MGB.mean((0, 1))
    found = {
        lb.IWAE(samples=12, groups=4): grouped,
        lb.IWAE(samples=12): whole,
        lb.IWAE(samples=12, encoder_groups=4): whole,
        lb.IWAE(samples=12, groups=4, elbo_weight=0.3): 0.3 * elbo + 0.7 * grouped,
    }
    return max(
        largest(objective(draw) - torch.from_numpy(expected))
        for objective, expected in found.items()
    )


def _list_elbos(gradient: Gradient) -> list[lb.Objective]:
    """List objectives that all report the ELBO."""
    settings: list[dict[str, Any]] = [
        {},
        {"beta": 4.0},
        {"beta": 0.0},
        {"capacity": 3.0, "beta": 10.0},
    ]
    if gradient in ("pathwise", "score-function"):
        settings.append({"free_bits": 0.5})
    return [lb.ELBO(samples=6, gradient=gradient, **entry) for entry in settings]


@check(
    "reported-bound",
    "An objective reports its true bound, even if another surrogate gives its gradient (beta, free "
    "bits, DReG, VIMCO, ...)",
    tolerance=1e-12,
)
def compare_reported_bounds() -> Iterator[float]:
    """Compare the values, bounds and terms for every gradient with explicit sums."""
    model, x = make_curved_vae(), torch.rand(5, 6, dtype=DOUBLE)
    for gradient in get_args(Gradient):
        draw = model.draw(x, 6, gradient)
        log_w_MGB = draw.log_w.detach().numpy().reshape(2, 3, 5)
        whole = special.logsumexp(log_w_MGB, axis=(0, 1), b=1 / 6)
        grouped = special.logsumexp(log_w_MGB, axis=1, b=1 / 3).mean(0)
        roots = 2 * special.logsumexp(0.5 * log_w_MGB, axis=(0, 1), b=1 / 6)
        assert draw.analytic_rate is not None
        elbo = (draw.log_likelihood.mean(0) - draw.analytic_rate).detach().numpy()
        expected = dict.fromkeys(_list_elbos(gradient), elbo) | {
            lb.ELBO(samples=6, gradient=gradient, kl="sampled"): log_w_MGB.mean((0, 1)),
            lb.IWAE(samples=6, gradient=gradient): whole,
            lb.IWAE(samples=6, gradient=gradient, encoder_groups=2): whole,
            lb.IWAE(samples=6, gradient=gradient, groups=2): grouped,
            lb.Renyi(samples=6, gradient=gradient, alpha=0.5): roots,
        }
        for objective, value in expected.items():
            terms = objective.terms(draw)
            for found in (objective(draw), objective.bound(draw), terms["bound"]):
                yield largest(found - torch.from_numpy(value))
            if isinstance(objective, lb.ELBO):
                yield largest(terms["bound"] + terms["rate"] + terms["distortion"])
