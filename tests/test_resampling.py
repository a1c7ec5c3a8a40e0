"""Draws in proportion to their weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.distributions import Normal

import lowerbound as lb
from lowerbound.models.resampling import choose_systematically, resample_by_weight


def test_resampled_draws_have_the_moments_of_a_target_far_from_q():
    """Without replacement from 25 times as many draws, the mean was 1.24 sd off, the sd 1.23."""
    model = lb.LogJoint(lambda x: Normal(2.5, 0.3).log_prob(x), lb.mean_field, {"x": ()})
    errors, ratios = [], []
    for seed in range(20):
        x = model.posterior_sample(1000, resample=True, seed=seed)["x"]
        errors.append(float(x.mean() - 2.5) / 0.3)
        ratios.append(float(x.std()) / 0.3)
    # The standard deviation of one error is 0.05, so these are about five standard errors.
    assert abs(sum(errors) / 20) < 0.06
    assert sum(ratios) / 20 == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("chunk", [7, 40, 100])
def test_the_number_of_copies_is_proportional_to_the_weight_whatever_the_chunks(chunk):
    torch.manual_seed(0)
    log_w = 2 * torch.randn(100, dtype=torch.float64)
    log_w[::9] = -torch.inf
    expected = 10 * log_w.softmax(0)
    copies = torch.zeros(100, dtype=torch.float64)
    repetitions = 200
    for _ in range(repetitions):
        done = 0

        def draw(size):
            nonlocal done
            rows = torch.arange(done, done + size)
            done += size
            return SimpleNamespace(z=rows[:, None, None].double(), log_w=log_w[rows][:, None])

        chosen = resample_by_weight(draw, 10, candidates=100, chunk=chunk)
        copies += torch.bincount(chosen[:, 0].long(), minlength=100)
    # At most the variance of independent draws: five standard errors, and six copies more for rows
    # so light that their number of copies is far from Gaussian.
    error = (expected * (1 - expected / 10) / repetitions).sqrt()
    assert ((copies / repetitions - expected).abs() <= 5 * error + 6 / repetitions).all()


def test_systematic_choice_differs_from_the_expected_number_of_copies_by_less_than_one():
    torch.manual_seed(0)
    log_w = 3 * torch.randn(500, dtype=torch.float64)
    copies = torch.bincount(choose_systematically(log_w, 300), minlength=500)
    assert ((copies - 300 * log_w.softmax(0)).abs() < 1).all()
