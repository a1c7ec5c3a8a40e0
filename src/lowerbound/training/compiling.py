"""Whether the steps of a training are compiled: decided by what a few timed steps say, and told in one line."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from lowerbound.training.step import TrainingStep

Choice = Literal["auto", "always", "never"]

# Steps before the timed ones, in which memory is allocated and caches fill, and the timed ones.
_FIRST, _TIMED = 3, 10

# Seconds of uncompiled steps still to take from which on the compiler is asked. It takes about 30 seconds itself, and saves
# a fifth to a half of the time of a step.
_WORTH_COMPILING = 120.0


@dataclass(eq=False)
class Pacer:
    """Takes the steps of a training, compiled or not.

    Args:
        step: to take.
        choice: ``"auto"``: compiled where the training is long enough to gain by it, and a few steps show that it does.
            ``"always"``: from the second step on. ``"never"``.
        batch_size: of the steps that may be compiled; a last short one is taken uncompiled, for one of another shape would
            have to be compiled for itself.
        tell: is given the line that says what was decided, and why.
    """

    step: TrainingStep
    choice: Choice
    batch_size: int
    tell: Callable[[str], None]
    times: list[float] = field(default_factory=list)
    uncompiled: float | None = None
    pieces: str = ""

    def __post_init__(self) -> None:
        self.decided = self.choice == "never"

    @property
    def compiles(self) -> bool:
        """Whether the steps are compiled now."""
        return self.step.compiled is not None

    @property
    def verdict(self) -> bool | None:
        """Whether the steps are compiled from here on; ``None`` if that is not decided, and they are not compiled now."""
        return True if self.compiles else False if self.decided else None

    def resume(self, verdict: bool | None) -> None:
        """Go on as an earlier training did, so that rounding is the same."""
        if verdict is None or self.choice == "never":
            return
        if verdict:
            self.choice = "always"
            self._begin()
        elif self.choice == "auto":
            self.decided = True

    def __call__(self, batch: Tensor, scheduled: Mapping[str, float], left: int) -> None:
        """Take a step.

        Args:
            batch: of the feed.
            scheduled: values of the objective's schedules.
            left: how many steps there will be, this one included.
        """
        if len(batch) != self.batch_size:
            self.step(batch, scheduled)
            return
        if self.decided:
            self._take(batch, scheduled)
            return
        self._synchronize()
        began, compiled = time.perf_counter(), self.compiles
        self._take(batch, scheduled)
        self._synchronize()
        self.times.append(time.perf_counter() - began)
        if self.decided:
            return  # by the compiler, which failed
        if compiled:
            self._compare()
        else:
            self._consider(left - 1)

    def _take(self, batch: Tensor, scheduled: Mapping[str, float]) -> None:
        """A step, which is taken uncompiled, like all later ones, if the compiler fails."""
        try:
            self.step(batch, scheduled, compiled=self.compiles)
        except Exception as error:
            if not (self.compiles and _is_the_compilers(error)):
                raise
            if isinstance(error, torch._dynamo.exc.Unsupported) and not self.pieces:
                self.pieces = f", in pieces because of {_place(error)}"
                self.step.compile(whole=False)
                self._take(batch, scheduled)
                return
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            self._settle(f"uncompiled: the compiler failed ({reason})", compiled=False)
            self.step(batch, scheduled)

    def _consider(self, left: int) -> None:
        """After an uncompiled step: whether to ask the compiler."""
        if self.choice == "always":
            self._begin()
            return
        if len(self.times) < _FIRST + _TIMED:
            return
        self.uncompiled = median(self.times[_FIRST:])
        seconds = left * self.uncompiled
        if seconds < _WORTH_COMPILING:
            self._settle(f"uncompiled: the steps take {seconds:.0f} s, too little to gain by compiling", compiled=False)
        else:
            self._begin()

    def _begin(self) -> None:
        if any(parameter._post_accumulate_grad_hooks for parameter in self.step.parameters):
            self._settle("uncompiled: a parameter has a hook on its gradient", compiled=False)
            return
        self.step.compile()
        self.times = []

    def _compare(self) -> None:
        """After a compiled step: whether to go on so."""
        if self.choice == "always":
            self._settle(f"compiled in {self.times[0]:.0f} s{self.pieces}", compiled=True)
        if self.uncompiled is None or len(self.times) < _FIRST + _TIMED:
            return
        compiled = median(self.times[_FIRST:])
        figures = f"{1e3 * compiled:.3g} ms a step, uncompiled {1e3 * self.uncompiled:.3g} ms"
        gains = compiled < self.uncompiled
        verdict = "compiled" if gains else "uncompiled"
        self._settle(f"{verdict}: compiled in {self.times[0]:.0f} s{self.pieces} to {figures}", gains)

    def _settle(self, line: str, compiled: bool) -> None:
        self.decided = True
        if not compiled:
            self.step.compiled = None
        self.tell(line)

    def _synchronize(self) -> None:
        if self.step.device.type == "cuda":
            torch.cuda.synchronize(self.step.device)


def _is_the_compilers(error: Exception) -> bool:
    """Whether the compiler failed: as it compiled, or because a changing model had it compile again and again."""
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
    from torch._inductor.exc import InvalidCxxCompiler

    return isinstance(error, (TorchDynamoException, FailOnRecompileLimitHit, InvalidCxxCompiler))


def _place(error: Exception) -> str:
    """Where the compiler could not go on: the last line of code that its message names."""
    places = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    return "{}, line {}".format("/".join(Path(places[-1][0]).parts[-2:]), places[-1][1]) if places else "the model"
