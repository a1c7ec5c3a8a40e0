"""The point that represents a distribution, as in an embedding."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from torch import Size, Tensor
from torch.distributions import (
    Categorical,
    Distribution,
    Independent,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    VonMises,
)

from lowerbound.distributions.categorical import FactorialCodes
from lowerbound.distributions.entries import MaskedDistribution
from lowerbound.distributions.one_hot import FactorialOneHot, RelaxedOneHot
from lowerbound.distributions.phases import FactorialPhases
from lowerbound.distributions.sequences import CodeSequence
from lowerbound.distributions.sphere import PowerSpherical
from lowerbound.distributions.zeros import HurdleDistribution, ZeroInflatedDistribution
from lowerbound.runtime import noise
from lowerbound.runtime.modes import seeded

# The number of draws that are averaged if the point has no closed form.
_DRAWS = 256


@singledispatch
def natural_point(distribution: Distribution) -> Tensor:
    """The point that represents a distribution best, ``[*batch, *event]``.

    By default it is the mean. If the mean is not a possible value, it is another point: the most
    probable category of a ``Categorical``, of codes or of a one-hot code, the greedy sequence of
    codes, the mean direction of a distribution on a circle or a sphere, or the knot of phases with
    the largest density. For a distribution of your own, register a function:
    ``natural_point.register(MyDistribution, lambda q: q.loc)``.

    Raises:
        NotImplementedError: if the mean has no closed form.

    Example:
        >>> import torch
        >>> from torch.distributions import Categorical, Normal
        >>> natural_point(Normal(torch.tensor(1.0), 2.0))
        tensor(1.)
        >>> natural_point(Categorical(torch.tensor([0.2, 0.5, 0.3])))
        tensor(1)
    """
    return distribution.mean


@natural_point.register(Categorical)
@natural_point.register(CodeSequence)
@natural_point.register(FactorialCodes)
@natural_point.register(FactorialOneHot)
@natural_point.register(FactorialPhases)
@natural_point.register(PowerSpherical)
@natural_point.register(VonMises)
def _choose_mode(distribution: Any) -> Tensor:
    mode: Tensor = distribution.mode
    return mode


@natural_point.register(RelaxedBernoulli)
@natural_point.register(RelaxedOneHot)
@natural_point.register(RelaxedOneHotCategorical)
def _choose_probabilities(distribution: Any) -> Tensor:
    probabilities: Tensor = distribution.probs
    return probabilities


@natural_point.register(HurdleDistribution)
@natural_point.register(ZeroInflatedDistribution)
def _choose_point_with_zeros(distribution: Any) -> Tensor:
    """The mean, or the most probable code."""
    base = distribution.base
    if not isinstance(base, FactorialCodes):
        mean: Tensor = distribution.mean
        return mean
    others = base.logits.narrow(base.axis, 1, base.levels - 1).argmax(base.axis) + 1
    scores = distribution.entrywise_log_prob(others.to(base.logits.dtype))
    return torch.where(distribution.log_zero > scores, 0, others).to(base.logits.dtype)


@natural_point.register(MaskedDistribution)
def _choose_point_of_all_entries(distribution: Any) -> Tensor:
    return natural_point(distribution.base)


@natural_point.register(Independent)
def _choose_point_of_base(distribution: Any) -> Tensor:
    return natural_point(distribution.base_dist)


def choose_point(distribution: Distribution, device: torch.device) -> Tensor:
    """Choose the natural point, ``[*batch, *event]``, or else the average of 256 draws.

    Draws are averaged if the point has no closed form. They come from one fixed seed, the same for
    all examples, so the result depends only on the distribution.

    Args:
        distribution: of batch shape ``[B, ...]``.
        device: the device of its draws.
    """
    try:
        return natural_point(distribution)
    except NotImplementedError:
        pass
    examples = distribution.batch_shape[0]
    same = torch.zeros(examples, dtype=torch.long)
    with seeded(0, device), noise.per_example(0, same), noise.for_foreign(_DRAWS, examples):
        return distribution.sample(Size((_DRAWS,))).mean(0)
