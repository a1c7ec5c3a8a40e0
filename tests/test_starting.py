"""Starting points of log joints that fail at some points."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import HalfNormal, MultivariateNormal, Normal, constraints

import lowerbound as lb
from lowerbound.errors import LogJointError, SettingsError, ShapeError

POSITIVE = lb.Variable((), constraints.positive)


@pytest.mark.parametrize("seed", range(4))
def test_a_gaussian_process_without_jitter_is_started(seed):
    """Its covariance has no Cholesky factor at some points, where torch raises an error."""
    x = torch.linspace(0, 1, 30)
    y = torch.sin(6 * x)

    def log_joint(length, scale, noise):
        square = (x[:, None] - x).square()
        covariance = scale[:, None, None] ** 2 * torch.exp(
            -0.5 * square / length[:, None, None] ** 2
        ) + noise[:, None, None] ** 2 * torch.eye(30)
        return (
            Normal(0.0, 1.0).log_prob(length.log())
            + HalfNormal(1.0).log_prob(scale)
            + HalfNormal(1.0).log_prob(noise)
            + MultivariateNormal(torch.zeros(30), covariance).log_prob(y)
        )

    names = ("length", "scale", "noise")
    model = lb.LogJoint(log_joint, lb.full_rank, dict.fromkeys(names, POSITIVE))
    model.start(paths=2, seed=seed)
    values, _ = model.values(torch.zeros(1, 3))
    assert 0.1 < float(values["length"]) < 0.6


@pytest.mark.parametrize("how", ["raises", "nan"])
def test_a_point_at_which_the_log_joint_fails_is_impossible(how):
    def log_joint(mean, noise):
        if how == "raises" and bool((noise < 0.5).any()):
            raise ValueError("this simulator needs more noise")
        value = (
            Normal(0.0, 50.0).log_prob(mean)
            + HalfNormal(10.0).log_prob(noise)
            + Normal(mean, noise).log_prob(torch.tensor(20.0))
        )
        return torch.where(noise < 0.5, math.nan, value)

    for seed in range(2):
        model = lb.LogJoint(log_joint, lb.mean_field, {"mean": (), "noise": POSITIVE})
        model.start(seed=seed)
        values, _ = model.values(torch.zeros(1, 2))
        assert -10 < float(values["mean"]) < 50
        assert 0.5 < float(values["noise"]) < 40


def test_the_log_joint_s_own_error_is_raised_if_it_fails_everywhere():
    def log_joint(a):
        raise ValueError("nothing works")

    model = lb.LogJoint(log_joint, lb.mean_field, {"a": ()})
    with pytest.raises(LogJointError, match="nothing works"):
        model.start(paths=2)


@pytest.mark.parametrize(
    "support", [constraints.boolean, constraints.nonnegative_integer, constraints.one_hot]
)
def test_discrete_variables_are_to_be_summed_out(support):
    with pytest.raises(SettingsError, match=r"discrete.*sum it out.*torch\.logsumexp"):
        lb.Variable((3,), support)


def test_decode_says_which_shape_of_latents_it_expects():
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(lb.mlp(2, 8)))
    z = torch.zeros(5, 2)
    assert vae.decode(z).shape == (5, 4)
    with pytest.raises(ShapeError, match=r"shape \(2,\), expected \[N, 2\].*pass z\[None\]"):
        vae.decode(z[0])
    with pytest.raises(ShapeError, match=r"shape \(5, 3\), expected \[N, 2\]"):
        vae.decode(torch.zeros(5, 3))


def test_a_log_joint_that_fails_only_for_several_draws_at_once_is_a_mistake():
    """Its points are possible one by one, so they must not count as impossible."""

    def log_joint(mean):
        if len(mean) > 1:
            raise ValueError("one draw at a time, please")
        return Normal(0.0, 1.0).log_prob(mean)

    model = lb.LogJoint(log_joint, lb.mean_field, {"mean": ()})
    with pytest.raises(LogJointError, match="one draw at a time"):
        model.start(paths=1)
