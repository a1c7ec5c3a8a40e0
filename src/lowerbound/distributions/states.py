"""The joint states of a few discrete variables, for sums over all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from lowerbound.errors import SettingsError

# The largest number of states that are listed.
_MOST_STATES = 1 << 16


def list_states(categories: int, variables: int, device: torch.device) -> Tensor:
    """List all joint states of J variables, ``[C^J, J]``; categories are numbered from 0.

    Raises:
        SettingsError: if there are more than 65,536 states.

    Example:
        >>> list_states(2, 2, torch.device("cpu")).tolist()
        [[0, 0], [0, 1], [1, 0], [1, 1]]
    """
    count = categories**variables
    if count > _MOST_STATES:
        raise SettingsError(
            f"{variables} variables of {categories} categories have {count:,} joint states, and at "
            f"most {_MOST_STATES:,} can be enumerated; use fewer variables, or draw them with "
            "gradient='score-function'"
        )
    places = categories ** torch.arange(variables - 1, -1, -1, device=device)
    numbers = torch.arange(count, device=device)
    return numbers[:, None] // places % categories


def spread_over_batch(states: Tensor, batch_shape: torch.Size, expand: bool) -> Tensor:
    """Arrange states ``[S, *event]`` as ``[S, *batch, *event]``, or with ones for the batch."""
    ones = states.reshape(len(states), *(1,) * len(batch_shape), *states.shape[1:])
    if not expand:
        return ones
    return ones.expand(len(states), *batch_shape, *states.shape[1:])
