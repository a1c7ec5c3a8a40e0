"""Models are saved as weights in safetensors files, with the model's description in the header."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import lowerbound
import lowerbound.conditionals  # registers, with models, the describable parts
import lowerbound.models
from lowerbound.data.preprocessing import Preprocessing
from lowerbound.describe import build, describe, find_foreign_parts, has_references
from lowerbound.errors import SettingsError, StorageError
from lowerbound.runs import disk
from lowerbound.runs.directory import RunDirectory
from lowerbound.runs.finite import find_non_finite, list_buffers
from lowerbound.runs.log_joints import (
    check_variables,
    describe_posterior,
    rebuild_without_log_joint,
)
from lowerbound.runs.tensor_files import DamagedFileError, read_tensors, write_tensors
from lowerbound.runtime.outputs import explain_write_errors

FORMAT = 2  # for models with shared parts; also the newest format that can be read
_FORMAT_WITHOUT_SHARING = 1

_DATA = (".csv", ".tsv", ".parquet", ".feather", ".arrow", ".npy", ".npz", ".h5ad", ".xlsx")


def make_header(model: nn.Module) -> dict[str, Any]:
    """Make the header for files of this model's tensors.

    The entry ``model`` is the model's description, and ``preprocessing`` that of its preprocessing,
    if it is known. The entries ``variables`` and ``posterior`` describe the posterior of a log
    joint. If parts share weights, ``shared`` maps a name in the state dictionary to the
    name under which the same tensor is stored.
    """
    header = {"model": describe(model), "lowerbound": lowerbound.__version__, "format": FORMAT}
    if isinstance(model, lowerbound.models.Model) and model.preprocessing is not None:
        header["preprocessing"] = describe(model.preprocessing)
    header |= describe_posterior(model)
    shared = find_shared_weights(model)
    if shared:
        header["shared"] = shared
    elif not has_references(header["model"]):
        header["format"] = _FORMAT_WITHOUT_SHARING
    return header


def find_shared_weights(model: nn.Module) -> dict[str, str]:
    """Find names in the state dictionary whose tensor has an earlier name, and that earlier name.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> find_shared_weights(nn.Sequential(layer, nn.ReLU(), layer))
        {'2.weight': '0.weight'}
    """
    saved = model.state_dict().keys()
    first: dict[tuple[int, str], str] = {}
    shared: dict[str, str] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        # Parameters of two modules may be tied. A buffer is shared only together with its module.
        keys = {name: (id(value), "") for name, value in module._parameters.items()}
        keys |= {name: (id(module), name) for name in module._buffers}
        for name, key in keys.items():
            full = f"{path}.{name}".removeprefix(".")
            if full in saved and first.setdefault(key, full) != full:
                shared[full] = first[key]
    return shared


def _convert_types(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give the model's floating-point tensors the types that they were saved in."""
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    if len(dtypes) == 1:
        model.to(dtypes.pop())  # also converts tensors that are not saved
        return
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in weights and tensor.is_floating_point():
            tensor.data = tensor.data.to(weights[name].dtype)


def _tie_parameters(model: nn.Module, shared: Mapping[str, str]) -> None:
    """Tie parameters that were tied when saved, if the model's structure does not tie them."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, stored in shared.items():
        (path, _, leaf), (source, _, original) = name.rpartition("."), stored.rpartition(".")
        owner, other = modules.get(path, model), modules.get(source, model)
        parameter = other._parameters.get(original)
        if parameter is not None and owner._parameters.get(leaf) is not None:
            setattr(owner, leaf, parameter)


def add_suffix(path: Path) -> Path:
    """Add ``.safetensors`` to a path, if it is missing."""
    if path.suffix == ".safetensors":
        return path
    return path.with_name(f"{path.name}.safetensors")


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write the weights and the description of a model to one safetensors file.

    The file alone is enough to load a model made of lowerbound's parts, layers of ``torch.nn`` and
    describable classes (:func:`lowerbound.describable`). To load a model with any other network,
    pass a constructor to :func:`lowerbound.load`. The file also contains the model's
    :attr:`~lowerbound.Model.preprocessing`. A module or a parameter that is shared within the model
    is stored once, and is shared again after loading.

    Args:
        model: the model.
        path: the path of the file; ``.safetensors`` is added if it is missing.

    Returns:
        The path that was written.

    Raises:
        StorageError: if the file cannot be written, or a weight is not finite.
        SettingsError: if this is not a model.

    Example:
        >>> import lowerbound as lb, tempfile
        >>> q, p = lb.Gaussian(lb.mlp(6, 4)), lb.Gaussian(lb.mlp(2, 12))
        >>> vae = lb.LatentModel(lb.StandardNormal(2), q, p)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lb.load(lb.save(vae, f"{folder}/vae")).sample(3).shape
        torch.Size([3, 6])
    """
    if not isinstance(model, nn.Module):
        raise SettingsError(f"save: expected a model, got {type(model).__name__}")
    path = add_suffix(Path(path))
    header = make_header(model)
    name = find_non_finite(model.state_dict(), list_buffers(model))
    if name is not None:
        raise StorageError(
            f"{path}: the model's {name} is not finite, so the model is not saved; load the last "
            "checkpoint of its run, or train it again"
        )
    with explain_write_errors(path):
        disk.make_folder(path.parent)
        write_tensors(path, model.state_dict(), header)
    return path


def load_model(
    path: str | os.PathLike[str], constructor: Callable[[], nn.Module] | nn.Module | None = None
) -> Any:
    """Load the model in a file that :func:`save` wrote; see :func:`lowerbound.load`."""
    path = Path(path)
    weights, header = read_tensors(path)
    if "model" not in header or not isinstance(header.get("format"), int):
        raise StorageError(
            f"{path}: contains tensors but no description of a model; was it written by "
            "lowerbound.save?"
        )
    if header["format"] > FORMAT:
        raise StorageError(
            f"{path}: was written by lowerbound {header.get('lowerbound')}, a newer version; "
            "upgrade lowerbound"
        )
    if constructor is None:
        model = rebuild_without_log_joint(path, header) or _rebuild(path, header["model"])
    elif isinstance(constructor, nn.Module):
        model = constructor
    else:
        model = constructor()
    check_variables(path, header, model)
    name = find_non_finite(weights, list_buffers(model))
    if name is not None:
        raise DamagedFileError(f"{path}: the weight {name} is not finite; train the model again")
    _convert_types(model, weights)
    _tie_parameters(model, header.get("shared", {}))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise StorageError(
            f"{path}: the weights do not fit the model that was constructed: {reason}"
        ) from None
    if isinstance(model, lowerbound.models.Model):
        model.preprocessing = _read_preprocessing(header, path)
    return model.eval()


def _read_preprocessing(header: Mapping[str, Any], path: Path) -> Preprocessing | None:
    if "preprocessing" not in header:
        return None
    preprocessing = build(header["preprocessing"])
    if not isinstance(preprocessing, Preprocessing):
        raise StorageError(f"{path}: the header's preprocessing is not valid; restore the file")
    return preprocessing


def _rebuild(path: Path, description: Any) -> nn.Module:
    foreign = list(find_foreign_parts(description))
    if foreign:
        parts = "; ".join(f"{where} is a {name}" for where, name in foreign)
        raise StorageError(
            f"{path}: contains a network of your own ({parts}), which a file cannot rebuild; pass "
            "a function that makes the untrained model: "
            f"lowerbound.load({str(path)!r}, constructor=make_model)"
            f"{_suggest_describable([name for _, name in foreign])}"
        )
    model = build(description)
    if not isinstance(model, nn.Module):
        raise StorageError(f"{path}: the description does not describe a model")
    return model


def _suggest_describable(names: Sequence[str]) -> str:
    """Name the parts of this library that can be rebuilt, in place of zuko's flows."""
    flows = [name.rpartition(".")[2] for name in names if name.startswith("zuko.flows.")]
    if not flows:
        return ""
    return (
        f". The command cannot do that: for a model that it can load, use lb.Flow("
        f"{flows[0].lower()!r}, features, ...), which is the same flow of zuko, instead of "
        f"zuko.flows.{flows[0]}(features, ...)"
    )


def load(
    path: str | os.PathLike[str], constructor: Callable[[], nn.Module] | nn.Module | None = None
) -> Any:
    """Load the model of a run's directory, or of a file that :func:`lowerbound.save` wrote.

    The model is in evaluation mode, on the CPU. Of a run with validation, it is the model with the
    best validation bound; of any other run, the newest model. A directory can be loaded while a
    training writes to it.

    The file of a :class:`lowerbound.LogJoint` does not contain the log joint. Without a constructor
    the model can draw from its posterior, and nothing else. With one, its variables must have the
    names, order, shapes and supports that the file has.

    Args:
        path: the path of the directory or the file.
        constructor: the untrained model, or a function that makes it. It is needed only if the
            model has a network of your own that is neither describable nor made of layers of
            ``torch.nn``.

    Raises:
        StorageError: if the file does not exist, is damaged, holds weights that are not finite,
            needs a constructor, or contains a posterior over other variables than the
            constructor's.

    Warns:
        UserWarning: if a checkpoint is damaged and an older one is loaded, or if training failed.

    Example:
        >>> import tempfile, lowerbound as lb
        >>> digits = lb.load_data("digits")
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp((1, 8, 8), 4)),
        ...     lb.Gaussian(lb.mlp(2, (2, 8, 8))),
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/run"
        ...     run = lb.fit(vae, lb.ELBO(), digits.train, epochs=1, directory=path, progress=False)
        ...     again = lb.load(path)
        >>> bool((again.encode(digits.test) == vae.encode(digits.test)).all())
        True
    """
    path = Path(path)
    if not path.exists():
        file = add_suffix(path)
        if not file.exists():
            raise StorageError(f"{path}: neither a run directory nor a model file is there")
        path = file
    if not path.is_dir():
        if path.suffix.lower() in _DATA:
            raise StorageError(
                f"{path}: is a file of data and not of a model; give the directory of a run or a "
                f".safetensors file, and read the data by lb.load_data({str(path)!r})"
            )
        return load_model(path, constructor)
    run = RunDirectory(path)
    failure = run.read_failure()
    if failure is not None:
        warnings.warn(
            f"{path}: training failed, so the model may be useless: {failure}", stacklevel=2
        )
    return run.read_model(lambda file: load_model(file, constructor))
