"""Embeddings of data: a point for the latents of each example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from lowerbound.data.anndata import answer_like
from lowerbound.distributions import choose_point
from lowerbound.errors import SettingsError, ShapeError, UnsupportedError
from lowerbound.models import checks
from lowerbound.models.groups import Latent
from lowerbound.models.passes import iterate_batches
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device, get_dtype
from lowerbound.runtime.modes import evaluating, seeded

# The number of draws of the latents on which other latents depend.
_DRAWS = 256


def encode(model: Any, data: Any) -> Tensor | dict[str, Tensor]:
    """A point for each group of latents of each example; see :meth:`lowerbound.Model.encode`.

    Raises:
        UnsupportedError: if the model's draws do not say what q is.
    """
    parts: dict[str, list[Tensor]] = {}
    device = get_device(model)
    with evaluating(model), seeded(0, device):
        for _, x, given in iterate_batches(model.examples(data), model, seed=0, samples=_DRAWS):
            latents = _draw_latents(model, x, 1, given)
            if any(_depends_on_others(latent) for latent in latents.values()):
                latents = _draw_latents(model, x, _DRAWS, given)
            for name, latent in latents.items():
                points = choose_point(latent.q, device)
                if _depends_on_others(latent):
                    points = points.mean(0)
                parts.setdefault(name, []).append(points)
    return _concatenate(parts, data)


def encode_along(
    infer: Callable[[Tensor, Mapping[str, Tensor], Callable[[str, Distribution], Tensor]], Any],
    data: Any,
    model: Any,
) -> Tensor | dict[str, Tensor]:
    """A point for each group of latents, given the points of those on which its posterior depends.

    Args:
        infer: calls a visitor with the name and the posterior of each group, in the order of their
            dependence, for examples ``[B, *event]`` and fields. The visitor returns latents ``[1,
            B, *units]``, on which the next posteriors depend.
        data: the examples.
        model: the model.
    """
    parts: dict[str, list[Tensor]] = {}
    device = get_device(model)

    def visit(name: str, q: Distribution) -> Tensor:
        point = choose_point(q, device)
        if len(q.batch_shape) == 1:
            point = point[None]
        parts.setdefault(name, []).append(point[0])
        return point

    with evaluating(model):
        for _, x, given in iterate_batches(model.examples(data), model, seed=0):
            infer(x, given, visit)
    return _concatenate(parts, data)


def read_latents(z: Any, names: Sequence[str], model: Any) -> dict[str, Tensor]:
    """Latents of some layers by name. Without names, they are those of the last, the top.

    Raises:
        DataError: if latents are not finite numbers, naming the row.
        SettingsError: for a layer that is not one of ``names``.
        ShapeError: if layers have different numbers of latents.
    """
    if not isinstance(z, Mapping):
        z = {names[-1]: z}
    unknown = [name for name in z if name not in names]
    if unknown or not z:
        raise SettingsError(
            f"decode: the layers are {', '.join(names)}; give latents of at least one of "
            f"them, not of {', '.join(map(repr, unknown)) or 'none'}"
        )
    z = {name: checks.read_latents(value, f"latents {name}") for name, value in z.items()}
    lengths = {name: len(latents) for name, latents in z.items()}
    if len(set(lengths.values())) > 1:
        raise ShapeError(f"decode: the layers have different numbers of latents: {lengths}")
    return {name: value.to(get_device(model), get_dtype(model)) for name, value in z.items()}


def _concatenate(parts: Mapping[str, list[Tensor]], data: Any) -> Tensor | dict[str, Tensor]:
    """Concatenate batches of points by name; a single group is returned by itself."""
    whole: dict[str, Tensor] = {
        name: answer_like(data, torch.cat(part)) for name, part in parts.items()
    }
    if len(whole) == 1:
        return next(iter(whole.values()))
    return whole


def _draw_latents(
    model: Any, x: Tensor, samples: int, given: Mapping[str, Any]
) -> Mapping[str, Latent]:
    """Draw groups of latents from the same noise for every example."""
    with noise.per_example(0, torch.zeros(len(x), dtype=torch.long)):
        latents: Mapping[str, Latent] = model.draw(x, samples, **given).latents
    if not latents:
        raise UnsupportedError(
            f"encode: the draws of a {type(model).__name__} do not say what q is; give Draw q and "
            "prior, or use Draw.of"
        )
    return latents


def _depends_on_others(latent: Latent) -> bool:
    return len(latent.q.batch_shape) == 2
