"""How a layer's posterior uses the layers above: as another input, or relative to the prior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from lowerbound.distributions import DiagonalNormal, as_diagonal, multiply_normals, shift_normal
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.networks import check_module
from lowerbound.settings import check_whole_number

Merge = Literal["concatenate", "product", "residual"]

_EXAMPLES = {
    "priors": "lb.Gaussian(lb.mlp(...))",
    "posteriors": "lb.Gaussian(lb.mlp(...))",
    "features": "lb.mlp(...)",
    "states": "lb.mlp(...)",
}
"""A module that could be the part of a layer, by the kind of the part."""

_RELATE: dict[str, Callable[[DiagonalNormal, DiagonalNormal], DiagonalNormal]] = {
    "product": multiply_normals,
    "residual": shift_normal,
}


def check_merge(merge: Merge, *, top_down: bool) -> Merge:
    """Return how a layer's posterior uses the layers above.

    Raises:
        SettingsError: for another value, or for one that bottom-up inference cannot have.
    """
    if merge not in get_args(Merge):
        known = ", ".join(map(repr, get_args(Merge)))
        raise SettingsError(f"LayeredModel: merge={merge!r} is unknown; choose one of {known}")
    if merge != "concatenate" and not top_down:
        raise SettingsError(
            f"LayeredModel: merge={merge!r} is for top-down inference, which needs features=..."
        )
    return merge


def check_details(details: int, layers: int) -> int:
    """Return the number of layers that are details.

    Raises:
        SettingsError: unless it is from 0 to one less than the number of layers.
    """
    if details and check_whole_number("LayeredModel: details", details) >= layers:
        raise SettingsError(
            f"LayeredModel: details={details} must be less than the number of layers, {layers}, so "
            "that one is drawn"
        )
    return details


def list_modules(name: str, parts: Iterable[nn.Module]) -> nn.ModuleList:
    """List the parts of a kind, one for each layer.

    Raises:
        SettingsError: if they are not a list of modules, naming the kind.
    """
    where = f"LayeredModel: {name}"
    if not isinstance(parts, Iterable):
        raise SettingsError(f"{where} must be a list, one module for each layer, not {parts!r}")
    modules = list(parts)
    for number, module in enumerate(modules, 1):
        check_module(f"{where}: that of z{number}", module, _EXAMPLES[name])
    return nn.ModuleList(modules)


def check_counts(priors: Sized, lists: Mapping[str, Sized | None]) -> None:
    """Check that there is one of each part for every layer.

    Raises:
        SettingsError: naming the list that has another length than the priors.
    """
    if not len(priors):
        raise SettingsError("LayeredModel needs at least one layer; priors is empty")
    for name, parts in lists.items():
        if parts is not None and len(parts) != len(priors):
            raise SettingsError(
                f"LayeredModel: there are {len(priors)} priors and {len(parts)} {name}; give one "
                "of each for every layer, z1 first"
            )


def relate_to_prior(
    merge: str, q: Distribution, prior: Distribution, name: str, *, is_top: bool
) -> Distribution:
    """The posterior of one layer, given a Gaussian that is relative to the prior.

    The top's prior may also be of another kind, such as a flow. Then the posterior is the Gaussian
    itself, as it is for a standard normal prior.

    Args:
        merge: ``"product"`` or ``"residual"``, see :class:`lowerbound.LayeredModel`.
        q: what the posterior's network gave.
        prior: the prior of the layer.
        name: the name of the layer, for the message.
        is_top: whether the layer is the top.

    Raises:
        UnsupportedError: if one of the two is not a diagonal Gaussian, below the top.
    """
    ours, above = as_diagonal(q), as_diagonal(prior)
    if is_top and above is None:
        return q
    if ours is None or above is None:
        raise UnsupportedError(
            f"LayeredModel: merge={merge!r} needs diagonal Gaussians, and {name} has the posterior "
            f"{type(q).__name__} and the prior {type(prior).__name__}; use lb.Gaussian, or "
            "merge='concatenate'"
        )
    return _RELATE[merge](ours, above)


def concatenate_events(first: Tensor, second: Tensor, event_dims: int, what: str) -> Tensor:
    """Concatenate events along their first dimension, ``[*leading, C1 + C2, *sides]``.

    Raises:
        ShapeError: naming ``what``, if the events do not fit each other.
    """
    before, events = first.shape[:-event_dims], first.shape[-event_dims:]
    leading, others = second.shape[:-event_dims], second.shape[-event_dims:]
    if events[1:] != others[1:] or leading[len(leading) - len(before) :] != before:
        raise ShapeError(
            f"LayeredModel: {what} has the shape {tuple(first.shape)} and cannot be concatenated "
            f"with {tuple(second.shape)}: apart from their first dimension, events must have the "
            "same shape; let a network of features or states change it"
        )
    return torch.cat([first.expand(*leading, *events), second], -event_dims)
