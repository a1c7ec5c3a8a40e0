"""All that a training is continued from, as a checkpoint stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from lowerbound.errors import StorageError
from lowerbound.runs.optimizer_state import flatten_optimizer, restore_optimizer
from lowerbound.runtime.noise import random_state, restore_random_state
from lowerbound.training.loop import Loop
from lowerbound.training.players import Weights
from lowerbound.training.progress import Progress

_BEST = "best-"  # the best weights have the names of files of weights, after this


def collect_state(loop: Loop) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
    """Collect the state of a training: tensors by file and name, and the rest in JSON's types."""
    optimizer, rest = flatten_optimizer(loop.optimizer)
    files: dict[str, Mapping[str, Tensor]] = {
        **loop.weights(),
        "optimizer": optimizer,
        "random": random_state(loop.device),
    }
    if loop.ema is not None:
        files["averaged"] = loop.ema.module.state_dict()
        files["average"] = {"n_averaged": loop.ema.n_averaged}
    for file, weights in (loop.best_weights or {}).items():
        files[f"{_BEST}{file}"] = weights
    state = {"progress": asdict(loop.snapshot()), "optimizer": rest, "failure": loop.failure}
    return files, state


def select_best_weights(tensors: Weights) -> Weights | None:
    """Select the best weights from the tensors of a checkpoint; ``None`` if there are none."""
    names = [file for file in tensors if file.startswith(_BEST)]
    return {file.removeprefix(_BEST): tensors[file] for file in names} or None


def restore_state(loop: Loop, tensors: Weights, state: Mapping[str, Any]) -> Progress:
    """Restore weights, optimiser, averaged weights and random state, and return the progress.

    Raises:
        StorageError: if they do not fit.
    """
    try:
        loop.load_weights(tensors)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(f"the checkpoint is of another model: {reason}") from None
    asked = [
        {name: value for name, value in group.items() if name != "params"}
        for group in loop.optimizer.param_groups
    ]
    restore_optimizer(loop.optimizer, tensors["optimizer"], state["optimizer"])
    for group, options in zip(loop.optimizer.param_groups, asked, strict=True):
        group.update(options)  # settings that the caller changed, such as another weight decay
    if loop.ema is not None:
        loop.ema.module.load_state_dict(tensors["averaged"])
        loop.ema.n_averaged.copy_(tensors["average"]["n_averaged"])
    restore_random_state(tensors["random"], loop.device)
    try:
        return Progress.from_state(state["progress"])
    except TypeError:
        raise StorageError("the checkpoint was written by another version of lowerbound") from None
