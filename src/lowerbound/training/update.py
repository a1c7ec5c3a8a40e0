"""The update of the weights: the optimiser's step, which is refused where a value is not finite.

It is one operation of torch, and the compiler knows only that it changes the parameters. So any
optimiser can be part of a compiled step, with its own fused kernels. The device decides whether an
update is refused, and the host does not wait for the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.optim import Optimizer

from lowerbound.training.labels import UPDATE, labelled
from lowerbound.training.optim import QuickStep


class WeightUpdate:
    """Lets an optimiser take its steps, up to the first one that is refused.

    After a step whose bound or gradients are non-finite, neither the parameters nor the optimiser's
    state change.

    Args:
        optimizer: whose steps to take.
        device: of the parameters.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self.optimizer, self.device = optimizer, device
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.optimize = QuickStep(optimizer)
        self.refused = torch.zeros((), dtype=torch.bool, device=device)
        self.accepted = torch.zeros((), dtype=torch.int64, device=device)
        self.taken = 0
        """The number of updates so far, with those that were refused on the device."""
        self._has_state = False
        self._error: BaseException | None = None
        self._number = next(_NUMBERS)
        _UPDATES[self._number] = self

    def __call__(self, gradients: list[Tensor | None]) -> None:
        """Update the parameters, unless the update is refused; part of a compiled step."""
        if torch.compiler.is_compiling():
            update = torch.ops.lowerbound.update
            update(self.parameters, gradients, self.refused, self._number)
        else:
            self.apply(gradients, self.refused)

    def refuse_non_finite(self, *values: Tensor) -> None:
        """Refuse this update and all later ones if one of these values is not finite."""
        finite = values[0].isfinite()
        for value in values[1:]:
            finite = finite & value.isfinite()
        self.refused |= ~finite
        self.accepted += ~self.refused

    def apply(self, gradients: Sequence[Tensor | None], refused: Tensor) -> None:
        """The update itself, outside of any graph."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        self.taken += 1  # first, so that an interrupted update is counted
        with labelled(UPDATE):
            # The state that an optimiser makes in its first step could not be undone.
            wait = self.device.type == "cpu" or not self._has_state
            change_unless(refused, self.optimize, self._changed_tensors, wait=wait)
        self._has_state = True

    def resume(self, taken: int) -> None:
        """Set the number of updates; none of them was refused."""
        self.taken = taken
        self.accepted.fill_(taken)

    def forget_refused(self) -> None:
        """Set the count to the number of accepted updates; waits for the device."""
        self.taken = int(self.accepted)

    @contextmanager
    def raising_its_errors(self) -> Iterator[None]:
        """Around a compiled step: an error of the update is raised unchanged.

        The code that the compiler generates may turn it into a RuntimeError.
        """
        try:
            yield
        except BaseException as error:
            if self._error is None or error is self._error:
                raise
            raise self._error from None
        finally:
            self._error = None

    def _changed_tensors(self) -> list[Tensor]:
        states = (value for state in self.optimizer.state.values() for value in state.values())
        return [*self.parameters, *(value for value in states if isinstance(value, Tensor))]


def change_unless(
    refused: Tensor,
    change: Callable[[], Any],
    changed_tensors: Callable[[], list[Tensor]],
    *,
    wait: bool,
) -> None:
    """Make a change of some tensors, unless it is refused.

    Args:
        refused: a boolean on the device.
        change: makes the change.
        changed_tensors: lists the tensors that it changes.
        wait: whether to wait for the device's answer. The host always waits if a changed tensor is
            on another device.
    """
    tensors: list[Tensor] = []
    if not wait:
        tensors = changed_tensors()
    if not tensors or any(tensor.device != refused.device for tensor in tensors):
        if not bool(refused):
            change()
        return
    # Without waiting: make the change, and let the device undo it if it is refused.
    before = [tensor.clone() for tensor in tensors]
    change()
    for tensor, old in zip(tensors, before, strict=True):
        tensor.copy_(torch.where(refused, old, tensor))


# An operation receives only tensors and numbers, so it finds its update by number.
_NUMBERS = count()
_UPDATES: WeakValueDictionary[int, WeightUpdate] = WeakValueDictionary()

# torch's decorator for operations makes ones that take longer to call than a small optimiser to
# run. The tag keeps it out of CUDA graphs: it counts steps in Python, which a replay would not.
torch.library.define(
    "lowerbound::update",
    "(Tensor(a!)[] parameters, Tensor?[] gradients, Tensor refused, SymInt number) -> ()",
    tags=(torch.Tag.cudagraph_unsafe,),
)


@torch.library.impl("lowerbound::update", "CompositeExplicitAutograd")
def _update(
    parameters: list[Tensor], gradients: list[Tensor | None], refused: Tensor, number: int
) -> None:
    update = _UPDATES[number]
    try:
        update.apply(gradients, refused)
    except BaseException as error:
        update._error = error
        raise
    for given, own in zip(parameters, update.parameters, strict=True):
        # The compiler may pass a copy, with which it later replaces the parameter.
        if given.data_ptr() != own.data_ptr():
            given.copy_(own)


@torch.library.register_fake("lowerbound::update")  # type: ignore[untyped-decorator]
def _(
    parameters: list[Tensor], gradients: list[Tensor | None], refused: Tensor, number: int
) -> None:
    return None
