"""The choice of how training runs its steps: compiled or not, and in which precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lowerbound.runtime.autotune import Autotuner, NotCompilable, Option, Stage
from lowerbound.runtime.compiled_before import read_sources
from lowerbound.runtime.compiler import Choice
from lowerbound.runtime.products import ProductChoice
from lowerbound.runtime.threads import ThreadTuner
from lowerbound.training.batches import Batch
from lowerbound.training.compiled_step import Compute, compile_step
from lowerbound.training.progress import Progress
from lowerbound.training.step import TrainingStep
from lowerbound.training.traced_update import describe_rules

Precision = Literal["auto", "float32", "bfloat16"]

# The number of steps before the timed ones, while memory is allocated and caches fill, and the
# number of timed steps.
_WARMUP_STEPS, _TIMED_STEPS = 3, 10

# If at least this many steps remain, the code that calls the kernels is compiled too. That takes
# another 5 to 10 seconds, and saves 0.2 to 0.6 milliseconds in each step.
_WORTH_THOROUGHNESS_STEPS = 30_000


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
        all_but_most = [each for each in options.threads if each < max(options.threads)]
        self._threads_alone = ThreadTuner(options.threads, "step", tell)
        self._threads_beside = ThreadTuner(all_but_most or options.threads, "step", tell)
        self.steps_by_threads: Counter[str] = Counter()
        """How many steps of the current epoch each number of threads computed."""
        self.left = 0
        self.compiled_from: int | None = None
        """The number of the first compiled step; ``None`` before it."""
        self._products = ProductChoice(step.device)
        self._last: Compute | None = None
        """What computed the last step; ``None`` if that failed."""
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

    @property
    def threads(self) -> ThreadTuner:
        """What chooses the number of threads.

        While the compiler works in the background, the largest number is not used, so that a core
        is left for the compiler. It has a lower priority, and would take two or three times as
        long.
        """
        if self.tuner.stage is Stage.PREPARING:
            return self._threads_beside
        return self._threads_alone

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
            "onednn_products": self._products.made,
        }

    def record(self) -> dict[str, Any]:
        """What the record of an epoch says about how its steps ran."""
        record: dict[str, Any] = {}
        if len(self.options.threads) > 1:
            record["steps_by_threads"] = dict(self.steps_by_threads)
        if self.compiled_from is not None:
            record |= {
                "compiled_from": self.compiled_from,
                "onednn_products": self._products.make(),
            }
        return record

    def resume(self, progress: Progress, left: int) -> None:
        """Run steps as an earlier process did, unless the present settings differ.

        Args:
            progress: the progress of the earlier process, with its choices.
            left: the number of remaining steps.
        """
        self.left = left
        if progress.compiled is not None:
            bfloat16 = progress.bfloat16 if self.options.precision == "auto" else None
            if progress.compiled:
                self._products.resume(progress.onednn_products or ())
            self.tuner.resume(progress.compiled, bfloat16)
        if self.option.compiled:
            self.compiled_from = progress.compiled_from
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
            # What has not changed since the last step may have changed since the last step that
            # this function computed.
            if self._last != compute:
                self.step.is_unchanged = False
            self._last = None
            dtype = option.network_dtype
            with self.step.attempt(batch, scheduled, network_dtype=dtype) as ready:
                if option.compiled or self.decided or len(batch) != self.batch_size:
                    compute(ready)
                else:
                    self._products.run(lambda: compute(ready))
            self._last = compute

        if len(batch) != self.batch_size:
            attempt(self.option, self.step.compute)
            return
        stage, option, threads = self.tuner.stage, self.option, self.threads
        if stage is Stage.TIMING_UNCOMPILED:
            # Not in later stages, so that the code that the copy compiles is what is read later.
            self.left = left
        self.tuner.start()
        if stage in (Stage.PREPARING, Stage.DECIDED):
            with threads.timing(left - 1):
                self.tuner.run(attempt)
        else:
            self.tuner.run(attempt)
            if self.option.compiled and self.compiled_from is None:
                self.compiled_from = self.step.taken
        self.tuner.stop(left - 1)
        if (self.tuner.stage, self.option) != (stage, option):
            threads.start_again()
            self.threads.replace(threads)
            if not self.option.compiled:
                self.compiled_from = None

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
            read_sources([*step.model.modules(), step.objective]),
            [(p.shape, p.dtype, p.requires_grad) for p in step.all_parameters],
            step.objective,
            type(step.optimizer),
            describe_rules(step.optimizer, step.update.parameters),
            step.clip_norm,
            step.is_watched,
            self.batch_size,
            self.options,
            self._is_thorough,
            self._products.make(),  # before a copy of the process, where a trial would not be valid
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
            onednn_products=self._products.make(),
        )


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
