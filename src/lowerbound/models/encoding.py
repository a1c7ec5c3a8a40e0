"""Embeddings of data: a point for the latents of each example."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lowerbound.distributions import choose_point
from lowerbound.errors import UnsupportedError
from lowerbound.models.groups import Latent
from lowerbound.models.passes import iterate_batches
from lowerbound.runtime import noise
from lowerbound.runtime.devices import get_device
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
        for _, x, given in iterate_batches(data, model, seed=0, samples=_DRAWS):
            latents = _draw_latents(model, x, 1, given)
            if any(_depends_on_others(latent) for latent in latents.values()):
                latents = _draw_latents(model, x, _DRAWS, given)
            for name, latent in latents.items():
                points = choose_point(latent.q, device)
                if _depends_on_others(latent):
                    points = points.mean(0)
                parts.setdefault(name, []).append(points)
    whole = {name: torch.cat(part) for name, part in parts.items()}
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
