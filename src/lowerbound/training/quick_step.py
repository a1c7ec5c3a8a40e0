"""The step of Adam and AdamW with little Python, which a device may refuse or repeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

# A recorded step of Adam divides all parameters into about this many pieces, of at least this many
# values. One launch of its kernel takes a third of them.
_PIECES, _LEAST_PIECE = 100, 1024

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
        groups, state = self.optimizer.param_groups, self.optimizer.state
        if not self.known or has_hooks(self.optimizer) or not all(map(_is_usual, groups)):
            return None
        fixed: list[Any] = []
        for group in groups:
            if len({(parameter.device, parameter.dtype) for parameter in group["params"]}) > 1:
                return None  # one call of the kernel cannot update them
            fixed += [group[name] for name in _FIXED]
            for parameter in group["params"]:
                own = state.get(parameter)
                if bool(own) != parameter.requires_grad:
                    return None  # it has no state yet, or was frozen after it had one
                if own:
                    fixed += map(id, own.values())
        return tuple(fixed)

    def _is_quick(self) -> bool:
        return self.known and not has_hooks(self.optimizer) and self._find_groups()

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


def has_hooks(optimizer: Optimizer) -> bool:
    """Whether other code may run around the optimiser's step, or instead of it."""
    hooks = (
        optimizer._optimizer_step_pre_hooks,
        optimizer._optimizer_step_post_hooks,
        _global_optimizer_pre_hooks,
        _global_optimizer_post_hooks,
    )
    return any(hooks) or "step" in vars(optimizer)


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
            and all(
                state.get(p) is own
                and own
                and own["exp_avg"] is mean
                and own["exp_avg_sq"] is square
                and own["step"] is step
                for p, own, mean, square, step in zip(
                    given, self.states, self.means, self.squares, self.steps, strict=True
                )
            )
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
        gradients = [cast(Tensor, parameter.grad) for parameter in self.parameters]
        columns = [self.parameters, gradients, self.means, self.squares, self.steps]
        lr = group["lr"]
        if rate is not None:
            # Within a graph, many small pieces are as quick to start as a few tensors.
            lr, columns = rate, _in_pieces(columns)
        parameters, gradients, means, squares, steps = columns
        kernel = torch._fused_adamw_ if group["decoupled_weight_decay"] else torch._fused_adam_
        kernel(
            parameters,
            gradients,
            means,
            squares,
            [],
            steps,
            amsgrad=False,
            lr=lr,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=group["maximize"],
            found_inf=infinite,
        )
        if infinite is not None:
            torch._foreach_sub_(self.steps, [infinite] * len(self.steps))


def _in_pieces(columns: list[list[Tensor]]) -> list[list[Tensor]]:
    """Lists of tensors, the last one of counts, with each tensor divided into pieces.

    A GPU's kernel lets one of its units update 65,536 values in turn. The smaller pieces of a small
    model are updated at the same time, which takes a fifth of the time.
    """
    total = sum(tensor.numel() for tensor in columns[0])
    size = -(-max(_LEAST_PIECE, total // _PIECES) // _LEAST_PIECE) * _LEAST_PIECE
    pieces: list[list[Tensor]] = [[] for _ in columns]
    for *values, count in zip(*columns, strict=True):
        parts = [[value] for value in values]
        if all(value.is_contiguous() for value in values):
            parts = [list(value.detach().view(-1).split(size)) for value in values]
        for column, part in zip(pieces, [*parts, [count] * len(parts[0])], strict=True):
            column.extend(part)
    return pieces
