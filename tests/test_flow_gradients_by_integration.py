"""Gradients of the flows of zuko that integrate, or that invert by bisection."""

import math

import pytest
import torch

import lowerbound as lb

FLOWS = {
    "naf": {"transforms": 1, "signal": 2, "hidden_features": (4,)},
    "unaf": {"transforms": 1, "signal": 2, "hidden_features": (4,)},
    "cnf": {"hidden_features": (4,)},
}


def make_model(name):
    posterior = lb.Flow(name, 2, context=3, **FLOWS[name])
    likelihood = lb.Gaussian(lb.mlp(2, 6), min_scale=0.3)
    return lb.LatentModel(lb.StandardNormal(2), posterior, likelihood).double()


def gradient_of(value, parameters):
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(p).flatten() if g is None else g.flatten()
            for g, p in zip(found, parameters, strict=True)
        ]
    )


@pytest.mark.parametrize("name", FLOWS)
def test_path_and_score_are_the_whole_gradient_of_log_q(name):
    """So stop-gradients stop what they should. zuko integrates to about one per cent."""
    vae = make_model(name)
    parameters = [p for p in vae.posterior.parameters() if p.requires_grad]
    draw = vae.draw(torch.randn(2, 3, dtype=torch.float64), 1)
    path = gradient_of(draw.log_q_stopgrad_parameters.sum(), parameters)
    score = gradient_of(draw.log_q_stopgrad_z.sum(), parameters)
    whole = gradient_of(draw.log_q.sum(), parameters)
    assert min(float(path.abs().max()), float(score.abs().max())) > 1e-2
    assert float((path + score - whole).norm()) < 0.05 * float(whole.norm())


def test_dreg_and_pathwise_have_the_same_mean_gradient():
    """A paired t-test of 12 draws of many examples, in two random directions."""
    vae = make_model("naf")
    x = torch.randn(3, dtype=torch.float64).expand(32, 3)
    parameters = [p for p in vae.posterior.parameters() if p.requires_grad]
    directions = torch.randn(2, sum(p.numel() for p in parameters), dtype=torch.float64)
    differences = []
    for _ in range(12):
        found, draw = [], vae.draw(x, 4)  # both kinds of gradient take the same draws
        for gradient in ("dreg", "pathwise"):
            objective = lb.IWAE(samples=4, gradient=gradient)
            loss = objective.surrogate(draw).mean()
            found.append(directions @ gradient_of(loss, parameters))
        differences.append(found[0] - found[1])
    columns = torch.stack(differences)
    t = columns.mean(0) / columns.std(0) * math.sqrt(len(columns))
    assert bool((columns.std(0) > 0).all())
    assert bool((t.abs() < 5).all()), t  # a t of 11 degrees exceeds 5 once in 2,500
