"""An objective's terms, for one draw and for every example of a dataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lowerbound.data.examples import Examples
from lowerbound.errors import ShapeError
from lowerbound.models import Draw, Model
from lowerbound.models.passes import Progress, batches, gathered
from lowerbound.objectives import Objective
from lowerbound.runtime.devices import device_of
from lowerbound.runtime.modes import evaluating, seeded


@torch.no_grad()
def terms_of(
    objective: Objective,
    draw: Draw,
    examples: int,
    losses: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """What an objective reports of a draw, each ``[B]``, with the losses of its players.

    Args:
        objective: whose terms to compute.
        draw: of the latents of a batch.
        examples: in the batch.
        losses: of the players, if they are known.

    Raises:
        ShapeError: if a term has another shape, which would broadcast into a wrong figure.
    """
    terms = objective.terms(draw)
    if "bound" not in terms:
        raise ShapeError(
            f"{type(objective).__name__}: terms() reports {', '.join(terms)}, but no 'bound'"
        )
    if losses is None:
        losses = objective.losses(draw)
    terms = {**terms, **{f"{name} loss": loss.detach() for name, loss in losses.items()}}
    for name, term in terms.items():
        if term.shape != (examples,):
            raise ShapeError(
                f"{type(objective).__name__}: the term {name!r} has the shape {tuple(term.shape)}, expected one number for "
                f"each example: ({examples},)"
            )
    return terms


def dataset_terms(
    model: Model,
    objective: Objective,
    data: Any,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """An objective's terms for every example of a dataset, ``[N]`` each on the CPU in float64.

    The noise of an example depends on ``seed`` and its row alone, so neither the batch size nor the other examples change
    its figures beyond rounding. (A distribution of another library that draws otherwise than by torch's normal or
    Bernoulli noise takes it from torch's generator, seeded once: its figures are reproducible for one batch size.)
    """
    examples = Examples.of(data)

    def of_batches() -> Iterator[dict[str, Tensor]]:
        passes = batches(
            examples,
            model,
            seed=seed,
            samples=objective.samples,
            batch_size=batch_size,
            progress=progress,
        )
        for _, x, given in passes:
            draw = model.draw(x, objective.samples, objective.gradient, **given)
            yield terms_of(objective, draw, len(x))

    players = [player.module for player in objective.players().values()]
    with evaluating(model, *players), seeded(seed, device_of(model)):
        return gathered(len(examples), of_batches())
