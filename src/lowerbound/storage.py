"""Files of a model: weights as safetensors with the model's description as JSON in the header. Nothing is ever pickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import lowerbound
import lowerbound.conditionals  # with models and networks: registers the parts that a description can name
import lowerbound.models
from lowerbound.describe import build, describe, foreign_parts
from lowerbound.errors import StorageError

FORMAT = 1


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk or a folder without permission is the user's to mend.

    Raises:
        StorageError: in place of what writing within the block raises.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"{path}: cannot be written ({reason}); make room or give another place") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write tensors to a safetensors file, whole or not at all."""
    parts = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    partial = path.with_name(f".{path.name}.partial")
    save_file(parts, partial, metadata={key: json.dumps(value) for key, value in (metadata or {}).items()})
    os.replace(partial, path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        StorageError: if there is no such file, or it is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {key: _from_json(value) for key, value in (file.metadata() or {}).items()}
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise StorageError(f"{path}: there is no such file") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise StorageError(f"{path}: not a readable safetensors file ({error}); restore it from a copy") from None


def _from_json(text: str) -> Any:
    """The value, or the text itself where a foreign writer put no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def digest(path: Path) -> str:
    """The SHA-256 digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_of(path: Path) -> Path:
    """The file that a model is saved to under this name."""
    return path if path.suffix == ".safetensors" else path.with_name(f"{path.name}.safetensors")


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a model to one safetensors file: its weights, and how it is made.

    A model made of lowerbound's parts is rebuilt from that file alone; one with a network of your own is rebuilt by the
    constructor that you pass to :func:`lowerbound.load`.

    Args:
        model: any model.
        path: of the file; ``.safetensors`` is added where it is missing.

    Returns:
        The path that was written.

    Raises:
        StorageError: if it cannot be written.

    Example:
        >>> import lowerbound as lb, tempfile
        >>> vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12)))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lb.load(lb.save(vae, f"{folder}/vae")).sample(3).shape
        torch.Size([3, 6])
    """
    path = file_of(Path(path))
    header = {"model": describe(model), "lowerbound": lowerbound.__version__, "format": FORMAT}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, model.state_dict(), header)
    return path


def load_model(path: str | os.PathLike[str], constructor: Callable[[], nn.Module] | nn.Module | None = None) -> Any:
    """The model in a file written by :func:`save`, in evaluation mode on the CPU; see :func:`lowerbound.load`."""
    path = Path(path)
    weights, header = read_tensors(path)
    if "model" not in header or not isinstance(header.get("format"), int):
        raise StorageError(f"{path}: holds tensors but no description of a model; was it written by lowerbound.save?")
    if header["format"] > FORMAT:
        raise StorageError(
            f"{path}: written by lowerbound {header.get('lowerbound')}, which is newer than this; upgrade lowerbound"
        )
    if constructor is None:
        model = _rebuild(path, header["model"])
    else:
        model = constructor if isinstance(constructor, nn.Module) else constructor()
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StorageError(f"{path}: the weights do not fit the model that was constructed: {reason}") from None
    return model.eval()


def _rebuild(path: Path, description: Any) -> nn.Module:
    foreign = list(foreign_parts(description))
    if foreign:
        parts = "; ".join(f"{where} is of {name}" for where, name in foreign)
        raise StorageError(
            f"{path}: holds a network of your own ({parts}), which a file cannot rebuild; pass a function that makes the "
            f"untrained model: lowerbound.load({str(path)!r}, constructor=make_model)"
        )
    model = build(description)
    if not isinstance(model, nn.Module):
        raise StorageError(f"{path}: the description does not describe a model")
    return model
