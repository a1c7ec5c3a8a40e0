"""The number of threads depends on how long the work takes now."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
import yaml

import lowerbound as lb
from lowerbound.cli.runs import with_threads
from lowerbound.errors import SettingsError
from lowerbound.models import passes
from lowerbound.runtime import idle, threads
from lowerbound.runtime.idle import IdleCores
from lowerbound.runtime.threads import ThreadTuner, list_candidates, restoring_threads
from lowerbound.training.observing import Observer

QUIET = {4: 0.002, 2: 0.003, 1: 0.005}
"""Seconds of a step by number of threads."""
BUSY = {4: 0.020, 2: 0.009, 1: 0.006}
"""The same beside another program: one thread is the fastest."""


class Machine:
    """Repeated work with given times by number of threads; nothing waits for that time."""

    def __init__(self, candidates=(4, 2, 1)) -> None:
        self.count, self.lines = candidates[0], []
        self.tuner = ThreadTuner(candidates, "step", self.lines.append, self.use)

    def use(self, count: int) -> None:
        self.count = count

    def work(self, seconds: float, times: dict[int, float], left: int = 10**6) -> None:
        end = self.tuner.seconds + seconds
        while self.tuner.seconds < end:
            self.tuner.record(times[self.count], left)


@pytest.mark.parametrize(
    ("most", "expected"),
    [(1, [1]), (2, [2, 1]), (3, [3, 2, 1]), (6, [6, 3, 2, 1]), (16, [16, 8, 4, 2, 1])],
)
def test_all_threads_half_of_them_and_so_on_are_the_candidates(most, expected):
    with restoring_threads(most):
        assert list_candidates(torch.device("cpu")) == expected
        assert list_candidates(torch.device("meta")) == [most]
    with lb.using_threads(most):
        assert list_candidates(torch.device("cpu")) == [most]


def test_the_fastest_number_is_kept():
    machine = Machine()
    machine.work(5, BUSY)
    assert machine.count == machine.tuner.chosen == 1
    assert machine.lines == ["1 thread: 6 ms a step, 4 threads 20 ms, 2 threads 9 ms"]


def test_without_a_gain_the_number_stays():
    machine = Machine()
    machine.work(5, QUIET)
    assert machine.count == machine.tuner.chosen == 4
    assert not machine.lines
    machine = Machine()
    machine.work(5, {4: 0.0051, 2: 0.005, 1: 0.005})
    assert machine.count == 4


def test_a_slowdown_changes_the_number_and_so_does_its_end():
    machine = Machine()
    machine.work(20, QUIET)
    machine.work(10, BUSY)
    assert machine.count == 1
    machine.work(10, QUIET)  # one thread is hardly faster now, so only a try can tell
    assert machine.count == 4
    assert [line.split(":")[0] for line in machine.lines] == ["1 thread", "4 threads"]


def test_cores_that_become_idle_are_used_within_seconds():
    """Also where tries beside another program were so slow that the next one is far away."""
    quiet, busy = {2: 0.035, 1: 0.06}, {2: 0.4, 1: 0.065}

    def time_return(idle: float | None) -> float:
        machine = Machine((2, 1))
        machine.tuner.idle = Idle(0.0)
        machine.work(5, quiet)
        machine.work(60, busy)
        assert machine.count == 1
        machine.tuner.idle.cores = idle
        end = machine.tuner.seconds
        while machine.count == 1 or machine.tuner.turns:
            machine.work(0.1, quiet)
        return machine.tuner.seconds - end

    assert time_return(1.0) < 6
    assert time_return(0.2) > 6  # only the next try tells
    assert time_return(None) > 6


class Idle:
    """A number of idle cores."""

    def __init__(self, cores: float | None) -> None:
        self.cores = cores

    def read(self) -> float | None:
        return self.cores


def test_idle_cores_are_read_from_the_counters_of_linux(tmp_path, monkeypatch):
    file, now = tmp_path / "stat", [0.0]
    monkeypatch.setattr(idle.time, "perf_counter", lambda: now[0])
    ticks = os.sysconf("SC_CLK_TCK")
    cores = IdleCores(file)
    assert cores.read() is None  # the system has no such file
    for second, (free, waiting) in enumerate([(100, 5), (100.5, 5), (101, 6.5)]):
        now[0] = 1.5 * second
        file.write_text(f"cpu  7 0 3 {int(free * ticks)} {int(waiting * ticks)} 0 0 0\ncpu0 1 2\n")
        found = cores.read()
        now[0] += 0.1
        assert cores.read() == found  # not read again so soon
        assert found == [None, pytest.approx(1 / 3), pytest.approx(4 / 3)][second]
    file.write_text("nonsense")
    now[0] += 5
    assert cores.read() is None


def test_a_slowdown_after_long_quiet_work_is_noticed_within_seconds():
    machine = Machine((2, 1))
    machine.work(200, {2: 0.022, 1: 0.040})
    assert machine.count == 2
    machine.work(6, {2: 0.090, 1: 0.045})
    assert machine.count == 1


def test_on_a_steady_machine_tries_take_a_hundredth_of_the_time():
    machine, trying = Machine(), 0.0
    machine.work(5, QUIET)
    start = machine.tuner.seconds
    while machine.tuner.seconds < start + 300:
        trying += QUIET[machine.count] - QUIET[4]
        assert machine.tuner.is_try or not machine.tuner.turns
        machine.tuner.record(QUIET[machine.count], 10**6)
    assert 0 < trying < 0.011 * 300
    assert machine.count == 4


def test_trials_take_a_small_share_of_the_time():
    machine, trying, steps = Machine(), 0.0, 0
    while machine.tuner.seconds < 600:  # a load that comes and goes every 7 seconds
        times = BUSY if int(machine.tuner.seconds) // 7 % 2 else QUIET
        trying += times[machine.count] * bool(machine.tuner.turns)
        machine.tuner.record(times[machine.count], 10**6)
        steps += 1
    assert trying < 0.1 * machine.tuner.seconds


def test_little_work_is_not_timed():
    machine = Machine()
    machine.work(5, BUSY, left=200)
    assert machine.count == 4
    assert machine.tuner.chosen is None


def divide(piece: float, *, waits: float = 0.0) -> dict[int, float]:
    """Seconds by number of threads: they share the work, but several wait for each other."""
    return {count: piece / count + waits * (count > 1) for count in (16, 8, 4, 2, 1)}


@pytest.mark.parametrize("piece", [0.05, 1.0, 50.0])
def test_on_many_cores_trials_and_tries_lose_little(piece):
    """One thread takes 16 times as long, so it must not be timed again and again."""
    times = divide(piece)
    machine = Machine(tuple(times))
    machine.work(max(5, 400 * times[16]), times)
    first = machine.tuner.seconds
    pieces = 0
    while machine.tuner.seconds < first + 500 + 500 * times[16]:
        pieces += 1
        machine.tuner.record(times[machine.count], 10**6)
    ideal = times[16] * pieces
    assert machine.count == 16
    assert ideal < machine.tuner.seconds - first < 1.015 * ideal


def test_the_first_trial_costs_a_few_pieces_where_they_are_long():
    times = divide(48.0)
    machine = Machine(tuple(times))
    lost, timed = 0.0, set()
    for _ in range(100):
        timed.add(machine.count)
        lost += times[machine.count] - times[16]
        machine.tuner.record(times[machine.count], 10**6)
    assert timed == {16, 8}
    assert machine.tuner.chosen == 16
    assert lost <= 2 * times[16]


def test_a_number_in_the_middle_is_found():
    machine = Machine((16, 8, 4, 2, 1))
    machine.work(5, {16: 0.02, 8: 0.012, 4: 0.008, 2: 0.011, 1: 0.02})
    assert machine.count == 4
    machine.work(20, divide(0.08))
    assert machine.count == 16
    machine.work(60, divide(0.02, waits=0.1))
    assert machine.count == 1


def test_one_slow_piece_does_not_make_short_work_long():
    """Short work must repeat exactly, even if another program interrupts it."""
    machine = Machine()
    for seconds in [0.002] * 10 + [2.0] + [0.002] * 10:
        machine.tuner.record(seconds, 1000)
    assert machine.tuner.chosen is None
    assert not machine.tuner.turns


def test_a_load_that_flickers_is_not_reported_all_the_time():
    machine = Machine()
    while machine.tuner.seconds < 600:  # a load of 3 seconds every 6 seconds
        times = BUSY if int(machine.tuner.seconds) // 3 % 2 else QUIET
        machine.tuner.record(times[machine.count], 10**6)
    assert len(machine.lines) < 600 / 6


def test_the_chosen_number_is_not_that_of_a_try():
    """A checkpoint may be written in the middle of a try."""
    machine, seen = Machine(), set()
    machine.work(5, QUIET)
    end = machine.tuner.seconds + 100
    while machine.tuner.seconds < end:
        seen.add((machine.count, machine.tuner.chosen))
        machine.tuner.record(QUIET[machine.count], 10**6)
    assert seen == {(4, 4), (2, 4), (1, 4)}


def test_work_that_fails_is_not_timed():
    machine = Machine()
    with pytest.raises(ValueError, match="mine"), machine.tuner.timing(10):
        raise ValueError("mine")
    assert machine.tuner.seconds == 0


def test_a_number_that_another_part_of_the_program_sets_is_kept():
    lines: list[str] = []
    with restoring_threads(4):
        tuner = ThreadTuner([4, 2, 1], "step", lines.append)
        with tuner.timing(10**6):
            torch.set_num_threads(3)
        for _ in range(5):
            with tuner.timing(10**6):
                pass
            tuner.record(1.0, 10**6)
        assert torch.get_num_threads() == tuner.count == tuner.chosen == 3
    assert lines == ["3 threads, as set by torch.set_num_threads; no others are timed"]


def test_a_single_number_is_never_changed():
    machine = Machine([2])
    machine.tuner.record(1.0, 10**6)
    assert machine.tuner.seconds == 0
    assert machine.count == machine.tuner.chosen == 2


def test_an_earlier_choice_is_used_if_it_is_a_candidate():
    tuner = ThreadTuner([4, 2, 1], "step")
    tuner.resume(3)
    assert (tuner.count, tuner.chosen) == (4, None)
    tuner.resume(1)
    assert (tuner.count, tuner.chosen) == (1, 1)


@pytest.mark.parametrize("block", [restoring_threads, lb.using_threads])
def test_the_number_is_restored_after_a_block(block):
    before = torch.get_num_threads()
    with block(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_using_threads_refuses_an_impossible_number(count):
    with pytest.raises(SettingsError, match="whole number"), lb.using_threads(count):
        pass


class Watch(Observer):
    def __init__(self) -> None:
        self.counts, self.lines = [], []

    def on_step(self, loop) -> None:
        self.counts.append(torch.get_num_threads())

    def on_choice(self, loop, line) -> None:
        self.lines.append(line)


def fit_convolutions(**settings) -> tuple[lb.Run, Watch]:
    """Train a network that is worth several threads."""
    watch = Watch()
    torch.manual_seed(0)
    shape = (1, 8, 8)
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.conv(shape, 4, 4)),
        lb.Bernoulli(lb.mlp(2, shape)),
    )
    usual = {"compile": "never", "progress": False, "observers": [watch]}
    data = (torch.rand(40, *shape) < 0.5).float()
    return lb.fit(vae, lb.ELBO(), data, batch_size=10, **usual | settings), watch


def try_at_once(monkeypatch) -> None:
    """Time even little work, and always keep the fastest number."""
    monkeypatch.setattr(threads, "_WORTH_A_TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(threads, "_WORTH_A_TRIAL_TIMES", 0.0)
    monkeypatch.setattr(threads, "_TURN_SECONDS", 0.0)
    monkeypatch.setattr(threads, "_WORTH_A_CHANGE", 1e9)


@pytest.fixture
def _two_threads():
    with restoring_threads(2):
        yield


@pytest.mark.usefixtures("_two_threads")
def test_training_times_its_steps_and_records_the_numbers(monkeypatch, tmp_path):
    try_at_once(monkeypatch)
    run, watch = fit_convolutions(epochs=20, directory=tmp_path / "run", pictures_every=0)
    assert set(watch.counts) == {2, 1}
    used = [record["steps_by_threads"] for record in run.history]
    assert [sum(each.values()) for each in used] == [4] * 20
    assert set().union(*used) == {"1", "2"}
    assert torch.get_num_threads() == 2
    resumed, again = fit_convolutions(epochs=21, directory=tmp_path / "run", resume=True)
    assert len(resumed.history) == 21
    state = json.loads(next((tmp_path / "run").glob("checkpoints/*80/state.json")).read_text())
    assert again.counts[0] == state["progress"]["threads"]


@pytest.mark.usefixtures("_two_threads")
def test_steps_of_a_small_model_are_timed_too(monkeypatch):
    try_at_once(monkeypatch)
    watch = Watch()
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(lb.mlp(2, 8)))
    lb.fit(vae, lb.ELBO(), torch.randn(600, 4), epochs=2, progress=False, observers=[watch])
    assert watch.counts[0] == 1
    watch.counts.clear()
    lb.fit(
        vae,
        lb.ELBO(),
        torch.randn(600, 4),
        epochs=20,
        batch_size=10,
        progress=False,
        observers=[watch],
    )
    assert watch.counts[0] == 1
    assert set(watch.counts) == {1, 2}


@pytest.mark.usefixtures("_two_threads")
def test_a_record_counts_the_steps_before_an_interruption_too(tmp_path):
    class Stop(Observer):
        def on_step(self, loop) -> None:
            if loop.progress.step == 6:
                loop.request_stop()

    with pytest.raises(KeyboardInterrupt):
        fit_convolutions(epochs=2, directory=tmp_path / "run", observers=[Stop()])
    resumed, _ = fit_convolutions(epochs=2, directory=tmp_path / "run", resume=True)
    assert [record["steps_by_threads"] for record in resumed.history] == [{"2": 4}, {"2": 4}]


@pytest.mark.usefixtures("_two_threads")
def test_training_and_validation_use_a_number_that_is_given(monkeypatch):
    try_at_once(monkeypatch)
    seen = []
    monkeypatch.setattr(passes, "tuning_threads", watching(passes.tuning_threads, seen))
    run, watch = fit_convolutions(epochs=1, threads=3, validation=0.5)
    assert set(watch.counts) == {3}
    assert [3] in seen
    assert "steps_by_threads" not in run.history[0]
    assert torch.get_num_threads() == 2


def watching(tuning_threads, seen: list):
    """Wrap the function, to note the candidates while torch uses three threads."""

    @contextmanager
    def watch(*arguments):
        with tuning_threads(*arguments) as tuner:
            if torch.get_num_threads() == 3:
                seen.append(tuner.candidates)
            yield tuner

    return watch


@pytest.mark.usefixtures("_two_threads")
def test_a_resumed_run_begins_with_the_number_that_was_given_before(tmp_path):
    fit_convolutions(epochs=1, threads=1, directory=tmp_path / "run")
    _, watch = fit_convolutions(epochs=2, directory=tmp_path / "run", resume=True)
    assert set(watch.counts) == {1}
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["resumed"] == [{"from_step": 4, "before": {"epochs": 1, "threads": 1}}]


@pytest.mark.usefixtures("_two_threads")
def test_two_trainings_in_two_threads_leave_the_number_as_it_was(monkeypatch):
    try_at_once(monkeypatch)
    with ThreadPoolExecutor(2) as pool:
        trainings = [pool.submit(fit_convolutions, epochs=5) for _ in range(2)]
        assert all(len(training.result()[0].history) == 5 for training in trainings)
    assert torch.get_num_threads() == 2


def test_training_refuses_an_impossible_number():
    with pytest.raises(SettingsError, match="threads=0"):
        fit_convolutions(threads=0)


class Counting(torch.nn.Module):
    """A network that records the number of threads at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.counts = torch.nn.Linear(2, 8), []

    def forward(self, z):
        self.counts.append(torch.get_num_threads())
        return self.layer(z)


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize("compile", ["never", "always"])
def test_evaluations_choose_the_number_by_timing_batches(compile, monkeypatch, traced):
    """But they do not while compiled and uncompiled chunks are compared."""
    try_at_once(monkeypatch)
    torch.manual_seed(0)
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(Counting()))
    x = torch.randn(60, 4)
    network = vae.likelihood.network
    with lb.using_threads(1):
        expected = lb.log_likelihood(vae, x, 20, batch_size=1, compile="never")
    network.counts.clear()
    found = lb.log_likelihood(vae, x, 20, batch_size=1, compile=compile)
    torch.testing.assert_close(found.per_example, expected.per_example)
    if compile == "never":
        assert set(network.counts) == {2, 1}
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_two_threads")
@pytest.mark.parametrize(("count", "expected"), [(None, {2, 1}), (3, {3})])
def test_commands_take_a_number_for_evaluations(count, expected, monkeypatch):
    try_at_once(monkeypatch)
    torch.manual_seed(0)
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(Counting()))
    with with_threads(count):
        lb.evaluate(vae, lb.ELBO(), torch.randn(600, 4), batch_size=10)
    assert set(vae.likelihood.network.counts) == expected
