"""How a run ends when a signal asks for it: when, with which exit code, and what it leaves."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.cli.training import _describe_interrupt
from lowerbound.errors import SettingsError, StorageError, TrainingInterrupted
from lowerbound.runs.directory import RunDirectory
from lowerbound.runtime import interrupts
from lowerbound.runtime.interrupts import STOP_SIGNALS, StopSignals
from lowerbound.runtime.outputs import write_whole
from lowerbound.training import observers
from lowerbound.training.autostop import AutoStop
from lowerbound.training.loop import Loop
from lowerbound.training.observing import Observer
from lowerbound.training.step import TrainingStep

pytestmark = pytest.mark.usefixtures("trains")

SIZE = 4


@pytest.fixture(autouse=True)
def _quick(monkeypatch, without_learning_curves):
    """Without figures, and with less patience."""
    monkeypatch.setattr(interrupts, "_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(interrupts, "_AGAIN_SECONDS", 0.1)


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(20, SIZE)


def make_vae() -> lb.LatentModel:
    torch.manual_seed(0)
    return lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(lb.mlp(SIZE, 5, 4)),
        lb.Gaussian(lb.mlp(2, 5, SIZE), scale=1.0),
    )


def train(data, directory=None, model=None, **settings):
    usual = {"progress": False, "device": "cpu", "pictures_every": 0, "directory": directory}
    usual |= {"epochs": 4, "batch_size": 8, "learning_rate": 0.01}
    return lb.fit(model or make_vae(), lb.ELBO(), data, **usual | settings)


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def state_of(directory: Path) -> dict[str, torch.Tensor]:
    files, _ = RunDirectory(directory).read_newest()
    return {f"{file}/{name}": value for file in files for name, value in files[file].items()}


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def timeless(history: list[dict]) -> list[dict]:
    clocks = ("seconds", "examples_per_second")
    return [{k: v for k, v in record.items() if k not in clocks} for record in history]


class At(Observer):
    """Does something after a step."""

    def __init__(self, step: int, action) -> None:
        self.step, self.action = step, action

    def on_step(self, loop) -> None:
        if loop.progress.step == self.step:
            self.action()


# Which signals, and when


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_each_signal_ends_a_training_after_its_step(number, data, tmp_path):
    handlers = [signal.getsignal(each) for each in STOP_SIGNALS]
    with pytest.raises(TrainingInterrupted):
        train(data, tmp_path / "run", observers=[At(4, lambda: send(number))])
    assert RunDirectory(tmp_path / "run").list_newest()[0].name == "step-00000004"
    assert [signal.getsignal(each) for each in STOP_SIGNALS] == handlers
    resumed, straight = train(data, tmp_path / "run", resume=True), train(data)
    assert timeless(resumed.history) == timeless(straight.history)
    assert same(resumed.model.state_dict(), straight.model.state_dict())


def test_a_signal_after_the_last_step_is_answered_too(data, tmp_path):
    with pytest.raises(TrainingInterrupted):
        train(data, tmp_path / "run", epochs=1, observers=[At(3, send)])
    resumed, straight = train(data, tmp_path / "run", epochs=1, resume=True), train(data, epochs=1)
    assert timeless(resumed.history) == timeless(straight.history)


def test_a_resumed_epoch_without_steps_left_is_shown(data, tmp_path, capsys):
    with pytest.raises(TrainingInterrupted):
        train(data, tmp_path / "run", observers=[At(3, send)])
    assert len(train(data, tmp_path / "run", resume=True, progress=True).history) == 4


def test_a_complete_run_keeps_its_records_when_it_is_resumed(data, tmp_path):
    straight = train(data, tmp_path / "run", epochs=None, steps=5)
    again = train(data, tmp_path / "run", epochs=None, steps=5, resume=True)
    assert again.history == straight.history


def test_ignored_signals_and_own_handlers_are_left_alone(data):
    seen = []
    before = {each: signal.getsignal(each) for each in (signal.SIGHUP, signal.SIGUSR1)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
        acts = [At(2, lambda: send(signal.SIGHUP)), At(3, lambda: send(signal.SIGUSR1))]
        assert len(train(data, observers=acts).history) == 4
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert seen == [signal.SIGUSR1]


def block(monkeypatch, owner, name, *, call=2):
    """Let a call of a method send a signal, and then wait as a compiler or a long loop would."""
    real, calls = getattr(owner, name), []

    def wait(*given, **named):
        calls.append(1)
        if len(calls) == call:
            send()
            time.sleep(20)
        return real(*given, **named)

    monkeypatch.setattr(owner, name, wait)


LONG = {
    "step": (TrainingStep, "compute", {}),
    "validation": (Loop, "_validate", {"validation": 0.25}),
    "comparison of averages": (AutoStop, "consider", {"tolerance": 0.01}),
    "picture": (observers.Painter, "on_epoch", {}),
    "end": (observers.Painter, "on_end", {}),
}


@pytest.mark.parametrize(("owner", "name", "settings"), LONG.values(), ids=LONG)
def test_whatever_takes_long_is_interrupted_and_resumed(
    owner, name, settings, data, tmp_path, monkeypatch
):
    straight = train(data, **settings | {"epochs": 3})
    began = time.monotonic()
    with monkeypatch.context() as patch:
        block(patch, owner, name, call=1 if name == "on_end" else 2)
        with pytest.raises(TrainingInterrupted):
            train(data, tmp_path / "run", **settings | {"epochs": 3})
    assert time.monotonic() - began < 15
    resumed = train(data, tmp_path / "run", resume=True, **settings | {"epochs": 3})
    assert timeless(resumed.history) == timeless(straight.history)
    assert same(resumed.model.state_dict(), straight.model.state_dict())


def test_further_signals_do_not_disturb_the_writing_of_a_checkpoint(data, tmp_path, monkeypatch):
    real = RunDirectory.write_checkpoint

    def signalled(*given, **named):
        send()
        send(signal.SIGHUP)
        time.sleep(0.3)
        real(*given, **named)
        send()

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_checkpoint", signalled)
        with pytest.raises(TrainingInterrupted):
            train(data, tmp_path / "run", observers=[At(4, send)])
    assert RunDirectory(tmp_path / "run").list_newest()[0].name == "step-00000004"


def test_a_signal_during_a_checkpoint_waits_for_it(data, tmp_path, monkeypatch):
    real = RunDirectory.write_checkpoint

    def signalled(*given, **named):
        send()
        time.sleep(0.3)
        real(*given, **named)

    monkeypatch.setattr(RunDirectory, "write_checkpoint", signalled)
    with pytest.raises(TrainingInterrupted):
        train(data, tmp_path / "run", save_every=0)
    assert RunDirectory(tmp_path / "run").list_newest()[0].name == "step-00000001"


def test_an_interrupt_that_is_swallowed_comes_again():
    with StopSignals.catch() as signals:
        try:
            send()
        except KeyboardInterrupt:
            swallowed = True
        assert swallowed
        with pytest.raises(KeyboardInterrupt):
            time.sleep(10)
        signals.ignore_further()
        time.sleep(0.3)


def test_another_thread_sees_the_signal_after_its_step(data):
    ends = []

    def run():
        try:
            train(data, epochs=10_000)
        except TrainingInterrupted as error:
            ends.append(error)

    with StopSignals.catch() as signals:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            send()
        except KeyboardInterrupt:
            signals.ignore_further()
        thread.join(60)
    assert len(ends) == 1


def test_a_training_in_another_thread_does_not_change_when_this_one_is_interrupted():
    def train_elsewhere():
        with StopSignals.catch() as other, other.finish_step(lambda: True):
            other.ignore_further()

    with StopSignals.catch() as signals:
        with signals.finish_step(lambda: False):
            thread = threading.Thread(target=train_elsewhere)
            thread.start()
            thread.join()
            send()
            time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            signals.raise_if_requested()


def test_a_training_within_a_step_does_not_change_when_the_step_is_interrupted():
    with StopSignals.catch() as signals:
        with signals.finish_step(lambda: False):
            with StopSignals.catch() as inner, inner.finish_step(lambda: True):
                pass
            send()
            time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            signals.raise_if_requested()


def test_an_interrupt_comes_again_without_pthread_kill(monkeypatch):
    """As on Windows, where an interrupt does not end a wait of the operating system."""

    def wait():
        for _ in range(500):
            time.sleep(0.01)

    monkeypatch.delattr(signal, "pthread_kill")
    with StopSignals.catch() as signals:
        with pytest.raises(KeyboardInterrupt):
            send()
        with pytest.raises(KeyboardInterrupt):
            wait()
        signals.ignore_further()


# The process


def run_program(text: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, timeout=60
    )


def test_the_command_ends_even_if_interrupts_are_swallowed():
    ended = run_program("""
import os, signal, time
from lowerbound.runtime import interrupts
interrupts._GRACE_SECONDS = interrupts._AGAIN_SECONDS = 0.05
interrupts._LIMIT_SECONDS = 0.2
with interrupts.StopSignals(ends_process=True):
    while True:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        except KeyboardInterrupt:
            pass
""")
    assert (ended.returncode, ended.stderr) == (130, "lowerbound: interrupted\n")


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: signal.Signals(number).name)
def test_a_signal_while_the_command_is_imported(number):
    ended = run_program(f"""
import os, sys

class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            exec("os.kill(os.getpid(), {int(number)})")

sys.meta_path.insert(0, Importing())
from lowerbound.cli import main
main()
""")
    assert (ended.returncode, ended.stderr) == (130, "lowerbound: interrupted\n")


def command(capsys, *arguments) -> tuple[int, str]:
    """The exit code of the command, and its last line on standard error."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    return ended.value.code, capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def recipe(tmp_path) -> list[str]:
    pictures = np.random.default_rng(0).integers(0, 256, (40, 4, 4), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", pictures)
    flags = "--hidden 4 --latent 2 --samples 1 --epochs 2 --pictures-every 0"
    return ["train", "aevb-gaussian", "--data", str(tmp_path / "pictures.npy"), *flags.split()]


@pytest.mark.parametrize(
    ("place", "saved"),
    [
        ("lowerbound.cli.training.load_run_data", "lowerbound: interrupted"),
        ("lowerbound.cli.training.describe_examples", "to start over: lowerbound train --resume"),
        ("lowerbound.cli.training._print_results", "to continue: lowerbound train --resume"),
    ],
)
def test_the_command_says_what_an_interrupt_leaves(
    place, saved, recipe, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr(place, lambda *given: send())
        code, line = command(capsys, *recipe, "--out", tmp_path / "run")
    assert code == 130
    assert saved in line
    if "--resume" in saved:
        assert command(capsys, "train", "--resume", tmp_path / "run")[0] == 0


def test_only_what_was_saved_is_claimed(data, tmp_path):
    files = RunDirectory(tmp_path / "run")
    assert _describe_interrupt(files.path, []).endswith("nothing was saved")
    files.create({})
    fault, command = "disk full", f"lowerbound train --resume {files.path}"
    start_over = f"disk full; there is no checkpoint yet; to start over: {command}"
    assert _describe_interrupt(files.path, [fault]) == f"interrupted; {start_over}"
    (files.path / "checkpoints" / "step-00000012").mkdir(parents=True)
    line = _describe_interrupt(files.path, [fault])
    assert "disk full; to continue from step-00000012: lowerbound" in line


def test_a_checkpoint_that_cannot_be_written_is_a_note(data, tmp_path, monkeypatch):
    def refuse(*given, **named):
        raise StorageError("the disk is full")

    monkeypatch.setattr(RunDirectory, "write_checkpoint", refuse)
    with pytest.raises(TrainingInterrupted) as caught:
        train(data, tmp_path / "run", observers=[At(2, send)])
    assert caught.value.__notes__ == ["the disk is full"]


# In Python


def test_an_interrupt_in_python_restores_the_best_weights_and_gives_the_run(data):
    class Worsen(Observer):
        def on_epoch(self, loop, record):
            if record["epoch"] == 1:
                self.best = {k: v.clone() for k, v in loop.model.state_dict().items()}
                loop.rates.set = lambda step, factor: None
                loop.optimizer.param_groups[0]["lr"] = 5.0
            if record["epoch"] == 2:
                send(signal.SIGINT)

    model, worsen = make_vae(), Worsen()
    with pytest.raises(KeyboardInterrupt) as caught:
        train(data, model=model, validation=0.25, observers=[worsen])
    run = caught.value.run
    assert run.model is model
    assert len(run.history) == 2
    assert run.best_epoch == 1
    assert "interrupted after step 4" in repr(run)
    assert same(model.state_dict(), worsen.best)
    assert not model.training


def test_an_interrupt_in_the_first_epoch_gives_a_run_without_history(data):
    with pytest.raises(TrainingInterrupted, match="after step 1, in epoch 1") as caught:
        train(data, observers=[At(1, send)])
    assert repr(caught.value.run).startswith("Run(epochs=0)")


# Checkpoints by time


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize(
    "settings",
    [{}, {"ema": 0.9, "validation": 0.25, "schedule": "cosine"}, {"tolerance": 0.01}],
    ids=["plain", "averaged", "tolerance"],
)
def test_a_run_killed_within_an_epoch_continues_from_its_last_step(step, settings, data, tmp_path):
    straight = train(data, tmp_path / "straight", **settings)
    copy = At(step + 1, lambda: shutil.copytree(tmp_path / "run", tmp_path / "killed"))
    train(data, tmp_path / "run", save_every=0, observers=[copy], **settings)
    newest = RunDirectory(tmp_path / "killed").list_newest()[0]
    assert newest.name == f"step-{step:08d}"
    resumed = train(data, tmp_path / "killed", resume=True, **settings)
    assert timeless(resumed.history) == timeless(straight.history)
    assert same(state_of(tmp_path / "killed"), state_of(tmp_path / "straight"))


def test_a_checkpoint_is_written_when_the_time_has_passed(data, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(observers.time, "monotonic", lambda: now[0])

    class Clock(Observer):
        def on_step(self, loop):
            now[0] += 10.0

    written, real = [], RunDirectory.write_checkpoint
    monkeypatch.setattr(
        RunDirectory,
        "write_checkpoint",
        lambda self, *given: (written.append(now[0]), real(self, *given)),
    )
    train(data, tmp_path / "run", save_every=25.0, observers=[Clock()])
    assert written == [30.0, 60.0, 90.0, 120.0, 120.0]


def test_a_run_killed_before_its_first_checkpoint_starts_over(data, tmp_path, capsys):
    straight = train(data, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    again = train(data, tmp_path / "run", resume=True)
    assert timeless(again.history) == timeless(straight.history)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


def test_the_command_resumes_with_other_settings(recipe, tmp_path, capsys):
    out = tmp_path / "run"
    assert command(capsys, *recipe, "--out", out)[0] == 0
    changes = ["--learning-rate", "5e-4", "--epochs", "3", "--save-every", "5"]
    assert command(capsys, "train", "--resume", out, *changes)[0] == 0
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["training"]["learning_rate"] == 5e-4
    assert config["training"]["save_every"] == 5.0
    before = {"epochs": 2, "learning_rate": None, "save_every": 30.0}
    assert config["resumed"] == [{"from_step": 2, "before": before}]
    code, line = command(capsys, "train", "--resume", out, "--batch-size", "7", "--epochs", "4")
    assert code == 2
    assert "--batch-size 32, not 7" in line


# Files on a full disk


@pytest.fixture
def full_disk():
    """A function after which no file can grow beyond so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, full_disk):
    path = tmp_path / "new" / "file.txt"
    with write_whole(path) as file:
        file.write_text("first")
    full_disk(100)
    message = r"cannot be written \(File too large\)"
    with pytest.raises(StorageError, match=message), write_whole(path) as file:
        file.write_bytes(bytes(200))
    assert path.read_text() == "first"
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize(
    "arguments",
    [
        "sample samples.npy",
        "sample samples.png",
        "encode z.npy",
        "encode z.csv",
        "reconstruct r.png",
    ],
)
def test_a_full_disk_leaves_no_part_of_a_result(
    arguments, recipe, tmp_path, monkeypatch, capsys, full_disk
):
    monkeypatch.chdir(tmp_path)
    assert command(capsys, *recipe, "--out", "run")[0] == 0
    before = sorted(os.listdir())
    name, file = arguments.split()
    full_disk(16)
    code, line = command(capsys, name, "run", "--out", file)
    assert code == 2
    assert line == (
        f"lowerbound: {file}: cannot be written (File too large); raise the limit on the size of "
        "files (ulimit -f) or give another place"
    )
    assert sorted(os.listdir()) == before


def test_a_full_disk_leaves_no_part_of_a_run_s_files(data, tmp_path, full_disk):
    train(data, tmp_path / "run", epochs=1)

    def list_files():
        return sorted(str(path) for path in (tmp_path / "run").rglob("*"))

    before = list_files()
    full_disk(16)
    with pytest.raises(StorageError, match=r"config.yaml: cannot be written"):
        train(data, tmp_path / "run", epochs=2, resume=True)
    with pytest.raises(StorageError, match="cannot be written"):
        lb.save(make_vae(), tmp_path / "run" / "model")
    assert list_files() == before


def test_a_checkpoint_on_a_full_disk_is_not_claimed(data, tmp_path, full_disk):
    def fill():
        full_disk(16)
        send()

    with pytest.raises(TrainingInterrupted) as caught:
        train(data, tmp_path / "run", observers=[At(2, fill)])
    assert "cannot be written" in caught.value.__notes__[0]
    assert "to start over" in _describe_interrupt(tmp_path / "run", [])
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_metrics_keep_whole_lines_on_a_full_disk(tmp_path, full_disk):
    files = RunDirectory(tmp_path)
    files.append_metrics({"epoch": 1})
    full_disk(20)
    with pytest.raises(StorageError, match="cannot be written"):
        files.append_metrics({"epoch": 2})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'


# Seeds


def test_a_recipe_takes_a_seed_of_the_initial_weights():
    def make(seed):
        return lb.recipes.aevb_gaussian((SIZE,), hidden=3, latent=2, seed=seed)[0].state_dict()

    state = torch.get_rng_state()
    assert same(make(1), make(1))
    assert not same(make(1), make(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(make(None), make(None))


SEEDED = {
    "aevb-gaussian": lambda seed: lb.recipes.aevb_gaussian((SIZE,), hidden=3, seed=seed),
    "sample": lambda seed: make_vae().sample(2, seed=seed),
    "prepare": lambda seed: lb.Examples.of(torch.rand(4, SIZE)).prepare("as-is", seed=seed),
    "split": lambda seed: lb.Examples.of(torch.rand(4, SIZE)).split(0.5, seed=seed),
}


@pytest.mark.parametrize(("name", "call"), SEEDED.items(), ids=SEEDED)
def test_mistaken_seeds_are_refused(name, call):
    for seed in (-1, 2**31, 1.5, "a", True):
        with pytest.raises(SettingsError, match=f"{name}: seed={seed!r} must be a whole number"):
            call(seed)
    call(np.int64(1))
