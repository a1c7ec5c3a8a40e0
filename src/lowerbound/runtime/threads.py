"""The number of threads that repeated work on a processor uses, chosen by timing it.

torch's threads wait for each other after every operation. If another program uses a core, they all
wait for the thread on that core, and fewer threads are faster. So the number is not a property of
the machine: it is chosen by timing at the beginning, and again when another number is faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from statistics import mean, median

import torch

from lowerbound.errors import SettingsError
from lowerbound.runtime.idle import IdleCores

# The rounds of a trial: fewer after a try, which has already shown that another number is faster.
# In each round each number has a turn of at least this many seconds. The first piece of a turn may
# start threads, so its time counts only if it takes so long that this does not matter.
_ROUNDS, _ROUNDS_AFTER_A_TRY, _TURN_SECONDS, _LONG_PIECE_SECONDS = 5, 3, 0.05, 0.5

# A number that takes this many times as long as the fastest leaves the trial, and so do the numbers
# still further from the fastest: on 16 cores, one thread may need ten times as long as all.
_TOO_SLOW = 1.5

# The first trial begins after this many pieces, while memory is allocated and caches fill.
_WARMUP_PIECES = 3

# Another number of threads is kept only if it takes at most this share of the present one's time.
_WORTH_A_CHANGE = 0.95

# Nothing is timed if less work than this remains: in seconds, and in multiples of the fewest pieces
# of a trial. The seconds are estimated from the fastest piece so far, because other programs must
# not make short work look long: a user expects to repeat it exactly.
_WORTH_A_TRIAL_SECONDS, _WORTH_A_TRIAL_TIMES = 5.0, 4

# Between trials, each other number is tried for one turn now and then, and a trial follows if it is
# faster. Slower tries may lose this share of the time, within these limits on the seconds between
# two tries of a number. The upper limit is for tries that are slow because of another program. When
# that program ends, the speed of one thread hardly changes, so only idle cores and tries show that
# the machine is free again.
_SHARE_OF_TRIES = 0.01
_LEAST_SECONDS_BETWEEN_TRIES, _MOST_SECONDS_BETWEEN_TRIES = 3.0, 30.0

# A try ends earlier if it is too slow after this many seconds.
_SHORT_TRY_SECONDS = 0.01

# The present time of a piece is an average over about this many seconds. If it is this many times
# as long or as short as it was at the last trial or try, another number is tried early.
_RECENT_SECONDS, _MUCH_CHANGE = 1.0, 1.5

# If this many more cores are idle than at the last trial or try, a larger number is tried early.
_FREED_CORES = 0.5

# A change that follows another one sooner than this doubles the seconds to the next try; so does a
# trial after which nothing changes.
_QUICK_CHANGE_SECONDS = 10.0

_fixed: ContextVar[int | None] = ContextVar("fixed", default=None)


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Within the block, this library computes with ``count`` threads, and does not time others.

    Trainings and evaluations that take more than a few seconds choose the number of processor
    threads by timing several. Another number may round differently, so the same call may give other
    last digits. In this block it does not. ``torch.set_num_threads(count)`` instead sets the
    largest number to choose from. The earlier number is restored afterwards.

    Args:
        count: the number of threads.

    Raises:
        SettingsError: if ``count`` is not a positive whole number.

    Example:
        >>> import lowerbound as lb
        >>> digits = lb.load_data("digits").test
        >>> vae = lb.LatentModel(
        ...     lb.StandardNormal(2),
        ...     lb.Gaussian(lb.mlp((1, 8, 8), 4)),
        ...     lb.Gaussian(lb.mlp(2, (2, 8, 8))),
        ... )
        >>> with lb.using_threads(1):
        ...     bound = lb.evaluate(vae, lb.ELBO(), digits).mean
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise SettingsError(
            f"using_threads: {count!r} is not a number of threads; give a whole number from 1 on"
        )
    token = _fixed.set(count)
    try:
        with restoring_threads(count):
            yield
    finally:
        _fixed.reset(token)


@contextmanager
def restoring_threads(count: int | None = None) -> Iterator[None]:
    """Restore torch's number of threads after the block, which begins with ``count``, if given."""
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def list_candidates(device: torch.device) -> list[int]:
    """The numbers of threads to choose from: all of torch's, half of them, and so on to one.

    There is a single number within :func:`using_threads`, and on a device that is not a processor.
    """
    candidates = [_fixed.get() or torch.get_num_threads()]
    if _fixed.get() is None and device.type == "cpu":
        while candidates[-1] > 1:
            candidates.append((candidates[-1] + 1) // 2)
    return candidates


class ThreadTuner:
    """Chooses how many threads compute repeated pieces of work, and chooses again.

    A *trial* compares all numbers, in rounds in which each has a turn. A *try* runs one other
    number for a single turn. Times are seconds of work, without the time between pieces.

    The caller sets the first number of threads and restores the earlier one, see
    :func:`restoring_threads`.

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
        self.unit, self.tell, self.use = unit, tell, use
        self.candidates, self.count = sorted(candidates, reverse=True), candidates[0]
        self.seconds = 0.0
        """The time of all pieces so far."""
        self.fastest = math.inf
        """The time of the fastest piece so far."""
        self.is_chosen = len(self.candidates) == 1
        """Whether the number is the only one, or one that a trial or an earlier process chose."""
        self.last_change = -math.inf
        """The time of all pieces at the last change."""
        self.turns: list[int] = []
        """The numbers that this trial or try has still to time; empty between trials."""
        self.turn: list[float] = []
        """The times of this turn's pieces."""
        self.before = self.count
        """The number of threads before the trial or the try."""
        self.timed: dict[int, list[float]] = {}
        """The mean time of a piece in each turn of a trial, by number of threads."""
        self.is_try = False
        """Whether the turn is that of a try, and not of a trial."""
        self.next_tries = dict.fromkeys(self.candidates, 0.0)
        """The time of all pieces at the next try of each number."""
        self.share_of_tries = _SHARE_OF_TRIES / max(1, len(self.candidates) - 1)
        """The share of the time for the tries of one number."""
        self.since = _Pieces()
        """The pieces since the last trial or try."""
        self.usual: float | None = None
        """The time of a piece at the last trial or try."""
        self.wait = _LEAST_SECONDS_BETWEEN_TRIES
        """The seconds from a trial to the next try."""
        self.idle = IdleCores()
        """How many cores are idle."""
        self.usual_idle: float | None = None
        """How many were idle at the last trial or try."""

    def resume(self, count: int | None) -> None:
        """Begin with the number that an earlier process had chosen, if it is a candidate.

        The caller sets it.
        """
        if count in self.candidates:
            self.count, self.is_chosen = count, True

    def start_again(self) -> None:
        """End a trial or a try, and forget all times, because the work changes.

        For instance, its code is compiled from now on.
        """
        if self.turns:
            self._switch(self.before)
        self.turns, self.turn, self.since = [], [], _Pieces()
        self.fastest, self.usual = math.inf, None

    def replace(self, other: ThreadTuner) -> None:
        """Use this tuner's number from now on, instead of that of another tuner.

        If another part of the program has set the number of threads meanwhile, that number stays.
        """
        if self.count != other.count == torch.get_num_threads():
            self.use(self.count)

    @property
    def chosen(self) -> int | None:
        """The number in use, but not in a trial; ``None`` before the first trial has ended."""
        if not self.is_chosen:
            return None
        return self.before if self.turns else self.count

    @contextmanager
    def timing(self, left: float) -> Iterator[None]:
        """Around a piece of work: record its time. If it fails, nothing is recorded.

        If another part of the program has set the number of threads meanwhile, that number stays.
        """
        if len(self.candidates) > 1 and torch.get_num_threads() != self.count:
            self._leave(torch.get_num_threads())
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
        self.fastest = min(self.fastest, seconds)
        if self.turns:
            self.turn.append(seconds)
            if self._is_turn_over():
                self._end_turn()
            return
        self.since.add(seconds)
        least = 2 * _ROUNDS * len(self.candidates)
        if left < _WORTH_A_TRIAL_TIMES * least or left * self.fastest < _WORTH_A_TRIAL_SECONDS:
            return
        if not self.is_chosen:
            if self.since.count >= _WARMUP_PIECES:
                self._begin(self.candidates * _ROUNDS)
        elif self.since.seconds >= _LEAST_SECONDS_BETWEEN_TRIES:
            number = self._choose_try()
            if number is not None:
                self._begin([number], is_try=True)

    def _choose_try(self) -> int | None:
        """Choose another number to try now, if one is due or something has changed."""
        larger = [number for number in self.candidates if number > self.count]
        if larger and self._are_cores_free():
            return larger[-1]
        others = [number for number in self.candidates if number != self.count]
        number = min(others, key=self.next_tries.__getitem__)
        if self.next_tries[number] <= self.seconds or self._has_changed():
            return number
        return None

    def _are_cores_free(self) -> bool:
        """Whether cores have become idle since the last trial or try."""
        idle = self.idle.read()
        if idle is None or self.usual_idle is None:
            return False
        return idle - self.usual_idle >= _FREED_CORES

    def _has_changed(self) -> bool:
        """Whether pieces have become much slower or faster than they were."""
        if self.usual is None:
            return False
        ratio = self.since.recent / self.usual
        return not 1 / _MUCH_CHANGE < ratio < _MUCH_CHANGE

    def _is_turn_over(self) -> bool:
        if sum(self.turn[1:]) >= _TURN_SECONDS or self.turn[-1] >= _LONG_PIECE_SECONDS:
            return True
        seconds = sum(self.turn)
        is_too_slow = seconds > _TOO_SLOW * self.since.recent * len(self.turn)
        return self.is_try and is_too_slow and seconds >= _SHORT_TRY_SECONDS

    def _leave(self, count: int) -> None:
        self.candidates, self.count, self.is_chosen, self.turns = [count], count, True, []
        self.tell(f"{_name(count)}, as set by torch.set_num_threads; no others are timed")

    def _begin(self, turns: list[int], *, is_try: bool = False) -> None:
        self.before, self.turns, self.is_try, self.timed = self.count, turns, is_try, {}
        self._begin_turn()

    def _begin_turn(self) -> None:
        self.turn = []
        self._switch(self.turns[0])

    def _end_turn(self) -> None:
        number, seconds = self.turns.pop(0), mean(self.turn[1:] or self.turn)
        if self.is_try:
            self._end_try(number, seconds)
            return
        self.timed.setdefault(number, []).append(seconds)
        self._leave_out_if_slow(number)
        if self.turns:
            self._begin_turn()
        else:
            self._end_trial()

    def _leave_out_if_slow(self, number: int) -> None:
        """Leave out a number that is too slow, and those still further from the fastest."""
        best = min(self.timed, key=lambda each: min(self.timed[each]))
        if min(self.timed[number]) <= _TOO_SLOW * min(self.timed[best]):
            return
        slow = {each for each in self.candidates if (each - number) * (number - best) >= 0}
        slow.discard(self.before)
        self.turns = [each for each in self.turns if each not in slow]

    def _end_try(self, number: int, seconds: float) -> None:
        usual = self.usual = self.since.recent
        self.usual_idle = self.idle.read()
        self._switch(self.before)
        if seconds <= _WORTH_A_CHANGE * usual:
            self._begin(self.candidates * _ROUNDS_AFTER_A_TRY)
            return
        share = self.share_of_tries
        lost = sum(self.turn) - len(self.turn) * usual
        without_others = usual * max(1.0, self.count / number)
        longest = max(_MOST_SECONDS_BETWEEN_TRIES, without_others / share)
        wait = min(longest, max(_LEAST_SECONDS_BETWEEN_TRIES, lost / share))
        self.next_tries[number] = self.seconds + wait
        self.since, self.wait = _Pieces(), _LEAST_SECONDS_BETWEEN_TRIES

    def _end_trial(self) -> None:
        times = {count: median(turns) for count, turns in self.timed.items()}
        most = max(map(len, self.timed.values()))  # of those that have not left the trial
        best = min((each for each in times if len(self.timed[each]) == most), key=times.__getitem__)
        if times[best] > _WORTH_A_CHANGE * times[self.before]:
            best = self.before
        self._switch(best)
        self.is_chosen, self.since, self.usual = True, _Pieces(), times[best]
        self.usual_idle = self.idle.read()
        changes = best != self.before
        self.wait = min(_MOST_SECONDS_BETWEEN_TRIES, 2 * self.wait)
        if changes and self.seconds - self.last_change >= _QUICK_CHANGE_SECONDS:
            self.wait = _LEAST_SECONDS_BETWEEN_TRIES
        for number in self.candidates:
            lost = times[best] * max(0.0, best / number - 1)
            wait = max(self.wait, lost / self.share_of_tries)
            self.next_tries[number] = self.seconds + wait
        if changes:
            self.last_change = self.seconds
            self.tell(self._describe(times))

    def _switch(self, count: int) -> None:
        if count != self.count:
            self.count = count
            self.use(count)

    def _describe(self, times: dict[int, float]) -> str:
        others = "".join(
            f", {_name(count)} {1e3 * seconds:.3g} ms"
            for count, seconds in times.items()
            if count != self.count
        )
        return f"{_name(self.count)}: {1e3 * times[self.count]:.3g} ms a {self.unit}{others}"


def _name(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


@dataclass
class _Pieces:
    """Pieces of work in a row."""

    count: int = 0
    seconds: float = 0.0
    recent: float = 0.0
    """The mean time of a piece, in which the last second counts most."""

    def add(self, seconds: float) -> None:
        self.count, self.seconds = self.count + 1, self.seconds + seconds
        weight = max(1 / self.count, 1 - math.exp(-seconds / _RECENT_SECONDS))
        self.recent += weight * (seconds - self.recent)


@contextmanager
def tuning_threads(device: torch.device, unit: str) -> Iterator[ThreadTuner]:
    """Within the block, a tuner chooses the number of threads for work on a device."""
    with restoring_threads():
        yield ThreadTuner(list_candidates(device), unit)
