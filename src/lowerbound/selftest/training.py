"""Checks of training: its records, the weights that it keeps, and its results."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from scipy import special
from sklearn.decomposition import PCA
from torch import Tensor

import lowerbound as lb
from lowerbound.evaluation.health import latent_health
from lowerbound.selftest.known import DOUBLE, draw_rank_data, fit_linear_vae, make_curved_vae
from lowerbound.selftest.registry import check


@dataclass(frozen=True, eq=False)
class _MisleadingBound(lb.Objective):
    """An importance-weighted bound whose surrogate is far above it.

    It records its log weights, ``[K, B]`` in each call.
    """

    samples: int = 4
    seen: list[Tensor] = field(default_factory=list)

    def bound(self, draw: lb.Draw) -> Tensor:
        return lb.IWAE(samples=self.samples).bound(draw)

    def surrogate(self, draw: lb.Draw) -> Tensor:
        self.seen.append(draw.log_w.detach())
        return self.bound(draw) + 100.0 + draw.log_likelihood.mean(0)


@check(
    "recorded-bound",
    "The training bound that fit records is the mean over examples of the true bound, not of the "
    "surrogate (relative)",
    tolerance=1e-12,
)
def compare_recorded_bound() -> float:
    """For one epoch of 7 very different examples in batches of 5 and 2."""
    model, watching = make_curved_vae(), _MisleadingBound()
    x = torch.linspace(0, 8, 7, dtype=DOUBLE)[:, None] * torch.rand(7, 6, dtype=DOUBLE)
    run = lb.fit(model, watching, x, epochs=1, batch_size=5, device="cpu", progress=False)
    # Before the first step, fit may have evaluated the objective once.
    log_w = torch.cat(watching.seen, 1)[:, -len(x) :].numpy()
    expected = float((special.logsumexp(log_w, axis=0) - math.log(len(log_w))).mean())
    return abs(float(run.history[0]["train"]["bound"]) / expected - 1)


@check(
    "selection",
    "The weights that fit keeps have the best true bound on the validation data (relative)",
    tolerance=1e-12,
)
def compare_selected_weights() -> float:
    """With beta = 4 and a learning rate so high that an early epoch is the best.

    The model's bound must be the best bound that was recorded.
    """
    x = draw_rank_data(60, 6, 2)
    model = make_curved_vae()
    run = lb.fit(
        model,
        lb.ELBO(samples=3, beta=4.0),
        x[:40],
        validation=x[40:],
        epochs=6,
        batch_size=10,
        learning_rate=0.3,
        device="cpu",
        progress=False,
    )
    bounds = [record["validation"]["bound"] for record in run.history]
    kept = lb.evaluate(model, lb.ELBO(samples=3), x[40:]).mean
    return abs(kept / float(max(bounds)) - 1)


@check(
    "rank-ten",
    "On data of rank ten, a VAE that is trained with the default settings uses all ten latents "
    "(number of unused latents)",
    tolerance=0,
)
def count_unused_latents() -> float:
    """For 30 dimensions, 1,000 examples and 15 epochs.

    A unit is used if its posterior mean varies (Burda et al. 2016).
    """
    mixing = 3 * torch.linalg.qr(torch.randn(30, 10))[0].T
    x = torch.randn(1000, 10) @ mixing + 0.1 * torch.randn(1000, 30)
    model = lb.LatentModel(
        lb.StandardNormal(10),
        lb.Gaussian(lb.mlp(30, 64, 20)),
        lb.Gaussian(lb.mlp(10, 64, 30), scale="shared"),
    )
    lb.fit(model, lb.ELBO(), x, epochs=15, device="cpu", progress=False)
    return 10 - latent_health(model, x).active_units


@check(
    "trained-linear-vae",
    "A trained linear VAE achieves the log likelihood of probabilistic PCA in scikit-learn",
    tolerance=1e-4,
    thorough=True,
)
def train_linear_vae() -> float:
    """With rescaled data: the maximum likelihood divides by N, but scikit-learn by N - 1."""
    x = draw_rank_data(100, 5, 2)
    centred = (x - x.mean(0)).numpy()
    expected = float(PCA(2).fit(math.sqrt(99 / 100) * centred).score(centred))
    model = fit_linear_vae(x)
    reached = lb.evaluate(model, lb.ELBO(samples=1000, kl="sampled"), x).mean
    return abs(reached - expected)
