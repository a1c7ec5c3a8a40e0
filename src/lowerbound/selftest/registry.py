"""The definition and the list of the checks, and the functions that run them."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

import torch

from lowerbound.errors import SettingsError, TrainingWarning
from lowerbound.runtime.modes import seeded
from lowerbound.runtime.noise import derived_seed

# A measurement of the difference, or of several.
Measure = Callable[[], float | Iterable[float]]


@dataclass(frozen=True)
class Check:
    """A statement about this library's results, and how to measure whether it holds.

    Args:
        name: the name for ``--only``.
        statement: what holds, in words.
        tolerance: the largest difference that is allowed.
        measure: measures the difference, which is 0 if the statement holds exactly. If it has
            several parts, it may yield the difference of each: the largest counts, and after one
            that is too large the others are not computed.
        thorough: whether the check is so slow that it runs only on request.
    """

    name: str
    statement: str
    tolerance: float
    measure: Measure
    thorough: bool = False


@dataclass(frozen=True)
class Outcome:
    """The result of a check.

    Args:
        name: the name of the check.
        statement: its statement.
        measured: the difference that was measured; nan if the check raised an error.
        tolerance: the largest difference that is allowed.
        seconds: the time that the check took.
        error: the message of the error that the check raised, or ``None``.
    """

    name: str
    statement: str
    measured: float
    tolerance: float
    seconds: float
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the statement holds. It does not hold if the difference is nan."""
        return self.error is None and self.measured <= self.tolerance


CHECKS: dict[str, Check] = {}


def check(
    name: str, statement: str, *, tolerance: float, thorough: bool = False
) -> Callable[[Measure], Measure]:
    """Decorator: the function measures how far a statement is from being true.

    To write your own: write a function without arguments that returns the largest difference, or
    yields several, in the file of its subject. It draws from torch's generator, which is seeded
    before the call. Its docstring says how often the check would fail by chance with another seed.

    Args:
        name: the name for ``--only``.
        statement: what holds, in words.
        tolerance: the largest difference that is allowed.
        thorough: whether the check is so slow that it runs only on request.
    """

    def register(measure: Measure) -> Measure:
        if name in CHECKS:
            raise ValueError(f"two checks are called {name!r}")
        CHECKS[name] = Check(name, statement, tolerance, measure, thorough)
        return measure

    return register


def choose_checks(thorough: bool = False, only: Iterable[str] = ()) -> list[Check]:
    """Choose the checks to run, in their order.

    Args:
        thorough: whether to run the thorough checks too.
        only: the names of the checks to run; all checks if it is empty.

    Raises:
        SettingsError: for an unknown name, with the most similar known one.
    """
    names = list(only)
    for name in names:
        if name not in CHECKS:
            near = get_close_matches(name, CHECKS, n=1, cutoff=0.0)
            raise SettingsError(f"selftest: {name!r} is not a check; did you mean {near[0]!r}?")
    if names:
        return [entry for entry in CHECKS.values() if entry.name in names]
    return [entry for entry in CHECKS.values() if thorough or not entry.thorough]


def run_each(thorough: bool = False, only: Iterable[str] = ()) -> Iterator[Outcome]:
    """Run the checks one by one, and yield the outcome of each; see :func:`run_checks`.

    Raises:
        SettingsError: for an unknown name.
    """
    return (_run_check(entry) for entry in choose_checks(thorough, only))


def run_checks(thorough: bool = False, only: Iterable[str] = ()) -> list[Outcome]:
    """Run the checks.

    Each check has its own seed, so its result does not depend on the other checks that run. Torch's
    random state, gradient mode and number of threads are restored afterwards. If a check raises an
    error, its statement does not hold.

    Args:
        thorough: whether to run the thorough checks too, which are slow.
        only: the names of the checks to run; all checks if it is empty.

    Raises:
        SettingsError: for an unknown name, with the most similar known one.

    Example:
        >>> [outcome] = run_checks(only=["gaussian-kl"])
        >>> outcome.passed, outcome.measured <= outcome.tolerance == 1e-10
        (True, True)
    """
    return list(run_each(thorough, only))


def _run_check(entry: Check) -> Outcome:
    start, measured, error = time.perf_counter(), math.nan, None
    try:
        with _isolate(entry.name):
            measured = _find_largest(entry.measure(), entry.tolerance)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    seconds = time.perf_counter() - start
    return Outcome(entry.name, entry.statement, measured, entry.tolerance, seconds, error)


def _find_largest(found: float | Iterable[float], tolerance: float) -> float:
    """The largest difference, or the first that is above the tolerance or nan."""
    if not isinstance(found, Iterable):
        return float(found)
    largest = 0.0
    for difference in found:
        if not difference <= tolerance:
            return float(difference)
        largest = max(largest, float(difference))
    return largest


@contextmanager
def _isolate(name: str) -> Iterator[None]:
    """Within the block, torch uses one thread and a seed that belongs to the name.

    Models that are trained for a few steps may be worse than independent entries.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seed = derived_seed(0, "selftest", name)
    try:
        with (
            seeded(seed, torch.device("cpu")),
            torch.enable_grad(),
            warnings.catch_warnings(action="ignore", category=TrainingWarning),
        ):
            yield
    finally:
        torch.set_num_threads(threads)
