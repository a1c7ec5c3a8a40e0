"""Verdicts on both sides of their thresholds, and the errors that they follow from."""

import math

import pytest
import torch

from lowerbound.evaluation.posterior_reference import DrawErrors, Reference
from lowerbound.evaluation.posterior_verdict import Judgement, judge

FINE = DrawErrors(0.0, 0.09, 1.0, 1.09)
OFF = DrawErrors(0.0, 0.11, 1.0, 1.0)
WIDE = DrawErrors(0.0, 0.0, 1.0, 1.11)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "good"),
        ({"is_reliable": False}, "bad"),
        ({"gap": 0.051}, "usable"),
        ({"draws": OFF}, "usable"),
        ({"draws": WIDE}, "usable"),
        ({"draws": OFF, "weighted_draws": OFF}, "bad"),
        ({"draws": WIDE, "weighted_draws": WIDE}, "bad"),
        ({"gap": 0.051, "missed": 0.049}, "usable"),
        ({"gap": 0.051, "missed": 0.051}, "bad"),
    ],
)
def test_a_verdict_has_its_thresholds(changes, verdict):
    values = {
        "is_reliable": True,
        "is_close": False,
        "gap": 0.049,
        "draws": FINE,
        "weighted_draws": FINE,
        "missed": 0.0,
    }
    assert Judgement(**values | changes).verdict == verdict


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"is_close": False}, False),
        ({"draws": OFF}, True),
        ({"draws": OFF, "weighted_draws": OFF}, False),
    ],
)
def test_more_draws_are_advised_only_where_they_may_decide(changes, expected):
    values = {"is_close": True, "draws": FINE, "weighted_draws": FINE} | changes
    judged = Judgement(is_reliable=False, gap=0.2, missed=0.0, **values)
    assert judged.verdict == "bad"
    assert judged.is_undecided == expected


@pytest.fixture
def reference():
    """Points of an even mixture of q and another part; each has a share of both distributions."""
    values = torch.tensor([[0.0], [1.0], [2.0], [3.0]], dtype=torch.float64)
    p, q = torch.tensor([[0.1, 0.4, 0.3, 0.2], [0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    return Reference(values, values, (8 * p).log(), q.log(), torch.tensor([0, 0, 1, 1]))


def test_the_evidence_and_its_error(reference):
    """The weights p / mixture are 8 times the shares, and those of q sum to 1."""
    assert reference.log_evidence == pytest.approx(math.log(8))
    expected = math.sqrt(0.3**2 + 0.1**2 + 0.1**2 + 0.1**2)
    assert reference.log_evidence_error == pytest.approx(expected)
    assert reference.effective == pytest.approx(1 / 0.3)
    # Both blocks have 4.0 in all, twice that is 8, and two blocks give the root of 1 / 40.
    limit = math.log(4.0) + math.log(2 / 4) - math.log(40) / 2
    assert reference.log_evidence_limit == pytest.approx(limit)


def test_errors_of_draws_are_in_standard_deviations(reference):
    mean, other = 1.6, 1.0
    variance, other_variance = 0.84, 1.0
    errors = reference.errors_of_draws()
    assert errors.mean == pytest.approx((mean - other) / math.sqrt(variance))
    assert errors.scale == pytest.approx(math.sqrt(other_variance / variance))
    assert errors.mean_limit > errors.mean
    assert errors.scale_limit > errors.scale


def test_a_gap_has_two_standard_errors_added(reference):
    judged = judge(reference, 100, elbo=2.0, elbo_error=0.4)
    error = math.hypot(reference.log_evidence_error, 0.4)
    assert judged.gap == pytest.approx(math.log(8) - 2.0 + 2 * error)


def test_points_whose_weight_exceeds_the_number_of_draws_are_missed():
    p, q = torch.tensor([[0.2, 0.8], [0.99, 0.01]], dtype=torch.float64)
    values = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    reference = Reference(values, values, p.log(), q.log(), torch.tensor([0, 0]))
    assert reference.missed(79) == pytest.approx(0.8)  # 0.8 / 0.01 is 80
    assert reference.missed(81) == 0.0
