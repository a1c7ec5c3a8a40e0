"""A run's ``config.yaml``, and how a run is resumed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import lowerbound
from lowerbound.describe import complete, describe
from lowerbound.errors import SettingsError, StorageError
from lowerbound.runs.directory import RunDirectory, read_checkpoint, restore_optimizer
from lowerbound.runtime.noise import restore_random_state
from lowerbound.training.loop import Loop
from lowerbound.training.players import Weights
from lowerbound.training.progress import Progress
from lowerbound.training.settings import FitKeywords


def open_run(loop: Loop, files: RunDirectory, settings: FitKeywords) -> None:
    """Create the directory of a run, or continue with the run in it.

    A run that was killed before its first checkpoint starts over.

    Raises:
        SettingsError: if the directory contains another run, naming the difference.
        StorageError: if the directory contains a run already, or none that can be resumed.
    """
    if not settings.resume:
        files.create(make_config(loop, settings))
        return
    if files.has_checkpoints():
        restore(loop, files)
    else:
        _refuse_another_run(loop, files)
        loop.tell("the run has no checkpoint yet, so it starts over")
    if not loop.progress.finished:  # otherwise nothing will be done by these settings
        amend_config(loop, files, settings)


def make_config(loop: Loop, settings: FitKeywords) -> dict[str, Any]:
    """Make the configuration that repeats the run: its settings, its parts and the versions."""
    versions = {name: version(name) for name in ("torch", "numpy")}
    return {
        "lowerbound": lowerbound.__version__,
        **(settings.config or {}),
        "training": _describe_settings(loop, settings),
        **_describe_identity(loop),
        "versions": {"python": platform.python_version(), **versions},
    }


def _describe_settings(loop: Loop, settings: FitKeywords) -> dict[str, Any]:
    """Describe the settings as they are written, with the batch size that the model allowed."""
    described = {name: describe(value) for name, value in settings.training.items()}
    return described | {"batch_size": loop.batch_size}


def _describe_identity(loop: Loop) -> dict[str, Any]:
    """Describe what must be the same when a run is resumed: objective, model and examples."""
    parts = {"train": loop.train, "validation": loop.validation}
    needs, accepts = loop.model.needs, loop.model.accepts
    examples = {
        name: part.identity(needs, accepts) for name, part in parts.items() if part is not None
    }
    if loop.source.keeps_blocks(loop.batch_size):
        # Examples in a file are shuffled in blocks, examples in memory are not.
        examples["train"]["order"] = "blocks"
    return {
        "objective": describe(loop.objective),
        "model": describe(loop.model),
        "examples": examples,
    }


def restore(loop: Loop, files: RunDirectory) -> None:
    """Restore the state of the loop from the run's newest intact checkpoint.

    Raises:
        SettingsError: if the directory contains another run, naming what differs.
        StorageError: if no checkpoint is intact, or it does not fit.
    """
    _refuse_another_run(loop, files)
    tensors, state = files.read_newest()
    try:
        loop.load_weights(tensors)
    except (RuntimeError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(f"{files.path}: the checkpoint is of another model: {reason}") from None
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
        progress = Progress.from_state(state["progress"])
    except TypeError:
        raise StorageError(
            f"{files.path}: the checkpoint was written by another version of lowerbound"
        ) from None
    tolerance = files.read_config()["training"].get("tolerance")
    loop.resume(progress, best_weights=_read_best_weights(files), earlier_tolerance=tolerance)


def _read_best_weights(files: RunDirectory) -> Weights | None:
    best = files.find_best()
    if best is None:
        return None
    return read_checkpoint(best)[0]


def _refuse_another_run(loop: Loop, files: RunDirectory) -> None:
    """Refuse a run with another model or objective, or other examples or another order of them."""
    config, identity = files.read_config(), _describe_identity(loop)
    now = {
        "seed": loop.seed,
        "batch_size": loop.batch_size,
        "averaged weights": _describe_averaging(loop.autostop, loop.ema),
        **identity,
    }
    try:
        training = config["training"]
        before = {
            "seed": training["seed"],
            "batch_size": training["batch_size"],
            "averaged weights": _describe_averaging(training.get("tolerance"), training["ema"]),
            **{name: config[name] for name in identity},
            **{name: complete(config[name], identity[name]) for name in ("objective", "model")},
        }
    except (KeyError, TypeError):
        raise StorageError(
            f"{files.config} lacks settings of the run; restore the file as it was written"
        ) from None
    different = next(iter(_find_differences(before, now)), None)
    if different is not None:
        name, was, value = different
        raise SettingsError(
            f"fit: the run in {files.path} has {name}={was}, not {value}; resume with the same "
            "value"
        )


def _describe_averaging(tolerance: object, decay: object) -> str:
    """Describe how weights are averaged, from the one setting that is not ``None``."""
    if tolerance is not None:
        return "by windows"
    if decay is not None:
        return "exponentially"
    return "none"


def _find_differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Find the differences of two nested mappings: each a path, and the two values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before | now:
            inner = f"{path}.{name}".lstrip(".")
            yield from _find_differences(before.get(name), now.get(name), inner)
    elif before != now:
        yield path, before, now


def amend_config(loop: Loop, files: RunDirectory, settings: FitKeywords) -> None:
    """Record changed settings, such as more epochs, with the step from which they apply."""
    config = files.read_config()
    before = config["training"]
    changed = {
        name: value
        for name, value in _describe_settings(loop, settings).items()
        if before.get(name) != value
    }
    if not changed:
        return
    record = {
        "from_step": loop.progress.step,
        "before": {name: before.get(name) for name in changed},
    }
    config.setdefault("resumed", []).append(record)
    config["training"] = before | changed
    files.write_config(config)
