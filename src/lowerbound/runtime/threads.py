"""The number of threads that repeated work on a processor uses, chosen by timing it.

torch's threads wait for each other after every operation. If another program uses a core, they all
wait for the thread on that core, and fewer threads are faster. So the number is not a property of
the machine: it is timed at the beginning, and again when another number is faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from statistics import mean, median

import torch

# A trial times every number in turn, for so many rounds; fewer after a try, which has already shown
# that another number is faster. One turn lasts at least this many seconds; its first piece of work
# is not timed, because it may start threads.
_ROUNDS, _ROUNDS_AFTER_A_TRY, _TURN_SECONDS = 5, 3, 0.05

# The first trial begins after so many pieces, while memory is allocated and caches fill.
_WARMUP_PIECES = 3

# Another number of threads is kept only if it takes at most this share of the time.
_WORTH_A_CHANGE = 0.95

# Where less work remains than this, nothing is timed: in seconds, and in multiples of the fewest
# pieces of a trial.
_WORTH_A_TRIAL_SECONDS, _WORTH_A_TRIAL_TIMES = 5.0, 4

# Between trials, another number of threads is tried for one turn now and then, and a trial follows
# if it is faster. Tries that lose may take this share of the time, within these limits on the
# seconds between them. A slow machine cannot be told by the speed of the present number alone: when
# another program ends, the speed of one thread hardly changes.
_SHARE_OF_TRIES = 0.01
_LEAST_SECONDS_BETWEEN_TRIES, _MOST_SECONDS_BETWEEN_TRIES = 3.0, 30.0


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Within the block torch uses so many threads, or as many as before; then as many as before."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def list_candidates(most: int) -> list[int]:
    """The numbers of threads to try: all, half of them, and one."""
    return sorted({most, (most + 1) // 2, 1}, reverse=True)


class ThreadTuner:
    """Chooses how many threads compute repeated pieces of work, and chooses again.

    The caller sets the first number of threads and restores the earlier one, see
    :func:`using_threads`.

    Args:
        candidates: the numbers to choose from. The first one is used until a trial has ended.
        unit: the name of one piece of work in messages.
        tell: is called with a line about each change.
        use: sets the number of threads.
    """

    def __init__(
        self,
        candidates: Sequence[int],
        unit: str,
        tell: Callable[[str], None] = lambda line: None,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self.candidates, self.unit, self.tell, self.use = list(candidates), unit, tell, use
        self.count = self.candidates[0]
        self.seconds = 0.0
        """The time of all pieces so far."""
        self.last_trial: float | None = None
        """That time at the end of the last trial; ``None`` before the first one."""
        self.turns: list[int] = []
        """The numbers of threads that a trial or a try has still to time; empty between them."""
        self.turn: list[float] = []
        """The times of this turn's pieces."""
        self.before = self.count
        """The number of threads before the trial or the try."""
        self.timed: dict[int, list[float]] = {}
        """The mean time of a piece in each turn of a trial, by number of threads."""
        self.is_try = False
        """Whether the turns are those of a try, and not of a trial."""
        self.tries = cycle(candidates)
        """The numbers of threads of the next tries."""
        self.since = _Pieces()
        """The pieces since the last trial or try."""
        self.wait = _LEAST_SECONDS_BETWEEN_TRIES
        """The seconds from the last trial or try to the next try."""

    def resume(self, count: int | None) -> None:
        """Begin with the number that an earlier process had chosen, if it is a candidate.

        The caller sets it.
        """
        if count in self.candidates:
            self.count, self.last_trial = count, self.seconds

    @property
    def chosen(self) -> int | None:
        """The number that a trial has chosen; ``None`` before the first trial."""
        return None if self.last_trial is None else self.count

    @contextmanager
    def timing(self, left: float) -> Iterator[None]:
        """Around a piece of work: record its time. If it fails, nothing is recorded."""
        began = time.perf_counter()
        yield
        self.record(time.perf_counter() - began, left)

    def record(self, seconds: float, left: float) -> None:
        """Record the time of a piece of work, and choose the number of threads of the next one.

        Args:
            seconds: the time that the piece took.
            left: the number of remaining pieces.
        """
        if len(self.candidates) == 1:
            return
        self.seconds += seconds
        if self.turns:
            self.turn.append(seconds)
            if len(self.turn) > 1 and sum(self.turn[1:]) >= _TURN_SECONDS:
                self._end_turn()
            return
        self.since.add(seconds)
        least = 2 * _ROUNDS * len(self.candidates)
        is_worth_it = (
            left >= _WORTH_A_TRIAL_TIMES * least and left * seconds >= _WORTH_A_TRIAL_SECONDS
        )
        if not is_worth_it:
            return
        if self.last_trial is None:
            if self.since.count >= _WARMUP_PIECES:
                self._begin(self.candidates * _ROUNDS)
        elif self.since.seconds >= self.wait:
            number = next(number for number in self.tries if number != self.count)
            self._begin([number], is_try=True)

    def _begin(self, turns: list[int], *, is_try: bool = False) -> None:
        self.before, self.is_try, self.timed, self.turns = self.count, is_try, {}, turns
        self._begin_turn()

    def _begin_turn(self) -> None:
        self.turn = []
        self._switch(self.turns[0])

    def _end_turn(self) -> None:
        self.timed.setdefault(self.turns.pop(0), []).append(mean(self.turn[1:]))
        if self.turns:
            self._begin_turn()
        elif self.is_try:
            self._end_try()
        else:
            self._end_trial()

    def _end_try(self) -> None:
        usual, found = self.since.mean, mean(self.turn[1:])
        self._switch(self.before)
        if found <= _WORTH_A_CHANGE * usual:
            self._begin(self.candidates * _ROUNDS_AFTER_A_TRY)
            return
        lost = sum(self.turn) - len(self.turn) * usual
        longest = max(_LEAST_SECONDS_BETWEEN_TRIES, lost / _SHARE_OF_TRIES)
        self.wait, self.since = min(_MOST_SECONDS_BETWEEN_TRIES, longest), _Pieces()

    def _end_trial(self) -> None:
        times = {count: median(turns) for count, turns in self.timed.items()}
        best = min(times, key=times.__getitem__)
        if times[best] > _WORTH_A_CHANGE * times[self.before]:
            best = self.before
        self._switch(best)
        self.last_trial, self.since = self.seconds, _Pieces()
        self.wait = _LEAST_SECONDS_BETWEEN_TRIES
        if best != self.before:
            self.tell(self._describe(times))

    def _switch(self, count: int) -> None:
        if count != self.count:
            self.count = count
            self.use(count)

    def _describe(self, times: dict[int, float]) -> str:
        others = [
            f"{_name(count)} {1e3 * seconds:.3g} ms"
            for count, seconds in times.items()
            if count != self.count
        ]
        return (
            f"{_name(self.count)}: {1e3 * times[self.count]:.3g} ms a {self.unit}, "
            f"{', '.join(others)}"
        )


def _name(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


@dataclass
class _Pieces:
    """Pieces of work in a row."""

    count: int = 0
    seconds: float = 0.0

    @property
    def mean(self) -> float:
        return self.seconds / self.count

    def add(self, seconds: float) -> None:
        self.count, self.seconds = self.count + 1, self.seconds + seconds


@contextmanager
def tuning_threads(device: torch.device, unit: str) -> Iterator[ThreadTuner]:
    """Within the block, a tuner chooses the number of threads for work on a device.

    On a device other than a processor the number stays as it is.
    """
    candidates = [torch.get_num_threads()]
    if device.type == "cpu":
        candidates = list_candidates(candidates[0])
    with using_threads(None):
        yield ThreadTuner(candidates, unit)
