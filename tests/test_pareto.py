"""k-hat is that of ArviZ, which follows the same paper."""

import math

import pytest
import torch

from lowerbound.evaluation.importance import WeightSums
from lowerbound.evaluation.pareto import (
    describe_shape,
    pareto_shape,
    reliable_shape,
    tail_length,
)


def make_log_weights(kind: str, samples: int) -> torch.Tensor:
    normal = torch.randn(samples, dtype=torch.float64)
    if kind == "heavy":
        return -1.3 * torch.rand(samples, dtype=torch.float64).log()
    return {"even": 0.3 * normal, "uneven": 3.0 * normal}[kind]


@pytest.mark.parametrize("samples", [60, 1000, 5000])
@pytest.mark.parametrize("kind", ["even", "uneven", "heavy"])
def test_k_hat_is_that_of_arviz(kind, samples):
    arviz = pytest.importorskip("arviz", reason="ArviZ is not installed")
    log_w = make_log_weights(kind, samples)
    _, expected = arviz.psislw(log_w.numpy())
    largest = log_w.topk(tail_length(samples) + 1).values
    assert float(pareto_shape(largest[:, None])) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("chunks", [1, 7])
def test_k_hat_of_chunks_is_that_of_all_weights(chunks):
    log_w = make_log_weights("heavy", 1000)
    sums = WeightSums(1000)
    for part in log_w[:, None].chunk(chunks):
        sums.add(part)
    expected = pareto_shape(log_w.topk(tail_length(1000) + 1).values[:, None])
    assert torch.equal(sums.results()["pareto_k"], expected)


def test_the_tail_and_the_reliable_shape_are_those_of_the_paper():
    assert [tail_length(samples) for samples in (10, 225, 226, 10_000)] == [2, 45, 46, 300]
    assert reliable_shape(100) == pytest.approx(0.5)
    assert reliable_shape(1000) == pytest.approx(2 / 3)
    assert reliable_shape(10**6) == 0.7
    assert reliable_shape(1) == -math.inf


@pytest.mark.parametrize(
    ("shape", "described"),
    [
        (0.704, "k-hat 0.70"),
        (-math.inf, "k-hat minus infinity (the largest weights are equal)"),
        (math.nan, "k-hat unknown (too few weights)"),
    ],
)
def test_k_hat_is_described_in_words_where_it_is_not_a_number(shape, described):
    assert describe_shape(shape) == described
