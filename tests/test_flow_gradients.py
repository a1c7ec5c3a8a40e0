"""Gradients of flows that do not go through draws: the right expectation for every flow of zuko."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal

import lowerbound as lb
from lowerbound.errors import UnsupportedError

FLOWS = {
    "nice": {"transforms": 2, "hidden_features": (8,)},
    "realnvp": {"transforms": 2, "hidden_features": (8,)},
    "maf": {"transforms": 2, "hidden_features": (8,)},
    "nsf": {"transforms": 1, "bins": 4, "hidden_features": (8,)},
    "ncsf": {"transforms": 1, "bins": 4, "hidden_features": (8,)},
    "sospf": {"transforms": 1, "hidden_features": (8,)},
    "gf": {"transforms": 1, "components": 4, "hidden_features": (8,)},
    "bpf": {"transforms": 1, "degree": 4, "hidden_features": (8,)},
    "naf": {"transforms": 1, "network": {"hidden_features": (8,)}, "hidden_features": (8,)},
    "unaf": {"transforms": 1, "network": {"hidden_features": (8,)}, "hidden_features": (8,)},
}
OBJECTIVES = {
    "iwae": lb.IWAE(samples=6),
    "piwae": lb.IWAE(samples=6, encoder_groups=2),
    "renyi": lb.Renyi(0.5, samples=6),
}


@pytest.mark.parametrize("name", FLOWS)
def test_dreg_and_pathwise_have_the_same_mean_gradient(name):
    """A paired t-test of 30 draws, in two random directions for each objective."""
    torch.manual_seed(0)
    posterior = lb.Flow(name, 2, context=3, **FLOWS[name])
    vae = lb.LatentModel(
        lb.StandardNormal(2), posterior, lb.Gaussian(lb.mlp(2, 6), min_scale=0.3)
    ).double()
    x = torch.randn(3, dtype=torch.float64).expand(64, 3)
    parameters = [p for p in posterior.parameters() if p.requires_grad]
    directions = [[torch.randn_like(p) for p in parameters] for _ in range(2)]
    for objective in OBJECTIVES.values():
        differences = []
        for seed in range(30):
            projected = []
            for gradient in ("dreg", "pathwise"):
                torch.manual_seed(seed)
                draw = vae.draw(x, objective.samples, gradient)
                one = type(objective)(**{**vars(objective), "gradient": gradient})
                loss = one.surrogate(draw).mean()
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                projected.append(
                    [
                        sum(
                            float((g * d).sum())
                            for g, d in zip(gradients, way, strict=True)
                            if g is not None
                        )
                        for way in directions
                    ]
                )
            differences.append([a - b for a, b in zip(*projected, strict=True)])
        columns = torch.tensor(differences, dtype=torch.float64)
        t = columns.mean(0) / columns.std(0) * math.sqrt(len(columns))
        assert bool((columns.std(0) > 0).all())
        assert bool((t.abs() < 4).all()), t


def test_a_distribution_that_cannot_be_evaluated_twice_is_refused():
    """With dropout, the second evaluation of the posterior would give another distribution."""

    class Foreign(Normal):
        """Not one of torch's own, whose parameters are known."""

    class Posterior(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))

        def forward(self, x):
            return Independent(Foreign(self.network(x), 1.0), 1)

    vae = lb.LatentModel(lb.StandardNormal(2), Posterior(), lb.Gaussian(lb.mlp(2, 6))).train()
    draw = vae.draw(torch.randn(5, 3), 4, "dreg")
    with pytest.raises(UnsupportedError, match="Dropout"):
        lb.IWAE(samples=4, gradient="dreg").surrogate(draw)
