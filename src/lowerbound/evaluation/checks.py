"""Checks of what an evaluation is given, each in one place."""

from __future__ import annotations

from typing import TypeVar

from lowerbound.errors import SettingsError, UnsupportedError
from lowerbound.models import Model
from lowerbound.settings import whole_number

M = TypeVar("M", bound=Model)


def check_seed(name: str, seed: int) -> None:
    """Check that a seed is in range.

    Raises:
        SettingsError: naming the evaluation that was given the seed.
    """
    if not 0 <= seed < 2**31:
        raise SettingsError(f"{name}: seed={seed} must be from 0 to 2^31 - 1")


def check_batch_size(name: str, batch_size: int | None) -> None:
    """Check that a batch size, if one is given, is a whole number of at least 1.

    Raises:
        SettingsError: naming the evaluation that was given the batch size.
    """
    if batch_size is not None:
        whole_number(f"{name}: batch_size", batch_size)


def check_model(name: str, model: object, kind: type[M], advice: str) -> M:
    """The model, if it is of the kind that an evaluation needs.

    Args:
        name: of the evaluation.
        model: what it was given.
        kind: the class of the models that it takes.
        advice: why it takes no others, and what to use instead.

    Raises:
        UnsupportedError: for another model, with the advice.
    """
    if isinstance(model, kind):
        return model
    raise UnsupportedError(
        f"{name} takes a lowerbound.{kind.__name__}, not a {type(model).__name__}: {advice}"
    )
