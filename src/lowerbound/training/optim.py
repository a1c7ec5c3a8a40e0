"""Optimisers, schedules of the learning rate, and averages of the weights."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lowerbound.errors import SettingsError
from lowerbound.objectives import Objective
from lowerbound.training.players import parameter_groups

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
    parameters = parameter_groups(model, objective, options["lr"])
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
    """The optimiser, if its step needs only the dense gradients of one batch."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise SettingsError(
            f"fit: {type(optimizer).__name__} evaluates the bound several times in a step, with "
            "the same noise, which this training does not do; use optimizer='adam'"
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
    """The optimiser, if its parameters are the model's and those of all players."""
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
    """A moving average of a model's weights and buffers, updated by ``update_parameters``.

    Args:
        model: The model.
        decay: The decay of an exponential average; ``None`` for the mean of all averaged weights.
    """
    average = _average_equally if decay is None else get_ema_multi_avg_fn(decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


@torch.no_grad()
def update_average(averaged: AveragedModel, model: nn.Module) -> None:
    """Update an average by :func:`average_weights`, and do not wait for the model's device.

    ``AveragedModel.update_parameters`` copies the number of updates to that device, and waits.
    """
    averages = [value.detach() for value in _tensors_of(averaged.module)]
    current = [value.detach() for value in _tensors_of(model)]
    if averaged.n_averaged == 0:
        for average, value in zip(averages, current, strict=True):
            average.copy_(value)
    else:
        groups: dict[tuple[Any, Any], tuple[list[Tensor], list[Tensor]]] = {}
        for average, value in zip(averages, current, strict=True):
            both = groups.setdefault((average.device, average.dtype), ([], []))
            both[0].append(average)
            both[1].append(value)
        for some_averages, some_values in groups.values():
            averaged.multi_avg_fn(some_averages, some_values, averaged.n_averaged)
    averaged.n_averaged += 1


def _tensors_of(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@torch.no_grad()
def _average_equally(averages: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
    """Update the mean of ``count`` tensors by one more.

    Of tensors that are not floating point, such as masks, it keeps the last one.
    """
    if averages[0].is_floating_point():
        torch._foreach_lerp_(list(averages), list(current), 1 / (count + 1))
    else:
        torch._foreach_copy_(list(averages), list(current))


# The settings of Adam that a recorded step has fixed.
_FIXED = ("betas", "weight_decay", "eps", "maximize", "decoupled_weight_decay")


class QuickStep:
    """An optimiser's step, without the bookkeeping of torch's Adam and AdamW.

    That bookkeeping takes as long as a small update itself. The step calls the same fused kernel on
    the optimiser's own state and current settings, so quick and ordinary steps can alternate and
    give identical results. Any other optimiser takes its ordinary step, and so does an Adam with
    hooks, with unusual settings, or with gradients that are not present at every step.

    Args:
        optimizer: The optimiser whose step it takes.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.known = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        self.groups: list[_FusedGroup] | None = None

    def __call__(self) -> None:
        """Take the step."""
        if not self._is_quick():
            self.optimizer.step()
            return
        for group in self.groups or ():
            group.step()

    def step_unless(self, refused: Tensor, rates: Sequence[Tensor | None] | None = None) -> bool:
        """Take the step unless the device refuses it, and do not wait for its answer.

        Args:
            refused: a boolean on the device of the parameters.
            rates: the learning rate of each group on that device, instead of its own.

        Returns:
            Whether a step was possible. Only the kernel of Adam can be refused on the device, so
            with another optimiser nothing is done.
        """
        if not self._is_quick():
            return False
        groups = self.groups or []
        # The kernel leaves everything as it is if this value is 1.
        infinite = refused.float()
        for group, rate in zip(groups, rates or [None] * len(groups), strict=True):
            group.step(infinite, rate)
        return True

    def recordable(self) -> tuple[Any, ...] | None:
        """What a recorded step has fixed; ``None`` if a step cannot be recorded.

        A step that a CUDA graph repeats has the addresses of the optimiser's state and all settings
        but the learning rate. If they change, it must be recorded again.
        """
        groups = self.optimizer.param_groups
        if not self.known or self._has_hooks() or not all(map(_is_usual, groups)):
            return None
        fixed: list[Any] = []
        for group in groups:
            fixed += [group[name] for name in _FIXED]
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter)
                if parameter.requires_grad and not state:
                    return None
                fixed += [id(value) for value in (state or {}).values()]
        return tuple(fixed)

    def _is_quick(self) -> bool:
        return self.known and not self._has_hooks() and self._find_groups()

    def _has_hooks(self) -> bool:
        hooks = (
            self.optimizer._optimizer_step_pre_hooks,
            self.optimizer._optimizer_step_post_hooks,
            _global_optimizer_pre_hooks,
            _global_optimizer_post_hooks,
        )
        return any(hooks) or "step" in vars(self.optimizer)

    def _find_groups(self) -> bool:
        """Whether all groups are ready for the kernel, with the same tensors as before."""
        groups, state = self.optimizer.param_groups, self.optimizer.state
        if not all(map(_is_usual, groups)):
            self.groups = None
            return False
        if self.groups is None:
            self.groups = [_FusedGroup.of(group, state) for group in groups]
        if len(self.groups) == len(groups) and all(
            known.fits(group, state) for known, group in zip(self.groups, groups, strict=True)
        ):
            return True
        self.groups = None
        return False


def _is_usual(group: dict[str, Any]) -> bool:
    """Whether a group has only those settings that :class:`QuickStep` passes on."""
    values = (group["lr"], *group["betas"], group["weight_decay"], group["eps"])
    unusual = (
        group["amsgrad"] or group["capturable"] or group["differentiable"] or not group["fused"]
    )
    return not unusual and all(isinstance(value, float | int) for value in values)


@dataclass(frozen=True, eq=False)
class _FusedGroup:
    """A group of parameters of an Adam, with the state of those that have had gradients."""

    group: dict[str, Any]
    parameters: list[Tensor]
    states: list[dict[str, Tensor]]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]
    is_uniform: bool
    """Whether the parameters share one device and type, as one call of the kernel needs."""

    @classmethod
    def of(cls, group: dict[str, Any], state: Mapping[Tensor, dict[str, Tensor]]) -> _FusedGroup:
        parameters = [parameter for parameter in group["params"] if state.get(parameter)]
        states = [state[parameter] for parameter in parameters]
        means, squares, steps = (
            [own[name] for own in states] for name in ("exp_avg", "exp_avg_sq", "step")
        )
        kinds = {(parameter.device, parameter.dtype) for parameter in parameters}
        return cls(group, parameters, states, means, squares, steps, len(kinds) <= 1)

    def fits(self, group: dict[str, Any], state: Mapping[Tensor, dict[str, Tensor]]) -> bool:
        """Whether group, state and the parameters with gradients are still the same."""
        given = [parameter for parameter in group["params"] if parameter.grad is not None]
        same = (
            group is self.group
            and len(given) == len(self.parameters)
            and all(map(is_, given, self.parameters))
        )
        return (
            same
            and self.is_uniform
            and all(state.get(p) is own and own for p, own in zip(given, self.states, strict=True))
        )

    def step(
        self,
        infinite: Tensor | None = None,
        rate: Tensor | None = None,
    ) -> None:
        """Call the kernel, as torch does.

        Args:
            infinite: 1. if the device refuses the step, otherwise 0; ``None`` if it does not ask.
            rate: the learning rate, if not that of the group.
        """
        if not self.parameters:
            return
        group = self.group
        torch._foreach_add_(self.steps, 1)
        kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        kernel(
            self.parameters,
            [cast(Tensor, parameter.grad) for parameter in self.parameters],
            self.means,
            self.squares,
            [],
            self.steps,
            amsgrad=False,
            lr=group["lr"] if rate is None else rate,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            found_inf=infinite,
        )
        if infinite is not None:
            torch._foreach_sub_(self.steps, [infinite] * len(self.steps))
