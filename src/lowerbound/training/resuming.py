"""What a run is, as its ``config.yaml`` says it, and how to go on with one."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import lowerbound
from lowerbound.describe import completed, describe
from lowerbound.errors import SettingsError, StorageError
from lowerbound.runs.directory import RunDirectory, optimizer_from_files, read_checkpoint
from lowerbound.runtime.noise import restore_random_state
from lowerbound.training.loop import Loop
from lowerbound.training.progress import Progress


def config_of(loop: Loop, settings: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Everything needed to run it again: what was asked, of what, by which versions."""
    versions = {"python": platform.python_version()} | {
        name: version(name) for name in ("torch", "numpy")
    }
    return {
        "lowerbound": lowerbound.__version__,
        **config,
        "training": {name: describe(value) for name, value in settings.items()},
        **_identity(loop),
        "versions": versions,
    }


def _identity(loop: Loop) -> dict[str, Any]:
    """What must not change on the way: the objective, the model, and the examples."""
    parts = {"train": loop.train, "validation": loop.validation}
    identity: dict[str, Any] = {
        "objective": describe(loop.objective),
        "model": describe(loop.model),
        "examples": {
            name: part.identity(loop.model.needs, loop.model.accepts)
            for name, part in parts.items()
            if part is not None
        },
    }
    if loop.source.keeps_blocks(
        loop.batch_size
    ):  # as they are where they are read from a file, but not in memory
        identity["examples"]["train"]["order"] = "blocks"
    return identity


def restore(loop: Loop, files: RunDirectory) -> None:
    """Put the loop where its newest intact checkpoint left it.

    Raises:
        SettingsError: if the run was another one, naming what differs.
        StorageError: if there is no checkpoint, or it does not fit.
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
    optimizer_from_files(loop.optimizer, tensors["optimizer"], state["optimizer"])
    for group, options in zip(loop.optimizer.param_groups, asked, strict=True):
        group.update(options)  # what is asked for now holds, such as another weight decay
    if loop.ema is not None:
        loop.ema.module.load_state_dict(tensors["averaged"])
        loop.ema.n_averaged.copy_(tensors["average"]["n_averaged"])
    restore_random_state(tensors["random"], loop.device)
    try:
        tolerance = files.read_config()["training"].get("tolerance")
        loop.resume(Progress.from_state(state["progress"]), tolerance)
    except TypeError:
        raise StorageError(
            f"{files.path}: the checkpoint was written by another version of lowerbound"
        ) from None
    best = files.best()
    if best is not None:
        loop.best_weights = read_checkpoint(best)[0]


def _refuse_another_run(loop: Loop, files: RunDirectory) -> None:
    """Going on is as if it had never stopped only with the same examples in the same order, and so on."""
    config, identity = files.read_config(), _identity(loop)
    now = {
        "seed": loop.seed,
        "batch_size": loop.batch_size,
        "averaged weights": "none"
        if loop.ema is None
        else "exponentially"
        if loop.autostop is None
        else "by windows",
        **identity,
    }
    try:
        training = config["training"]
        before = {"seed": training["seed"], "batch_size": training["batch_size"]}
        windows, decay = training.get("tolerance"), training["ema"]
        before |= {
            "averaged weights": "by windows"
            if windows
            else "none"
            if decay is None
            else "exponentially"
        }
        before |= {name: config[name] for name in identity}
        before |= {
            name: completed(config[name], identity[name]) for name in ("objective", "model")
        }
    except (KeyError, TypeError):
        raise StorageError(
            f"{files.config}: lacks settings of the run; restore the file as it was written"
        ) from None
    different = next(iter(_differences(before, now)), None)
    if different is not None:
        name, was, value = different
        raise SettingsError(
            f"fit: the run in {files.path} has {name}={was}, not {value}; resume with the same"
        )


def _differences(before: Any, now: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two nested mappings differ: a path, and the two values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in before | now:
            yield from _differences(
                before.get(name), now.get(name), f"{path}.{name}" if path else name
            )
    elif before != now:
        yield path, before, now


def amend_config(loop: Loop, files: RunDirectory, settings: Mapping[str, Any]) -> None:
    """Settings that changed on the way, such as more epochs, are written down with the step from which they hold."""
    config = files.read_config()
    asked = {name: describe(value) for name, value in settings.items()}
    changed = {
        name: value for name, value in asked.items() if config["training"].get(name) != value
    }
    if changed:
        before = {name: config["training"].get(name) for name in changed}
        config.setdefault("resumed", []).append({"from_step": loop.progress.step, "before": before})
        config["training"] |= changed
        files.write_config(config)
