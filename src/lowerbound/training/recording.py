"""A compiled step as one CUDA graph, which a GPU repeats without Python.

A step of a small model has fifty kernels of two microseconds each, and Python needs longer than
that to call each of them. A graph calls all of them at once. Everything that Python does in a step
is done around the graph: the batch and the learning rates are copied to where the graph reads them,
the update is counted, and the compiler's own checks say whether the recorded code is still valid.
The checks are left out if nothing can have changed since the last step but the batch and the values
of tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowerbound.runtime.compiler import CompiledFunction
from lowerbound.training.batches import Batch
from lowerbound.training.step import TrainingStep


class RecordedStep:
    """A compiled step that is recorded in its second call and repeated from then on.

    A step whose code is not valid any more, because a setting of the model has changed, runs
    unrecorded, which compiles it again. The next step is recorded again.

    A graph reads and writes at fixed addresses, and does not repeat what Python does. So a step
    that moves a tensor of its modules to another address is not recorded. If a tensor has moved
    between two steps, the step is recorded again. If recording fails, steps run unrecorded.

    Args:
        step: the step.
        build: compiles it.
    """

    def __init__(self, step: TrainingStep, build: Callable[[], CompiledFunction]) -> None:
        self.step, self.build = step, build
        self.may_record = True
        self.graph: Any = None
        self.gradients: list[Tensor | None] | None = None
        """The gradients that a repetition leaves, if the step is watched."""
        self.is_confirmed = False
        """Whether a repetition has passed the checks."""
        self._start()

    def __call__(self, batch: Batch) -> None:
        """Take the step."""
        update = self.step.update
        taken = update.taken
        if not (self.step.is_unchanged or update.is_as_recorded()):
            self._start()
        update.send_rates()
        if not self._repeats(batch):
            self._run_or_record(batch)
        update.taken = taken + 1  # which a recorded update does not count

    def _start(self) -> None:
        self.step.update.record()
        self.made = self.build()
        self.graph, self.is_compiled = None, False

    def _repeats(self, batch: Batch) -> bool:
        """Repeat the recorded step with another batch, if it is valid for that."""
        if self.graph is None:
            return False
        # The first repetition is checked: the step itself may have changed a setting in Python,
        # which repetitions do not run.
        is_valid = batch.examples is self.batch.examples and (
            (self.step.is_unchanged and self.is_confirmed)
            or (self.addresses == self._list_addresses() and self.holds(batch))
        )
        self.is_confirmed = is_valid
        if not is_valid:
            self.graph, self.is_compiled = None, False
            return False
        for own, given in zip(self.inputs, batch.changing_tensors, strict=True):
            own.copy_(given)
        self._replay()
        return True

    def _run_or_record(self, batch: Batch) -> None:
        if not self.is_compiled or not self.may_record or self.step.update.recorded is None:
            self._run(batch)
            return
        own = _with_own_inputs(batch)
        holds = self.made.guards_of_last_call()
        if holds is None or not holds(own) or not self._record(own):
            self._run(batch)
            return
        self.holds, self.batch, self.inputs = holds, own, own.changing_tensors
        self.addresses = self._list_addresses()
        self.is_confirmed = False
        self._replay()

    def _replay(self) -> None:
        self.graph.replay()
        if self.gradients is not None:
            # Copies, because the next repetition writes to the same tensors.
            copies = [None if own is None else own.clone() for own in self.gradients]
            self.step.update.show(copies)

    def _run(self, batch: Batch) -> None:
        if not self.may_record:
            self._call(batch)
            return
        before = self._list_addresses()
        self._call(batch)
        self.is_compiled = True
        self.may_record = self._list_addresses() == before

    def _call(self, batch: Batch) -> None:
        gradients = self.made(batch)
        if gradients is not None:
            self.step.update.show(gradients)

    def _record(self, batch: Batch) -> bool:
        """Record the step, or find that it cannot be, for instance because it waits for the GPU."""
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Threads that read data may allocate memory meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                gradients = self.made(batch)
        except RuntimeError:
            # Nothing was computed. torch leaves the stream of the recording as the current one.
            torch.cuda.set_stream(stream)
            self.may_record = False
            return False
        self.graph, self.gradients = graph, gradients
        return True

    def _list_addresses(self) -> list[int]:
        """List where the tensors of the model and of the objective's players are."""
        return [
            tensor.data_ptr()
            for top in (self.step.model, self.step.players)
            for module in top.modules()
            for tensors in (module._parameters, module._buffers, vars(module))
            for tensor in tensors.values()
            if isinstance(tensor, Tensor)
        ]


def _with_own_inputs(batch: Batch) -> Batch:
    """A copy of a batch whose tensors stay where they are."""
    fields = batch.fields
    if not batch.on_device:
        fields = {name: value.clone() for name, value in fields.items()}
    return Batch(batch.tensor.clone(), fields, batch.examples, batch.on_device)
