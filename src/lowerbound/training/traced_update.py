"""The updates of Adam, AdamW and SGD as functions of tensors, which a compiler can fuse.

Whatever depends on the settings or on the number of the step is a factor, which the host computes
in double precision before each update. The compiled loops read the factors from memory. So no loop
computes a power, and a new learning rate needs no compilation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from lowerbound.training.quick_step import has_hooks

State = Mapping[Tensor, dict[str, Any]]


def update_by_adam(
    factors: Sequence[Tensor], gradient: Tensor, parameter: Tensor, mean: Tensor, square: Tensor
) -> tuple[Tensor, ...]:
    """Compute a parameter and the averages of its gradient and squared gradient after a step.

    The step is one of Adam or AdamW, with the factors of :func:`compute_adam_factors`.
    """
    sign, decay, keep, gain, beta2, square_gain, size, scale, eps = factors
    gradient = sign * gradient + decay * parameter
    mean = mean + gain * (gradient - mean)
    square = beta2 * square + square_gain * (gradient * gradient)
    return keep * parameter - size * mean / (scale * square.sqrt() + eps), mean, square


def compute_adam_factors(group: Mapping[str, Any], taken: float) -> list[float]:
    """Compute the factors of :func:`update_by_adam` for the step that follows ``taken`` steps.

    With t = ``taken`` + 1, ``size`` is lr / (1 - beta1^t), ``scale`` is 1 / sqrt(1 - beta2^t), and
    ``keep`` is 1 - lr * weight decay for AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019).
    """
    (beta1, beta2), rate, decay, keep = group["betas"], group["lr"], group["weight_decay"], 1.0
    if group["decoupled_weight_decay"]:
        decay, keep = 0.0, 1.0 - rate * decay
    size = rate / (1.0 - beta1 ** (taken + 1))
    scale = 1.0 / math.sqrt(1.0 - beta2 ** (taken + 1))
    sign = _find_sign(group)
    return [sign, decay, keep, 1.0 - beta1, beta2, 1.0 - beta2, size, scale, group["eps"]]


def update_by_sgd(
    factors: Sequence[Tensor], gradient: Tensor, parameter: Tensor
) -> tuple[Tensor, ...]:
    """Compute a parameter after a step of SGD without momentum."""
    sign, decay, rate, *_ = factors
    return (parameter - rate * (sign * gradient + decay * parameter),)


def update_by_momentum(
    factors: Sequence[Tensor], gradient: Tensor, parameter: Tensor, buffer: Tensor
) -> tuple[Tensor, ...]:
    """Compute a parameter and its momentum after a step of SGD."""
    sign, decay, rate, momentum, gain, share, buffer_share, *_ = factors
    gradient = sign * gradient + decay * parameter
    buffer = momentum * buffer + gain * gradient
    return parameter - rate * (share * gradient + buffer_share * buffer), buffer


def compute_sgd_factors(group: Mapping[str, Any], taken: float) -> list[float]:
    """Compute the factors of :func:`update_by_momentum`; :func:`update_by_sgd` uses three."""
    momentum, share, buffer_share = group["momentum"], 0.0, 1.0
    if group["nesterov"]:
        share, buffer_share = 1.0, momentum
    sign, gain = _find_sign(group), 1.0 - group["dampening"]
    return [sign, group["weight_decay"], group["lr"], momentum, gain, share, buffer_share]


def _find_sign(group: Mapping[str, Any]) -> float:
    return -1.0 if group["maximize"] else 1.0


@dataclass(frozen=True, eq=False)
class Rule:
    """How an optimiser updates the parameters of a group.

    Args:
        update: computes a parameter and its averages after a step, from the factors, the gradient,
            and the parameter and averages before.
        compute_factors: computes the factors from the group's settings and the number of steps
            taken before.
        averages: the names of a parameter's averages in the optimiser's state.
        count: the name of its number of steps in that state; empty if the state has none.
    """

    update: Callable[..., tuple[Tensor, ...]]
    compute_factors: Callable[[Mapping[str, Any], float], list[float]]
    averages: tuple[str, ...] = ()
    count: tuple[str, ...] = ()


_ADAM = Rule(update_by_adam, compute_adam_factors, ("exp_avg", "exp_avg_sq"), ("step",))
_SGD = Rule(update_by_sgd, compute_sgd_factors)
_MOMENTUM = Rule(update_by_momentum, compute_sgd_factors, ("momentum_buffer",))

# The largest number of factors that a rule has.
_FACTORS = 9

_DTYPES = (torch.float32, torch.float64)


def _find_rule(optimizer: Optimizer, group: Mapping[str, Any]) -> Rule | None:
    """Find the rule of a group; ``None`` if its settings are unusual."""
    if type(optimizer) not in (Adam, AdamW, SGD):
        return None  # other optimisers may lack these settings
    rule, forbidden, numbers = _SGD, ["differentiable"], [group["lr"], group["weight_decay"]]
    if type(optimizer) is SGD:
        numbers += [group["momentum"], group["dampening"]]
        if group["momentum"]:
            rule = _MOMENTUM
    else:
        rule, forbidden = _ADAM, ["differentiable", "amsgrad", "capturable"]
        numbers += [*group["betas"], group["eps"]]
    if any(group[name] for name in forbidden):
        return None
    if not all(isinstance(number, float | int) for number in numbers):
        return None  # a tensor, for example
    return rule


@dataclass(frozen=True, eq=False)
class _TracedGroup:
    """A group of the optimiser: its rule, and the parameters that it updates, with their state."""

    group: dict[str, Any]
    rule: Rule
    parameters: list[Tensor]
    positions: list[int]
    state: list[Any]
    averages: list[list[Tensor]]
    counts: list[Tensor]

    @classmethod
    def of(
        cls, group: dict[str, Any], rule: Rule, state: State, positions: Mapping[Tensor, int]
    ) -> _TracedGroup:
        names = rule.averages + rule.count
        learned = [p for p in group["params"] if p.requires_grad]
        if names:
            learned = [p for p in learned if state.get(p)]
        return cls(
            group,
            rule,
            learned,
            [positions[p] for p in learned],
            _list_state(state, learned, rule),
            [[state[p][name] for name in rule.averages] for p in learned],
            [state[p][name] for p in learned for name in rule.count],
        )

    @property
    def taken(self) -> float:
        """The number of steps that the optimiser has counted; 0 if it does not count them."""
        if not self.counts:
            return 0.0
        return float(self.counts[0])

    def fits(self, optimizer: Optimizer, group: dict[str, Any]) -> bool:
        """Whether the group still has this rule and this state."""
        state = _list_state(optimizer.state, self.parameters, self.rule)
        return (
            group is self.group
            and _find_rule(optimizer, group) is self.rule
            and all(map(is_, state, self.state))
            and len({float(count) for count in self.counts}) <= 1
        )


def _list_state(state: State, parameters: Sequence[Tensor], rule: Rule) -> list[Any]:
    names = rule.averages + rule.count
    return [state.get(parameter, {}).get(name) for parameter in parameters for name in names]


def describe_rules(optimizer: Optimizer, parameters: Sequence[Tensor]) -> str:
    """Describe the rule that compiled steps have for each group of an optimiser.

    It is empty if compiled steps can only call the optimiser.
    """
    traced = TracedUpdate.of(optimizer, parameters)
    if traced is None:
        return ""
    return repr([(group.rule.update.__name__, group.positions) for group in traced.groups])


class TracedUpdate:
    """An optimiser's step as operations on tensors, with the optimiser's own state.

    Steps of this kind can alternate with the optimiser's own. They agree to rounding.

    Args:
        optimizer: the optimiser.
        groups: its groups.
        dtype: the type of the parameters.
    """

    def __init__(
        self, optimizer: Optimizer, groups: list[_TracedGroup], dtype: torch.dtype
    ) -> None:
        self.optimizer, self.groups = optimizer, groups
        self.positions = [position for group in groups for position in group.positions]
        self.counted = [
            position for group in groups if group.counts for position in group.positions
        ]
        self.factors = torch.zeros(len(groups), _FACTORS, dtype=dtype)
        """The factors of each group in the next step, which the host sets."""
        self._values = self.factors.numpy()

    @classmethod
    def of(cls, optimizer: Optimizer, parameters: Sequence[Tensor]) -> TracedUpdate | None:
        """Return the step of an optimiser; ``None`` if no rule covers its kind and settings.

        Args:
            optimizer: the optimiser, which has taken a step, so that it has a state.
            parameters: all its parameters.
        """
        positions = {parameter: position for position, parameter in enumerate(parameters)}
        groups = []
        for group in optimizer.param_groups:
            rule = _find_rule(optimizer, group)
            if rule is None:
                return None
            names = {*rule.averages, *rule.count}
            states = [optimizer.state.get(parameter) for parameter in group["params"]]
            if any(state and names != {*state} for state in states):
                return None
            groups.append(_TracedGroup.of(group, rule, optimizer.state, positions))
        traced = cls(optimizer, groups, parameters[0].dtype)
        if not traced.fits() or not traced._has_plain_tensors():
            return None
        return traced

    def fits(self) -> bool:
        """Whether nothing has changed in the optimiser but settings that only change factors."""
        groups = self.optimizer.param_groups
        return (
            not has_hooks(self.optimizer)
            and len(groups) == len(self.groups)
            and all(
                own.fits(self.optimizer, group)
                for own, group in zip(self.groups, groups, strict=True)
            )
        )

    def covers(self, gradients: Sequence[Tensor | None]) -> bool:
        """Whether it would update all parameters that have a gradient, and count no others."""
        given = {i for i, gradient in enumerate(gradients) if gradient is not None}
        return given.issubset(self.positions) and given.issuperset(self.counted)

    def prepare(self) -> None:
        """Compute the factors of the next step."""
        rows = [group.rule.compute_factors(group.group, group.taken) for group in self.groups]
        padded = [row + [0.0] * (_FACTORS - len(row)) for row in rows]
        self._values[:] = padded

    def __call__(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        refused: Tensor,
    ) -> None:
        """Change parameters and state unless the step is refused; part of a compiled step."""
        for row, group in zip(self.factors.unbind(), self.groups, strict=True):
            known = row.unbind()
            for position, averages in zip(group.positions, group.averages, strict=True):
                gradient, own = gradients[position], [parameters[position], *averages]
                if gradient is None:
                    continue
                found = group.rule.update(known, gradient, *own)
                for tensor, value in zip(own, found, strict=True):
                    tensor.copy_(torch.where(refused, tensor, value))
            for count in group.counts:
                count.copy_(torch.where(refused, count, count + 1))

    def _has_plain_tensors(self) -> bool:
        """Whether all tensors lie on a CPU, have one type, and share no memory."""
        tensors = [
            tensor
            for group in self.groups
            for parameter, averages in zip(group.parameters, group.averages, strict=True)
            for tensor in (parameter, *averages)
        ]
        kinds = {(t.device.type, t.dtype, t.layout) for t in tensors}
        memory = {t.untyped_storage().data_ptr() for t in tensors}
        return (
            len(kinds) == 1
            and kinds <= {("cpu", dtype, torch.strided) for dtype in _DTYPES}
            and len(memory) == len(tensors)
        )
