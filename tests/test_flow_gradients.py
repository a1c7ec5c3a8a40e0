"""Gradients of flows that do not go through draws: the right expectation for the flows of zuko."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Independent, Uniform

import lowerbound as lb

FLOWS = {
    "nice": {"transforms": 2, "hidden_features": (8,)},
    "realnvp": {"transforms": 2, "hidden_features": (8,)},
    "maf": {"transforms": 2, "hidden_features": (8,)},
    "nsf": {"transforms": 1, "bins": 4, "hidden_features": (8,)},
    "ncsf": {"transforms": 1, "bins": 4, "hidden_features": (8,)},
    "sospf": {"transforms": 1, "hidden_features": (8,)},
    "gf": {"transforms": 1, "components": 4, "hidden_features": (8,)},
    "bpf": {"transforms": 1, "degree": 4, "hidden_features": (8,)},
}
OBJECTIVES = {
    "iwae": lb.IWAE(samples=6),
    "piwae": lb.IWAE(samples=6, encoder_groups=2),
    "renyi": lb.Renyi(0.5, samples=6),
}


class Angles(nn.Module):
    """A uniform density of two angles."""

    def forward(self):
        end = torch.full((2,), math.pi, dtype=torch.float64)
        return Independent(Uniform(-end, end, validate_args=False), 1)


class OfAngles(nn.Module):
    """A network whose output is the same at both ends of the circle."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6)

    def forward(self, z):
        return self.layer(torch.cat([z.cos(), z.sin()], -1))


def make_model(name, posterior):
    """A model of two latents. For a flow on circles its density is continuous on them.

    Otherwise draws that cross the end of the circle would bias every pathwise gradient.
    """
    if name == "ncsf":
        prior, network = Angles(), OfAngles()
    else:
        prior, network = lb.StandardNormal(2), lb.mlp(2, 6)
    return lb.LatentModel(prior, posterior, lb.Gaussian(network, min_scale=0.3)).double()


@pytest.mark.parametrize("name", FLOWS)
def test_dreg_and_pathwise_have_the_same_mean_gradient(name):
    """A paired t-test of 30 draws, in two random directions for each objective."""
    torch.manual_seed(0)
    posterior = lb.Flow(name, 2, context=3, **FLOWS[name])
    vae = make_model(name, posterior)
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
