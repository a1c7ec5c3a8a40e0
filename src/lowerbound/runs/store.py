"""The checkpoints of a run: the newest ones are kept, and damaged ones are skipped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from lowerbound.errors import StorageError
from lowerbound.runs import disk
from lowerbound.runs.checkpoints import (
    find_model_file,
    holds_best,
    name_checkpoint,
    read_checkpoint,
    read_other_step,
    read_state,
    read_step,
    write_checkpoint,
)
from lowerbound.runs.tensor_files import DamagedFileError
from lowerbound.runtime.outputs import explain_write_errors

# How often a reader starts again because a training has changed the checkpoints meanwhile.
_MOST_ATTEMPTS = 20

Tensors = dict[str, dict[str, Tensor]]
Value = TypeVar("Value")


@dataclass(frozen=True)
class CheckpointStore:
    """The folder ``checkpoints`` of a run.

    ::

        step-00000120/               a checkpoint, complete and on the disk
        .step-00000120.partial/      one that is being written
        .step-00000120.retired/      one that is set aside while another of its step replaces it

    Args:
        path: The path of the folder.
        keep: The number of newest checkpoints to keep.
    """

    path: Path
    keep: int = 2

    def write(
        self,
        step: int,
        files: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        header: Mapping[str, Any],
        config: str,
    ) -> None:
        """Write a checkpoint completely or not at all, and wait until it is on the disk.

        Only then are older checkpoints deleted, except the newest ``keep``. The arguments are those
        of :func:`lowerbound.runs.checkpoints.write_checkpoint`.
        """
        target = self.path / name_checkpoint(step)
        partial, retired = disk.name_partial(target), _name_retired(target)
        with explain_write_errors(target):
            disk.remove(partial)
            try:
                write_checkpoint(partial, files, state, header, config)
                if target.exists():
                    disk.remove(retired)
                    disk.publish(target, retired)
                disk.publish(partial, target)
            finally:
                disk.remove(partial)
            disk.remove(retired)
            self._remove_old()

    def _remove_old(self) -> None:
        newest = self.list_newest()
        for old in newest[self.keep :]:
            disk.remove(old)
        if all(holds_best(folder) for folder in newest[: self.keep]):
            for folder in self._list_earlier_best():
                disk.remove(folder)

    def clean_up(self) -> None:
        """Put back checkpoints that a killed process set aside, and remove incomplete ones."""
        for folder in _list_folders(self.path):
            target = _find_target_of_retired(folder)
            if target is not None and not target.exists():
                disk.publish(folder, target)
            elif target is not None or _is_partial(folder):
                disk.remove(folder)

    def list_newest(self) -> list[Path]:
        """List the folders of the checkpoints, the newest first.

        Other files and folders are left out, such as a copy with a name of its own, or with the
        name of another step. A checkpoint that is set aside is listed if the one that replaces it
        does not exist.
        """
        return [path for step, path in self._list_by_step() if read_other_step(path, step) is None]

    def _list_by_step(self) -> list[tuple[int, Path]]:
        """List the steps and folders whose names are those of checkpoints, the newest first."""
        steps: dict[int, Path] = {}
        for folder in _list_folders(self.path):
            step = read_step(folder.name)
            if step is not None:
                steps[step] = folder
                continue
            target = _find_target_of_retired(folder)
            step = None if target is None else read_step(target.name)
            if step is not None:
                steps.setdefault(step, folder)
        return sorted(steps.items(), reverse=True)

    def list_models(self) -> list[Path]:
        """List the folders that contain a model, the one to load first."""
        newest = self.list_newest()
        if any(holds_best(folder) for folder in newest):
            return newest
        return [*self._list_earlier_best()[:1], *newest]

    def read_newest(self, buffers: Collection[str] = ()) -> tuple[Tensors, dict[str, Any]]:
        """Read the newest intact checkpoint, with a warning for each newer one that is damaged.

        Args:
            buffers: The names of the model's buffers, which may be infinite.

        Raises:
            StorageError: if none is intact.
        """
        return self._read_first(self.list_newest, partial(read_checkpoint, buffers=buffers))

    def read_model(self, read: Callable[[Path], Value]) -> Value:
        """Read the file of the model to use, from the newest intact checkpoint.

        Raises:
            StorageError: if none is intact.
        """
        return self._read_first(self.list_models, lambda folder: read(find_model_file(folder)))

    def read_failure(self) -> str | None:
        """Read from the newest checkpoint why training failed; ``None`` if it did not."""
        for newest in self.list_newest()[:1]:
            # If the file is damaged, reading the checkpoint itself reports it.
            failure: str | None = read_state(newest).get("failure")
            return failure
        return None

    def read_earlier_best(self, epoch: int, buffers: Collection[str] = ()) -> Tensors | None:
        """Read the weights of the best epoch where earlier versions kept them, outside checkpoints.

        The result is ``None``, with a warning, if they are damaged or belong to another epoch.
        """
        for folder in self._list_earlier_best()[:1]:
            try:
                tensors, state = read_checkpoint(folder, buffers)
            except DamagedFileError as error:
                warnings.warn(f"{error}; the best weights so far are lost", stacklevel=2)
                return None
            if state.get("epoch") == epoch:
                return tensors
            warnings.warn(
                f"{folder}: is of epoch {state.get('epoch')}, not of epoch {epoch} as the "
                "checkpoint says; the best weights so far are lost",
                stacklevel=2,
            )
        return None

    def _list_earlier_best(self) -> list[Path]:
        """List the folders in which earlier versions kept the best model.

        It has the second name if a crash occurred while it was replaced.
        """
        best = self.path / "best"
        return [place for place in (best, _name_retired(best)) if place.is_dir()]

    def _read_first(self, find: Callable[[], list[Path]], read: Callable[[Path], Value]) -> Value:
        """Read the first intact folder, with a warning for each damaged one before it.

        A training may replace and delete checkpoints meanwhile. So nothing is called damaged before
        the folders were read without such a change.
        """
        self._warn_about_copies()
        for _ in range(_MOST_ATTEMPTS):
            folders = _identify(find())
            found, faults = _try_each(folders, read)
            if found and not faults:
                return found[0]
            if _identify(find()) == folders:
                break
        if found:
            for fault in faults:
                warnings.warn(f"{fault}; an older checkpoint is used instead", stacklevel=4)
            return found[0]
        if faults:
            raise StorageError(f"{'; '.join(faults)}; restore a file from a copy, or train again")
        raise StorageError(
            f"{self.path.parent}: has no checkpoint yet; wait for the first one, or train again"
        )

    def _warn_about_copies(self) -> None:
        for step, folder in self._list_by_step():
            actual = read_other_step(folder, step)
            if actual is not None:
                warnings.warn(
                    f"{folder}: is skipped, because it is a checkpoint of step {actual:,} and "
                    "not of the step in its name; give it a name such as step-copy, or remove it",
                    stacklevel=5,
                )


def _try_each(
    folders: Mapping[Path, int], read: Callable[[Path], Value]
) -> tuple[list[Value], list[str]]:
    """Read folders until one is intact: its value, if there is one, and the faults of the others"""
    faults: list[str] = []
    for folder in folders:
        try:
            return [read(folder)], faults
        except DamagedFileError as error:
            faults.append(str(error))
    return [], faults


def _identify(folders: list[Path]) -> dict[Path, int]:
    """Map folders to their inode numbers, which change when a folder is replaced."""
    identities: dict[Path, int] = {}
    for folder in folders:
        with suppress(OSError):  # deleted meanwhile
            identities[folder] = folder.stat().st_ino
    return identities


def _list_folders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except OSError:  # before the first checkpoint
        return []


def _is_ours(name: str) -> bool:
    return name == "best" or read_step(name) is not None


def _is_partial(folder: Path) -> bool:
    target = folder.with_name(folder.name.removeprefix(".").removesuffix(".partial"))
    return _is_ours(target.name) and folder == disk.name_partial(target)


def _name_retired(folder: Path) -> Path:
    """Make the name under which a checkpoint is set aside while it is replaced."""
    return folder.with_name(f".{folder.name}.retired")


def _find_target_of_retired(folder: Path) -> Path | None:
    """Find the checkpoint that was set aside under this name; ``None`` if the name is another."""
    target = folder.with_name(folder.name.removeprefix(".").removesuffix(".retired"))
    if _is_ours(target.name) and folder == _name_retired(target):
        return target
    return None
