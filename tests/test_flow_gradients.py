"""Gradients of flows that do not go through draws: the right expectation for the flows of zuko."""

from __future__ import annotations

import math
from dataclasses import replace

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
ROWS = {
    "sospf": 16,
    "bpf": 16,
}  # The inverse of these is a search, which takes nearly all the time.
SAMPLES = 6
OBJECTIVES = {
    "iwae": lb.IWAE(SAMPLES),
    "piwae": lb.IWAE(SAMPLES, encoder_groups=2),
    "renyi": lb.Renyi(0.5, SAMPLES),
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
    """A paired t-test of 12 draws, in two random directions for each objective."""
    torch.manual_seed(0)
    posterior = lb.Flow(name, 2, context=3, **FLOWS[name])
    vae = make_model(name, posterior)
    x = torch.randn(3, dtype=torch.float64).expand(ROWS.get(name, 96), 3)
    parameters = [p for p in posterior.parameters() if p.requires_grad]
    directions = [[torch.randn_like(p) for p in parameters] for _ in range(2)]

    def project(draw, objective, gradient):
        one = replace(objective, gradient=gradient)
        gradients = torch.autograd.grad(
            one.surrogate(draw).mean(), parameters, allow_unused=True, materialize_grads=True,
            retain_graph=True,
        )  # fmt: skip
        return [
            sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
            for direction in directions
        ]

    projected = {"dreg": [], "pathwise": []}  # [seeds, objectives, directions] each
    for _ in range(12):
        # Both kinds of gradient take the same draws, so one search for the inverse serves both.
        draw = vae.draw(x, SAMPLES)
        for gradient, found in projected.items():
            found.append([project(draw, one, gradient) for one in OBJECTIVES.values()])
    dreg, pathwise = (torch.tensor(found, dtype=torch.float64) for found in projected.values())
    differences = dreg - pathwise
    t = differences.mean(0) / differences.std(0) * math.sqrt(len(differences))
    assert bool((differences.std(0) > 0).all())
    assert bool((t.abs() < 4).all()), t
