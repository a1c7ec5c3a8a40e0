"""Settings of an objective that change during training, such as the rate's weight in a warm-up."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

from lowerbound.describe import describable
from lowerbound.errors import SettingsError


class Schedule(ABC):
    """A setting whose value depends on the step or epoch. Outside of training it has its end value.

    To write your own: a frozen dataclass, decorated with :func:`lowerbound.describable`, with the
    three members below.
    """

    @property
    @abstractmethod
    def end(self) -> float:
        """The final value."""

    @abstractmethod
    def at(self, step: int, epoch: float) -> float:
        """The value after ``step`` optimiser steps, or ``epoch`` epochs."""

    @abstractmethod
    def ended(self, step: int, epoch: float) -> bool:
        """Whether the value no longer changes."""


@describable
@dataclass(frozen=True)
class Ramp(Schedule):
    """A linear change from one value to another, constant afterwards.

    Args:
        start: the value before the first step.
        stop: the value from the end of the ramp on.
        epochs: the length of the ramp in epochs.
        steps: the length in optimiser steps, instead.

    Raises:
        SettingsError: unless exactly one length is given, and is positive, and the values are
            finite.

    Example:
        >>> warmup = Ramp(0.0, 1.0, epochs=100)
        >>> warmup.at(step=600, epoch=1.0), warmup.at(step=120_000, epoch=200.0), warmup.end
        (0.01, 1.0, 1.0)
    """

    start: float
    stop: float
    epochs: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise SettingsError("Ramp: give the length once, as epochs= or as steps=")
        for name in ("start", "stop", "epochs", "steps"):
            if getattr(self, name) is not None:
                check_number(f"Ramp: {name}", getattr(self, name))
        length = self.steps if self.epochs is None else self.epochs
        if length is None or length <= 0:
            raise SettingsError(f"Ramp: the length must be positive, not {length}")

    @property
    def end(self) -> float:
        """``stop``."""
        return self.stop

    def at(self, step: int, epoch: float) -> float:
        """The value on the ramp, or ``stop`` after its end."""
        progress = self._measure_progress(step, epoch)
        if progress >= 1:
            return self.stop
        return self.start + progress * (self.stop - self.start)

    def ended(self, step: int, epoch: float) -> bool:
        """Whether the value is ``stop`` from now on."""
        return self._measure_progress(step, epoch) >= 1

    def _measure_progress(self, step: int, epoch: float) -> float:
        if self.steps is not None:
            return step / self.steps
        return epoch / (self.epochs or math.inf)


def get_value(number: float | Schedule | Tensor) -> float | Tensor:
    """Return a setting's value: a number, a schedule's end value, or in training a 0-d tensor."""
    if isinstance(number, Schedule):
        return number.end
    return number


def is_always(value: float | Tensor, number: float) -> bool:
    """Whether a setting is this number and does not change during training."""
    return not isinstance(value, Tensor) and value == number


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Check that a setting is a finite number from ``low`` to ``high``, or a schedule within them.

    Raises:
        SettingsError: naming it, and what is allowed.
    """
    if isinstance(value, Tensor) and not value.dim():  # a schedule's value in training
        return
    ends: tuple[Any, ...] = (value,)
    if isinstance(value, Schedule):
        ends = (value.at(0, 0.0), value.end)
    for number in ends:
        real = isinstance(number, Real) and not isinstance(number, bool)
        if not real or not math.isfinite(number) or not low <= number <= high:
            raise SettingsError(
                f"{name}={value!r} must be a finite number{_describe_range(low, high)}"
            )


def _describe_range(low: float, high: float) -> str:
    if high < math.inf:
        return f" from {low:g} to {high:g}"
    if low > -math.inf:
        return f" of at least {low:g}"
    return ""


def was_cut_short(schedule: Mapping[str, Any]) -> bool:
    """Whether a recorded schedule stopped at a value whose first three digits are not its end's.

    The record has the keys ``"reached"``, ``"end"`` and ``"ended"``.
    """
    reached, end = f"{schedule['reached']:.3g}", f"{schedule['end']:.3g}"
    return not schedule.get("ended", False) and reached != end
