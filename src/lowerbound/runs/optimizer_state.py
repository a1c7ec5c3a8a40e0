"""The state of an optimiser, as tensors and plain values that a checkpoint can store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lowerbound.errors import StorageError


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
