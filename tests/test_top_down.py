"""What each layer of a model with top-down inference sees, and the support of several layers."""

import pytest
import torch
from torch.distributions import Independent, Normal

import lowerbound as lb
from lowerbound.distributions import (
    FactorialBernoulli,
    Hierarchy,
    multiply_normals,
    shift_normal,
)

DOUBLE = torch.float64
RELATE = {"product": multiply_normals, "residual": shift_normal}


@pytest.mark.parametrize("merge", ["concatenate", "product", "residual"])
def test_each_layer_sees_its_own_features_and_the_layer_above(merge):
    torch.manual_seed(0)
    top, prior = lb.Gaussian(lb.constant(4, spread=1.0)), lb.Gaussian(lb.mlp(2, 6))
    features = [lb.mlp(5, 4), lb.mlp(4, 6)]
    width = {"product": 4}.get(merge, 4 + 2)
    posteriors = [lb.Gaussian(lb.mlp(width, 6)), lb.Gaussian(lb.mlp(6, 4))]
    likelihood = lb.Gaussian(lb.mlp(3, 10))
    model = lb.LayeredModel([prior, top], posteriors, likelihood, features=features, merge=merge)
    x = torch.randn(7, 5, dtype=DOUBLE)
    with torch.no_grad():
        draw = model.double().draw(x, 3)
        z2 = draw.latents["z2"].z
        low = features[0](x)
        above = posteriors[1](features[1](low))
        inputs = low
        if merge != "product":
            inputs = torch.cat([low.expand(3, -1, -1), z2], -1)
        below = posteriors[0](inputs)
        if merge != "concatenate":
            below = RELATE[merge](below, prior(z2))
        if merge == "residual":
            above = shift_normal(above, top())
    for name, expected in (("z2", above), ("z1", below)):
        q = draw.latents[name].q
        torch.testing.assert_close(q.mean, expected.mean)
        torch.testing.assert_close(q.stddev, expected.stddev)


def test_latents_are_possible_only_if_those_of_every_layer_are():
    numbers = Independent(Normal(torch.zeros(2), 1.0), 1)
    bits = FactorialBernoulli(torch.zeros(3))

    def walk(visit):
        visit("numbers", numbers)
        visit("bits", bits)

    p = Hierarchy(walk, {"numbers": numbers, "bits": bits})
    z = torch.tensor([[0.5, -1.0, 0.0, 1.0, 1.0], [0.5, -1.0, 0.0, 0.5, 1.0]])
    assert p.support.check(z).tolist() == [True, False]
