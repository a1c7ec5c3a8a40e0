"""The choice of how training runs its steps: compiled or not, and in which precision."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lowerbound.runtime.autotune import Autotuner, NotCompilable, Option
from lowerbound.runtime.compiler import Choice, CompiledFunction
from lowerbound.runtime.threads import ThreadTuner
from lowerbound.training.batches import Batch
from lowerbound.training.progress import Progress
from lowerbound.training.recording import RecordedStep
from lowerbound.training.step import TrainingStep

Precision = Literal["auto", "float32", "bfloat16"]
Compute = Callable[[Batch], None]

# The number of steps before the timed ones, while memory is allocated and caches fill, and the
# number of timed steps.
_WARMUP_STEPS, _TIMED_STEPS = 3, 10

# If at least this many steps remain, the code that calls the kernels is compiled too. That takes
# another 5 to 10 seconds, and saves 0.2 to 0.6 milliseconds in each step.
_WORTH_THOROUGHNESS_STEPS = 30_000


# Warnings of torch about a step that is compiled in pieces: the compiler reads gradients of tensors
# that are not leaves, and torch 2.11 names each function of Python that it does not compile.
_USUAL_BETWEEN_PIECES = (
    "The .grad attribute of a Tensor that is not a leaf",
    "Dynamo does not know how to trace the builtin",
)


@dataclass(frozen=True)
class StepOptions:
    """How steps may run.

    Args:
        compile: ``"auto"``: compile if training is long enough, and a few steps show that compiled
            ones are faster. ``"always"``: compile from the second step on. ``"never"``: do not.
        precision: of the networks. ``"auto"``: bfloat16 if the device has matrix units for it and a
            few steps show that it is faster.
        threads: the numbers of processor threads to choose from, beginning with the first; they are
            timed once the other choices are made, and while the compiler works in the background.
        profiled: whether the compiler names its kernels, so that a profile can distinguish them.
    """

    compile: Choice = "never"
    precision: Precision = "float32"
    threads: Sequence[int] = (1,)
    profiled: bool = False


class StepAutotuner:
    """Runs training steps with the option that a few timed steps show to be the fastest.

    Args:
        step: the step to run.
        options: what to choose from.
        batch_size: the batch size of steps that may be compiled. A short last batch runs
            uncompiled, because another shape would need a compilation of its own.
        tell: is called with the line that says what was chosen, and why.
    """

    def __init__(
        self,
        step: TrainingStep,
        options: StepOptions,
        batch_size: int,
        tell: Callable[[str], None],
    ) -> None:
        self.step, self.options, self.batch_size = step, options, batch_size
        self.threads = ThreadTuner(options.threads, "step", tell)
        self.steps_by_threads: Counter[str] = Counter()
        """How many steps of the current epoch each number of threads computed."""
        self.left = 0
        self.compiled_from: int | None = None
        """The number of the first compiled step; ``None`` before it."""
        precisions = [options.precision == "bfloat16"]
        if options.precision == "auto" and multiplies_bfloat16(step.device):
            precisions = [False, True]
        self.tuner: Autotuner[Compute] = Autotuner(
            options.compile,
            self._build,
            step.device,
            unit="step",
            warmup=_WARMUP_STEPS,
            timed=_TIMED_STEPS,
            precisions=precisions,
            describe=self._find_description(),
            tell=tell,
        )

    def close(self) -> None:
        """End a compiler that works in the background."""
        self.tuner.close()

    @property
    def option(self) -> Option:
        """The option with which steps run now."""
        return self.tuner.option

    @property
    def settled_option(self) -> Option:
        """The option with which a resumed run continues; the simplest one before the choice."""
        return self.tuner.settled_option or Option(compiled=False)

    @property
    def decided(self) -> bool:
        """Whether the choice is final."""
        return self.tuner.decided

    @property
    def choices(self) -> dict[str, Any]:
        """The choices with which a resumed run continues, as fields of its progress."""
        option = self.tuner.settled_option
        counts = {"steps_by_threads": dict(self.steps_by_threads)}
        if option is None:
            return counts
        return counts | {
            "compiled": option.compiled,
            "bfloat16": option.bfloat16,
            "threads": self.threads.chosen,
            "compiled_from": self.compiled_from,
        }

    def resume(self, progress: Progress, left: int) -> None:
        """Run steps as an earlier process did, unless the present settings differ.

        Args:
            progress: the progress of the earlier process, with its choices.
            left: the number of remaining steps.
        """
        self.left, self.compiled_from = left, progress.compiled_from
        if progress.compiled is not None:
            bfloat16 = progress.bfloat16 if self.options.precision == "auto" else None
            self.tuner.resume(progress.compiled, bfloat16)
        self.threads.resume(progress.threads)
        self.steps_by_threads.update(progress.steps_by_threads)

    def run(self, batch: Batch, scheduled: Mapping[str, float], left: int) -> None:
        """Choose how to run a step, and run it.

        Args:
            batch: the batch of the step.
            scheduled: the values of the objective's schedules.
            left: the number of remaining steps, including this one.
        """
        threads = str(self.threads.count)
        self._run(batch, scheduled, left)
        self.steps_by_threads[threads] += 1

    def _run(self, batch: Batch, scheduled: Mapping[str, float], left: int) -> None:
        def attempt(option: Option, compute: Compute) -> None:
            dtype = option.network_dtype
            with self.step.attempt(batch, scheduled, network_dtype=dtype) as ready:
                compute(ready)

        if len(batch) != self.batch_size:
            attempt(self.option, self.step.compute)
            return
        if not (self.tuner.in_preparation or self.tuner.is_prepared):
            self.left = left  # kept from then on, so that this process reads the copy's code
        option = self.option
        self.tuner.start()
        if self.tuner.decided or self.tuner.in_preparation:
            with self.threads.timing(left - 1):
                self.tuner.run(attempt)
        else:
            self.tuner.run(attempt)
        if self.option.compiled and self.compiled_from is None:
            self.compiled_from = self.step.taken
        self.tuner.stop(left - 1)
        if self.tuner.decided and not self.option.compiled:
            self.compiled_from = None
        if self.option != option:
            self.threads.start_again()

    def _find_description(self) -> Callable[[], str] | None:
        """Return a function that describes the steps, or ``None`` if they may change shared memory.

        The copy of the process in which the compiler works takes a step too, which must not change
        the weights of this process.
        """
        tensors = [*self.step.all_parameters, *self.step.buffers]
        if any(tensor.is_shared() for tensor in tensors if tensor.device.type == "cpu"):
            return None
        return self._describe

    def _describe(self) -> str:
        """Describe what the compiled code depends on."""
        step = self.step
        return repr((
            step.model,
            [(p.shape, p.dtype, p.requires_grad) for p in step.all_parameters],
            step.objective,
            type(step.optimizer),
            step.clip_norm,
            self.batch_size,
            self.options,
            self._is_thorough,
        ))  # fmt: skip

    @property
    def _is_thorough(self) -> bool:
        return self.left >= _WORTH_THOROUGHNESS_STEPS

    def _build(self, option: Option, whole: bool) -> Compute:
        if not option.compiled:
            return self.step.compute
        parameters = self.step.update.parameters
        if any(p._post_accumulate_grad_hooks or p._backward_hooks for p in parameters):
            raise NotCompilable("a parameter has a hook on its gradient")
        return compile_step(
            self.step,
            whole=whole,
            thoroughly=self._is_thorough,
            profiled=self.options.profiled,
            threads=max(self.options.threads),
        )


def compile_step(
    step: TrainingStep,
    *,
    whole: bool = True,
    thoroughly: bool = False,
    profiled: bool = False,
    threads: int | None = None,
    graphs: bool = True,
) -> Compute:
    """Compile a step's ``compute``. The first call of the result waits for the compiler.

    Args:
        step: the step.
        whole: whether to compile one graph; the compiler fails if something in the model prevents
            that. Otherwise the step is compiled in pieces.
        thoroughly: whether to compile also the code that calls the kernels one after the other on a
            CPU. Otherwise that code is Python.
        profiled: whether to name the kernels in profiles.
        threads: the largest number of processor threads on which kernels run; by default as many as
            torch uses now. If it is not 1, they can run on any smaller number too.
        graphs: whether to record a whole step, on a GPU, as a CUDA graph.
    """
    options = _choose_code_options(
        step.device,
        thoroughly=whole and thoroughly,
        profiled=profiled,
        threads=threads or torch.get_num_threads(),
    )

    def build() -> CompiledFunction:
        any_threads = bool(options.get("cpp.dynamic_threads"))
        return CompiledFunction(step.compute, whole=whole, any_threads=any_threads, **options)

    step.update.recorded = None
    made: Compute = build()
    if whole and graphs and step.device.type == "cuda":
        made = RecordedStep(step, build)

    def compute(batch: Batch) -> None:
        with step.update.raising_its_errors():
            made(batch)

    def compute_in_pieces(batch: Batch) -> None:
        with warnings.catch_warnings():
            for message in _USUAL_BETWEEN_PIECES:
                warnings.filterwarnings("ignore", message, UserWarning)
            compute(batch)

    if whole:
        return compute
    return compute_in_pieces


def _choose_code_options(
    device: torch.device,
    *,
    thoroughly: bool = False,
    profiled: bool = False,
    threads: int = 1,
) -> dict[str, Any]:
    """Choose the options of the compiler's code generator for steps on this device."""
    options: dict[str, Any] = {}
    if device.type == "cpu":
        options |= {"cpp.threads": threads, "cpp.dynamic_threads": threads > 1}
    if profiled:
        options["cpp.enable_kernel_profile"] = True
    if thoroughly and device.type == "cpu":
        options["cpp_wrapper"] = True
    return options


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has units that multiply matrices of bfloat16.

    They are a GPU's tensor cores, or a processor's AMX or AVX-512 BF16.
    """
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device) >= (8, 0))
    if device.type != "cpu":
        return False
    units = torch.cpu.get_capabilities()
    return any(units.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
