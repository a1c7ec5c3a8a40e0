"""Descriptions, from which saved models are rebuilt without running code from a file.

A describable class stores each argument of its constructor as an attribute of the same name.
:func:`describe` reads these attributes into plain JSON values, and :func:`build` calls the
constructors again. A file can name only classes that are registered here and the layers of
``torch.nn`` that :mod:`lowerbound.describe.layers` lists. A description consists of

- ``{"kind": "Gaussian", "network": ...}``: a part and its arguments;
- ``{"kind": "torch.Tensor", "shape": [2, 3]}``: a tensor, whose values are in the state dictionary;
- ``{"class": "torch.nn.ReLU"}``: the class itself;
- ``{"shared": ["prior", "posterior"]}``: the module at this path from the top of the description.
  A module that occurs several times is described only where it occurs first;
- ``{"foreign": "package.Network"}``: an object that cannot be described.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lowerbound.describe.layers import LAYERS, find_layer_name, make_layer, read_layer_settings
from lowerbound.errors import SettingsError, StorageError

KINDS: dict[str, type] = {}
RESERVED = ("kind", "foreign", "shared")

_MAPPING = "builtins.dict"
_TENSOR = "torch.Tensor"
_TYPES = {str(dtype): dtype for dtype in (torch.bool, torch.uint8, torch.int32, torch.int64)} | {
    None: None  # the model's floating type
}

Class = TypeVar("Class", bound=type)
Path = tuple[str | int, ...]


def describable(cls: Class) -> Class:
    """Class decorator for classes that store each constructor argument under its own name.

    Such a class can be saved and loaded. A tensor is stored as a parameter or as a buffer that is
    saved, and ``**options`` as a mapping.

    Raises:
        SettingsError: if another class of that name is registered, or an argument is called
            ``kind``, ``foreign`` or ``shared``, which descriptions reserve.
    """
    _refuse_reserved(inspect.signature(cls).parameters, cls, SettingsError)
    known = KINDS.setdefault(cls.__name__, cls)
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise SettingsError(
            f"describable: {known.__module__}.{known.__qualname__} is registered as "
            f"{cls.__name__!r}; give your class another name"
        )
    KINDS[cls.__name__] = cls  # a notebook's cell that is run twice replaces its class
    return cls


def _refuse_reserved(names: Iterable[str], cls: type, error: type[Exception]) -> None:
    for name in names:
        if name in RESERVED:
            raise error(
                f"describable: {cls.__name__} has an argument {name!r}, a name that descriptions "
                "reserve; rename the argument"
            )


def describe(value: Any) -> Any:
    """Describe ``value`` in JSON's types.

    Of an object that is neither describable nor a layer of torch, only the name of its class is
    stored.

    Raises:
        StorageError: if a describable object does not store an argument of its constructor, or
            contains itself.

    Example:
        >>> import lowerbound as lb
        >>> describe(lb.StandardNormal(2))
        {'kind': 'StandardNormal', 'shape': [2]}
        >>> layer = nn.Linear(2, 2)
        >>> describe(nn.Sequential(layer, layer))["modules"][1]
        {'shared': ['modules', 0]}
    """
    return _Describer().describe(value, ())


class _Describer:
    """Describe one value, and remember the path at which each module occurred first."""

    def __init__(self) -> None:
        self.met: dict[int, tuple[nn.Module, Path]] = {}
        self.within: set[int] = set()

    def describe(self, value: Any, path: Path) -> Any:
        """Describe the value at ``path``."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Integral):
            return int(value)
        if isinstance(value, Real):
            return float(value)
        if isinstance(value, tuple | list):
            return self._describe_entries(value, path)
        if isinstance(value, nn.Module):
            return self._describe_module(value, path)
        return self._describe_part(value, path)

    def _describe_entries(self, values: Any, path: Path) -> list[Any]:
        return [self.describe(entry, (*path, position)) for position, entry in enumerate(values)]

    def _describe_module(self, module: nn.Module, path: Path) -> Any:
        key = id(module)
        if key in self.within:
            raise StorageError(
                f"{type(module).__name__} contains itself, so it cannot be described"
            )
        if key in self.met:
            return {"shared": list(self.met[key][1])}
        self.met[key] = (module, path)
        self.within.add(key)
        try:
            return self._describe_part(module, path)
        finally:
            self.within.discard(key)

    def _describe_part(self, value: Any, path: Path) -> Any:
        cls = type(value)
        if KINDS.get(cls.__name__) is cls:
            return {"kind": cls.__name__} | self._describe_arguments(value, path)
        if cls is dict:
            entries = {"names": list(value), "values": list(value.values())}
            return {"kind": _MAPPING} | self._describe_named(entries, path)
        if inspect.isclass(value) and find_layer_name(value) is not None:
            return {"class": find_layer_name(value)}
        if isinstance(value, nn.Module) and (settings := read_layer_settings(value)) is not None:
            return {"kind": find_layer_name(cls)} | self._describe_named(settings, path)
        return {"foreign": _make_full_name(value)}

    def _describe_named(self, values: Mapping[str, Any], path: Path) -> dict[str, Any]:
        return {name: self.describe(value, (*path, name)) for name, value in values.items()}

    def _describe_arguments(self, value: Any, path: Path) -> dict[str, Any]:
        cls = type(value)
        found: dict[str, Any] = {}
        for name, parameter in inspect.signature(cls).parameters.items():
            if not hasattr(value, name):
                raise StorageError(
                    f"{cls.__name__} is describable, but does not store the attribute {name!r}; "
                    f"set self.{name} = {name}"
                )
            argument = getattr(value, name)
            if parameter.kind is parameter.VAR_KEYWORD:
                _refuse_reserved(argument, cls, StorageError)
                found |= self._describe_named(argument, path)
            elif isinstance(argument, Tensor):
                found[name] = _describe_tensor(value, name, argument)
            else:
                found[name] = self.describe(argument, (*path, name))
        return found


def _describe_tensor(owner: Any, name: str, tensor: Tensor) -> dict[str, Any]:
    """Describe a tensor by its shape, and by its type if it is not floating point."""
    if not isinstance(owner, nn.Module) or name not in owner.state_dict():
        return {"foreign": _TENSOR}
    outline: dict[str, Any] = {"kind": _TENSOR, "shape": list(tensor.shape)}
    if not tensor.is_floating_point():
        outline["dtype"] = str(tensor.dtype)
    return outline


def _make_full_name(value: Any) -> str:
    if not inspect.isfunction(value) and not inspect.isclass(value):
        value = type(value)
    return f"{value.__module__}.{value.__qualname__}"


def _walk(description: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Iterate over all parts of a description, with their paths as messages show them."""
    if isinstance(description, list):
        for position, entry in enumerate(description):
            yield from _walk(entry, f"{path}[{position}]")
    elif isinstance(description, dict):
        yield path, description
        for name, entry in description.items():
            yield from _walk(entry, f"{path}.{name}")


def find_foreign_parts(description: Any, path: str = "model") -> Iterator[tuple[str, str]]:
    """Find the parts that cannot be rebuilt, as pairs of a path and the name of a class."""
    for place, node in _walk(description, path):
        if "foreign" in node:
            yield place, node["foreign"]


def has_references(description: Any) -> bool:
    """Whether a module occurs more than once in a description."""
    return any("shared" in node for _, node in _walk(description, ""))


def build(description: Any) -> Any:
    """Build the value that was described. A shared module is shared again.

    Raises:
        StorageError: if the description contains a class that is not registered, arguments that
            the class does not accept, or a path that does not exist.

    Example:
        >>> again = build(describe(nn.Sequential(layer := nn.Linear(2, 2), layer)))
        >>> again[0] is again[1]
        True
    """
    return _Builder(description).build_at(())


class _Builder:
    """Build one description. Each part is built once, when it is first needed."""

    def __init__(self, description: Any) -> None:
        self.description = description
        self.built: dict[Path, Any] = {}
        self.begun: set[Path] = set()

    def build_at(self, path: Path) -> Any:
        """Build the part that is described at ``path``."""
        if path in self.built:
            return self.built[path]
        node = self._find_node(path)
        if isinstance(node, list):
            return tuple(self.build_at((*path, position)) for position in range(len(node)))
        if not isinstance(node, dict):
            return node
        if path in self.begun:
            raise StorageError(f"the description of {_join(path)} refers to itself")
        self.begun.add(path)
        self.built[path] = self._make(node, path)
        return self.built[path]

    def _find_node(self, path: Path) -> Any:
        node = self.description
        try:
            for step in path:
                node = node[step]
        except (KeyError, IndexError, TypeError):
            raise StorageError(
                f"the description refers to {_join(path)}, which is not in it"
            ) from None
        return node

    def _make(self, node: dict[str, Any], path: Path) -> Any:
        if "shared" in node:
            return self.build_at(_check_path(node["shared"]))
        named = str(node.get("class", node.get("kind", node.get("foreign"))))
        if "class" in node and named in LAYERS:
            return LAYERS[named]
        if named not in KINDS and named not in LAYERS and named not in (_MAPPING, _TENSOR):
            raise StorageError(
                f"the description names {named!r}, which is not a registered part; import the "
                "module that registers it with lowerbound.describable, or pass a constructor"
            )
        arguments = {name: self.build_at((*path, name)) for name in node if name != "kind"}
        try:
            return _make(named, arguments)
        except (TypeError, KeyError, ValueError) as error:
            raise StorageError(
                f"the description of {named} does not fit this version of lowerbound: {error}"
            ) from None


def _make(name: str, arguments: dict[str, Any]) -> Any:
    if name == _MAPPING:
        return dict(zip(arguments["names"], arguments["values"], strict=True))
    if name == _TENSOR:
        return torch.zeros(arguments["shape"], dtype=_TYPES[arguments.get("dtype")])
    if name in LAYERS:
        return make_layer(name, arguments)
    return KINDS[name](**arguments)


def _check_path(steps: Any) -> Path:
    if not isinstance(steps, list) or not all(isinstance(step, str | int) for step in steps):
        raise StorageError(f"the description refers to {steps!r}, which is not a path")
    return tuple(steps)


def _join(path: Path) -> str:
    return ".".join(map(str, path)) or "the whole"


def complete(description: Any, now: Any = None) -> Any:
    """Complete a description by an earlier version, so that it can be compared with a new one.

    Settings that a part did not have then get their defaults. Optional settings that a dataclass
    leaves out of comparisons, by ``field(compare=False)``, become those of ``now``. A part that was
    foreign then but is described now, such as a layer of torch, can be compared only by its class.
    It is replaced by the part at the same place in ``now``, if that has the same class.

    Args:
        description: a description by this version or an earlier one.
        now: this version's description of the value with which it is compared.

    Example:
        >>> import lowerbound as lb
        >>> complete({"kind": "ELBO", "samples": 7}) == describe(lb.ELBO(samples=7))
        True
    """
    if isinstance(description, list):
        others = _align_entries(now, len(description))
        return [complete(entry, other) for entry, other in zip(description, others, strict=True)]
    if not isinstance(description, dict):
        return description
    beside: Mapping[str, Any] = {}
    if isinstance(now, dict):
        beside = now
    if "foreign" in description and description["foreign"] == _find_foreign_name(beside):
        return now
    known = {name: complete(entry, beside.get(name)) for name, entry in description.items()}
    kind = known.get("kind")
    return _describe_defaults(kind) | known | _find_uncompared(kind, beside)


def _align_entries(now: Any, count: int) -> list[Any]:
    if isinstance(now, list) and len(now) == count:
        return now
    return [None] * count


def _describe_defaults(kind: Any) -> dict[str, Any]:
    if kind not in KINDS:
        return {}
    parameters = inspect.signature(KINDS[kind]).parameters.values()
    return {
        parameter.name: describe(parameter.default)
        for parameter in parameters
        if parameter.default is not parameter.empty
    }


def _find_uncompared(kind: Any, beside: Mapping[str, Any]) -> dict[str, Any]:
    """The optional settings of another part of the same class that do not tell the two apart."""
    if kind not in KINDS or beside.get("kind") != kind or not is_dataclass(KINDS[kind]):
        return {}
    return {
        each.name: beside[each.name]
        for each in fields(KINDS[kind])
        if not each.compare and each.default is not MISSING
    }


def _find_foreign_name(node: Mapping[str, Any]) -> str | None:
    """Find the name that earlier versions wrote for a class that they could not describe."""
    name = node.get("class", node.get("kind"))
    if name not in LAYERS:
        return None
    return _make_full_name(LAYERS[name])
