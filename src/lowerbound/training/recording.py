"""A compiled step as one CUDA graph, which a GPU repeats without Python.

A step of a small model has fifty kernels of two microseconds each, and Python needs longer than
that to call each of them. A graph calls all of them at once. Everything that Python does in a step
is done around the graph: the batch and the learning rates are copied to where the graph reads them,
the update is counted, and the compiler's own checks say whether the recorded code is still valid.
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

    Args:
        step: the step.
        build: compiles it.
    """

    def __init__(self, step: TrainingStep, build: Callable[[], CompiledFunction]) -> None:
        self.step, self.build = step, build
        self.graph: Any = None
        self._start()

    def __call__(self, batch: Batch) -> None:
        """Take the step."""
        update = self.step.update
        if not update.is_as_recorded():
            self._start()
        update.send_rates()
        taken = update.taken
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
        if batch.examples is not self.batch.examples or not self.holds(batch):
            self.graph, self.is_compiled = None, False
            return False
        for own, given in zip(self.inputs, _inputs_of(batch), strict=True):
            own.copy_(given)
        self.graph.replay()
        return True

    def _run_or_record(self, batch: Batch) -> None:
        if not self.is_compiled or self.step.update.recorded is None:
            self.made(batch)
            self.is_compiled = True
            return
        holds = self.made.guards_of_last_call()
        if holds is None or not holds(batch):
            self.made(batch)
            return
        self.holds, self.batch = holds, _with_own_inputs(batch)
        self.inputs = _inputs_of(self.batch)
        graph = torch.cuda.CUDAGraph()
        # Threads that read data may allocate memory meanwhile.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.made(self.batch)
        graph.replay()
        self.graph = graph


def _inputs_of(batch: Batch) -> list[Tensor]:
    """The tensors that differ from batch to batch."""
    if batch.on_device:
        return [batch.tensor]
    return [batch.tensor, *batch.fields.values()]


def _with_own_inputs(batch: Batch) -> Batch:
    """A copy of a batch whose tensors stay where they are."""
    fields = batch.fields
    if not batch.on_device:
        fields = {name: value.clone() for name, value in fields.items()}
    return Batch(batch.tensor.clone(), fields, batch.examples, batch.on_device)
