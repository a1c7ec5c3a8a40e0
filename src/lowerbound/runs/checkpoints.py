"""One checkpoint: a folder of tensors, state and configuration, with a digest of each file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from lowerbound.runs import disk
from lowerbound.runs.finite import find_non_finite
from lowerbound.runs.tensor_files import (
    DamagedFileError,
    digest,
    read_tensors,
    write_unsynced_tensors,
)

DIGESTS_FILE = "SHA256SUMS"
CONFIG_FILE = "config.yaml"
_STATE_FILE = "state.json"

# The files that contain the model, in the order in which they are preferred.
_MODELS = ("best-model.safetensors", "averaged.safetensors", "model.safetensors")


def name_checkpoint(step: int) -> str:
    """Make the name of the folder of a step's checkpoint."""
    return f"step-{step:08d}"


def read_step(name: str) -> int | None:
    """Read the step from a name of :func:`name_checkpoint`; any other name gives ``None``.

    Example:
        >>> read_step("step-00000120"), read_step("step-100000000"), read_step("step-keep")
        (120, 100000000, None)
    """
    digits = name.removeprefix("step-")
    if digits.isdecimal() and name == name_checkpoint(int(digits)):
        return int(digits)
    return None


def write_checkpoint(
    folder: Path,
    files: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    header: Mapping[str, Any],
    config: str,
) -> None:
    """Write the files of a checkpoint to a new folder, and wait until they are on the disk.

    Files that other programs write there meanwhile do not become part of the checkpoint.

    Args:
        folder: The folder.
        files: The tensors of each safetensors file, by the name of the file.
        state: The rest of the state, in JSON's types.
        header: The metadata of each safetensors file.
        config: The text of ``config.yaml``, which says of which run the checkpoint is.
    """
    disk.make_folder(folder)
    paths = {folder / f"{file}.safetensors": tensors for file, tensors in files.items()}
    for path, tensors in paths.items():
        write_unsynced_tensors(path, tensors, header)
    texts = {_STATE_FILE: json.dumps(state), CONFIG_FILE: config}
    written = sorted([*paths, *(folder / name for name in texts)])
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf8")
    sums = [f"{digest(path)}  {path.name}\n" for path in written]
    (folder / DIGESTS_FILE).write_text("".join(sums), encoding="utf8")
    for path in folder.iterdir():
        if _belongs(path) and path not in written:  # of an earlier attempt
            disk.remove(path)
    for path in [*written, folder / DIGESTS_FILE, folder]:
        disk.sync(path)


def read_checkpoint(
    folder: Path, buffers: Collection[str] = ()
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read the tensors of each file of a checkpoint, and its state, after checking the digests.

    The state has the configuration as its entry ``config``, unless an earlier version wrote it.

    Args:
        folder: The folder.
        buffers: The names of tensors that may be infinite, see :func:`find_non_finite`.

    Raises:
        DamagedFileError: naming the first file that is missing or damaged, or whose values are not
            finite.
    """
    sums = read_digests(folder)
    for name in sums:
        _verify(folder / name, sums)
    files: dict[str, dict[str, Tensor]] = {}
    for path in (folder / name for name in sums if name.endswith(".safetensors")):
        files[path.stem] = read_tensors(path)[0]
        non_finite = find_non_finite(files[path.stem], buffers)
        if non_finite is not None:
            raise DamagedFileError(f"{path}: the values of {non_finite} are not finite")
    state = read_state(folder)
    if not state:
        raise DamagedFileError(f"{folder / _STATE_FILE}: is missing or not JSON")
    if CONFIG_FILE in sums:
        state["config"] = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf8"))
    return files, state


def read_state(folder: Path) -> dict[str, Any]:
    """Read the state of a checkpoint without checking digests; empty if that is not possible."""
    try:
        state = json.loads((folder / _STATE_FILE).read_text(encoding="utf8"))
    except (OSError, ValueError):
        return {}
    if isinstance(state, dict):
        return state
    return {}


def read_other_step(folder: Path, step: int) -> int | None:
    """Read the step of a checkpoint that is of another step than its folder's name.

    ``None`` if the name is right. If the checkpoint does not say its step, it may be damaged, but
    its name is taken as right.
    """
    progress = read_state(folder).get("progress")
    if not isinstance(progress, dict):
        return None
    actual = progress.get("step")
    if isinstance(actual, int) and actual != step:
        return actual
    return None


def holds_best(folder: Path) -> bool:
    """Whether a checkpoint contains the best weights, if there are any.

    Earlier versions, which did not write the configuration either, kept them elsewhere.
    """
    return (folder / CONFIG_FILE).exists()


def find_model_file(folder: Path) -> Path:
    """Find the file of a checkpoint's best, averaged or last model, and check its digest.

    Raises:
        DamagedFileError: if the file is missing or damaged.
    """
    sums = read_digests(folder)
    for name in _MODELS:
        if name in sums:
            _verify(folder / name, sums)
            return folder / name
    raise DamagedFileError(f"{folder / DIGESTS_FILE}: is damaged, because it does not list a model")


def read_digests(folder: Path) -> dict[str, str]:
    """Read the digests of a checkpoint's files, by name.

    Files of other kinds, such as ``.DS_Store``, do not belong to the checkpoint.

    Raises:
        DamagedFileError: if the list is missing, or does not list a file of the checkpoint.
    """
    try:
        lines = (folder / DIGESTS_FILE).read_text(encoding="utf8", errors="replace").splitlines()
        present = {path.name for path in folder.iterdir() if _belongs(path)}
    except OSError:
        raise DamagedFileError(
            f"{folder}: has no {DIGESTS_FILE}, so the checkpoint is not complete"
        ) from None
    sums = {name: expected for expected, _, name in (line.partition("  ") for line in lines)}
    unlisted = present - sums.keys()
    if unlisted or not sums:
        missing = ", ".join(sorted(unlisted)) or "any file"
        raise DamagedFileError(
            f"{folder / DIGESTS_FILE}: is damaged, because it does not list {missing}"
        )
    return sums


def _belongs(path: Path) -> bool:
    """Whether a file has a name that the files of a checkpoint have."""
    if path.name.startswith("."):
        return False
    return path.suffix == ".safetensors" or path.name in (_STATE_FILE, CONFIG_FILE)


def _verify(file: Path, sums: Mapping[str, str]) -> None:
    try:
        intact = digest(file) == sums[file.name]
    except OSError:
        intact = False
    if not intact:
        raise DamagedFileError(
            f"{file}: is missing or damaged: its digest does not match {DIGESTS_FILE}"
        )
