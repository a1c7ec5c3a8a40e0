"""What a check is, the list of them, and running some."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

import torch

from lowerbound.errors import SettingsError
from lowerbound.runtime.modes import seeded
from lowerbound.runtime.noise import derived_seed


@dataclass(frozen=True)
class Check:
    """A statement about the numbers of this library that holds or does not.

    Args:
        name: how ``--only`` calls it.
        statement: what holds, in plain words.
        tolerance: how large the measured difference may be.
        measure: gives that difference, which is 0 where the statement holds exactly.
        thorough: whether it takes so long that it is left out unless asked for.
    """

    name: str
    statement: str
    tolerance: float
    measure: Callable[[], float]
    thorough: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a check.

    Args:
        name: of the check.
        statement: that it is about.
        measured: the difference that was found; nan where the check ended in an error.
        tolerance: how large it may be.
        seconds: that it took.
        error: the message of the error in which it ended.
    """

    name: str
    statement: str
    measured: float
    tolerance: float
    seconds: float
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the statement holds; something that is not a number never does."""
        return self.error is None and self.measured <= self.tolerance


CHECKS: dict[str, Check] = {}


def check(
    name: str, statement: str, *, tolerance: float, thorough: bool = False
) -> Callable[[Callable[[], float]], Callable[[], float]]:
    """Decorator: the function measures by how much a statement fails to hold.

    To write your own: a function without arguments that returns the largest difference found, in the file of its subject.
    It draws from torch's generator, which has been seeded for it, and says in its docstring how often it would fail by
    chance for another seed.
    """

    def register(measure: Callable[[], float]) -> Callable[[], float]:
        if name in CHECKS:
            raise ValueError(f"two checks are called {name!r}")
        CHECKS[name] = Check(name, statement, tolerance, measure, thorough)
        return measure

    return register


def chosen(thorough: bool = False, only: Iterable[str] = ()) -> list[Check]:
    """The checks to run, in their order: those named, or all but the thorough ones, or all.

    Raises:
        SettingsError: for a name that there is not, with the nearest that there is.
    """
    names = list(only)
    for name in names:
        if name not in CHECKS:
            near = get_close_matches(name, CHECKS, n=1, cutoff=0.0)
            raise SettingsError(f"selftest: there is no check {name!r}; did you mean {near[0]!r}?")
    if names:
        return [entry for entry in CHECKS.values() if entry.name in names]
    return [entry for entry in CHECKS.values() if thorough or not entry.thorough]


def outcomes(thorough: bool = False, only: Iterable[str] = ()) -> Iterator[Outcome]:
    """The outcome of each check as it ends.

    Raises:
        SettingsError: for a name that there is not.
    """
    return (_outcome(entry) for entry in chosen(thorough, only))


def run_checks(thorough: bool = False, only: Iterable[str] = ()) -> list[Outcome]:
    """Run the checks, and say what became of each.

    Each draws from a seed of its own, so that its figure is the same whichever others run, and torch's random state, mode
    and number of threads are afterwards what they were. An error within a check is a statement that does not hold.

    Args:
        thorough: also those that take long.
        only: the names of those to run, in place of all.

    Raises:
        SettingsError: for a name that there is not, with the nearest that there is.

    Example:
        >>> [outcome] = run_checks(only=["gaussian-kl"])
        >>> outcome.passed, outcome.measured <= outcome.tolerance == 1e-10
        (True, True)
    """
    return list(outcomes(thorough, only))


def _outcome(entry: Check) -> Outcome:
    began, measured, error = time.perf_counter(), math.nan, None
    try:
        with _apart(entry.name):
            measured = float(entry.measure())
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"
    return Outcome(
        entry.name, entry.statement, measured, entry.tolerance, time.perf_counter() - began, error
    )


@contextmanager
def _apart(name: str) -> Iterator[None]:
    """Within the block torch draws from a seed of that name, on one thread; afterwards it is as it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with seeded(derived_seed(0, "selftest", name), torch.device("cpu")), torch.enable_grad():
            yield
    finally:
        torch.set_num_threads(threads)
