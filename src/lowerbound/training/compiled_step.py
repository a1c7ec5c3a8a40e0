"""A training step that torch's compiler has compiled, and how it is called with little Python.

Before each call the compiler checks everything that the compiled code depends on, which takes
0.2 ms for a small model. If nothing can have changed since the last step but the batch and the
values of tensors, the code of that step is called directly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lowerbound.runtime.compiler import CompiledFunction, LastCall
from lowerbound.runtime.products import make_product_options
from lowerbound.training.batches import Batch
from lowerbound.training.recording import RecordedStep
from lowerbound.training.step import TrainingStep
from lowerbound.training.traced_update import TracedUpdate

Compute = Callable[[Batch], Any]

# Warnings of torch about a step that is compiled in pieces: the compiler reads gradients of tensors
# that are not leaves, and torch 2.11 names each function of Python that it does not compile.
_USUAL_BETWEEN_PIECES = (
    "The .grad attribute of a Tensor that is not a leaf",
    "Dynamo does not know how to trace the builtin",
)


def compile_step(
    step: TrainingStep,
    *,
    whole: bool = True,
    thoroughly: bool = False,
    profiled: bool = False,
    threads: int | None = None,
    onednn_products: Sequence[str] = (),
    graphs: bool = True,
) -> Compute:
    """Compile a step's ``compute``. The first call of the result waits for the compiler.

    Args:
        step: the step.
        whole: whether to compile one graph; the compiler fails if something in the model prevents
            that. Otherwise the step is compiled in pieces.
        thoroughly: whether to compile the code that calls the kernels one after the other, too, on
            a CPU. Otherwise that code is Python.
        profiled: whether to name the kernels in profiles.
        threads: the largest number of processor threads on which kernels run; by default as many as
            torch uses now. If it is not 1, they can run on any smaller number too.
        onednn_products: the kinds of matrix products that oneDNN computes, on a CPU. torch's own
            library computes all others.
        graphs: whether to record a step that is one graph as a CUDA graph, on a GPU.
    """
    options = _choose_code_options(
        step.device,
        thoroughly=whole and thoroughly,
        profiled=profiled,
        threads=threads or torch.get_num_threads(),
        onednn_products=onednn_products,
    )

    def build(is_repeatable: bool = False) -> CompiledFunction:
        any_threads = bool(options.get("cpp.dynamic_threads"))
        return CompiledFunction(
            step.compute,
            whole=whole,
            any_threads=any_threads,
            is_repeatable=is_repeatable,
            **options,
        )

    step.update.recorded = None
    if not whole:
        return _StepInPieces(step, build())
    if graphs and step.device.type == "cuda":
        return RecordedStep(step, build)
    return _WholeStep(step, build(is_repeatable=True))


class _StepInPieces:
    """A step that is compiled in pieces, between which Python runs."""

    def __init__(self, step: TrainingStep, made: CompiledFunction) -> None:
        self.step, self.made = step, made

    def __call__(self, batch: Batch) -> None:
        with warnings.catch_warnings(), self.step.update.raising_its_errors():
            for message in _USUAL_BETWEEN_PIECES:
                warnings.filterwarnings("ignore", message, UserWarning)
            self.step.update.trace(False)
            self.made(batch)


class _WholeStep:
    """A step that is compiled as one graph.

    Code that changes a setting, such as a flag, may not fit the next step, and a number that Python
    draws is another one in each step. So the code is repeated only after two steps in a row in
    which it ran on the same tensors but for the batch, and nothing else had changed between them.
    """

    def __init__(self, step: TrainingStep, made: CompiledFunction) -> None:
        self.step, self.made = step, made
        self.last_call: LastCall | None = None
        self.may_repeat = False
        self.traced: TracedUpdate | None = None

    def __call__(self, batch: Batch) -> None:
        update = self.step.update
        taken = update.taken
        try:
            with update.raising_its_errors():
                if not (self.step.is_unchanged and self._repeat(batch)):
                    self._call(batch)
        finally:
            update.count(taken)

    def _repeat(self, batch: Batch) -> bool:
        """Run the code of the last call without the compiler's checks, if it fits the batch.

        Returns:
            Whether it fits. Otherwise the step has not begun.
        """
        update = self.step.update
        if self.last_call is None or not self.may_repeat or self.traced is not update.traced:
            return False
        update.prepare()
        return self.last_call.repeat(batch.changing_tensors)

    def _call(self, batch: Batch) -> None:
        update, before = self.step.update, self.last_call
        update.trace()
        update.prepare()
        gradients = self.made(batch)
        self.last_call = self.made.take_last_call(batch.changing_tensors)
        self.traced = update.traced
        self.may_repeat = (
            self.step.is_unchanged
            and before is not None
            and self.last_call is not None
            and self.last_call.continues(before)
        )
        if gradients is not None:
            update.show(gradients)


def _choose_code_options(
    device: torch.device,
    *,
    thoroughly: bool = False,
    profiled: bool = False,
    threads: int = 1,
    onednn_products: Sequence[str] = (),
) -> dict[str, Any]:
    """Choose the options of the compiler's code generator for steps on this device."""
    options: dict[str, Any] = {}
    if device.type == "cpu":
        options |= {"cpp.threads": threads, "cpp.dynamic_threads": threads > 1}
    if profiled:
        options["cpp.enable_kernel_profile"] = True
    if thoroughly and device.type == "cpu":
        options["cpp_wrapper"] = True
    return options | make_product_options(onednn_products)
