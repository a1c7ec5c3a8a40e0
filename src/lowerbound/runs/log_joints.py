"""What a file says about a log joint's posterior: its variables, and q without the log joint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from lowerbound.conditionals.supports import build_support, describe_in_words, describe_support
from lowerbound.conditionals.variables import Variable, Variables
from lowerbound.describe import build, describe, find_foreign_parts
from lowerbound.errors import StorageError, UnsupportedError
from lowerbound.models import LogJoint


def describe_posterior(model: nn.Module) -> dict[str, Any]:
    """Describe the variables and q of a log joint; empty for other models.

    The order, shapes and supports of the variables say what the entries of q's vectors mean.
    """
    if not isinstance(model, LogJoint):
        return {}
    return {"variables": _outline(model.variables), "posterior": describe(model.posterior)}


def check_variables(path: Path, header: Mapping[str, Any], model: nn.Module) -> None:
    """Check that the file's posterior is over the model's variables.

    Raises:
        StorageError: if names, order, shapes or supports differ.
    """
    if "variables" not in header or not isinstance(model, LogJoint):
        return
    # Descriptions in words also match those of earlier versions, which stored tensors as lists.
    saved, given = _in_words(header["variables"]), _in_words(_outline(model.variables))
    if saved != given:
        raise StorageError(
            f"{path}: the posterior is over other variables, so its draws mean something else. "
            f"In the file: {saved}. In the model: {given}. Make the model with the variables of "
            "the file, in this order"
        )


def rebuild_without_log_joint(path: Path, header: Mapping[str, Any]) -> LogJoint | None:
    """Rebuild q and its variables, from which one can draw; ``None`` for other models.

    Raises:
        StorageError: if q has a part that a file cannot rebuild.
    """
    if "variables" not in header:
        return None
    foreign = [name for _, name in find_foreign_parts(header["posterior"])]
    if foreign:
        raise StorageError(
            f"{path}: the posterior has a part of your own ({', '.join(foreign)}), which a file "
            "cannot rebuild; pass a function that makes the untrained model: "
            f"lowerbound.load({str(path)!r}, constructor=make_model)"
        )
    variables = {
        entry["name"]: Variable(tuple(entry["shape"]), build_support(entry["support"]))
        for entry in header["variables"]
    }
    return LogJoint(MissingLogJoint(), build(header["posterior"]), variables)


class MissingLogJoint:
    """Takes the place of the log joint, which is the user's code, and is not stored."""

    def __call__(self, **values: Tensor) -> Tensor:
        """Refuse.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError(
            "this posterior was loaded without its log joint, which a file does not contain. "
            "model.posterior_sample(count) draws from it. For everything else load it with a "
            "function that makes the untrained model: lowerbound.load(path, constructor=make_model)"
        )


def _outline(variables: Variables) -> list[dict[str, Any]]:
    return [
        {"name": name, "shape": list(part.shape), "support": describe_support(part.support)}
        for name, part in variables.parts.items()
    ]


def _in_words(outline: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{entry['name']} {tuple(entry['shape'])} {describe_in_words(entry['support'])}"
        for entry in outline
    )
