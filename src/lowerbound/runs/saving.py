"""Saving and loading models: weights as safetensors, with the model's description as JSON in the header."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

import lowerbound
import lowerbound.conditionals  # with models and networks: registers the parts that a description can name
import lowerbound.models
from lowerbound.describe import build, describe, foreign_parts, has_references
from lowerbound.errors import StorageError
from lowerbound.runs.directory import RunDirectory
from lowerbound.runs.tensor_files import read_tensors, write_tensors, writing

FORMAT = 2  # the newest that can be read, and the one of models in which something is shared
_FORMAT_OF_TREES = 1


def header_of(model: nn.Module) -> dict[str, Any]:
    """What stands in the header of each file of this model's tensors.

    ``model`` is its description. Where parts share weights, ``shared`` maps names in the state dictionary to the name under
    which the same tensor is stored.
    """
    description, shared = describe(model), shared_weights(model)
    plain = not shared and not has_references(description)
    header = {
        "model": description,
        "lowerbound": lowerbound.__version__,
        "format": _FORMAT_OF_TREES if plain else FORMAT,
    }
    return header | ({"shared": shared} if shared else {})


def shared_weights(model: nn.Module) -> dict[str, str]:
    """The names in the state dictionary under which a tensor occurs again, each with the first name of that tensor.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> shared_weights(nn.Sequential(layer, nn.ReLU(), layer))
        {'2.weight': '0.weight'}
    """
    saved = model.state_dict().keys()
    first: dict[tuple[int, str], str] = {}
    shared: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        # A parameter may be tied to one of another module. A buffer is shared only with its module.
        keys = {name: (id(value), "") for name, value in module._parameters.items()}
        keys |= {name: (id(module), name) for name in module._buffers}
        for name, key in keys.items():
            full = f"{path}.{name}".removeprefix(".")
            if full in saved and first.setdefault(key, full) != full:
                shared[full] = first[key]
    return shared


def _tie(model: nn.Module, shared: Mapping[str, str]) -> None:
    """Make parameters that were one when they were saved one again, where the model's structure does not say so."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, stored in shared.items():
        (path, _, leaf), (source, _, original) = name.rpartition("."), stored.rpartition(".")
        owner, other = modules.get(path, model), modules.get(source, model)
        parameter = other._parameters.get(original)
        if parameter is not None and owner._parameters.get(leaf) is not None:
            setattr(owner, leaf, parameter)


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
    header = header_of(model)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, model.state_dict(), header)
    return path


def load_model(
    path: str | os.PathLike[str], constructor: Callable[[], nn.Module] | nn.Module | None = None
) -> Any:
    """The model in a file written by :func:`save`, in evaluation mode on the CPU; see :func:`lowerbound.load`."""
    path = Path(path)
    weights, header = read_tensors(path)
    if "model" not in header or not isinstance(header.get("format"), int):
        raise StorageError(
            f"{path}: holds tensors but no description of a model; was it written by lowerbound.save?"
        )
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
    _tie(model, header.get("shared", {}))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StorageError(
            f"{path}: the weights do not fit the model that was constructed: {reason}"
        ) from None
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


def load(
    path: str | os.PathLike[str], constructor: Callable[[], nn.Module] | nn.Module | None = None
) -> Any:
    """The model of a run's directory, or of a file that :func:`lowerbound.save` wrote: in evaluation mode, on the CPU.

    Of a run with validation it is the one with the best validation bound, else the newest.

    Args:
        path: of the directory or the file.
        constructor: makes the untrained model, or is it; needed only where it holds a network of your own.

    Raises:
        StorageError: if nothing is there, a file is damaged, or a constructor is needed.

    Example:
        >>> import tempfile, lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2), lb.Gaussian(lb.mlp((1, 8, 8), 4)), lb.Gaussian(lb.mlp(2, (2, 8, 8)))
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = lb.fit(vae, lb.ELBO(), digits.train, epochs=1, directory=f"{folder}/run", progress=False)
        ...     again = lb.load(f"{folder}/run")
        >>> bool((again.encode(digits.test) == vae.encode(digits.test)).all())
        True
    """
    path = Path(path)
    if not path.exists():
        path = file_of(path)
    if not path.is_dir():
        return load_model(path, constructor)
    run = RunDirectory(path)
    failure = run.failure()
    if failure is not None:
        warnings.warn(
            f"{path}: this training failed, so its model may be worthless: {failure}", stacklevel=2
        )
    return load_model(run.model_file(), constructor)
