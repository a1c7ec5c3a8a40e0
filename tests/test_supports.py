"""Supports: which values lie within which others, and supports in files."""

import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Distribution,
    Exponential,
    Gamma,
    MixtureSameFamily,
    Normal,
    TransformedDistribution,
    Uniform,
    constraints,
    transforms,
)

import lowerbound as lb
from lowerbound.conditionals.supports import build_support, describe_in_words, describe_support
from lowerbound.distributions import has_point_masses, is_mass, lies_within
from lowerbound.distributions.supports import (
    CodeVectors,
    Grid,
    Support,
    Values,
    find_support,
    find_values,
)
from lowerbound.errors import StorageError

NEAR = 2.0 * (1 + 1e-7)


class Unknown(constraints.Constraint):
    """A user's support, which is known only by its class."""

    def __init__(self, is_discrete=False, event_dim=0):
        self.is_discrete, self._event_dim = is_discrete, event_dim
        super().__init__()

    @property
    def event_dim(self):
        return self._event_dim


class AlsoUnknown(Unknown):
    pass


class Multiples(Support):
    """Multiples of one part of a whole number, from 0 to 1."""

    is_discrete = True

    def __init__(self, parts):
        self.parts = parts
        super().__init__()

    @property
    def values(self):
        return Values(points=Grid(0, 1, self.parts))


def tensors(*bounds):
    return constraints.interval(*(torch.tensor(bound) for bound in bounds))


WITHIN = {
    "positive, real": (constraints.positive, constraints.real, True, False),
    "unit interval, positive": (constraints.unit_interval, constraints.positive, True, False),
    "below 2, real": (constraints.less_than(2.0), constraints.real, True, False),
    "below 2, below 3": (constraints.less_than(2.0), constraints.less_than(3.0), True, False),
    "positive, below 2": (constraints.positive, constraints.less_than(2.0), False, False),
    "half open, positive": (
        constraints.half_open_interval(1.0, 2.0),
        constraints.positive,
        True,
        False,
    ),
    "boolean, counts": (constraints.boolean, constraints.nonnegative_integer, True, False),
    "positive counts, counts": (
        constraints.positive_integer,
        constraints.nonnegative_integer,
        True,
        False,
    ),
    "few counts, counts": (
        constraints.integer_interval(0, 3),
        constraints.nonnegative_integer,
        True,
        False,
    ),
    "counts, real": (constraints.nonnegative_integer, constraints.real, False, False),
    "counts, positive": (constraints.positive_integer, constraints.positive, False, False),
    "one-hot, boolean": (constraints.one_hot, constraints.boolean, True, False),
    "simplex, unit interval": (constraints.simplex, constraints.interval(0, 1), False, False),
    "halves, quarters": (Multiples(2), Multiples(4), True, False),
    "halves, thirds": (Multiples(2), Multiples(3), False, False),
    "codes, codes": (CodeVectors(1), CodeVectors(1), True, True),
    "codes, one-hot": (CodeVectors(1), constraints.one_hot, False, False),
    "bounds that differ by rounding": (
        constraints.interval(-2.0, NEAR),
        constraints.interval(-NEAR, 2.0),
        True,
        True,
    ),
    "tensors that differ by rounding": (
        tensors([-2.0, 0.0], [NEAR, 1.0]),
        tensors([-NEAR, 0.0], [2.0, 1.0]),
        True,
        True,
    ),
    "one of two entries lies within": (
        tensors([0.0, 0.0], [1.0, 5.0]),
        tensors([0.0, 0.0], [1.0, 2.0]),
        False,
        True,
    ),
    "unknown, real": (Unknown(), constraints.real, True, False),
    "unknown, unknown": (Unknown(), Unknown(), True, True),
    "unknown, another unknown": (Unknown(), AlsoUnknown(), True, True),
    "mixed, unknown": (Unknown(is_discrete=None), AlsoUnknown(), False, True),
    "of vectors, unknown": (Unknown(event_dim=1), AlsoUnknown(), False, False),
    "of vectors, of vectors": (Unknown(event_dim=1), Unknown(event_dim=1), True, True),
}


@pytest.mark.parametrize("name", WITHIN)
def test_which_values_lie_within_others(name):
    inner, outer, expected, backwards = WITHIN[name]
    assert lies_within(inner, outer) is expected
    assert lies_within(outer, inner) is backwards


def test_the_values_of_entries():
    assert find_values(constraints.less_than(2.0)) == Values(interval=(-math.inf, 2.0))
    assert find_values(constraints.integer_interval(1, 4)) == Values(points=Grid(1, 4))
    assert find_values(Unknown()) is None


def test_codes_are_checked_as_vectors():
    codes = torch.zeros(5, 2, 3)
    codes[1, 1, 2] = math.nan
    assert CodeVectors(1).check(codes).shape == (5, 2)
    assert CodeVectors(2).check(codes).tolist() == [True, False, True, True, True]


def test_masses_densities_and_mixtures_of_both():
    hurdle = lb.Hurdle(lb.Gaussian(lb.constant(6)), lb.constant(3))()
    assert is_mass(hurdle) is None
    assert has_point_masses(hurdle)
    assert (is_mass(Normal(0.0, 1.0)), has_point_masses(Normal(0.0, 1.0))) == (False, False)
    counts = lb.Poisson(lb.constant(3))()
    assert (is_mass(counts), has_point_masses(counts)) == (True, True)
    assert is_mass(Distribution(validate_args=False)) is None
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Gamma(torch.ones(2), torch.ones(2)))
    assert is_mass(mixture) is False


class Flow(Distribution):
    """As zuko's: a base and the transform from values to noise, without a support."""

    def __init__(self, transform, base):
        self.transform, self.base = transform, base
        super().__init__(validate_args=False)


def test_a_flow_is_over_the_domain_of_its_transform_if_its_base_is_over_the_codomain():
    logs = transforms.ExpTransform().inv
    assert find_support(Flow(logs, Normal(0.0, 1.0))) == constraints.positive
    assert find_support(Flow(logs, Exponential(1.0))) is None  # numbers above 1 only
    assert find_support(Flow(logs, Uniform(0.0, 1.0))) is None
    known = TransformedDistribution(Normal(0.0, 1.0), transforms.ExpTransform())
    assert find_support(known) == constraints.positive


STORED = {
    "real": constraints.real,
    "positive": constraints.positive,
    "counts": constraints.nonnegative_integer,
    "counts from 1": constraints.positive_integer,
    "bounds": constraints.interval(-1.0, 2.5),
    "whole bounds": constraints.integer_interval(2, 7),
    "bounds in float64": constraints.greater_than(torch.tensor([0.1, 2.0], dtype=torch.float64)),
    "vectors": constraints.independent(constraints.greater_than(0.5), 1),
    "pieces": constraints.cat([constraints.real, constraints.simplex], 0, [2, 3]),
    "pieces with bounds": constraints.stack([constraints.positive, constraints.less_than(3.0)], -1),
}


def list_arguments(support):
    """The arguments of a support, and of those inside of it."""
    if isinstance(support, constraints.Constraint):
        return [type(support), *(list_arguments(value) for value in vars(support).values())]
    if isinstance(support, torch.Tensor):
        return [support.dtype, support.tolist()]
    if isinstance(support, list | tuple):
        return [list_arguments(value) for value in support]
    return support


@pytest.mark.parametrize("name", STORED)
def test_a_support_comes_back_from_its_description(name):
    support = STORED[name]
    again = build_support(describe_support(support))
    assert list_arguments(again) == list_arguments(support)
    assert describe_support(again) == describe_support(support)


def test_an_earlier_version_wrote_tensors_as_lists():
    again = build_support({"kind": "greater_than", "lower_bound": [0.5, 1.5]})
    assert torch.equal(again.lower_bound, torch.tensor([0.5, 1.5]))


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ("nowhere", "nowhere"),
        ({"foreign": "MySupport()"}, r"MySupport\(\)"),
        ({"kind": "nowhere"}, r"nowhere\(\)"),
        ({"kind": "interval", "lower_bound": 1.0}, r"interval\(1.0\)"),
        ({"kind": "interval", "low": 1.0, "upper_bound": 2.0}, r"interval\(1.0, 2.0\)"),
        (
            {"kind": "greater_than", "lower_bound": {"tensor": [1, [2]], "dtype": "float32"}},
            r"greater_than\(\[1, \[2\]\]\)",
        ),
        (
            {"kind": "greater_than", "lower_bound": {"tensor": [1.0], "dtype": "float31"}},
            r"greater_than\(\[1.0\]\)",
        ),
    ],
)
def test_a_description_that_is_damaged_or_foreign_is_refused(description, words):
    with pytest.raises(StorageError, match=f"^the support {words} cannot be rebuilt"):
        build_support(description)


def test_supports_in_words():
    assert describe_in_words(describe_support(constraints.interval(0.0, 2.0))) == (
        "interval(0.0, 2.0)"
    )
    assert describe_in_words(describe_support(constraints.real)) == "real"
