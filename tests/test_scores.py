"""Scores: models with a part that is not a density, and objectives that are not bounds."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

import lowerbound as lb
from lowerbound.errors import UnsupportedError


@dataclass(frozen=True)
class Half(lb.Objective):
    """Half of the ELBO, which is not a bound."""

    is_bound: ClassVar[bool] = False
    samples: int = 1

    def bound(self, draw):
        return 0.5 * draw.log_w.mean(0)


def point_vae() -> lb.LatentModel:
    return lb.LatentModel(
        lb.StandardNormal(2), lb.Point(lb.mlp(6, 2)), lb.Gaussian(lb.mlp(2, 6), scale=1.0)
    )


def gaussian_vae() -> lb.LatentModel:
    return lb.LatentModel(
        lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 6), scale=1.0)
    )


def levels() -> lb.Examples:
    return lb.Examples.of(torch.randint(256, (9, 6), dtype=torch.uint8)).prepare("dequantize")


@pytest.mark.parametrize(
    ("model", "objective"), [(point_vae, lb.ELBO(kl="sampled")), (gaussian_vae, Half())]
)
def test_a_score_is_called_a_score_and_has_no_bits(model, objective):
    estimate = lb.evaluate(model(), objective, levels())
    assert estimate.label == "score"
    assert repr(estimate).startswith("Estimate(score=")
    assert estimate.bits_per_dimension is None


def test_a_bound_is_called_a_bound():
    estimate = lb.evaluate(gaussian_vae(), lb.ELBO(), levels())
    assert estimate.label == "bound"
    assert repr(estimate).startswith("Estimate(bound=")
    assert estimate.bits_per_dimension is not None


def test_a_training_calls_a_score_a_score(capsys):
    for model, label in ((point_vae(), "score"), (gaussian_vae(), "bound")):
        run = lb.fit(model, lb.ELBO(kl="sampled"), torch.randn(20, 6), epochs=1, validation=0.2)
        assert f"kept epoch 1, validation {label} " in capsys.readouterr().err
        assert f", {label}: train " in repr(run)


EVALUATIONS = {
    "log_likelihood": lambda model: lb.log_likelihood(model, torch.zeros(3, 6)),
    "annealed_log_likelihood": lambda model: lb.annealed_log_likelihood(model, torch.zeros(3, 6)),
    "bidirectional": lb.bidirectional,
    "inference_gaps": lambda model: lb.inference_gaps(model, torch.zeros(3, 6)),
    "latent_health": lambda model: lb.latent_health(model, torch.zeros(3, 6)),
}


@pytest.mark.parametrize("name", EVALUATIONS)
def test_what_needs_a_density_refuses_a_point_and_names_it(name):
    with pytest.raises(
        UnsupportedError, match=rf"{name}: the posterior \(Point\).*lb\.evaluate reports the score"
    ):
        EVALUATIONS[name](point_vae())


def test_a_log_joint_with_a_part_that_is_not_a_density_gets_no_verdict():
    class Scored(lb.LogJoint):
        def unnormalized_parts(self):
            return ("log joint (Scored)",)

    model = Scored(lambda a: -a.square(), lb.mean_field, {"a": ()})
    with pytest.raises(UnsupportedError, match=r"posterior_health: the log joint \(Scored\)"):
        lb.posterior_health(model)


def test_an_objective_that_is_not_a_bound_gets_no_verdict_on_the_latents():
    x = torch.randn(20, 6)
    with pytest.raises(UnsupportedError, match="latent_health: the objective Half is not a bound"):
        lb.latent_health(gaussian_vae(), x, objective=Half())
    assert lb.latent_health(gaussian_vae(), x).units == 2
