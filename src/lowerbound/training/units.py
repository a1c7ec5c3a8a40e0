"""A report about data whose units make training slow or unstable."""

from __future__ import annotations

import math

from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.conditionals import LogInput, Standardized
from lowerbound.data.examples import Examples
from lowerbound.data.joined_names import join_names
from lowerbound.distributions import find_entry_support
from lowerbound.distributions.supports import Values, find_values
from lowerbound.models import Model

# A network's outputs and gradients suit entries whose spreads are near 1, up to this factor.
_LARGEST_FACTOR = 30.0

_POSITIVE = Values(interval=(0.0, math.inf))

# At most this many columns are named, those with the most extreme spreads.
_MOST_NAMED = 6


def describe_units(model: Model, p: Distribution, examples: Examples, x: Tensor) -> str | None:
    """Describe entries whose spreads differ much, or are far from 1; ``None`` if there are none.

    Args:
        model: the model that is about to be trained.
        p: its likelihood of some examples.
        examples: the training data, with the names of columns if they are known.
        x: some of the data as they are scored, ``[N, *event]``, with NaN where an entry was not
            observed.
    """
    remedy = _choose_remedy(model, p)
    if examples.is_discrete or remedy is None:
        return None
    rows = x.double()
    spreads = (rows - rows.nanmean(0)).square().nanmean(0).sqrt().flatten()
    varying = (spreads > 0).nonzero().flatten()
    if not len(varying):
        return None
    if x.dim() > 2:
        fault = _describe_pictures(spreads)
    else:
        fault = _describe_columns(spreads, varying, examples)
    if fault is None:
        return None
    return f"{fault}. Networks are trained well if it is near 1: {remedy}"


def _choose_remedy(model: Model, p: Distribution) -> str | None:
    """Choose what to do about unsuitable units; ``None`` if there is nothing to do."""
    if isinstance(getattr(model, "likelihood", None), Standardized):
        return None
    support = find_entry_support(p)
    if support in (constraints.real, constraints.real_vector):
        return (
            "pass standardize=True (--standardize), which changes neither the units of the bound "
            "nor those of samples"
        )
    values = None if support is None else find_values(support)
    interval = Values(interval=None if values is None or values.joint else values.interval)
    is_positive = interval.lie_within(_POSITIVE) and _POSITIVE.lie_within(interval)
    if not is_positive or any(isinstance(each, LogInput) for each in model.modules()):
        return None  # other data within bounds have units that cannot be changed
    return (
        "give large positive values to the encoder as logarithms, lb.LogInput(posterior), and "
        "small ones in a smaller unit"
    )


def _describe_pictures(spreads: Tensor) -> str | None:
    """Describe the spread of pictures, among whose pixels nearly constant ones are usual."""
    spread = float(spreads.square().nanmean().sqrt())
    if max(spread, 1 / spread) <= _LARGEST_FACTOR:
        return None
    return f"the data has the standard deviation {spread:.3g}"


def _describe_columns(spreads: Tensor, varying: Tensor, examples: Examples) -> str | None:
    """Describe the columns whose spreads are far from 1, or else far from those of others.

    Args:
        spreads: the standard deviation of each column, ``[D]``.
        varying: the columns that are not constant.
        examples: the data, with the names of the columns if they are known.
    """
    spreads = spreads[varying]
    low, high = float(spreads.min()), float(spreads.max())
    how, distances = "far from 1", spreads.log().abs()
    is_far = distances > math.log(_LARGEST_FACTOR)
    if not is_far.any():
        how = "far from each other"
        is_far = (spreads < high / _LARGEST_FACTOR) | (spreads > low * _LARGEST_FACTOR)
    order = distances.argsort(descending=True)
    columns = [
        f"{_name_column(int(varying[place]), examples)} ({float(spreads[place]):.3g})"
        for place in order[is_far[order]]
    ]
    if not columns:
        return None
    if len(columns) == 1:
        return f"the standard deviation of {columns[0]} is {how}"
    return f"the standard deviations of {join_names(columns, most=_MOST_NAMED)} are {how}"


def _name_column(place: int, examples: Examples) -> str:
    return f"column {place}" if examples.columns is None else examples.columns[place]
