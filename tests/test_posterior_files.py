"""Saved posteriors of log joints: what their numbers mean, and draws without the log joint."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import constraints

import lowerbound as lb
from lowerbound.conditionals.supports import (
    build_support,
    describe_in_words,
    describe_support,
)
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


LOW, HIGH = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0])
DRAWN = {
    "real": constraints.real,
    "real vector": constraints.real_vector,
    "positive": constraints.positive,
    "nonnegative": constraints.nonnegative,
    "unit interval": constraints.unit_interval,
    "simplex": constraints.simplex,
    "corr_cholesky": constraints.corr_cholesky,
    "interval": constraints.interval(LOW, HIGH),
    "interval of doubles": constraints.interval(LOW.double(), HIGH.double()),
    "interval of integers": constraints.interval(LOW.long(), HIGH.long()),
    "half-open interval": constraints.half_open_interval(LOW, 4.0),
    "greater than": constraints.greater_than(LOW),
    "greater than a scalar": constraints.greater_than(torch.tensor(2.0, dtype=torch.float64)),
    "at least": constraints.greater_than_eq(LOW),
    "less than": constraints.less_than(HIGH),
    "independent": constraints.independent(constraints.greater_than(LOW), 1),
    "cat": constraints.cat(
        [constraints.greater_than(LOW[:1]), constraints.real], dim=-1, lengths=[1, 1]
    ),
    "stack": constraints.stack([constraints.interval(LOW[0], HIGH[0]), constraints.real], dim=-1),
}


@pytest.mark.parametrize("support", DRAWN.values(), ids=DRAWN)
def test_a_saved_posterior_draws_within_any_support(support, tmp_path):
    variables = {"a": lb.Variable((2, 2), support), "b": ()}
    model = make(variables, lb.mean_field)
    path = lb.save(model, tmp_path / "model")
    drawn, again = (each.posterior_sample(3, seed=0)["a"] for each in (model, lb.load(path)))
    assert again.dtype == drawn.dtype
    assert torch.equal(again, drawn)
    lb.load(path, constructor=lambda: make(variables, lb.mean_field))


def test_tensors_in_supports_of_earlier_files_are_read():
    description = {"kind": "interval", "lower_bound": [0.0, 1.0], "upper_bound": [1.0, 3.0]}
    support = build_support(description)
    assert torch.equal(support.upper_bound, HIGH)
    assert describe_in_words(description) == describe_in_words(describe_support(support))


@pytest.mark.parametrize("bound", [{"tensor": [[1], 2], "dtype": "int64"}, {"tensor": 1}])
def test_a_support_with_a_damaged_tensor_is_refused(bound):
    with pytest.raises(StorageError, match="cannot be rebuilt"):
        build_support({"kind": "greater_than", "lower_bound": bound})


def test_an_unknown_support_is_described_but_not_built():
    class Even(type(constraints.real)):
        pass

    description = describe_support(Even())
    with pytest.raises(StorageError, match="cannot be rebuilt"):
        build_support(description)
