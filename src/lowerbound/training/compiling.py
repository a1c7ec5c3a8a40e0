"""How the steps of a training are taken, compiled or not and in which precision: decided by a few timed steps, told in one line."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from lowerbound.runtime.compiler import WORTH_COMPILING, Choice, failure, is_the_compilers, place
from lowerbound.runtime.devices import synchronize
from lowerbound.training.step import TrainingStep

Precision = Literal["auto", "float32", "bfloat16"]

# Steps before the timed ones, in which memory is allocated and caches fill, and the timed ones.
_FIRST, _TIMED = 3, 10

# Steps still to take from which on they are compiled thoroughly: 5 to 10 seconds for 0.2 to 0.5 milliseconds a step.
_WORTH_THOROUGHNESS = 30_000


@dataclass(frozen=True)
class Way:
    """One way to take steps."""

    compiled: bool
    half: bool
    """Whether networks compute in bfloat16."""

    def __str__(self) -> str:
        return ("compiled" if self.compiled else "uncompiled") + (
            " in bfloat16" if self.half else ""
        )


@dataclass(eq=False)
class Pacer:
    """Takes the steps of a training, compiled or not, in one precision or another.

    Args:
        step: to take.
        choice: ``"auto"``: compiled where the training is long enough to gain by it, and a few steps show that it does.
            ``"always"``: from the second step on. ``"never"``.
        precision: of the networks. ``"auto"``: bfloat16 where there are matrix units for it, and a few steps show that they are
            quicker.
        batch_size: of the steps that may be compiled; a last short one is taken uncompiled, for one of another shape would
            have to be compiled for itself.
        tell: is given the line that says what was decided, and why.
    """

    step: TrainingStep
    choice: Choice
    precision: Precision
    batch_size: int
    tell: Callable[[str], None]
    times: list[float] = field(default_factory=list)
    measured: dict[Way, float] = field(default_factory=dict)
    left: int = 0
    pieces: str = ""
    compile_seconds: float = 0.0

    def __post_init__(self) -> None:
        asked = [self.precision == "bfloat16"]
        if self.precision == "auto":
            asked = [False, True] if multiplies_bfloat16(self.step.device) else [False]
        self.precisions = asked
        self.way = Way(False, asked[0])
        self.trying = [] if self.choice == "always" else [Way(False, half) for half in asked[1:]]
        self.may_compile = self.choice != "never"
        self.decided = not (self.trying or self.may_compile)
        self.made: dict[Way, Callable[[Tensor], None]] = {}
        self._go(self.way)

    @property
    def compiles(self) -> bool:
        """Whether the steps are compiled now."""
        return self.way.compiled

    @property
    def verdict(self) -> Way | None:
        """How steps are taken from here on; ``None`` if that is not decided."""
        return self.way if self.decided or self.compiles else None

    def resume(self, compiled: bool | None, half: bool | None, left: int) -> None:
        """Go on as an earlier training did, so that rounding is the same, but for what is asked for now.

        Args:
            compiled: whether its steps were; ``None`` where that was not decided.
            half: whether its networks computed in bfloat16; likewise.
            left: how many steps there will be.
        """
        self.left = left
        if compiled is None:
            return
        if self.precision == "auto" and half is not None:
            self.precisions = [half]
        compiled = compiled and self.choice != "never"
        self.decided = not compiled and self.choice != "always"
        self.trying, self.may_compile, self.choice = (
            [],
            not self.decided,
            "always" if compiled else self.choice,
        )
        self._go(Way(False, self.precisions[0]))
        if compiled:
            self._compile()

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
        synchronize(self.step.device)
        self.left = left
        began, way = time.perf_counter(), self.way
        self._take(batch, scheduled)
        synchronize(self.step.device)
        if self.way is not way or self.decided:
            return  # because the compiler failed
        self.times.append(time.perf_counter() - began)
        self._consider()

    def _take(self, batch: Tensor, scheduled: Mapping[str, float]) -> None:
        """A step, which is taken uncompiled, like all later ones, if the compiler fails."""
        try:
            self.step(batch, scheduled, compiled=self.compiles)
        except Exception as error:
            if not (self.compiles and is_the_compilers(error)):
                raise
            if isinstance(error, torch._dynamo.exc.Unsupported) and not self.pieces:
                self.pieces = f", in pieces because of {place(error)}"
                self._make(self.way)
                self._take(batch, scheduled)
                return
            self._settle(failure(error), compiled=False)
            self.step(batch, scheduled)

    def _consider(self) -> None:
        """After a step that was timed: whether to try another way, or to stay with the best."""
        enough = 1 if self.choice == "always" and len(self.precisions) == 1 else _FIRST + _TIMED
        if self.choice == "always" and not self.compiles:
            self._compile()
            return
        if len(self.times) < enough:
            return
        self.measured[self.way] = median(self.times[_FIRST:] or self.times)
        if self.compiles:
            self.compile_seconds = self.times[0]
        if self.trying:
            self._go(self.trying.pop(0))
            return
        seconds = (self.left - 1) * min(self.measured.values())
        if not self.may_compile:
            self._settle(self._figures())
        elif seconds < WORTH_COMPILING * len(self.precisions):
            others = f"; {self._figures()}" if len(self.measured) > 1 else ""
            self._settle(f"the steps take {seconds:.0f} s, too little to gain by compiling{others}")
        else:
            self._compile()

    def _compile(self) -> None:
        """From now on, compiled steps in every precision that is asked for."""
        if any(p._post_accumulate_grad_hooks or p._backward_hooks for p in self.step.parameters):
            self._settle("a parameter has a hook on its gradient", compiled=False)
            return
        self.may_compile = False
        first, *self.trying = [Way(True, half) for half in self.precisions]
        try:
            self._go(first)
        except RuntimeError as error:  # as where it does not know this version of Python
            self._settle(failure(error), compiled=False)

    def _go(self, way: Way) -> None:
        """From now on, steps of this way."""
        self.way, self.times = way, []
        self.step.half = way.half
        if not way.compiled:
            self.step.compiled = None
        elif way in self.made:
            self.step.compiled = self.made[way]
        else:
            self._make(way)

    def _make(self, way: Way) -> None:
        self.step.compile(whole=not self.pieces, thoroughly=self.left >= _WORTH_THOROUGHNESS)
        assert self.step.compiled is not None
        self.made[way] = self.step.compiled

    def _figures(self) -> str:
        if len(self.measured) == 1 and self.compiles:
            return f"{self.compile_seconds:.0f} s to compile{self.pieces}"
        best, *others = sorted(self.measured, key=self.measured.__getitem__)
        line = f"{1e3 * self.measured[best]:.3g} ms a step"
        line += "".join(f", {way} {1e3 * self.measured[way]:.3g} ms" for way in others)
        return line + (
            f"; {self.compile_seconds:.0f} s to compile{self.pieces}" if self.made else ""
        )

    def _settle(self, reason: str, compiled: bool = True) -> None:
        """Stay with the quickest of the ways that were timed, or of the uncompiled ones."""
        ways = [way for way in self.measured if compiled or not way.compiled] or [
            Way(False, self.precisions[0])
        ]
        self._go(min(ways, key=lambda way: self.measured.get(way, 0.0)))
        self.decided = True
        self.tell(f"{self.way}: {reason}")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has units that multiply matrices of bfloat16: tensor cores, or a processor's AMX or AVX-512 BF16."""
    if device.type == "cuda":
        return bool(torch.cuda.get_device_capability(device) >= (8, 0))
    units = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return any(units.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
