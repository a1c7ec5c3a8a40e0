"""A timed choice of how to run repeated work: compiled or not, and in which precision.

The same piece of work, such as a training step, is run a few times with each option, and the
fastest option is kept. One line reports the choice and the reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median
from typing import Generic, TypeVar

import torch

from lowerbound.runtime.background import BackgroundWork, can_copy_process
from lowerbound.runtime.cache_repair import CacheRepair
from lowerbound.runtime.compiled_before import note_compiled, was_compiled
from lowerbound.runtime.compiler import (
    Choice,
    describe_failure,
    describe_place,
    is_compiler_error,
    is_graph_break,
)
from lowerbound.runtime.devices import synchronize

Function = TypeVar("Function")
Result = TypeVar("Result")

# The compiler is tried if at least this many seconds of uncompiled work remain: the first number if
# the work waits for it, the second if it works in the background. Compiling takes 5 to 30 seconds,
# and saves between a fifth and a half of the time. What was compiled in the background, or before,
# is read from the compiler's cache, for which the work waits 2 to 7 seconds. It is read if at least
# the third number of seconds remains.
WORTH_COMPILING_SECONDS = 90.0
WORTH_BACKGROUND_SECONDS = 20.0
WORTH_READING_SECONDS = 10.0


@dataclass(frozen=True)
class Option:
    """One choice of how to run the work: compiled or not, and in which precision."""

    compiled: bool
    bfloat16: bool = False
    """Whether networks multiply matrices in bfloat16."""

    @property
    def network_dtype(self) -> torch.dtype | None:
        """The type in which networks multiply matrices; ``None`` for the type of their weights."""
        return torch.bfloat16 if self.bfloat16 else None

    def __str__(self) -> str:
        return "un" * (not self.compiled) + "compiled" + " in bfloat16" * self.bfloat16


class Stage(Enum):
    """What an autotuner does with pieces of work. Stages follow in this order; some are skipped."""

    TIMING_UNCOMPILED = "uncompiled options are timed"
    PREPARING = "uncompiled work goes on, and the compiler works in a copy of the process"
    TIMING_AGAIN = "uncompiled work is timed again, because the number of threads may have changed"
    TIMING_COMPILED = "compiled options are timed"
    DECIDED = "the choice is final"


class NotCompilable(Exception):
    """Raised by ``build`` of an :class:`Autotuner` for work that must not be compiled."""


class Autotuner(Generic[Function]):
    """Chooses the fastest option for repeated work, in the stages of :class:`Stage`.

    The compiler is tried if the remaining work would take long enough. Where the process can be
    copied, it works in a copy first. That fills its cache, from which this process then reads. If
    the compiler fails, the work continues uncompiled.

    Args:
        choice: ``"auto"``: compile if a trial shows that compiled work is faster. ``"always"``:
            compile after the first piece of work. ``"never"``: do not compile.
        build: makes the function that an option runs. It is given the option, and whether a
            compiled function should be one graph.
        device: the device of the work.
        unit: the name of one piece of work in messages.
        warmup: the number of pieces that are not timed, while memory is allocated and caches fill.
        timed: the number of timed pieces.
        precisions: whether networks compute in bfloat16, for each precision to try.
        fewest_left: the smallest number of remaining pieces for which the compiler is tried.
        in_pieces: whether to compile a function in pieces if it cannot be one graph.
        describe: describes the work, so that code which was compiled for it before is recognised.
            Only if it is given may the compiler work in the background.
        tell: is called with the line that says what was chosen, and why.
    """

    def __init__(
        self,
        choice: Choice,
        build: Callable[[Option, bool], Function],
        device: torch.device,
        *,
        unit: str,
        warmup: int,
        timed: int,
        precisions: Sequence[bool] = (False,),
        fewest_left: int = 0,
        in_pieces: bool = True,
        describe: Callable[[], str] | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.choice, self.build, self.device, self.tell = choice, build, device, tell
        self.unit, self.warmup, self.timed, self.fewest_left = unit, warmup, timed, fewest_left
        self.in_pieces, self.pieces = in_pieces, ""
        self.cache = CacheRepair()
        self.describe = describe
        self.description: str | None = None
        self.background: BackgroundWork | None = None
        self.background_seconds: float | None = None
        self.precisions = list(precisions)
        self.measured: dict[Option, float] = {}
        self.compile_seconds = 0.0
        self.tried_compiling = False
        self.reason: str | None = None
        self.line: str | None = None
        self.began = 0.0
        self.untried: list[Option] = []
        if choice != "always":
            self.untried = [Option(False, bfloat16) for bfloat16 in self.precisions[1:]]
        self.stage = Stage.TIMING_UNCOMPILED
        if choice == "never" and not self.untried:
            self.stage = Stage.DECIDED
        self.functions: dict[Option, Function] = {}
        self._switch(Option(False, self.precisions[0]))

    @property
    def decided(self) -> bool:
        """Whether the choice is final."""
        return self.stage is Stage.DECIDED

    @property
    def settled_option(self) -> Option | None:
        """The option with which a later process continues; ``None`` if that is not decided yet."""
        if self.stage in (Stage.TIMING_COMPILED, Stage.DECIDED):
            return self.option
        return None

    def close(self) -> None:
        """End what works in the background."""
        if self.background is not None:
            self.background.stop()
            self.background = None

    def resume(self, compiled: bool, bfloat16: bool | None) -> None:
        """Use the option that an earlier process chose, so that rounding is the same.

        A choice other than ``"auto"`` takes precedence.

        Args:
            compiled: whether the earlier process ran compiled work.
            bfloat16: whether it computed in bfloat16; ``None`` to leave the precision open.
        """
        if bfloat16 is not None:
            self.precisions = [bfloat16]
        self.untried = []
        self._switch(Option(False, self.precisions[0]))
        if compiled and self.choice != "never":
            self.choice = "always"
            self._start_compiling()
        elif self.choice != "always":
            self.stage = Stage.DECIDED

    def run(self, work: Callable[[Option, Function], Result]) -> Result:
        """Do a piece of work with the function of the current option.

        If the compiler fails, the work is done once more: uncompiled, compiled in pieces, or
        compiled again after an incomplete file was removed from the compiler's cache. So a piece of
        work that raises an error must change nothing.
        """
        if self.stage is Stage.PREPARING and self.background is None:
            try:
                self.background = BackgroundWork(lambda: self._rehearse(work))
            except OSError as error:
                self._settle(f"the process cannot be copied ({error})", compiled=False)
        while True:
            try:
                return work(self.option, self.functions[self.option])
            except Exception as error:
                if not (self.option.compiled and is_compiler_error(error)):
                    raise
                self._respond_to_failure(error)

    def start(self) -> None:
        """Start the clock."""
        if not self.decided:
            synchronize(self.device)
            self.began = time.perf_counter()

    def stop(self, left: float) -> None:
        """Stop the clock after a piece of work; ``left`` is the number of remaining pieces."""
        if not self.decided:
            synchronize(self.device)
            self.record(time.perf_counter() - self.began, left)

    def record(self, seconds: float, left: float) -> None:
        """Record the time of a piece of work, and choose how to run the next one."""
        if self.stage is Stage.PREPARING:
            self._end_preparation()
            return
        self.times.append(seconds)
        if self.choice == "always" and self.stage is Stage.TIMING_UNCOMPILED:
            self._start_compiling()
            return
        needs_no_trial = self.choice == "always" and len(self.precisions) == 1
        if not needs_no_trial and len(self.times) < self.warmup + self.timed:
            return
        typical = median(self.times[self.warmup :] or self.times)
        if self.option.compiled and self.option not in self.measured:
            self.compile_seconds = self.times[0]
            if typical > min(self.measured.values(), default=math.inf):
                # Another program may have slowed this option down, so it is timed once more.
                self.measured[self.option] = typical
                self._switch(self.option)
                return
        elif self.option.compiled:
            typical = min(typical, self.measured[self.option])
        self.measured[self.option] = typical
        if self.untried:
            self._switch(self.untried.pop(0))
        elif self.stage is Stage.TIMING_COMPILED or self.choice == "never":
            self._settle(self._describe_times())
        else:
            self._compile_if_worth_it(left)

    def _compile_if_worth_it(self, left: float) -> None:
        following, least = self._plan_compiling()
        seconds = left * min(self.measured.values())
        if seconds < least * len(self.precisions) or left < self.fewest_left:
            reason = f"the {self.unit}s take {seconds:.0f} s, too little to gain by compiling"
            if len(self.measured) > 1:
                reason += f"; {self._describe_times()}"
            self._settle(reason)
        elif following is Stage.PREPARING:
            self.stage = following
            self._switch(min(self.measured, key=self.measured.__getitem__))
        else:
            self._start_compiling()

    def _plan_compiling(self) -> tuple[Stage, float]:
        """Return the stage that would follow, and the least seconds of work that are worth it."""
        if self.stage is Stage.TIMING_AGAIN:
            return Stage.TIMING_COMPILED, WORTH_READING_SECONDS
        if self.describe is None or not can_copy_process(self.device):
            return Stage.TIMING_COMPILED, WORTH_COMPILING_SECONDS
        self.description = self.describe()
        if was_compiled(self.description):
            return Stage.TIMING_COMPILED, WORTH_READING_SECONDS
        return Stage.PREPARING, WORTH_BACKGROUND_SECONDS

    def _start_compiling(self) -> None:
        """From now on, run compiled work in every precision in turn."""
        self.stage, self.tried_compiling = Stage.TIMING_COMPILED, True
        first, *self.untried = [Option(True, bfloat16) for bfloat16 in self.precisions]
        try:
            self._switch(first)
        except NotCompilable as error:
            self._settle(str(error), compiled=False)
        except (RuntimeError, OSError) as error:
            # The compiler may not know this version of Python, or cannot write to its cache.
            self._settle(describe_failure(error), compiled=False)

    def _end_preparation(self) -> None:
        """Go on to the next stage once the compiler has finished in the background."""
        background = self.background
        if background is None or not background.ended:
            return
        self.background = None
        self.background_seconds = time.monotonic() - background.began
        if background.failure is not None:
            self._settle(background.failure, compiled=False)
        else:
            self.stage = Stage.TIMING_AGAIN
            self._switch(self.option)

    def _rehearse(self, work: Callable[[Option, Function], Result]) -> str | None:
        """Do a piece of work with each compiled option, in a copy of the process.

        Returns:
            Why the work cannot be compiled, or ``None`` if it can be.
        """
        self.tell = lambda line: None
        self._start_compiling()
        for option in [self.option, *self.untried]:
            if not self.decided:  # which it is only if the compiler fails
                self._switch(option)
                self.run(work)
        return self.reason

    def _switch(self, option: Option) -> None:
        """From now on, run this option."""
        self.option: Option = option
        self.times: list[float] = []
        if option not in self.functions:
            self.functions[option] = self.build(option, not self.pieces)

    def _respond_to_failure(self, error: Exception) -> None:
        if self.in_pieces and not self.pieces and is_graph_break(error):
            self.pieces = f", in pieces because of {describe_place(error)}"
        elif not self.cache.repair(error):
            self._settle(describe_failure(error), compiled=False)
            return
        self.functions[self.option] = self.build(self.option, not self.pieces)

    def _settle(self, reason: str, *, compiled: bool = True) -> None:
        """Keep the fastest option that was timed, or the fastest uncompiled one."""
        timed = [option for option in self.measured if compiled or not option.compiled]
        plain = Option(False, self.precisions[0])
        self._switch(min(timed, key=self.measured.__getitem__, default=plain))
        self.stage = Stage.DECIDED
        if self.option.compiled and self.description is not None and not self.pieces:
            note_compiled(self.description)
        self.reason, self.line = reason, f"{self.option}: {reason}"
        self.tell(self.line)

    def _describe_times(self) -> str:
        compiling = f"{self.compile_seconds:.0f} s to compile{self.pieces}"
        if self.background_seconds is not None:
            compiling = f"{self.background_seconds:.0f} s to compile in the background, then "
            compiling += f"{self.compile_seconds:.0f} s to read the result{self.pieces}"
        if len(self.measured) == 1 and self.option.compiled:
            return compiling
        best, *others = sorted(self.measured, key=self.measured.__getitem__)
        line = f"{1e3 * self.measured[best]:.3g} ms a {self.unit}"
        line += "".join(f", {option} {1e3 * self.measured[option]:.3g} ms" for option in others)
        if self.tried_compiling:
            line += f"; {compiling}"
        return line
