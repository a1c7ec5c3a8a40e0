"""Optimisers by name or instance, learning-rate schedules, and averaged weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lowerbound.errors import SettingsError

Schedule = Callable[[float], float]

SCHEDULES: dict[str, Schedule] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "exponential": lambda progress: 0.01**progress,
}

_OPTIMIZERS = {
    name.lower(): value
    for name, value in vars(torch.optim).items()
    if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
}


def make_optimizer(
    model: nn.Module, optimizer: Any, learning_rate: float | None, weight_decay: float | None
) -> Optimizer:
    """An optimiser for the model's parameters.

    Args:
        model: whose parameters to optimise.
        optimizer: the name of one of ``torch.optim``, a class or function from (parameters, lr) to one, or an instance.
        learning_rate: 1e-3 where it is ``None`` and the optimiser is not an instance.
        weight_decay: passed on where it is not ``None``.

    Raises:
        SettingsError: for an unknown name, settings that the optimiser does not take, or an instance of other parameters.
    """
    if isinstance(optimizer, Optimizer):
        return _own(model, optimizer, learning_rate, weight_decay)
    make = optimizer
    if isinstance(optimizer, str):
        if optimizer.lower() not in _OPTIMIZERS:
            raise SettingsError(
                f"fit: optimizer={optimizer!r} is unknown; torch.optim has {', '.join(sorted(_OPTIMIZERS))}"
            )
        make = _OPTIMIZERS[optimizer.lower()]
    if not callable(make):
        raise SettingsError(f"fit: optimizer={optimizer!r} is neither a name, nor a class, nor a torch.optim.Optimizer")
    options: dict[str, Any] = {"lr": 1e-3 if learning_rate is None else learning_rate}
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    if inspect.isclass(make) and "fused" in inspect.signature(make).parameters:
        options["fused"] = True
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise SettingsError("fit: the model has no parameters to train")
    try:
        made: Optimizer = make(parameters, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(f"fit: optimizer={optimizer!r} refused its settings: {error}") from None
    return _taking_plain_steps(made)


def _taking_plain_steps(optimizer: Optimizer) -> Optimizer:
    """The optimiser, unless a step of it wants more than the gradients of one batch, or other ones than networks have."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise SettingsError(
            f"fit: {type(optimizer).__name__} evaluates the bound several times in a step, on the same noise, which this "
            "training does not do; use optimizer='adam'"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise SettingsError(
            "fit: SparseAdam takes sparse gradients only, which no network here has; use optimizer='adam'"
        )
    return optimizer


def _own(model: nn.Module, optimizer: Optimizer, learning_rate: float | None, weight_decay: float | None) -> Optimizer:
    if learning_rate is not None or weight_decay is not None:
        raise SettingsError("fit: an optimizer instance has its own learning_rate and weight_decay; set them there")
    ours = {id(parameter) for parameter in model.parameters()}
    theirs = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not theirs or any(id(parameter) not in ours for parameter in theirs):
        raise SettingsError(
            "fit: the optimizer holds parameters that are not the model's; make it from model.parameters()"
        )
    return _taking_plain_steps(optimizer)


def make_schedule(schedule: Any, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at a step, counted from 0.

    Args:
        schedule: a name from ``SCHEDULES``, or a function from progress in [0, 1] to a factor.
        warmup_steps: over which the factor also rises linearly from near 0 to 1.
        total_steps: at which progress is 1.

    Raises:
        SettingsError: for an unknown name, and from the factor where ``schedule`` returns what is not a factor.

    Example:
        >>> factor = make_schedule("cosine", warmup_steps=10, total_steps=100)
        >>> factor(0), round(factor(50), 6), round(factor(100), 6)
        (0.1, 0.5, 0.0)
    """
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise SettingsError(
                f"fit: schedule={schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}, or pass a function from "
                "progress in [0, 1] to a factor"
            )
        schedule = SCHEDULES[schedule]
    if not callable(schedule):
        raise SettingsError(f"fit: schedule={schedule!r} is neither a name nor a function")

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        value = float(schedule(min(1.0, step / total_steps)))
        if not 0 <= value < math.inf:
            raise SettingsError(
                f"fit: the schedule gave {value} at step {step + 1}; let it give a finite factor of at least 0"
            )
        return warmup * value

    return factor


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a model's weights and buffers, updated by ``update_parameters``."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
