"""A report about data whose units make training slow or unstable."""

from __future__ import annotations

import math

from torch import Tensor
from torch.distributions import Distribution, constraints

from lowerbound.conditionals.standardized import Standardized
from lowerbound.data.examples import Examples
from lowerbound.distributions import find_entry_support
from lowerbound.models import Model

# A network's outputs and gradients suit entries whose spreads are near 1, up to this factor.
_LARGEST_FACTOR = 30.0

# At most this many columns are named.
_MOST_NAMED = 3


def describe_units(model: Model, p: Distribution, examples: Examples, x: Tensor) -> str | None:
    """Describe entries whose spreads differ much, or are far from 1; ``None`` if there are none.

    Args:
        model: the model that is about to be trained.
        p: its likelihood of some examples.
        examples: the training data, with the names of columns if they are known.
        x: some of the data as they are scored, ``[N, *event]``, with NaN where an entry was not
            observed.
    """
    likelihood = getattr(model, "likelihood", None)
    if examples.is_discrete or isinstance(likelihood, Standardized):
        return None
    if find_entry_support(p) not in (constraints.real, constraints.real_vector):
        return None  # data within bounds have units that cannot be changed
    rows = x.double()
    spreads = (rows - rows.nanmean(0)).square().nanmean(0).sqrt().flatten()
    varying = (spreads > 0).nonzero().flatten()
    if not len(varying):
        return None
    order = varying[spreads[varying].argsort()]
    low, high = float(spreads[order[0]]), float(spreads[order[-1]])
    if x.dim() > 2:  # the pixels of a picture, in which nearly constant pixels are usual
        low = high = math.sqrt(float(spreads.square().mean()))
    far = max(high, 1 / low) > _LARGEST_FACTOR
    if not far and high / low <= _LARGEST_FACTOR:
        return None
    line = f"the data has the standard deviation {high:.3g}"
    if x.dim() == 2:
        smallest, largest = order[:_MOST_NAMED], order.flip(0)[:_MOST_NAMED]
        line = (
            f"the columns' standard deviations lie between {low:.3g} "
            f"({_name_columns(smallest, examples)}) and {high:.3g} "
            f"({_name_columns(largest, examples)})"
        )
    return (
        f"{line}. Networks are trained well if it is near 1: pass standardize=True "
        "(--standardize), which changes neither the units of the bound nor those of samples"
    )


def _name_columns(places: Tensor, examples: Examples) -> str:
    if examples.columns is None:
        return "column " + ", ".join(str(place) for place in places.tolist())
    return ", ".join(examples.columns[place] for place in places.tolist())
