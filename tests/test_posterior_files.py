"""Saved posteriors of log joints: what their numbers mean, and draws without the log joint."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import constraints

import lowerbound as lb
from lowerbound.conditionals.supports import build_support, describe_support
from lowerbound.errors import StorageError, UnsupportedError

POSITIVE = lb.Variable((), constraints.positive)
VARIABLES = {"a": (2,), "b": POSITIVE}
FAMILIES = {
    "mean field": lb.mean_field,
    "full rank": lb.full_rank,
    "low rank": lb.low_rank(2),
    "by variable": lb.ByVariable({"b": lb.mean_field, "a": lb.full_rank}),
    "flow": lambda size: lb.Flow("nsf", size, transforms=1),
}


def make(variables, family=lb.full_rank):
    return lb.LogJoint(lambda a, b: -a.square().sum(-1) - b, family, variables)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_drawing_needs_no_log_joint(family, tmp_path):
    torch.manual_seed(0)
    model = make(VARIABLES, family).start(at={"a": [3.0, 4.0], "b": 2.0})
    path = lb.save(model, tmp_path / "model")
    loaded = lb.load(path)
    for name, draws in model.posterior_sample(7, seed=1).items():
        assert torch.equal(loaded.posterior_sample(7, seed=1)[name], draws)
    with pytest.raises(UnsupportedError, match="loaded without its log joint"):
        loaded.posterior_sample(7, resample=True)


@pytest.mark.parametrize(
    "variables",
    [
        {"b": POSITIVE, "a": (2,)},
        {"a": (2,), "b": ()},
        {"a": (2,), "b": lb.Variable((), constraints.greater_than(1.0))},
        {"a": lb.Variable((2,), constraints.positive), "b": POSITIVE},
    ],
    ids=["order", "real", "bound", "other"],
)
def test_other_variables_are_refused(variables, tmp_path):
    path = lb.save(make(VARIABLES), tmp_path / "model")
    with pytest.raises(StorageError, match=r"In the file: a \(2,\) real, b \(\) greater_than"):
        lb.load(path, constructor=lambda: make(variables))
    assert lb.load(path, constructor=lambda: make(VARIABLES)).variables.size == 3


@pytest.mark.parametrize(
    "support",
    [
        constraints.real,
        constraints.simplex,
        constraints.corr_cholesky,
        constraints.unit_interval,
        constraints.interval(-1.0, torch.tensor([1.0, 2.0])),
        constraints.independent(constraints.greater_than(2.0), 1),
    ],
    ids=str,
)
def test_a_support_is_built_as_it_was_described(support):
    description = describe_support(support)
    assert describe_support(build_support(description)) == description


def test_an_unknown_support_is_described_but_not_built():
    class Even(type(constraints.real)):
        pass

    description = describe_support(Even())
    with pytest.raises(StorageError, match="cannot be rebuilt"):
        build_support(description)
