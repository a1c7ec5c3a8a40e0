"""The directory of a run: its configuration, its metrics, and checkpoints with digests."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lowerbound.errors import StorageError
from lowerbound.runs.tensor_files import digest, read_tensors, write_tensors
from lowerbound.runtime.outputs import explain_write_errors

_DIGESTS_FILE = "SHA256SUMS"


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    ::

        config.yaml                        the settings that repeat the run
        metrics.jsonl                      a line for each epoch
        checkpoints/step-00000120/         model, averaged model, optimiser and random state as
                                           safetensors, the rest of the state as JSON
        checkpoints/best/                  the model with the best validation bound
        samples/ reconstructions/          a picture for each epoch
        bound.png  manifold.png
        profile.md                         where the time of a step goes, if the run was profiled

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
    def checkpoints(self) -> Path:
        """The path of the folder of checkpoints."""
        return self.path / "checkpoints"

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
            self.path.mkdir(parents=True, exist_ok=True)
        self.write_config(config)

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml`` completely or not at all."""
        text = yaml.safe_dump(
            dict(config), sort_keys=False, allow_unicode=True, default_flow_style=None
        )
        _replace_text(self.config, text)

    def read_config(self) -> dict[str, Any]:
        """Read ``config.yaml``.

        Raises:
            StorageError: if the file does not exist, or is not YAML.
        """
        return read_config(self.config)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a line to ``metrics.jsonl``, or leave the file as it is if the disk is full."""
        path = self.path / "metrics.jsonl"
        with explain_write_errors(path), path.open("ab", buffering=0) as file:
            line, end = (json.dumps(record) + "\n").encode(), file.tell()
            try:
                while line:
                    line = line[file.write(line) :]
            except BaseException:
                file.truncate(end)
                raise

    def rewrite_metrics(self, records: list[dict[str, Any]]) -> None:
        """Replace all lines, for a run that continues from a checkpoint before the last line."""
        _replace_text(
            self.path / "metrics.jsonl", "".join(json.dumps(record) + "\n" for record in records)
        )

    def write_checkpoint(
        self,
        name: str,
        files: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        header: Mapping[str, Any],
    ) -> None:
        """Write a checkpoint completely or not at all, with a digest of each file.

        Older checkpoints are then deleted, except the newest ``keep``.

        Args:
            name: The name of its folder.
            files: The tensors of each safetensors file, by the name of the file.
            state: The rest of the state, in JSON's types.
            header: The metadata of each safetensors file, with which a model can be loaded from
                its file alone.
        """
        partial = self.checkpoints / f".{name}.partial"
        target, retired = self.checkpoints / name, self.checkpoints / f".{name}.retired"
        with explain_write_errors(target):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for file, tensors in files.items():
                write_tensors(partial / f"{file}.safetensors", tensors, header)
            (partial / "state.json").write_text(json.dumps(state), encoding="utf8")
            sums = [f"{digest(path)}  {path.name}\n" for path in sorted(partial.iterdir())]
            (partial / _DIGESTS_FILE).write_text("".join(sums), encoding="utf8")
            if target.exists():
                shutil.rmtree(retired, ignore_errors=True)
                os.replace(target, retired)
            os.replace(partial, target)
            shutil.rmtree(retired, ignore_errors=True)
            for old in self.list_newest()[self.keep :]:
                shutil.rmtree(old)

    def find_best(self) -> Path | None:
        """Find the checkpoint of the best model, or return ``None``.

        It has another name if a crash occurred while it was replaced.
        """
        places = (self.checkpoints / "best", self.checkpoints / ".best.retired")
        return next((place for place in places if place.is_dir()), None)

    def has_checkpoints(self) -> bool:
        """Check whether there is a checkpoint, complete or damaged."""
        return self.find_best() is not None or bool(self.list_newest())

    def list_newest(self) -> list[Path]:
        """List the checkpoints of steps, the newest first."""
        return sorted(self.checkpoints.glob("step-*"), reverse=True)

    def read_newest(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Read the newest intact checkpoint.

        Raises:
            StorageError: if none is intact.
        """
        faults: list[str] = []
        for folder in self.list_newest():
            try:
                return read_checkpoint(folder)
            except StorageError as error:
                faults.append(str(error))
        raise StorageError(
            "; ".join(faults) or f"{self.path}: has no checkpoint; train again from the start"
        )

    def read_failure(self) -> str | None:
        """Read from the newest checkpoint why training failed; ``None`` if it did not."""
        for newest in self.list_newest()[:1]:
            # If the file is damaged, reading the checkpoint itself reports it.
            with suppress(OSError, ValueError):
                state = json.loads((newest / "state.json").read_text(encoding="utf8"))
                failure: str | None = state.get("failure")
                return failure
        return None

    def find_model_file(self) -> Path:
        """Find the file of the model with the best validation bound, or of the newest model.

        Raises:
            StorageError: if the file does not exist, or its digest does not match.
        """
        candidates = [
            folder for folder in [self.find_best(), *self.list_newest()] if folder is not None
        ]
        if not self.config.exists():
            raise StorageError(
                f"{self.path}: has no config.yaml, so it is not the directory of a run"
            )
        if not candidates:
            raise StorageError(
                f"{self.path}: has no checkpoint yet; wait for the first one, or train again"
            )
        verify_checkpoint(candidates[0])
        averaged = candidates[0] / "averaged.safetensors"
        if averaged.exists():
            return averaged
        return candidates[0] / "model.safetensors"


def _replace_text(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with explain_write_errors(path):
        partial.write_text(text, encoding="utf8")
        os.replace(partial, path)


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


def verify_checkpoint(folder: Path) -> None:
    """Check the files of a checkpoint against their digests.

    Raises:
        StorageError: naming the first file that is missing or differs.
    """
    try:
        lines = (folder / _DIGESTS_FILE).read_text(encoding="utf8", errors="replace").splitlines()
    except OSError:
        raise StorageError(
            f"{folder}: has no {_DIGESTS_FILE}, so the checkpoint is not complete"
        ) from None
    sums = {name: expected for expected, _, name in (line.partition("  ") for line in lines)}
    unlisted = {path.name for path in folder.iterdir()} - sums.keys() - {_DIGESTS_FILE}
    if unlisted or not sums:
        missing = ", ".join(sorted(unlisted)) or "any file"
        raise StorageError(
            f"{folder / _DIGESTS_FILE}: is damaged, because it does not list {missing}"
        )
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file() or digest(file) != expected:
            raise StorageError(
                f"{file}: is missing or damaged: its digest does not match {_DIGESTS_FILE}; use "
                "another checkpoint"
            )


def read_checkpoint(folder: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read the tensors of each file of a checkpoint, and its state, after checking the digests."""
    verify_checkpoint(folder)
    files = {path.stem: read_tensors(path)[0] for path in folder.glob("*.safetensors")}
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf8"))
    return files, state


def flatten_optimizer(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into its tensors and the rest, which has JSON's types."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Any] = {"kind": type(optimizer).__name__, "param_groups": [], "numbers": {}}
    for index, slots in state["state"].items():
        for slot, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{slot}"] = value
            else:
                rest["numbers"][f"{index}.{slot}"] = value
    for number, group in enumerate(state["param_groups"]):
        plain = dict(group)
        for key in [key for key, value in group.items() if isinstance(value, Tensor)]:
            tensors[f"group.{number}.{key}"] = plain.pop(key)
        rest["param_groups"].append(plain)
    return tensors, rest


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Restore the state that :func:`flatten_optimizer` returned.

    Raises:
        StorageError: if the state is that of another optimiser.
    """
    if rest["kind"] != type(optimizer).__name__:
        raise StorageError(
            f"the checkpoint's optimiser is {rest['kind']}, not {type(optimizer).__name__}; "
            "resume with the same optimiser"
        )
    groups = [dict(group) for group in rest["param_groups"]]
    slots: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *rest["numbers"].items()]:
        owner, key = name.split(".", 1)
        if owner == "group":
            number, key = key.split(".", 1)
            groups[int(number)][key] = value
        else:
            slots.setdefault(int(owner), {})[key] = value
    try:
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
    except (ValueError, KeyError) as error:
        raise StorageError(f"the checkpoint's optimiser does not fit this one: {error}") from None
