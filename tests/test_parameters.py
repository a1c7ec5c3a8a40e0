"""Distributions from the outputs of a network, written out entry by entry."""

import math

import pytest
import torch
from torch import nn

import lowerbound as lb
from lowerbound.conditionals.gaussian import FullRankGaussian


def test_a_sigmoid_mean_lies_between_0_and_1():
    raw = torch.tensor([[-3.0, 0.0, 2.0]], dtype=torch.float64)
    q = lb.Gaussian(nn.Identity(), scale=0.5, mean="sigmoid")(raw)
    torch.testing.assert_close(q.mean, 1 / (1 + (-raw).exp()))
    torch.testing.assert_close(q.stddev, torch.full_like(raw, 0.5))


def test_a_full_rank_factor_has_standard_deviations_and_rows_below():
    raw = torch.tensor([1.0, 2.0, 3.0, 0.2, -0.4, 0.6, 10.0, 20.0, 21.0], dtype=torch.float64)
    q = FullRankGaussian(nn.Identity())(raw)
    expected = torch.diag(torch.tensor([0.1, -0.2, 0.3], dtype=torch.float64).exp())
    expected[1, 0], expected[2, 0], expected[2, 1] = 10.0, 20.0, 21.0
    assert q.loc.tolist() == [1.0, 2.0, 3.0]
    torch.testing.assert_close(q.factor, expected)


@pytest.mark.parametrize(
    ("log_variance", "scale"), [(-1e9, 0.01), (1e9, 50.0), (0.6, math.exp(0.3))]
)
def test_scales_are_from_variances_and_keep_their_bounds(log_variance, scale):
    raw = torch.tensor([1.0, log_variance], dtype=torch.float64)
    q = lb.Gaussian(nn.Identity(), min_scale=0.01, max_scale=50.0)(raw)
    assert float(q.stddev) == pytest.approx(scale, rel=1e-6)


def test_logits_of_levels_come_level_by_level():
    raw = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    network = nn.Identity()
    network.output_shape = (6, 4, 5)
    p = lb.Categorical(network, levels=3)(raw)
    assert p.event_shape == (2, 4, 5)
    x = torch.randint(3, (2, 2, 4, 5)).double() / 2
    logits = torch.stack([raw[:, :2], raw[:, 2:4], raw[:, 4:]])
    chosen = sum(
        torch.where(x == level / 2, logits.log_softmax(0)[level], 0.0) for level in range(3)
    )
    torch.testing.assert_close(p.log_prob(x), chosen.sum((1, 2, 3)))
    expected = (logits.softmax(0) * torch.tensor([0.0, 0.5, 1.0]).reshape(3, 1, 1, 1, 1)).sum(0)
    torch.testing.assert_close(p.mean, expected)
