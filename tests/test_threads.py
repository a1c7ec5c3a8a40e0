"""The number of threads follows what the work takes now."""

import pytest
import torch

import lowerbound as lb
from lowerbound.errors import SettingsError
from lowerbound.runtime import threads
from lowerbound.runtime.threads import ThreadTuner, list_candidates, using_threads
from lowerbound.training.loop import Observer

QUIET = {4: 0.002, 2: 0.003, 1: 0.005}
"""Seconds of a step by number of threads; next to another program, one thread is the fastest."""
BUSY = {4: 0.020, 2: 0.009, 1: 0.006}


class Machine:
    """Repeated work whose time depends on the number of threads, without waiting."""

    def __init__(self, candidates=(4, 2, 1)) -> None:
        self.count, self.lines = candidates[0], []
        self.tuner = ThreadTuner(candidates, "step", self.lines.append, self.use)

    def use(self, count: int) -> None:
        self.count = count

    def work(self, seconds: float, times: dict[int, float], left: int = 10**6) -> None:
        end = self.tuner.seconds + seconds
        while self.tuner.seconds < end:
            self.tuner.record(times[self.count], left)


def test_all_threads_half_of_them_and_one_are_tried():
    assert [list_candidates(most) for most in (1, 2, 3, 4, 16)] == [
        [1],
        [2, 1],
        [3, 2, 1],
        [4, 2, 1],
        [16, 8, 1],
    ]


def test_the_fastest_number_is_kept():
    machine = Machine()
    machine.work(5, BUSY)
    assert machine.count == machine.tuner.chosen == 1
    assert machine.lines == ["1 thread: 6 ms a step, 4 threads 20 ms, 2 threads 9 ms"]


def test_without_a_gain_nothing_changes():
    machine = Machine()
    machine.work(5, QUIET)
    assert machine.count == machine.tuner.chosen == 4
    assert not machine.lines
    machine = Machine()
    machine.work(5, {4: 0.0051, 2: 0.005, 1: 0.005})
    assert machine.count == 4


def test_a_slow_down_is_answered_and_its_end_too():
    machine = Machine()
    machine.work(20, QUIET)
    machine.work(10, BUSY)
    assert machine.count == 1
    machine.work(10, QUIET)  # one thread is hardly faster now, so only a try can tell
    assert machine.count == 4
    assert [line.split(":")[0] for line in machine.lines] == ["1 thread", "4 threads"]


def test_on_a_steady_machine_tries_take_a_hundredth_of_the_time():
    machine, trying = Machine(), 0.0
    machine.work(5, QUIET)
    last, start = machine.tuner.last_trial, machine.tuner.seconds
    while machine.tuner.seconds < start + 300:
        lost = QUIET[machine.count] - QUIET[4]
        trying += lost
        machine.tuner.record(QUIET[machine.count], 10**6)
    assert 0 < trying < 0.011 * 300
    assert machine.tuner.last_trial == last
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


def test_a_single_number_is_never_changed():
    machine = Machine([2])
    machine.tuner.record(1.0, 10**6)
    assert machine.tuner.seconds == 0
    assert machine.count == 2


def test_an_earlier_choice_is_taken_over_if_it_is_possible():
    tuner = ThreadTuner([4, 2, 1], "step")
    tuner.resume(3)
    assert (tuner.count, tuner.chosen) == (4, None)
    tuner.resume(1)
    assert (tuner.count, tuner.chosen) == (1, 1)


def test_the_number_is_restored():
    before = torch.get_num_threads()
    with using_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


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
    with using_threads(2):
        yield


@pytest.mark.usefixtures("_two_threads")
def test_training_times_its_steps_and_records_the_number(monkeypatch, tmp_path):
    try_at_once(monkeypatch)
    run, watch = fit_convolutions(epochs=20, directory=tmp_path / "run", pictures_every=0)
    assert set(watch.counts) == {2, 1}
    assert {record["threads"] for record in run.history} <= {2, 1}
    assert torch.get_num_threads() == 2
    resumed, again = fit_convolutions(epochs=21, directory=tmp_path / "run", resume=True)
    assert len(resumed.history) == 21
    assert again.counts[0] == run.history[-1]["threads"]


@pytest.mark.usefixtures("_two_threads")
def test_a_number_that_is_given_is_used():
    run, watch = fit_convolutions(epochs=1, threads=3)
    assert set(watch.counts) == {3}
    assert "threads" not in run.history[0]
    assert torch.get_num_threads() == 2


def test_an_impossible_number_is_refused():
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
def test_evaluations_time_their_batches(compile, monkeypatch, traced):
    """Not while compiled and uncompiled chunks are compared."""
    try_at_once(monkeypatch)
    torch.manual_seed(0)
    vae = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(4, 4)), lb.Gaussian(Counting()))
    x = torch.randn(60, 4)
    network = vae.likelihood.network
    with using_threads(1):
        expected = lb.log_likelihood(vae, x, 20, batch_size=1, compile="never")
    network.counts.clear()
    found = lb.log_likelihood(vae, x, 20, batch_size=1, compile=compile)
    torch.testing.assert_close(found.per_example, expected.per_example)
    if compile == "never":
        assert set(network.counts) == {2, 1}
    assert torch.get_num_threads() == 2
