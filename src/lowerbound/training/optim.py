"""Optimisers, schedules of the learning rate, and averages of the weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lowerbound.errors import SettingsError
from lowerbound.objectives import Objective
from lowerbound.training.players import make_parameter_groups

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
    model: nn.Module,
    optimizer: Any,
    learning_rate: float | None,
    weight_decay: float | None,
    objective: Objective | None = None,
) -> Optimizer:
    """An optimiser for the parameters of the model and of the objective's players.

    Each player is a parameter group, with its own learning rate if it has one.

    Args:
        model: The model whose parameters it optimises.
        optimizer: The name of an optimiser of ``torch.optim``, a class or a function that makes one
            from (parameters, lr), or an instance.
        learning_rate: Its learning rate; ``None`` for 1e-3, or for that of an instance.
        weight_decay: Its weight decay, if it is not ``None``.
        objective: The objective whose players it optimises too.

    Raises:
        SettingsError: for an unknown name, for settings that the optimiser does not take, or for an
            instance with parameters that are not the model's.
    """
    if isinstance(optimizer, Optimizer):
        if learning_rate is not None or weight_decay is not None:
            raise SettingsError(
                "fit: an optimizer instance has its own learning_rate and weight_decay; set them "
                "there"
            )
        return _check_instance(model, optimizer, objective)
    make = _find_constructor(optimizer)
    options: dict[str, Any] = {"lr": learning_rate or 1e-3}
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    if inspect.isclass(make) and "fused" in inspect.signature(make).parameters:
        options["fused"] = True
    parameters = make_parameter_groups(model, objective, options["lr"])
    try:
        made: Optimizer = make(parameters, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(f"fit: optimizer={optimizer!r} refused its settings: {error}") from None
    return _check_steps(made)


def _find_constructor(optimizer: Any) -> Callable[..., Optimizer]:
    if isinstance(optimizer, str):
        if optimizer.lower() not in _OPTIMIZERS:
            raise SettingsError(
                f"fit: optimizer={optimizer!r} is unknown; torch.optim has "
                f"{', '.join(sorted(_OPTIMIZERS))}"
            )
        return _OPTIMIZERS[optimizer.lower()]
    if not callable(optimizer):
        raise SettingsError(
            f"fit: optimizer={optimizer!r} is neither a name, nor a class, nor a "
            "torch.optim.Optimizer"
        )
    return cast(Callable[..., Optimizer], optimizer)


def _check_steps(optimizer: Optimizer) -> Optimizer:
    """Return the optimiser if its step needs only the dense gradients of one batch."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise SettingsError(
            f"fit: {type(optimizer).__name__} evaluates the bound several times in a step with the "
            "same noise, which lb.fit does not do; use optimizer='adam'"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise SettingsError(
            "fit: SparseAdam takes only sparse gradients, which the networks here do not have; use "
            "optimizer='adam'"
        )
    return optimizer


def _check_instance(
    model: nn.Module, optimizer: Optimizer, objective: Objective | None
) -> Optimizer:
    """Return the optimiser if its parameters are the model's and those of all players."""
    players = {} if objective is None else objective.players()
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    known = {id(parameter) for parameter in model.parameters()}
    for name, player in players.items():
        own = {id(p) for p in player.module.parameters() if p.requires_grad}
        if not own <= given:
            raise SettingsError(
                f"fit: the optimizer lacks parameters of the objective's player {name!r}; give "
                "it a parameter group of its own"
            )
        known |= own
    if not given or not given <= known:
        raise SettingsError(
            "fit: the optimizer has parameters that are not the model's; make it from "
            "model.parameters()"
        )
    return _check_steps(optimizer)


def make_schedule(schedule: Any, warmup_steps: int, total_steps: int) -> Callable[[int], float]:
    """The factor of the learning rate at a step, counted from 0.

    Args:
        schedule: A name from ``SCHEDULES``, or a function from progress in [0, 1] to a factor.
        warmup_steps: The number of steps over which the factor also rises linearly to 1.
        total_steps: The number of steps at which progress is 1.

    Raises:
        SettingsError: for an unknown name, and later, from the factor, if ``schedule`` does not
            return a finite number of at least 0.

    Example:
        >>> factor = make_schedule("cosine", warmup_steps=10, total_steps=100)
        >>> factor(0), round(factor(50), 6), round(factor(100), 6)
        (0.1, 0.5, 0.0)
    """
    if isinstance(schedule, str):
        if schedule not in SCHEDULES:
            raise SettingsError(
                f"fit: schedule={schedule!r} is unknown; choose one of {', '.join(SCHEDULES)}, or "
                "pass a function from progress in [0, 1] to a factor"
            )
        schedule = SCHEDULES[schedule]
    if not callable(schedule):
        raise SettingsError(f"fit: schedule={schedule!r} is neither a name nor a function")

    def factor(step: int) -> float:
        warmup = 1.0
        if step + 1 < warmup_steps:
            warmup = (step + 1) / warmup_steps
        value = float(schedule(min(1.0, step / total_steps)))
        if not 0 <= value < math.inf:
            raise SettingsError(
                f"fit: the schedule gave {value} at step {step + 1}; it must give a finite factor "
                "of at least 0"
            )
        return warmup * value

    return factor


def average_weights(model: nn.Module, decay: float | None) -> AveragedModel:
    """A moving average of a model's weights and buffers, updated by :class:`AverageUpdate`.

    Args:
        model: The model.
        decay: The decay of an exponential average; ``None`` for the mean of all averaged weights.
    """
    return AveragedModel(model, multi_avg_fn=partial(_move_averages, decay), use_buffers=True)


def _move_averages(
    decay: float | None, averages: list[Tensor], current: list[Tensor], count: Any
) -> None:
    """Move averages of ``count`` earlier values towards the current values; all have one type.

    Whole numbers and truth values, such as positions and masks, are copied instead.
    """
    share = 1 / (count + 1)
    if decay is not None:
        share = 1 - decay
    if averages[0].is_floating_point() or averages[0].is_complex():
        torch._foreach_lerp_(averages, current, share)
    else:
        torch._foreach_copy_(averages, current)


class AverageUpdate:
    """Updates an average from :func:`average_weights` whenever it is called.

    ``AveragedModel.update_parameters`` copies the number of updates to the model's device, and
    waits. It also collects all tensors each time, which takes a fifth of a small model's step. Here
    they are collected again only if a module has replaced one, as some modules do with their
    running statistics.

    Args:
        averaged: The average.
        model: The model.
    """

    def __init__(self, averaged: AveragedModel, model: nn.Module) -> None:
        self.averaged = averaged
        self.model = model
        self._collect_tensors()

    def _collect_tensors(self) -> None:
        average, model = self.averaged.module, self.model
        self.owners = [
            (owner, dict(owner))
            for module in (*average.modules(), *model.modules())
            for owner in (module._parameters, module._buffers)
        ]
        self.groups: dict[tuple[Any, Any], tuple[list[Tensor], list[Tensor]]] = {}
        for own, value in zip(_tensors_of(average), _tensors_of(model), strict=True):
            group = self.groups.setdefault((own.device, own.dtype), ([], []))
            group[0].append(own)
            group[1].append(value)
        buffers = zip(average.buffers(), model.buffers(), strict=True)
        self.buffers = [(own, value) for own, value in buffers if value.is_floating_point()]

    def _has_same_tensors(self) -> bool:
        """Whether the modules still have the tensors that were collected."""
        return all(
            len(owner) == len(values)
            and all(owner.get(name) is value for name, value in values.items())
            for owner, values in self.owners
        )

    @torch.no_grad()
    def __call__(self) -> None:
        """Add the model's current values to the average."""
        averaged, change = self.averaged, self.averaged.multi_avg_fn
        assert change is not None
        if not self._has_same_tensors():
            self._collect_tensors()
        if averaged.n_averaged == 0:
            for averages, values in self.groups.values():
                torch._foreach_copy_(averages, values)
        else:
            for averages, values in self.groups.values():
                change(averages, values, averaged.n_averaged)
            # The average of an infinite entry, such as that of a mask, with itself is NaN.
            for average, value in self.buffers:
                average.copy_(torch.where(value.isinf(), value, average))
        averaged.n_averaged += 1


def _tensors_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
