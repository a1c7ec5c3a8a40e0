"""The update of the weights: the optimiser's step, which is refused if a value is not finite.

In a step that is one graph, the update of a known optimiser consists of operations that the
compiler fuses, or it is recorded with the rest of the step on a GPU. Any other optimiser is called
by a single operation of torch, and the compiler knows only that it changes the parameters. So any
optimiser can be part of a compiled step. The device decides whether an update is refused, and the
host need not wait for the answer.
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
from lowerbound.training.quick_step import QuickStep
from lowerbound.training.traced_update import TracedUpdate


class WeightUpdate:
    """Lets an optimiser take its steps, up to the first one that is refused.

    After a step whose bound or gradients are non-finite, neither the parameters nor the optimiser's
    state change.

    Args:
        optimizer: the optimiser whose steps to take.
        device: the device of the parameters.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self.optimizer, self.device = optimizer, device
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.optimize = QuickStep(optimizer)
        self.refused = torch.zeros((), dtype=torch.bool, device=device)
        self.accepted = torch.zeros((), dtype=torch.int64, device=device)
        self.taken = 0
        """The number of updates so far, including those that the device refused."""
        self.rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        """The learning rate of each group on the device, for updates that a graph repeats."""
        self.recorded: tuple[Any, ...] | None = None
        """What recorded updates have fixed; ``None`` if updates are not recorded."""
        self.traced: TracedUpdate | None = None
        """The update as operations of a compiled step; ``None`` if the step only calls it."""
        self._traceable: TracedUpdate | None = None
        self._rates: list[float] = [0.0 for _ in self.rates]
        self._has_state = False
        self._error: BaseException | None = None
        self._number = next(_NUMBERS)
        _UPDATES[self._number] = self

    def __call__(self, gradients: list[Tensor | None]) -> None:
        """Update the parameters, unless the update is refused; part of a compiled step."""
        if torch.compiler.is_compiling():
            traced = self.traced
            if traced is not None and traced.covers(gradients):
                traced(self.parameters, gradients, self.refused)
                return
            learned = zip(self.parameters, gradients, strict=True)
            complete = all(g is not None for p, g in learned if p.requires_grad)
            update = torch.ops.lowerbound.update
            if self.recorded is not None and complete:
                update = torch.ops.lowerbound.recorded_update
            update(self.parameters, gradients, self.refused, self._number)
        else:
            self.apply(gradients, self.refused)

    def show(self, gradients: Sequence[Tensor | None]) -> None:
        """Let others, such as the optimiser, read the gradients at the parameters."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient

    def refuse_non_finite(self, *values: Tensor) -> None:
        """Refuse this update and all later ones if one of these values is not finite."""
        finite = values[0].isfinite()
        for value in values[1:]:
            finite = finite & value.isfinite()
        self.refused.logical_or_(~finite)
        self.accepted.add_(~self.refused)

    def apply(self, gradients: Sequence[Tensor | None], refused: Tensor) -> None:
        """Do the update itself, outside of any graph."""
        self.show(gradients)
        self.taken += 1  # first, so that an interrupted update is counted
        on_cpu = self.device.type == "cpu"
        with labelled(UPDATE):
            if on_cpu or not self.optimize.step_unless(refused):
                # The state that an optimiser makes in its first step could not be undone.
                wait = on_cpu or not self._has_state
                change_unless(refused, self.optimize, self._list_changed_tensors, wait=wait)
        self._has_state = True

    def trace(self, wanted: bool = True) -> None:
        """Let compiled steps contain the update itself, if the optimiser is a known one.

        Call it before each compiled step, because the optimiser may have changed. The compiler's
        own checks then say whether the compiled code is still valid.

        Args:
            wanted: ``False`` to let compiled steps only call the update.
        """
        self.traced = None
        if not wanted or self.device.type != "cpu":
            return
        if self._traceable is None or not self._traceable.fits():
            self._traceable = TracedUpdate.of(self.optimizer, self.parameters)
        self.traced = self._traceable

    def prepare(self) -> None:
        """Compute the factors of the next update, which a compiled step reads."""
        if self.traced is not None:
            self.traced.prepare()

    def count(self, taken: int) -> None:
        """Count an update that a compiled step has made without Python, if it has made one.

        Args:
            taken: the number of updates before the step.
        """
        if self.traced is None or self.taken != taken:
            return
        if int(self.accepted) > taken or bool(self.refused):
            self.taken = taken + 1

    def record(self) -> None:
        """From now on compiled steps contain the update itself, if the optimiser allows it.

        A CUDA graph then repeats the update with the rest of the step. Nothing is counted, because
        a graph repeats no Python.
        """
        self.recorded = self.optimize.recordable()

    def is_as_recorded(self) -> bool:
        """Whether an update that was recorded is still the optimiser's."""
        return self.recorded is None or self.recorded == self.optimize.recordable()

    def send_rates(self) -> None:
        """Send learning rates that have changed to the device, for updates that were recorded."""
        if self.recorded is None:
            return
        for number, group in enumerate(self.optimizer.param_groups):
            if group["lr"] != self._rates[number]:
                self._rates[number] = group["lr"]
                self.rates[number].fill_(group["lr"])

    def apply_recorded(self, gradients: Sequence[Tensor | None], refused: Tensor) -> None:
        """The update while it is recorded: operations on the device, and nothing else."""
        self.show(gradients)
        with labelled(UPDATE):
            if not self.optimize.step_unless(refused, self.rates):
                raise RuntimeError("the optimiser was changed while its step was recorded")
        for parameter in self.parameters:
            parameter.grad = None  # the graph's memory, which the next step uses again

    def resume(self, taken: int) -> None:
        """Set the number of accepted updates so far."""
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

    def _list_changed_tensors(self) -> list[Tensor]:
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


# An operation can receive only tensors and numbers, so it looks up its update by number.
_NUMBERS = count()
_UPDATES: WeakValueDictionary[int, WeightUpdate] = WeakValueDictionary()

# Operations made by torch's decorator would take longer to call than a small optimiser takes to
# run. The first operation counts steps in Python, which a repeated CUDA graph would not do. The
# second one counts nothing, so a graph can repeat all that it does.
_ARGUMENTS = "(Tensor(a!)[] parameters, Tensor?[] gradients, Tensor refused, SymInt number) -> ()"
torch.library.define("lowerbound::update", _ARGUMENTS)
torch.library.define("lowerbound::recorded_update", _ARGUMENTS)


@torch.library.impl("lowerbound::update", "CompositeExplicitAutograd")
def _update(
    parameters: list[Tensor], gradients: list[Tensor | None], refused: Tensor, number: int
) -> None:
    update = _UPDATES[number]
    update.recorded = None  # it was to be recorded, but a parameter has no gradient
    _run(update, update.apply, parameters, gradients, refused)


@torch.library.impl("lowerbound::recorded_update", "CompositeExplicitAutograd")
def _recorded_update(
    parameters: list[Tensor], gradients: list[Tensor | None], refused: Tensor, number: int
) -> None:
    update = _UPDATES[number]
    _run(update, update.apply_recorded, parameters, gradients, refused)


def _run(
    update: WeightUpdate,
    apply: Callable[[Sequence[Tensor | None], Tensor], None],
    parameters: list[Tensor],
    gradients: list[Tensor | None],
    refused: Tensor,
) -> None:
    try:
        apply(gradients, refused)
    except BaseException as error:
        update._error = error
        raise
    for given, own in zip(parameters, update.parameters, strict=True):
        # The compiler may pass a copy, with which it later replaces the parameter.
        if given.data_ptr() != own.data_ptr():
            given.copy_(own)


@torch.library.register_fake("lowerbound::update")  # type: ignore[untyped-decorator]
@torch.library.register_fake("lowerbound::recorded_update")  # type: ignore[untyped-decorator]
def _(
    parameters: list[Tensor], gradients: list[Tensor | None], refused: Tensor, number: int
) -> None:
    return None
