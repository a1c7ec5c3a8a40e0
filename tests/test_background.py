"""The compiler in the background: work in a copy of the process, and a training that uses it."""

import fcntl
import importlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import lowerbound as lb
from lowerbound.runtime import autotune, threads
from lowerbound.runtime import background as runtime_background
from lowerbound.runtime.autotune import Autotuner
from lowerbound.runtime.background import BackgroundWork, can_copy_process
from lowerbound.runtime.compiler import CompiledFunction
from lowerbound.runtime.threads import restoring_threads, using_threads
from lowerbound.training import preparing
from lowerbound.training.observing import Observer

pytestmark = [
    pytest.mark.skipif(
        not can_copy_process(torch.device("cpu")), reason="no copies of a process here"
    ),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

CPU = torch.device("cpu")


def wait(background: BackgroundWork, seconds: float = 60) -> BackgroundWork:
    end = time.monotonic() + seconds
    while not background.ended:
        assert time.monotonic() < end
        time.sleep(0.01)
    return background


def is_running(process: int) -> bool:
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_locked(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def test_only_files_remain_of_the_work(tmp_path):
    torch.manual_seed(3)
    state, values = torch.get_rng_state(), [0]

    def work():
        values[0] = 1
        torch.rand(5)
        (tmp_path / "file").write_text(f"{torch.get_num_threads()}")

    assert wait(BackgroundWork(work)).failure is None
    assert (tmp_path / "file").read_text() == "1"
    assert values == [0]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_copy_computes_although_this_process_used_several_threads():
    with using_threads(2):
        a = torch.randn(600, 600)
        a @ a

        def work():
            b = torch.randn(600, 600)
            return None if bool((b @ b + b.exp()).isfinite().all()) else "not finite"

        assert wait(BackgroundWork(work)).failure is None


@pytest.mark.parametrize(("work", "failure"), [
    (lambda: "the compiler failed", "the compiler failed"),
    (lambda: 1 / 0, "ZeroDivisionError in a copy of the process: division by zero"),
    (lambda: os.kill(os.getpid(), signal.SIGKILL), "its process ended with exit code -9"),
    (lambda: os._exit(3), "its process ended with exit code 3"),
])  # fmt: skip
def test_the_reason_of_a_failure_is_returned_and_nothing_is_printed(work, failure, capfd):
    assert wait(BackgroundWork(work)).failure == failure
    assert capfd.readouterr() == ("", "")


def test_a_copy_keeps_no_lock_of_this_process(tmp_path):
    with open(tmp_path / "lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ready = tmp_path / "ready"
        background = BackgroundWork(lambda: ready.touch() or time.sleep(60))
        while not ready.exists():
            time.sleep(0.01)
    try:
        with open(tmp_path / "lock") as again:
            assert not is_locked(again)
    finally:
        background.stop()


def test_a_copy_is_stopped_with_all_processes_that_it_started(tmp_path):
    def work():
        started = subprocess.Popen(["sleep", "60"])
        (tmp_path / "part").write_text(str(started.pid))
        (tmp_path / "part").rename(tmp_path / "number")
        started.wait()

    background = BackgroundWork(work)
    while not (tmp_path / "number").exists():
        time.sleep(0.01)
    number = int((tmp_path / "number").read_text())
    assert is_running(number)
    background.stop()
    end = time.monotonic() + 10
    while is_running(number) and time.monotonic() < end:
        time.sleep(0.01)
    assert not is_running(number)
    assert not background.process.is_alive()


def test_a_copy_that_ignores_the_request_to_end_is_killed(monkeypatch, tmp_path):
    def work():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        (tmp_path / "ready").touch()
        time.sleep(10)

    monkeypatch.setattr(runtime_background, "_ENDING_SECONDS", 0.1)
    background = BackgroundWork(work)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    began = time.monotonic()
    background.stop()
    assert time.monotonic() - began < 5
    assert background.process.exitcode == -signal.SIGKILL


def test_a_copy_gives_way_to_this_process(tmp_path):
    """In processor time, also where all sessions get the same share of it, and in memory."""

    def work():
        memory = Path("/proc/self/oom_score_adj").read_text().strip()
        (tmp_path / "file").write_text(f"{os.getsid(0)} {os.nice(0)} {memory}")

    assert wait(BackgroundWork(work)).failure is None
    assert (tmp_path / "file").read_text() == f"{os.getsid(0)} {min(19, os.nice(0) + 5)} 1000"


def test_the_end_of_a_copy_is_noticed_where_the_system_reaps_processes():
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert wait(BackgroundWork(lambda: "no compiler"), 10).failure == "no compiler"
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_copy_prints_nothing_where_output_is_not_a_file_of_this_process(monkeypatch, tmp_path):
    class Notebook(io.StringIO):
        def write(self, text):
            (tmp_path / "printed").write_text(text)

    monkeypatch.setattr(sys, "stdout", Notebook())
    assert wait(BackgroundWork(lambda: print("text"))).failure is None
    assert not (tmp_path / "printed").exists()


def test_a_copy_ends_with_this_process_and_all_processes_that_it_started(tmp_path):
    program = (
        "import os, subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from lowerbound.runtime.background import BackgroundWork\n"
        "ready = Path(sys.argv[1])\n"
        "def work():\n"
        "    started = subprocess.Popen(['sleep', '60'])\n"
        "    ready.with_suffix('.part').write_text(f'{os.getpid()} {started.pid}')\n"
        "    ready.with_suffix('.part').rename(ready)\n"
        "    time.sleep(60)\n"
        "BackgroundWork(work)\n"
        "while not ready.exists(): time.sleep(0.01)\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "ready")], check=True)
    numbers = [int(number) for number in (tmp_path / "ready").read_text().split()]
    end = time.monotonic() + 10
    while any(map(is_running, numbers)) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(map(is_running, numbers))


def test_a_process_that_must_not_have_children_is_not_copied(monkeypatch):
    import multiprocessing

    monkeypatch.setattr(multiprocessing.current_process(), "_config", {"daemon": True})
    assert not can_copy_process(CPU)
    assert not can_copy_process(torch.device("cuda"))


# A training that uses it.


class Watched(Observer):
    """Notes whether each step was compiled, and the lines that report the choice."""

    def __init__(self, at_step=lambda loop: None) -> None:
        self.compiled, self.lines, self.at_step = [], [], at_step
        self.background = None

    def on_choice(self, loop, line) -> None:
        self.lines.append(line)

    def on_step(self, loop) -> None:
        self.compiled.append(loop.step.last is None)
        self.background = loop.autotuner.tuner.background or self.background
        self.at_step(loop)


class InThisProcess:
    """Replaces background work, and has ended when it is asked for the ``asks``-th time."""

    asks, failure, stopped = 5, None, False

    def __init__(self, work) -> None:
        self.began, self.asked = time.monotonic(), 0

    @property
    def ended(self) -> bool:
        self.asked += 1
        return self.asked == self.asks

    def stop(self) -> None:
        type(self).stopped = True


@pytest.fixture
def worth_it(monkeypatch, tmp_path, traced):
    """Any training is long enough to compile, and compiled steps are faster."""
    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for name in ("WORTH_BACKGROUND_SECONDS", "WORTH_READING_SECONDS"):
        monkeypatch.setattr(autotune, name, 0.0)
    record = Autotuner.record

    def timed(tuner, _, left):
        record(tuner, 1.0 if tuner.option.compiled else 2.0, left)

    timed.__wrapped__ = record
    monkeypatch.setattr(Autotuner, "record", timed)


@pytest.fixture
def in_this_process(monkeypatch, worth_it):
    class Own(InThisProcess):
        pass

    monkeypatch.setattr(autotune, "BackgroundWork", Own)
    return Own


def train(watched: Observer, *, end: torch.nn.Module | None = None, **settings) -> lb.Run:
    torch.manual_seed(0)
    decoder = lb.mlp(2, 8, 6, activation="tanh")
    if end is not None:
        decoder.layers.append(end)
    vae = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(6, 8, 4, activation="tanh")),
        lb.Bernoulli(decoder),
    )
    data = lb.Examples.of(torch.rand(12, 6) < 0.5)
    settings = {"epochs": 40, "batch_size": 6, "progress": False, "threads": 1} | settings
    return lb.fit(vae, lb.ELBO(), data, observers=[watched], pictures_every=0, **settings)


def test_uncompiled_steps_go_on_while_the_compiler_works(in_this_process):
    watched = Watched()
    run = train(watched)
    # 13 steps are a trial. The compiler starts with the next one, and has finished after the fifth.
    # Then 13 uncompiled steps are timed again.
    assert watched.compiled == [False] * 31 + [True] * 49
    (line,) = watched.lines
    assert line.startswith("compiled: 1e+03 ms a step, uncompiled 2e+03 ms; 0 s to compile in the")
    assert line.endswith("then 1 s to read the result")
    assert [record.get("compiled_from") for record in run.history] == [None] * 15 + [32] * 25


def test_what_was_compiled_before_is_read_at_once(in_this_process):
    first, second, other = Watched(), Watched(), Watched()
    train(first)
    train(second)
    train(other, clip_norm=5.0)
    assert first.compiled == other.compiled == [False] * 31 + [True] * 49
    assert second.compiled == [False] * 13 + [True] * 67
    assert second.lines == [
        "compiled: 1e+03 ms a step, uncompiled 2e+03 ms; 1 s to compile",
    ]


def test_steps_of_an_edited_class_are_compiled_in_the_background_again(
    in_this_process, tmp_path, monkeypatch
):
    """Although the text of the model is the same."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    watched = Watched(), Watched(), Watched()
    for watch, factor in zip(watched, (0.5, 0.5, 0.25), strict=True):
        (tmp_path / "own_activation.py").write_text(
            "import torch\n\n"
            "class Scaled(torch.nn.Module):\n"
            f"    def forward(self, x):\n        return {factor} * x\n"
        )
        sys.modules.pop("own_activation", None)
        scaled = importlib.import_module("own_activation").Scaled()
        train(watch, end=scaled)
    assert [watch.compiled.index(True) for watch in watched] == [31, 13, 31]


def test_notes_that_cannot_be_written_do_no_harm(in_this_process, tmp_path):
    (tmp_path / "lowerbound").touch()  # where the folder would be
    watched = Watched()
    train(watched)
    assert watched.compiled == [False] * 31 + [True] * 49


def test_a_cache_that_cannot_be_written_leaves_steps_uncompiled(in_this_process, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/dev/null/cache")
    watched = Watched()
    train(watched)
    assert not any(watched.compiled)
    (line,) = watched.lines
    assert line.startswith("uncompiled: the compiler failed (")
    assert "/dev/null/cache" in line


def test_steps_stay_uncompiled_if_the_compiler_fails_in_the_copy(in_this_process):
    in_this_process.failure = "the compiler failed (no C++ compiler)"
    watched = Watched()
    train(watched)
    assert watched.lines == ["uncompiled: the compiler failed (no C++ compiler)"]
    assert not any(watched.compiled)


def test_compiled_code_is_not_read_if_few_steps_remain(in_this_process, monkeypatch):
    monkeypatch.setattr(autotune, "WORTH_READING_SECONDS", 98.1)  # 49 steps of 2 s are left
    watched = Watched()
    train(watched)
    assert watched.lines == ["uncompiled: the steps take 98 s, too little to gain by compiling"]
    assert not any(watched.compiled)


@pytest.mark.parametrize("end", ["its end", "an interrupt"])
def test_the_compiler_is_stopped_with_the_training(end, in_this_process):
    def interrupt(loop):
        if end == "an interrupt" and loop.progress.step == 20:
            raise KeyboardInterrupt

    in_this_process.asks = 1000
    watched = Watched(interrupt)
    if end == "an interrupt":
        with pytest.raises(KeyboardInterrupt):
            train(watched)
    else:
        train(watched)
    assert in_this_process.stopped


def test_a_resumed_run_changes_to_compiled_steps_at_the_same_step(
    in_this_process, tmp_path, monkeypatch
):
    def kill(loop):
        if loop.progress.step == 50:
            raise SystemError  # without the checkpoint of an interrupt

    settings = {"directory": tmp_path / "run", "save_every": 1e9}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lowerbound.training.observers.Recorder.on_interrupt", lambda *_: None)
        with pytest.raises(SystemError):
            train(Watched(kill), **settings)
    resumed, whole = Watched(), Watched()
    run = train(resumed, resume=True, **settings)
    assert resumed.compiled == [True] * 49
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "another"))
    again = train(whole)
    assert whole.compiled == [False] * 31 + [True] * 49
    assert run.history[-1]["compiled_from"] == again.history[-1]["compiled_from"] == 32
    for own, other in zip(run.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_uncompiled_steps_are_timed_again_before_the_choice(in_this_process, monkeypatch):
    """They may have become faster meanwhile, for instance with another number of threads."""
    times = iter([2.0] * 13 + [0.5] * 100)
    record = Autotuner.record.__wrapped__

    def timed(tuner, _, left):
        record(tuner, 1.0 if tuner.option.compiled else next(times), left)

    monkeypatch.setattr(Autotuner, "record", timed)
    watched = Watched()
    run = train(watched)
    assert watched.compiled == [False] * 31 + [True] * 26 + [False] * 23
    assert watched.lines[0].startswith("uncompiled: 500 ms a step, compiled 1e+03 ms")
    assert "compiled_from" not in run.history[-1]


def test_compiled_steps_that_another_program_slows_down_are_timed_again(
    in_this_process, monkeypatch
):
    times = iter([20.0] + [9.0] * 12 + [1.0] * 100)
    record = Autotuner.record.__wrapped__

    def timed(tuner, _, left):
        record(tuner, next(times) if tuner.option.compiled else 2.0, left)

    monkeypatch.setattr(Autotuner, "record", timed)
    watched = Watched()
    train(watched)
    assert watched.compiled == [False] * 31 + [True] * 49
    assert watched.lines[0].startswith("compiled: 1e+03 ms a step, uncompiled 2e+03 ms; 0 s to")
    assert watched.lines[0].endswith("then 20 s to read the result")


def test_uncompiled_steps_are_timed_with_the_chosen_number_of_threads(in_this_process, monkeypatch):
    """Although the compiler has finished in the middle of a trial of other numbers."""
    counts = {}

    def note(loop):
        counts.setdefault(loop.autotuner.tuner.stage.name, []).append(torch.get_num_threads())

    in_this_process.asks = 10
    for name, value in {"TURN_SECONDS": 1e9, "LONG_PIECE_SECONDS": 1e9}.items():
        monkeypatch.setattr(threads, f"_{name}", value)
    for name in ("SECONDS", "TIMES"):
        monkeypatch.setattr(threads, f"_WORTH_A_TRIAL_{name}", 0)
    with restoring_threads(4):
        train(Watched(note), threads=None)
    assert counts["PREPARING"] == [1] * 3 + [2] * 7
    assert set(counts["TIMING_AGAIN"]) == {1}


@pytest.mark.parametrize("user_changes_threads", [False, True])
def test_a_core_is_left_for_the_compiler(user_changes_threads, in_this_process, monkeypatch):
    """Unless another part of the program sets the number of threads."""
    counts = {}

    def note(loop):
        stage = loop.autotuner.tuner.stage.name
        counts.setdefault(stage, []).append(torch.get_num_threads())
        if user_changes_threads and len(counts["TIMING_UNCOMPILED"]) == 5:
            torch.set_num_threads(3)

    monkeypatch.setattr(preparing, "_WORTH_THREADS_MULTIPLICATIONS", 0)
    with restoring_threads(2):
        run = train(Watched(note), threads=None)
    if user_changes_threads:
        assert set(counts["PREPARING"]) == {3} == set(counts["DECIDED"])
        return
    assert set(counts["TIMING_UNCOMPILED"]) == {2}
    assert set(counts["PREPARING"]) == {1}
    assert set(counts["TIMING_COMPILED"]) == {2}
    assert run.history[6]["steps_by_threads"] == {"2": 1, "1": 1}


def test_a_model_in_shared_memory_is_not_compiled_in_a_copy(in_this_process, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "is_shared", lambda tensor: True)
    monkeypatch.setattr(autotune, "WORTH_COMPILING_SECONDS", 1e9)
    watched = Watched()
    train(watched)
    assert watched.background is None
    assert not any(watched.compiled)


def test_if_the_process_cannot_be_copied_steps_stay_uncompiled(worth_it, monkeypatch):
    def fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    watched = Watched()
    train(watched)
    assert not any(watched.compiled)
    (line,) = watched.lines
    assert line.startswith("uncompiled: the process cannot be copied (")


def test_work_that_has_ended_stays_ended():
    background = wait(BackgroundWork(lambda: None))
    assert background.ended
    assert background.failure is None


def test_the_compiler_works_in_a_copy_after_it_has_worked_here(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch.compiler.reset()
    CompiledFunction(lambda x: x.sin() + 1)(torch.rand(8))
    copy = CompiledFunction(lambda x: (x.cos() * 2, x.exp() - 3))

    def work():
        copy(torch.rand(8))

    assert wait(BackgroundWork(work)).failure is None


def test_a_training_compiles_in_a_copy_of_the_process(worth_it, monkeypatch):
    """Each step pauses, so that there are not too many of them while the compiler works."""
    pauses = threading.Event()
    watched = Watched(lambda loop: loop.autotuner.tuner.background and pauses.wait(0.05))
    run = train(watched, epochs=500)
    assert watched.background is not None
    assert watched.background.failure is None
    start = run.history[-1]["compiled_from"]
    assert 14 < start < 1000
    assert watched.compiled == [False] * (start - 1) + [True] * (1000 - start + 1)
