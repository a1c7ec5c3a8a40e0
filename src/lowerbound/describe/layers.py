"""The layers of ``torch.nn`` that a description can contain, and how they are rebuilt.

A layer of torch stores its settings as attributes, but does not record later changes. Therefore a
layer is described only if a new layer with the same settings equals it in every attribute.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = ("ModuleDict", "ModuleList", "Sequential")

# Each of these exists for one, two and three dimensions, such as Conv1d, Conv2d and Conv3d.
_OF_DIMENSIONS = (
    "AdaptiveAvgPool", "AdaptiveMaxPool", "AvgPool", "BatchNorm", "CircularPad", "ConstantPad",
    "Conv", "ConvTranspose", "Dropout", "InstanceNorm", "LPPool", "MaxPool", "ReflectionPad",
    "ReplicationPad", "ZeroPad",
)  # fmt: skip
_OTHERS = (
    "AlphaDropout", "Bilinear", "CELU", "ChannelShuffle", "Dropout", "ELU", "Embedding",
    "FeatureAlphaDropout", "Flatten", "Fold", "GELU", "GLU", "GroupNorm", "Hardshrink",
    "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LayerNorm", "LeakyReLU", "Linear",
    "LocalResponseNorm", "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "PixelShuffle",
    "PixelUnshuffle", "RMSNorm", "RReLU", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softmax",
    "Softmax2d", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink",
    "Threshold", "Unflatten", "Unfold", "Upsample", "UpsamplingBilinear2d",
    "UpsamplingNearest2d",
)  # fmt: skip
_ALL = (
    *(f"{name}{dimensions}d" for name in _OF_DIMENSIONS for dimensions in (1, 2, 3)),
    *_OTHERS,
    *_CONTAINERS,
)

LAYERS: dict[str, type[nn.Module]] = {
    f"torch.nn.{name}": getattr(nn, name)
    for name in _ALL
    if hasattr(nn, name)  # older versions of torch lack some
}
_NAMES = {layer: name for name, layer in LAYERS.items()}
_IS_CONTAINER = {name: name.removeprefix("torch.nn.") in _CONTAINERS for name in LAYERS}
_PLACEMENT_SETTINGS = ("device", "dtype")  # the device is chosen when the model is loaded


def find_layer_name(layer: type) -> str | None:
    """Find the name of a listed class of layers; ``None`` for any other class.

    Example:
        >>> find_layer_name(nn.Linear), find_layer_name(nn.Transformer)
        ('torch.nn.Linear', None)
    """
    return _NAMES.get(layer)


def read_layer_settings(layer: nn.Module) -> dict[str, Any] | None:
    """Read the settings with which :func:`make_layer` rebuilds this layer.

    The result is ``None`` if a layer cannot be rebuilt, because its class is not listed (a subclass
    of a listed class is not); or because it has hooks, a replaced method, a parametrisation such as
    ``weight_norm``, frozen parameters, or parameters, buffers or submodules that its class lacks.

    Example:
        >>> read_layer_settings(nn.Linear(3, 4, bias=False))
        {'in_features': 3, 'out_features': 4, 'bias': False}
        >>> read_layer_settings(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))) is None
        True
    """
    name = find_layer_name(type(layer))
    if name is None:
        return None
    settings = _read_children(layer) if _IS_CONTAINER[name] else _read_arguments(layer)
    if not all(map(_is_plain, _list_leaves(settings))):
        return None
    try:
        with torch.device("meta"):  # uses neither memory nor random numbers
            again = make_layer(name, settings)
    except (TypeError, ValueError, RuntimeError):
        return None
    if not _is_same(layer, again):
        return None
    return settings


def make_layer(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """Make the layer of that name with these settings.

    Example:
        >>> make_layer("torch.nn.Sequential", {"modules": (nn.Linear(3, 4), nn.ReLU())})
        Sequential(
          (0): Linear(in_features=3, out_features=4, bias=True)
          (1): ReLU()
        )
    """
    make = LAYERS[name]
    if not _IS_CONTAINER[name]:
        return make(**settings)
    container, modules = make(), settings["modules"]
    names = settings.get("names", range(len(modules)))
    for child, module in zip(names, modules, strict=True):
        container.add_module(str(child), module)
    return container


def _read_children(container: nn.Module) -> dict[str, Any]:
    """Read the modules of a container, with their names unless these are 0, 1, 2, ...."""
    names, modules = list(container._modules), list(container._modules.values())
    if names == [str(position) for position in range(len(names))]:
        return {"modules": modules}
    return {"names": names, "modules": modules}


def _read_arguments(layer: nn.Module) -> dict[str, Any]:
    """Read the constructor's arguments from the attributes of the same names."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        starred = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if (
            starred
            or name.startswith("_")
            or name in _PLACEMENT_SETTINGS
            or not hasattr(layer, name)
        ):
            continue
        value = getattr(layer, name)
        if name == "bias":
            value = value is not None
        found[name] = value
    return found


def _list_leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [leaf for entry in value for leaf in _list_leaves(entry)]
    return [value]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, Real | str | nn.Module)


def _is_same(layer: nn.Module, again: nn.Module) -> bool:
    """Whether two layers differ only in the values, types and devices of their tensors."""
    ours, theirs = dict(vars(layer)), dict(vars(again))
    for attributes in (ours, theirs):
        attributes.pop("training")
        for name in ("_parameters", "_buffers"):
            tensors = attributes[name]
            attributes[name] = {key: _outline_tensor(tensor) for key, tensor in tensors.items()}
    return ours.keys() == theirs.keys() and all(_are_equal(ours[key], theirs[key]) for key in ours)


def _outline_tensor(tensor: Tensor | None) -> tuple[Any, ...] | None:
    if tensor is None:
        return None
    return type(tensor), tuple(tensor.shape), tensor.requires_grad


def _are_equal(ours: Any, theirs: Any) -> bool:
    """Whether two settings are equal; a list equals a tuple of the same entries."""
    if isinstance(ours, tuple | list) and isinstance(theirs, tuple | list):
        pairs = zip(ours, theirs, strict=False)
        return len(ours) == len(theirs) and all(_are_equal(*pair) for pair in pairs)
    return not isinstance(ours, Tensor) and bool(ours == theirs)
