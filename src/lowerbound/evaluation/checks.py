"""Checks of the arguments of evaluations."""

from __future__ import annotations

import os
from typing import Any, TypeVar

from lowerbound.errors import UnsupportedError
from lowerbound.models import Model
from lowerbound.objectives import Objective
from lowerbound.settings import check_whole_number

M = TypeVar("M", bound=Model)


def check_batch_size(name: str, batch_size: int | None) -> None:
    """Check that a batch size, if one is given, is a whole number of at least 1.

    Raises:
        SettingsError: naming the evaluation that was given the batch size.
    """
    if batch_size is not None:
        check_whole_number(f"{name}: batch_size", batch_size)


def check_model(
    name: str, model: object, kind: type[M], advice: str, *, called: str | None = None
) -> M:
    """Return the model if it is of the kind that an evaluation needs.

    Args:
        name: the name of the evaluation.
        model: the model that it was given.
        kind: the class of models that it takes.
        advice: why it takes no other models, and what to use instead.
        called: what the message calls such models; by default the name of the class.

    Raises:
        UnsupportedError: for another model, with the advice.
    """
    if isinstance(model, kind):
        return model
    called = called or f"lowerbound.{kind.__name__}"
    if isinstance(getattr(model, "model", None), Model):
        advice = "give its model, run.model"
    elif isinstance(model, str | os.PathLike):
        advice = f"load it, lb.load({os.fspath(model)!r})"
    raise UnsupportedError(f"{name} takes a {called}, not a {type(model).__name__}: {advice}")


def check_normalized(name: str, model: Model) -> None:
    """Check that all parts of a model are densities or mass functions.

    Raises:
        UnsupportedError: naming the evaluation and the parts that are not.
    """
    kind: Any = Model  # mypy takes no abstract class
    check_model(name, model, kind, "a model is made of a prior, a posterior and a likelihood")
    parts = model.unnormalized_parts()
    if parts:
        raise UnsupportedError(
            f"{name}: the {' and the '.join(parts)} of the model is not normalised, so the "
            "result would not be a bound on log p(x). lb.evaluate reports the score of such a "
            "model; for a log likelihood use a part with a density, such as lb.Gaussian"
        )


def check_is_bound(name: str, objective: Objective | None) -> None:
    """Check that an objective, if one is given, is a lower bound on log p(x).

    Raises:
        UnsupportedError: naming the evaluation and the objective.
    """
    if objective is not None and not objective.is_bound:
        raise UnsupportedError(
            f"{name}: the objective {type(objective).__name__} is not a bound on log p(x) but a "
            "score, which lb.evaluate reports. To judge the latents alone, leave objective= out"
        )
