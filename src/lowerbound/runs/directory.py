"""The directory of a run: its configuration, its metrics, and its checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from torch import Tensor

from lowerbound.errors import StorageError
from lowerbound.runs import disk
from lowerbound.runs.locking import lock, lock_folder
from lowerbound.runs.store import CheckpointStore
from lowerbound.runtime.outputs import explain_write_errors

Value = TypeVar("Value")


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    ::

        config.yaml                        the settings that repeat the run
        metrics.jsonl                      a line for each epoch
        checkpoints/step-00000120/         model, averaged and best model, optimiser and random
                                           state as safetensors, the rest of the state as JSON, and
                                           config.yaml as it was then
        samples/ reconstructions/          a picture for each epoch
        bound.png  manifold.png
        profile.md                         where the time of a step goes, if the run was profiled
        .lock                              locked while a training writes to the directory

    Args:
        path: The path of the directory.
        keep: The number of newest checkpoints to keep.
    """

    path: Path
    keep: int = 2

    @property
    def config(self) -> Path:
        """The path of ``config.yaml``."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """The path of ``metrics.jsonl``."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> CheckpointStore:
        """The checkpoints, in the folder ``checkpoints``."""
        return CheckpointStore(self.path / "checkpoints", self.keep)

    def create(self, config: Mapping[str, Any]) -> None:
        """Make the directory and write its configuration.

        Raises:
            StorageError: if it contains a run already. Nothing is overwritten.
        """
        if self.config.exists():
            state = "a run that failed" if self.read_failure() else "a run"
            raise StorageError(
                f"{self.path}: already contains {state}; give another directory, continue the run "
                f"with resume=True (lowerbound train --resume {self.path}), or remove it"
            )
        with explain_write_errors(self.path):
            disk.make_folder(self.path)
        self.write_config(config)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml`` completely or not at all."""
        with explain_write_errors(self.config):
            disk.write_text(self.config, _dump(config))

    def read_config(self) -> dict[str, Any]:
        """Read ``config.yaml``.

        Raises:
            StorageError: if the file does not exist, or is not YAML.
        """
        return read_config(self.config)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``, or leave the file as it is if the disk is full."""
        with explain_write_errors(self.metrics), self.metrics.open("ab", buffering=0) as file:
            line, end = (json.dumps(record) + "\n").encode(), file.tell()
            try:
                while line:
                    line = line[file.write(line) :]
            except BaseException:
                file.truncate(end)
                raise

    def rewrite_metrics(self, records: list[dict[str, Any]]) -> None:
        """Replace all lines, for a run that continues from a checkpoint before the last line."""
        text = "".join(json.dumps(record) + "\n" for record in records)
        with explain_write_errors(self.metrics):
            disk.write_text(self.metrics, text)

    def write_checkpoint(
        self,
        step: int,
        files: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        header: Mapping[str, Any],
        config: Mapping[str, Any],
    ) -> None:
        """Write a checkpoint completely or not at all, and wait until it is on the disk.

        Args:
            step: The number of steps that were taken.
            files: The tensors of each safetensors file, by the name of the file.
            state: The rest of the state, in JSON's types.
            header: The metadata of each safetensors file, with which a model can be loaded from
                its file alone.
            config: The configuration of the run.
        """
        with explain_write_errors(self.metrics):
            if self.metrics.exists():
                disk.sync(self.metrics)
        self.checkpoints.write(step, files, state, header, _dump(config))

    def has_checkpoints(self) -> bool:
        """Check whether there is a checkpoint, complete or damaged."""
        return bool(self.checkpoints.list_models())

    def list_newest(self) -> list[Path]:
        """List the folders of the checkpoints, the newest first."""
        return self.checkpoints.list_newest()

    def read_newest(
        self, buffers: Collection[str] = ()
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Read the newest intact checkpoint, with a warning for each newer one that is damaged.

        Args:
            buffers: The names of the model's buffers, which may be infinite.

        Returns:
            The tensors of each file, and the state.

        Raises:
            StorageError: if none is intact.
        """
        return self.checkpoints.read_newest(buffers)

    def read_model(self, read: Callable[[Path], Value]) -> Value:
        """Read the best model of the newest intact checkpoint, or the newest if none is the best.

        Args:
            read: Reads the model's file.

        Raises:
            StorageError: if this is not the directory of a run, or no checkpoint is intact.
        """
        if not self.config.exists():
            raise StorageError(
                f"{self.path}: has no config.yaml, so it is not the directory of a run"
            )
        return self.checkpoints.read_model(read)

    def read_failure(self) -> str | None:
        """Read from the newest checkpoint why training failed; ``None`` if it did not."""
        return self.checkpoints.read_failure()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the directory and, within the block, keep other processes from training into it.

        What a killed process left is completed or removed. The folder of the checkpoints is locked
        as well, so that removing ``.lock`` does not remove the lock. If it is empty at the end, as
        after a training that was refused, it is removed.

        Raises:
            StorageError: if another process is training into it, or it cannot be written.
        """
        file, checkpoints = self.path / ".lock", self.checkpoints.path
        with explain_write_errors(self.path):
            disk.make_folder(self.path)
            file.touch()
        with lock(file):
            with explain_write_errors(self.path):
                disk.make_folder(checkpoints)
            with lock_folder(checkpoints):
                with explain_write_errors(self.path):
                    for partial in map(disk.name_partial, (self.config, self.metrics)):
                        disk.remove(partial)
                    self.checkpoints.clean_up()
                try:
                    yield
                finally:
                    with suppress(OSError):  # it is not empty
                        checkpoints.rmdir()


def _dump(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(
        dict(config), sort_keys=False, allow_unicode=True, default_flow_style=None
    )


def read_config(path: Path) -> dict[str, Any]:
    """Read a run's configuration file.

    Raises:
        StorageError: if the file does not exist, or is not a YAML mapping.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise StorageError(
            f"{path}: cannot be read ({reason}); is this a run's directory or config.yaml?"
        ) from None
    except yaml.YAMLError as error:
        raise StorageError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise StorageError(f"{path}: contains no settings; expected a run's config.yaml")
    return config
