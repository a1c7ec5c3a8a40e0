"""Layers of ``torch.nn`` that a description can name: what they were made with, and how they are made again.

A layer of torch keeps its settings as attributes, but says nothing of what was changed after it was made. So a layer is
described only if a second one, made with the same settings, is the same in every attribute.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

_CONTAINERS = ("ModuleDict", "ModuleList", "Sequential")

# Without those that torch has made from them for sparse, quantised or lazily shaped weights, and without those
# whose output is not one tensor.
_LAYERS = """
    AdaptiveAvgPool1d AdaptiveAvgPool2d AdaptiveAvgPool3d AdaptiveMaxPool1d AdaptiveMaxPool2d AdaptiveMaxPool3d
    AlphaDropout AvgPool1d AvgPool2d AvgPool3d BatchNorm1d BatchNorm2d BatchNorm3d Bilinear CELU ChannelShuffle
    CircularPad1d CircularPad2d CircularPad3d ConstantPad1d ConstantPad2d ConstantPad3d Conv1d Conv2d Conv3d
    ConvTranspose1d ConvTranspose2d ConvTranspose3d Dropout Dropout1d Dropout2d Dropout3d ELU
    Embedding FeatureAlphaDropout Flatten Fold GELU GLU GroupNorm Hardshrink Hardsigmoid Hardswish Hardtanh Identity
    InstanceNorm1d InstanceNorm2d InstanceNorm3d LPPool1d LPPool2d LPPool3d LayerNorm LeakyReLU Linear
    LocalResponseNorm LogSigmoid LogSoftmax MaxPool1d MaxPool2d MaxPool3d Mish PReLU PixelShuffle PixelUnshuffle
    RMSNorm RReLU ReLU ReLU6 ReflectionPad1d ReflectionPad2d ReflectionPad3d ReplicationPad1d ReplicationPad2d
    ReplicationPad3d SELU SiLU Sigmoid Softmax Softmax2d Softmin Softplus Softshrink Softsign Tanh Tanhshrink
    Threshold Unflatten Unfold Upsample UpsamplingBilinear2d UpsamplingNearest2d ZeroPad1d ZeroPad2d ZeroPad3d
""".split()

LAYERS: dict[str, type[nn.Module]] = {
    f"torch.nn.{name}": getattr(nn, name)
    for name in (*_LAYERS, *_CONTAINERS)
    if hasattr(nn, name)  # an older torch lacks a few
}
_NAMES = {layer: name for name, layer in LAYERS.items()}
_PLACE = ("device", "dtype")  # not how a layer computes, but where: a loaded model says that itself


def name_of(layer: type) -> str | None:
    """The name by which a description calls this class, if it may name it.

    Example:
        >>> name_of(nn.Linear), name_of(nn.Transformer)
        ('torch.nn.Linear', None)
    """
    return _NAMES.get(layer)


def settings_of(layer: nn.Module) -> dict[str, Any] | None:
    """What :func:`make_layer` needs to make the same layer, but for its weights; ``None`` where that is impossible.

    It is impossible for a subclass, and for a layer with hooks, a replaced method, additional or frozen parameters,
    buffers or submodules, or a parametrisation such as ``weight_norm``.

    Example:
        >>> settings_of(nn.Linear(3, 4, bias=False))
        {'in_features': 3, 'out_features': 4, 'bias': False}
        >>> settings_of(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))) is None
        True
    """
    name = name_of(type(layer))
    if name is None:
        return None
    children = dict(layer._modules)
    if name.removeprefix("torch.nn.") not in _CONTAINERS:
        settings = _arguments(layer)
    elif list(children) == [str(position) for position in range(len(children))]:
        settings = {"modules": list(children.values())}
    else:
        settings = {"names": list(children), "modules": list(children.values())}
    if None in children.values() or not all(map(_is_plain, _leaves(settings))):
        return None
    try:
        with torch.device("meta"):  # takes no memory, and no random numbers
            again = make_layer(name, settings)
    except (TypeError, ValueError, RuntimeError):
        return None
    return settings if _is_same(layer, again) else None


def make_layer(name: str, settings: Mapping[str, Any]) -> nn.Module:
    """The layer of that name with these settings.

    Example:
        >>> make_layer("torch.nn.Sequential", {"modules": (nn.Linear(3, 4), nn.ReLU())})
        Sequential(
          (0): Linear(in_features=3, out_features=4, bias=True)
          (1): ReLU()
        )
    """
    make = LAYERS[name]
    if name.removeprefix("torch.nn.") not in _CONTAINERS:
        return make(**settings)
    container, modules = make(), settings["modules"]
    names = settings.get("names", range(len(modules)))
    for child, module in zip(names, modules, strict=True):
        container.add_module(str(child), module)
    return container


def _arguments(layer: nn.Module) -> dict[str, Any]:
    """The constructor's arguments, read from the attributes of the same names."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(layer)).parameters.items():
        starred = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if starred or name.startswith("_") or name in _PLACE or not hasattr(layer, name):
            continue
        value = getattr(layer, name)
        found[name] = value is not None if name == "bias" else value
    return found


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [leaf for entry in value for leaf in _leaves(entry)]
    return [value]


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, Real | str | nn.Module)


def _is_same(layer: nn.Module, again: nn.Module) -> bool:
    """Whether two layers agree in all but the values and the types of their tensors, and where those are."""
    ours, theirs = dict(vars(layer)), dict(vars(again))
    for attributes in (ours, theirs):
        attributes.pop("training")
        for name in ("_parameters", "_buffers"):
            tensors = attributes[name]
            attributes[name] = {key: _outline(tensor) for key, tensor in tensors.items()}
    return ours.keys() == theirs.keys() and all(_equal(ours[key], theirs[key]) for key in ours)


def _outline(tensor: Tensor | None) -> tuple[Any, ...] | None:
    return None if tensor is None else (type(tensor), tuple(tensor.shape), tensor.requires_grad)


def _equal(ours: Any, theirs: Any) -> bool:
    """Whether two settings are equal; a list equals the tuple of its entries."""
    if isinstance(ours, tuple | list) and isinstance(theirs, tuple | list):
        pairs = zip(ours, theirs, strict=False)
        return len(ours) == len(theirs) and all(_equal(*pair) for pair in pairs)
    return not isinstance(ours, Tensor) and bool(ours == theirs)
