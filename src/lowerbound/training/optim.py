"""Optimisers by name or instance, learning-rate schedules, and averaged weights."""

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
        model: whose parameters to optimise.
        optimizer: the name of one of ``torch.optim``, a class or function from (parameters, lr) to one, or an instance.
        learning_rate: 1e-3 where it is ``None`` and the optimiser is not an instance.
        weight_decay: passed on where it is not ``None``.
        objective: whose players to optimise as well.

    Raises:
        SettingsError: for an unknown name, settings that the optimiser does not take, or an instance of other parameters.
    """
    if isinstance(optimizer, Optimizer):
        return _own(model, optimizer, learning_rate, weight_decay, objective)
    make = optimizer
    if isinstance(optimizer, str):
        if optimizer.lower() not in _OPTIMIZERS:
            raise SettingsError(
                f"fit: optimizer={optimizer!r} is unknown; torch.optim has {', '.join(sorted(_OPTIMIZERS))}"
            )
        make = _OPTIMIZERS[optimizer.lower()]
    if not callable(make):
        raise SettingsError(
            f"fit: optimizer={optimizer!r} is neither a name, nor a class, nor a torch.optim.Optimizer"
        )
    options: dict[str, Any] = {"lr": 1e-3 if learning_rate is None else learning_rate}
    if weight_decay is not None:
        options["weight_decay"] = weight_decay
    if inspect.isclass(make) and "fused" in inspect.signature(make).parameters:
        options["fused"] = True
    parameters = parameter_groups(model, objective, options["lr"])
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


def _own(
    model: nn.Module,
    optimizer: Optimizer,
    learning_rate: float | None,
    weight_decay: float | None,
    objective: Objective | None,
) -> Optimizer:
    if learning_rate is not None or weight_decay is not None:
        raise SettingsError(
            "fit: an optimizer instance has its own learning_rate and weight_decay; set them there"
        )
    players = {} if objective is None else objective.players()
    theirs = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held = {id(parameter) for parameter in theirs}
    ours = {id(parameter) for parameter in model.parameters()}
    for name, player in players.items():
        own = {id(p) for p in player.module.parameters() if p.requires_grad}
        if not own <= held:
            raise SettingsError(
                f"fit: the optimizer lacks parameters of the objective's player {name!r}; give it a "
                "parameter group of its own"
            )
        ours |= own
    if not held or not held <= ours:
        raise SettingsError(
            "fit: the optimizer holds parameters that are not the model's; make it from "
            "model.parameters()"
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


def averaged(model: nn.Module, decay: float | None) -> AveragedModel:
    """A moving average of a model's weights and buffers, updated by ``update_parameters``: exponential, or of equal weights where ``decay`` is ``None``."""
    average = _average_equally if decay is None else get_ema_multi_avg_fn(decay)
    return AveragedModel(model, multi_avg_fn=average, use_buffers=True)


@torch.no_grad()
def _average_equally(averages: Sequence[Tensor], current: Sequence[Tensor], count: Any) -> None:
    """Take one more into the average of ``count`` of them; of what is no floating point number, such as a mask, the last one."""
    if averages[0].is_floating_point():
        torch._foreach_lerp_(list(averages), list(current), 1 / (count + 1))
    else:
        torch._foreach_copy_(list(averages), list(current))


class QuickStep:
    """An optimiser's step: of torch's Adam and AdamW without the bookkeeping, which takes as long as a small update itself.

    The kernel is their own fused one, with the state and the settings that the optimiser holds at the time, so the two ways can be
    mixed, and end at the same bits. Any other optimiser takes its ordinary step, and so does one with hooks, with settings that
    are unusual, or whose gradients come and go.

    Args:
        optimizer: whose step to take.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.known = type(optimizer) in (torch.optim.Adam, torch.optim.AdamW)
        self.held: list[_Held] | None = None

    def __call__(self) -> None:
        """Take the step."""
        if not self.known or self._observed() or not self._hold():
            self.optimizer.step()
            return
        for held in self.held or ():
            held.step()

    def _observed(self) -> bool:
        """Whether anybody has to be told of a step."""
        hooks = (
            self.optimizer._optimizer_step_pre_hooks,
            self.optimizer._optimizer_step_post_hooks,
            _global_optimizer_pre_hooks,
            _global_optimizer_post_hooks,
        )
        return any(hooks) or "step" in vars(self.optimizer)

    def _hold(self) -> bool:
        """Whether what the kernel works on is at hand, and as it was."""
        groups, state = self.optimizer.param_groups, self.optimizer.state
        if not all(map(_plain, groups)):
            self.held = None
            return False
        if self.held is None:
            self.held = [_Held.of(group, state) for group in groups]
        if len(self.held) == len(groups) and all(
            held.fits(group, state) for held, group in zip(self.held, groups, strict=True)
        ):
            return True
        self.held = None
        return False


def _plain(group: dict[str, Any]) -> bool:
    """Whether a group's settings are those that :class:`QuickStep` passes on."""
    numbers = (group["lr"], *group["betas"], group["weight_decay"], group["eps"])
    unusual = (
        group["amsgrad"] or group["capturable"] or group["differentiable"] or not group["fused"]
    )
    return not unusual and all(isinstance(number, float | int) for number in numbers)


@dataclass(frozen=True, eq=False)
class _Held:
    """A group of an Adam, with the state of those of its parameters that have had gradients."""

    group: dict[str, Any]
    parameters: list[Tensor]
    states: list[dict[str, Tensor]]
    means: list[Tensor]
    squares: list[Tensor]
    steps: list[Tensor]
    alike: bool
    """Whether the parameters are of one device and type, as one call of the kernel wants them."""

    @classmethod
    def of(cls, group: dict[str, Any], state: Mapping[Tensor, dict[str, Tensor]]) -> _Held:
        parameters = [parameter for parameter in group["params"] if state.get(parameter)]
        states = [state[parameter] for parameter in parameters]
        means, squares, steps = (
            [own[name] for own in states] for name in ("exp_avg", "exp_avg_sq", "step")
        )
        kinds = {(parameter.device, parameter.dtype) for parameter in parameters}
        return cls(group, parameters, states, means, squares, steps, len(kinds) <= 1)

    def fits(self, group: dict[str, Any], state: Mapping[Tensor, dict[str, Tensor]]) -> bool:
        """Whether it is this group, its state is still the optimiser's, and the same parameters have gradients."""
        given = [parameter for parameter in group["params"] if parameter.grad is not None]
        same = (
            group is self.group
            and len(given) == len(self.parameters)
            and all(map(is_, given, self.parameters))
        )
        return (
            same
            and self.alike
            and all(state.get(p) is own and own for p, own in zip(given, self.states, strict=True))
        )

    def step(self) -> None:
        """Call the kernel, as torch does."""
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
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
        )
