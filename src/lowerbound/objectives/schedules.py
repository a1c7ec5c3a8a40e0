"""Settings of an objective that change while it trains, such as the weight of the rate in a warm-up."""

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
    """A number that depends on how far a training is. Outside of a training it stands at its end.

    To write your own: a frozen dataclass, decorated with :func:`lowerbound.describable`, with the three members below.
    """

    @property
    @abstractmethod
    def end(self) -> float:
        """The value that it comes to."""

    @abstractmethod
    def at(self, step: int, epoch: float) -> float:
        """The value when ``step`` optimiser steps, or ``epoch`` passes over the data, have been taken."""

    @abstractmethod
    def ended(self, step: int, epoch: float) -> bool:
        """Whether the value no longer changes."""


@describable
@dataclass(frozen=True)
class Ramp(Schedule):
    """From one value to another in a straight line, and then constant.

    Args:
        start: the value before the first step.
        stop: the value from the end of the ramp on.
        epochs: the length of the ramp in passes over the data.
        steps: its length in optimiser steps, instead of epochs.

    Raises:
        SettingsError: unless exactly one length is given, and is positive, and the values are finite.

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
            raise SettingsError("Ramp: give its length once, as epochs= or as steps=")
        for name in ("start", "stop", "epochs" if self.steps is None else "steps"):
            check_number(f"Ramp: {name}", getattr(self, name))
        length = self.epochs if self.steps is None else self.steps
        if length is None or length <= 0:
            raise SettingsError(f"Ramp: a length of {length} must be positive")

    @property
    def end(self) -> float:
        """``stop``."""
        return self.stop

    def at(self, step: int, epoch: float) -> float:
        """The value on the line, or ``stop`` beyond its end."""
        progress = self._progress(step, epoch)
        return self.stop if progress >= 1 else self.start + progress * (self.stop - self.start)

    def ended(self, step: int, epoch: float) -> bool:
        """Whether the line is behind."""
        return self._progress(step, epoch) >= 1

    def _progress(self, step: int, epoch: float) -> float:
        return step / self.steps if self.steps is not None else epoch / (self.epochs or math.inf)


def value_of(number: float | Schedule | Tensor) -> float | Tensor:
    """A number as it is, and a schedule's end. While it trains, a schedule's value is a tensor without dimensions."""
    return number.end if isinstance(number, Schedule) else number


def is_always(value: float | Tensor, number: float) -> bool:
    """Whether a setting is a number that does not change while it trains."""
    return not isinstance(value, Tensor) and value == number


def check_number(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> None:
    """Refuse what is no finite number from ``low`` to ``high``, and a schedule that goes outside of them.

    Raises:
        SettingsError: naming it, and what is allowed.
    """
    if isinstance(value, Tensor) and not value.dim():  # a schedule's value while it trains
        return
    ends = (value.at(0, 0.0), value.end) if isinstance(value, Schedule) else (value,)
    for number in ends:
        real = isinstance(number, Real) and not isinstance(number, bool)
        if not real or not math.isfinite(number) or not low <= number <= high:
            least = "" if low == -math.inf else f" of at least {low:g}"
            allowed = f" from {low:g} to {high:g}" if high < math.inf else least
            raise SettingsError(f"{name}={value!r} must be a finite number{allowed}")


def cut_short(schedule: Mapping[str, Any]) -> bool:
    """Whether a recorded schedule, ``{"reached", "end", "ended"}``, stopped where three digits tell it from its end."""
    return (
        not schedule.get("ended", False)
        and f"{schedule['reached']:.3g}" != f"{schedule['end']:.3g}"
    )
