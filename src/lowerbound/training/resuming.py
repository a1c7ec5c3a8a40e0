"""A run's ``config.yaml``, and how a run is resumed."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import lowerbound
from lowerbound.describe import complete, describe
from lowerbound.errors import SettingsError, StorageError
from lowerbound.runs.directory import RunDirectory
from lowerbound.runs.finite import list_buffers
from lowerbound.training.loop import Loop
from lowerbound.training.settings import FitKeywords
from lowerbound.training.state import restore_state, select_best_weights

# The sections of config.yaml that must be the same when a run is resumed.
_IDENTITY = ("objective", "model", "examples")


def lock_run(files: RunDirectory | None, settings: FitKeywords) -> AbstractContextManager[None]:
    """Make a context in which no other training writes to the run's directory, if it has one.

    Raises:
        StorageError: on entering, if another training is writing to it; immediately, if there is no
            run to resume, so that no lock file is made in a directory that is not a run's.
    """
    if files is None:
        return nullcontext()
    if settings.resume:
        files.read_config()
    return files.lock()


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
        before = restore(loop, files)
    else:
        before = files.read_config()
        refuse_another_run(loop, files, before, before)
        loop.tell("the run has no checkpoint yet, so it starts over")
    if not loop.progress.finished:  # otherwise nothing will be done by these settings
        amend_config(loop, files, settings, before)


def make_config(loop: Loop, settings: FitKeywords) -> dict[str, Any]:
    """Make the configuration that repeats the run: its settings, its parts and the versions."""
    return {
        "lowerbound": lowerbound.__version__,
        **(settings.config or {}),
        "training": _describe_settings(loop, settings),
        **_describe_identity(loop),
        "versions": _find_versions(),
    }


def _find_versions() -> dict[str, str]:
    versions = {name: version(name) for name in ("torch", "numpy")}
    return {"python": platform.python_version(), **versions}


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


def restore(loop: Loop, files: RunDirectory) -> dict[str, Any]:
    """Restore the state of the loop from the run's newest intact checkpoint.

    Returns:
        The configuration with which that checkpoint was written.

    Raises:
        SettingsError: if the directory contains another run, naming what differs.
        StorageError: if no checkpoint is intact, or it does not fit.
    """
    config = files.read_config()
    buffers = list_buffers(loop.model, loop.players)
    tensors, state = files.read_newest(buffers)
    before: dict[str, Any] = state.get("config", config)
    refuse_another_run(loop, files, config, before)
    try:
        progress = restore_state(loop, tensors, state)
    except StorageError as error:
        raise StorageError(f"{files.path}: {error}") from None
    best = select_best_weights(tensors)
    if "config" not in state and progress.best_epoch:
        best = files.checkpoints.read_earlier_best(progress.best_epoch, buffers)
        if best is None:
            progress.best_bound, progress.best_epoch = None, 0
    tolerance = before["training"].get("tolerance")
    loop.resume(progress, best_weights=best, earlier_tolerance=tolerance)
    return before


def refuse_another_run(
    loop: Loop, files: RunDirectory, config: Mapping[str, Any], before: Mapping[str, Any]
) -> None:
    """Refuse a run with another model or objective, or other examples or another order of them.

    Args:
        loop: the training that is about to continue the run.
        files: the directory of the run.
        config: the configuration in the directory, which a user may have edited.
        before: the configuration with which the newest checkpoint was written.

    Raises:
        SettingsError: naming the first difference.
    """
    now = {
        "seed": loop.seed,
        "batch_size": loop.batch_size,
        "averaged weights": _describe_averaging(loop.autostop, loop.ema),
        **_describe_identity(loop),
    }
    was, edited = (_read_identity(files, each, now) for each in (before, config))
    for name, value, asked in _find_differences(was, now):
        remedy = "resume with the same value"
        if was != edited:
            remedy = f"{files.config} was edited since; write the earlier value there"
        raise SettingsError(
            f"fit: the run in {files.path} has {name}={value}, not {asked}; {remedy}"
        )
    for name, value, other in _find_differences(was, edited):
        raise SettingsError(
            f"{files.config}: has {name}={other}, but the run's checkpoint was written with "
            f"{value}; restore the file as it was written"
        )


def _read_identity(
    files: RunDirectory, config: Mapping[str, Any], now: Mapping[str, Any]
) -> dict[str, Any]:
    """Read the same from a configuration, with settings that exist since it was written."""
    try:
        training = config["training"]
        return {
            "seed": training["seed"],
            "batch_size": training["batch_size"],
            "averaged weights": _describe_averaging(training.get("tolerance"), training["ema"]),
            **{name: config[name] for name in _IDENTITY},
            **{name: complete(config[name], now[name]) for name in ("objective", "model")},
        }
    except (KeyError, TypeError):
        raise StorageError(
            f"{files.config} lacks settings of the run; restore the file as it was written"
        ) from None


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


def amend_config(
    loop: Loop, files: RunDirectory, settings: FitKeywords, before: Mapping[str, Any]
) -> None:
    """Record what changed since a checkpoint, with the step from which the changes apply.

    These are settings such as more epochs, entries of the file that a user edited, and versions.

    Args:
        loop: the training that continues from the checkpoint.
        files: the directory of the run.
        settings: the settings of this training.
        before: the configuration with which the checkpoint was written.
    """
    written = files.read_config()
    now = written | {"lowerbound": lowerbound.__version__, "versions": _find_versions()}
    now["training"] = before["training"] | _describe_settings(loop, settings)
    now.pop("resumed", None)
    others = {name: now[name] for name in now if name not in ("training", *_IDENTITY)}
    changed = {
        **_select_earlier_values(before["training"], now["training"]),
        **_select_earlier_values(before, others),
    }
    resumed = list(before.get("resumed", []))
    if changed:
        resumed.append({"from_step": loop.progress.step, "before": changed})
    if resumed:
        now["resumed"] = resumed
    if now != written:
        files.write_config(now)


def _select_earlier_values(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """Select the earlier values of the entries that have another value now."""
    return {name: before.get(name) for name, value in now.items() if before.get(name) != value}
