"""The terms of an objective, for one draw and for every example of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lowerbound.errors import ShapeError
from lowerbound.models import Draw, Model
from lowerbound.models.passes import ProgressCallback, gather, iterate_batches, read_examples
from lowerbound.objectives import Objective
from lowerbound.runtime.devices import get_device
from lowerbound.runtime.modes import evaluating, seeded


@torch.no_grad()
def compute_terms(
    objective: Objective,
    draw: Draw,
    examples: int,
    losses: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Compute the terms that an objective reports for a draw and its players' losses, ``[B]`` each.

    Args:
        objective: whose terms to compute.
        draw: a draw of the latents of a batch.
        examples: the number of examples in the batch.
        losses: the losses of the players, if they are known.

    Raises:
        ShapeError: if a term has another shape, because it would broadcast to a wrong value.
    """
    terms = objective.terms(draw)
    if "bound" not in terms:
        raise ShapeError(
            f"{type(objective).__name__}: terms() returns {', '.join(terms)}, but not 'bound'"
        )
    if losses is None:
        losses = objective.losses(draw)
    terms = {**terms, **{f"{name} loss": loss.detach() for name, loss in losses.items()}}
    for name, term in terms.items():
        if term.shape != (examples,):
            raise ShapeError(
                f"{type(objective).__name__}: the term {name!r} has the shape "
                f"{tuple(term.shape)}; it must have one value for each example, ({examples},)"
            )
    return terms


def compute_dataset_terms(
    model: Model,
    objective: Objective,
    data: Any,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Tensor]:
    """Compute the terms for every example of a dataset, ``[N]`` each on the CPU in float64.

    The noise of an example depends only on ``seed`` and on its row. So the batch size and the other
    examples change its terms by no more than rounding.

    A few distributions, such as torch's ``VonMises``, take their noise neither from
    :mod:`lowerbound.noise` nor from torch's functions for random numbers. Torch's generator is
    seeded once, so their terms are reproducible if the batch size stays the same.

    Args:
        model: any model.
        objective: whose terms to compute.
        data: examples, or raw data that the model takes, ``[N, *event]``.
        seed: of all noise.
        batch_size: the number of examples in a batch; by default one that keeps memory small.
        progress: is called after each batch with the number of examples done, and of all examples.

    Raises:
        ShapeError: if a term does not have one value for each example.
    """
    examples = read_examples(model, data)

    def of_batches() -> Iterator[dict[str, Tensor]]:
        batches = iterate_batches(
            examples,
            model,
            seed=seed,
            samples=objective.samples,
            batch_size=batch_size,
            progress=progress,
        )
        for _, x, given in batches:
            draw = model.draw(x, objective.samples, objective.gradient, **given)
            yield compute_terms(objective, draw, len(x))

    players = [player.module for player in objective.players().values()]
    with evaluating(model, *players), seeded(seed, get_device(model)):
        return gather(len(examples), of_batches())
