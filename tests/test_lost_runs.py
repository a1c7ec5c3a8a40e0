"""What a run survives: power cuts, kills, damaged files, edited files, and other processes."""

import errno
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import torch
import yaml

import lowerbound as lb
from lowerbound.errors import NonFiniteError, SettingsError, StorageError
from lowerbound.runs.checkpoints import read_state
from lowerbound.runs.directory import RunDirectory
from lowerbound.training import autostop, observers
from lowerbound.training.observing import Observer

SIZE = 3
RUNS = Path(lb.__file__).parent / "runs"
CLOCKS = ("seconds", "examples_per_second")


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(10, SIZE)


@pytest.fixture(autouse=True)
def _quick(monkeypatch, without_learning_curves):
    """A checkpoint after every epoch, short windows, and no figure."""
    monkeypatch.setattr(observers.Recorder, "_is_due", lambda self: True)
    monkeypatch.setattr(observers.Recorder, "on_step", Observer.on_step)
    monkeypatch.setattr(autostop, "_FIRST_WINDOW_STEPS", 4)


def train(directory, data, **settings):
    torch.manual_seed(0)
    model = lb.LatentModel(
        lb.StandardNormal(1),
        lb.Gaussian(lb.mlp(SIZE, 2)),
        lb.Gaussian(lb.mlp(1, SIZE), scale=1.0),
    )
    usual = {"epochs": 4, "batch_size": 5, "progress": False, "device": "cpu"}
    usual |= {"compile": "never", "learning_rate": 0.02}
    return lb.fit(model, lb.ELBO(), data, directory=directory, **(usual | settings))


def results_of(directory: Path) -> dict:
    """All tensors of the newest checkpoint, and the metrics without what a clock says."""
    tensors, _ = RunDirectory(directory).read_newest()
    bits = {f"{file} {name}": v.tolist() for file in tensors for name, v in tensors[file].items()}
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    records = [{k: v for k, v in json.loads(x).items() if k not in CLOCKS} for x in lines]
    return {"metrics": records, **bits}


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def newest(directory: Path) -> Path:
    return RunDirectory(directory).list_newest()[0]


def step_of(directory: Path) -> int:
    """The step of the checkpoint with which a run would continue."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return RunDirectory(directory).read_newest()[1]["progress"]["step"]


# Power cuts


class SimulatedDisk:
    """What a loss of power at each moment leaves of a folder, if only ``os.fsync`` is relied on.

    The worst of two file systems: one that has lost every name and every content since the last
    synchronisation, and one that has kept all names but lost the contents.
    """

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.open = root, [os.open(root, os.O_RDONLY)]
        self.contents: dict[int, bytes] = {}
        self.names: dict[int, dict[str, int]] = {root.stat().st_ino: {}}
        self.images: list[tuple[int, dict[str, bytes]]] = []
        self.checkpoints = 0
        for name in ("replace", "rename", "unlink", "rmdir", "fsync"):
            patch.setattr(os, name, self._taking_images(name))
        written = RunDirectory.write_checkpoint

        def write_checkpoint(*arguments, **keywords):
            written(*arguments, **keywords)
            self.checkpoints += 1

        patch.setattr(RunDirectory, "write_checkpoint", write_checkpoint)

    def _taking_images(self, name: str) -> Callable:
        real = getattr(os, name)

        def call(*arguments, **keywords):
            self.take_images()
            result = real(*arguments, **keywords)
            if name == "fsync":
                self._synchronise(arguments[0])
            self.take_images()
            return result

        return call

    def _synchronise(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        inode = os.fstat(descriptor).st_ino
        self.open.append(os.dup(descriptor))  # so that no other file gets its number
        if path.is_dir():
            self.names[inode] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.contents[inode] = path.read_bytes()

    def take_images(self) -> None:
        kept = dict(self._keep_synchronised(self.root.stat().st_ino, Path()))
        files = {p: p.stat().st_ino for p in self.root.rglob("*") if p.is_file()}
        names = {str(p.relative_to(self.root)): i for p, i in files.items()}
        for image in (kept, {name: self.contents.get(i, b"") for name, i in names.items()}):
            if (self.checkpoints, image) not in self.images[-4:]:
                self.images.append((self.checkpoints, image))

    def _keep_synchronised(self, folder: int, path: Path):
        for name, inode in self.names.get(folder, {}).items():
            if inode in self.names:
                yield from self._keep_synchronised(inode, path / name)
            else:
                yield str(path / name), self.contents.get(inode, b"")


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds files by descriptors")
def test_a_power_cut_at_any_moment_costs_at_most_one_checkpoint(data, tmp_path):
    (tmp_path / "disk").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        disk = SimulatedDisk(tmp_path / "disk", patch)
        train(tmp_path / "disk" / "runs" / "run", data, validation=0.2, ema=0.9)
        disk.take_images()
        for descriptor in disk.open:
            os.close(descriptor)
    assert disk.checkpoints == 4
    lost = []
    for number, (checkpoints, image) in enumerate(disk.images):
        for name, content in image.items():
            file = tmp_path / str(number) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        found = -1
        with suppress(StorageError):
            found = step_of(tmp_path / str(number) / "runs" / "run")
        if found < 2 * checkpoints:  # two steps make an epoch
            lost.append((number, checkpoints, found))
    assert len([checkpoints for checkpoints, _ in disk.images if checkpoints]) > 50
    assert not [image for image in lost if image[1]]


def test_a_saved_model_is_on_the_disk(tmp_path, monkeypatch):
    synchronised, real = [], os.fsync

    def fsync(descriptor):
        synchronised.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    model = lb.LatentModel(
        lb.StandardNormal(1), lb.Gaussian(lb.mlp(2, 2)), lb.Gaussian(lb.mlp(1, 4))
    )
    path = lb.save(model, tmp_path / "models" / "vae")
    places = (path, path.parent, tmp_path)
    assert {place.stat().st_ino for place in places} <= set(synchronised)


@pytest.mark.parametrize("refused", [False, True])
def test_a_drive_is_flushed_where_the_system_can(refused, tmp_path, monkeypatch):
    """As on macOS, whose fsync leaves the content in the drive's own cache."""
    from lowerbound.runs import disk

    calls = []

    def flush_drive(descriptor, operation):
        calls.append(operation)
        if refused:
            raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(disk.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(disk.fcntl, "fcntl", flush_drive)
    monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
    disk.sync(tmp_path)
    assert calls == [51, *["fsync"] * refused]


# Kills


@contextmanager
def images_at_every_line(directory: Path, images: Path):
    """Copy a folder before each line of saving at which there are other names in it."""
    seen: list = [None]

    def look() -> None:
        now = list(os.walk(directory))
        if now != seen[-1]:
            shutil.copytree(directory, images / str(len(seen)))
            seen.append(now)

    def trace(frame, event, argument):
        if not Path(frame.f_code.co_filename).is_relative_to(RUNS):
            return None
        look()
        return trace

    real = RunDirectory.write_checkpoint

    def write_checkpoint(*arguments, **keywords):
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            real(*arguments, **keywords)
        finally:
            sys.settrace(before)
        look()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunDirectory, "write_checkpoint", write_checkpoint)
        yield


def content_of(image: Path) -> str:
    """A digest of what a resumed run reads: the newest checkpoint, and the best if it is apart."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors, state = RunDirectory(image).read_newest()
    state["progress"].pop("seconds")
    for record in state["progress"]["history"]:
        for clock in CLOCKS:
            record.pop(clock)
    parts = [json.dumps(state, sort_keys=True, default=str)]
    parts += [str(v.tolist()) for file in sorted(tensors) for _, v in sorted(tensors[file].items())]
    best = image / "checkpoints" / "best" / "model.safetensors"
    if best.exists():
        parts.append(hashlib.sha256(best.read_bytes()).hexdigest())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def test_a_kill_at_any_line_of_saving_resumes_to_the_same_bits(data, tmp_path):
    """With a tolerance, whose next decision depends on the best weights so far."""
    settings = {"epochs": 6, "tolerance": 1e-3}
    with images_at_every_line(tmp_path / "run", tmp_path / "images"):
        train(tmp_path / "run", data, **settings)
    expected = results_of(tmp_path / "run")
    assert any("window" in record for record in expected["metrics"][:-2])
    distinct: dict[str, Path] = {}
    images = sorted((tmp_path / "images").iterdir(), key=lambda path: int(path.name))
    for image in images:
        if RunDirectory(image).list_newest():
            distinct.setdefault(content_of(image), image)
    assert len(images) > 50
    assert len(distinct) >= 6
    for image in distinct.values():
        train(image, data, resume=True, **settings)
        assert results_of(image) == expected, image.name


@pytest.mark.parametrize("settings", [{"tolerance": 1e-3}, {"validation": 0.2}])
def test_an_older_checkpoint_resumes_to_the_same_bits(settings, data, tmp_path):
    settings = {"epochs": 6, **settings}
    train(tmp_path / "run", data, **settings)
    expected = results_of(tmp_path / "run")
    flip_a_byte(newest(tmp_path / "run") / "optimizer.safetensors")
    with pytest.warns(UserWarning, match=r"step-00000012/optimizer\.safetensors"):
        train(tmp_path / "run", data, resume=True, **settings)
    assert results_of(tmp_path / "run") == expected


def test_incomplete_checkpoints_are_found_or_removed(data, tmp_path):
    train(tmp_path / "run", data, epochs=2)
    folder = newest(tmp_path / "run")
    aside = folder.with_name(f".{folder.name}.retired")
    shutil.copytree(folder, folder.with_name(".step-00000009.partial"))
    folder.rename(aside)
    assert newest(tmp_path / "run") == aside
    assert step_of(tmp_path / "run") == 4
    train(tmp_path / "run", data, epochs=3, resume=True)
    names = sorted(path.name for path in folder.parent.iterdir())
    assert names == ["step-00000004", "step-00000006"]


# Damage, and files of other programs


def test_a_damaged_best_model_falls_back_and_names_the_file(data, tmp_path):
    train(tmp_path / "run", data, validation=0.2)
    flip_a_byte(newest(tmp_path / "run") / "best-model.safetensors")
    with pytest.warns(UserWarning, match=r"best-model\.safetensors.*older checkpoint is used"):
        lb.load(tmp_path / "run")
    with pytest.warns(UserWarning, match=r"best-model\.safetensors.*older checkpoint is used"):
        train(tmp_path / "run", data, validation=0.2, resume=True)


@pytest.mark.parametrize("name", [".DS_Store", "._model.safetensors", "Thumbs.db"])
def test_files_of_other_programs_are_left_alone(name, data, tmp_path):
    train(tmp_path / "run", data, validation=0.2, epochs=2)
    stray = newest(tmp_path / "run") / name
    for path in (stray, stray.parent.parent / name, tmp_path / "run" / name):
        path.write_bytes(b"not ours")
    lb.load(tmp_path / "run")
    train(tmp_path / "run", data, validation=0.2, epochs=3, resume=True)
    assert stray.exists()


def test_a_stray_tensor_file_is_named(data, tmp_path):
    train(tmp_path / "run", data)
    (newest(tmp_path / "run") / "another.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"does not list another\.safetensors"):
        assert RunDirectory(tmp_path / "run").read_newest()[1]["progress"]["step"] == 6


def test_checkpoints_are_ordered_as_numbers_and_copies_are_left_alone(data, tmp_path):
    train(tmp_path / "run", data, epochs=2)
    folder = newest(tmp_path / "run")
    copies = ["step-keep", "step-00000004 copy", "step-000000004", "step-99999999.old"]
    for name in copies:
        shutil.copytree(folder, folder.with_name(name))
    for step in (99999999, 100000000):
        (folder.parent / f"step-{step}").mkdir()
        state = {"progress": {"step": step}}
        (folder.parent / f"step-{step}" / "state.json").write_text(json.dumps(state))
    assert [path.name for path in RunDirectory(tmp_path / "run").list_newest()] == [
        *("step-100000000", "step-99999999", "step-00000004", "step-00000002")
    ]
    for name in ("step-99999999", "step-100000000"):
        shutil.rmtree(folder.with_name(name))
    train(tmp_path / "run", data, epochs=4, resume=True)
    names = {path.name for path in folder.parent.iterdir()}
    assert names == {*copies, "step-00000006", "step-00000008"}


def test_a_copy_that_disappears_while_it_is_read_is_no_error(data, tmp_path, monkeypatch):
    train(tmp_path / "run", data, epochs=2)
    copy = newest(tmp_path / "run").with_name("step-99999999")
    shutil.copytree(newest(tmp_path / "run"), copy)

    def read_once(folder):
        state = read_state(folder)
        if folder == copy:
            shutil.rmtree(copy, ignore_errors=True)
        return state

    for module in ("checkpoints", "store"):
        monkeypatch.setattr(f"lowerbound.runs.{module}.read_state", read_once, raising=False)
    with pytest.warns(UserWarning, match=r"step-99999999: is skipped"):
        assert RunDirectory(tmp_path / "run").read_newest()[1]["progress"]["step"] == 4


def test_a_copy_with_the_name_of_another_step_is_skipped(data, tmp_path):
    train(tmp_path / "run", data, epochs=2)
    folder = newest(tmp_path / "run")
    copy = folder.with_name("step-99999999")
    shutil.copytree(folder, copy)
    with pytest.warns(UserWarning, match=r"step-99999999: is skipped, .* of step 4 and not"):
        train(tmp_path / "run", data, epochs=4, resume=True)
    assert step_of(tmp_path / "run") == 8
    names = {path.name for path in folder.parent.iterdir()}
    assert names == {"step-99999999", "step-00000006", "step-00000008"}
    shutil.rmtree(copy)
    assert RunDirectory(tmp_path / "run").read_newest()[1]["progress"]["step"] == 8


@pytest.mark.filterwarnings("error")
def test_files_that_appear_while_a_checkpoint_is_written_are_not_part_of_it(tmp_path, monkeypatch):
    from lowerbound.runs import checkpoints

    real = checkpoints.write_unsynced_tensors

    def write_beside_others(path, *given):
        (path.parent / ".DS_Store").write_bytes(b"")
        (path.parent / "averaged.safetensors").write_bytes(b"of an earlier attempt")
        real(path, *given)

    monkeypatch.setattr(checkpoints, "write_unsynced_tensors", write_beside_others)
    store = RunDirectory(tmp_path).checkpoints
    write(store, 1)
    folder = store.list_newest()[0]
    (folder / ".DS_Store").write_bytes(b"changed later")
    assert set(store.read_newest()[0]) == {"model"}
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == {"model.safetensors", "state.json", "config.yaml"}


# Other processes


HOLD = """
import os, sys, time
from pathlib import Path
from lowerbound.runs.locking import lock
with lock(Path(sys.argv[1])):
    # A child prints its own number: from then on it does not keep the lock.
    forked = bool(sys.argv[2:])
    if not forked:
        print(0, flush=True)
    elif not os.fork():
        print(os.getpid(), flush=True)
        time.sleep(60)
        os._exit(0)
    time.sleep(60)
"""


@pytest.mark.parametrize("forks", [[], ["fork"]], ids=["alone", "with a child that lives on"])
def test_a_dead_process_holds_no_lock(forks, tmp_path):
    from lowerbound.runs.locking import lock

    file = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD, str(file), *forks]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        child = int(holder.stdout.readline())
        with (
            pytest.raises(StorageError, match=f"process {holder.pid} on .* is training"),
            lock(file),
        ):
            pass
        holder.kill()
        holder.wait()
        with lock(file):
            pass
        if child:
            os.kill(child, signal.SIGKILL)


def test_a_directory_that_another_training_uses_is_refused(data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.json*")}
    for settings in ({}, {"resume": True, "epochs": 2}):
        with (
            RunDirectory(tmp_path / "run").lock(),
            pytest.raises(StorageError, match=f"process {os.getpid()} on .* wait until it has"),
        ):
            train(tmp_path / "run", data, **settings)
    assert {path: path.read_bytes() for path in before} == before
    train(tmp_path / "run", data, epochs=2, resume=True)


def test_a_file_system_without_locks_is_reported(data, tmp_path, monkeypatch):
    from lowerbound.runs import locking

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locking.fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="this file system has no locks"):
        train(tmp_path / "run", data, epochs=1)


@pytest.mark.filterwarnings("ignore:.*this file system has no locks")
def test_a_lock_needs_nothing_that_windows_lacks(tmp_path, monkeypatch):
    from lowerbound.runs import locking

    for name in ("pread", "pwrite", "register_at_fork"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(locking, "fcntl", None)
    locking._drop_locks_in_children.cache_clear()
    (tmp_path / ".lock").write_text("process 1 on another machine")
    with locking.lock(tmp_path / ".lock"):
        pass
    assert (tmp_path / ".lock").read_text() == "process 1 on another machine"


def test_removing_the_file_of_a_lock_does_not_remove_the_lock(tmp_path):
    from lowerbound.runs.locking import lock, lock_folder

    file, refused = tmp_path / ".lock", pytest.raises(StorageError, match="another process is")
    with lock(file), lock_folder(tmp_path):
        file.unlink()
        with lock(file), refused, lock_folder(tmp_path):
            pass
    with lock(file), lock_folder(tmp_path):
        assert file.read_text().startswith(f"process {os.getpid()} on ")


def test_a_directory_whose_lock_was_removed_is_still_locked(data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    with RunDirectory(tmp_path / "run").lock():
        (tmp_path / "run" / ".lock").unlink()
        with pytest.raises(StorageError, match="another process is training"):
            train(tmp_path / "run", data, epochs=2, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_a_lock_that_a_script_has_on_the_directory_does_not_stop_training(resume, data, tmp_path):
    """For example, a script may run ``flock runs/x lowerbound train --resume runs/x``."""
    fcntl = pytest.importorskip("fcntl")
    run = tmp_path / "run"
    run.mkdir()
    if resume:
        train(run, data, epochs=1)
    outside = os.open(run, os.O_RDONLY)
    try:
        fcntl.flock(outside, fcntl.LOCK_EX | fcntl.LOCK_NB)
        train(run, data, epochs=2, resume=resume)
        with RunDirectory(run).lock(), pytest.raises(StorageError, match="is training into"):
            train(run, data, epochs=3, resume=True)
        lb.load(run)
    finally:
        os.close(outside)
    assert RunDirectory(run).read_newest()[1]["progress"]["epoch"] == 2


@pytest.mark.parametrize("name", [".lock", "checkpoints"])
def test_what_something_else_has_locked_is_named(name, data, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    train(tmp_path / "run", data, epochs=1)
    outside = os.open(tmp_path / "run" / name, os.O_RDONLY)
    message = rf"/run: another process is .*, or something else has locked .*/run/{name};"
    try:
        fcntl.flock(outside, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(StorageError, match=message):
            train(tmp_path / "run", data, epochs=2, resume=True)
    finally:
        os.close(outside)


@pytest.mark.parametrize("place", ["another-host", "here"])
def test_a_killed_training_is_not_the_only_one_that_may_have_the_lock(place, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    owner = f"process {ended.pid} on {place.replace('here', platform.node())}"
    (tmp_path / ".lock").write_text(owner)
    message = rf"{owner} is training .*, or something else has locked .*/\.lock;"
    with (tmp_path / ".lock").open() as outside:
        fcntl.flock(outside, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(StorageError, match=message), RunDirectory(tmp_path).lock():
            pass


def test_a_training_that_is_refused_makes_no_folder_for_checkpoints(data, tmp_path):
    (tmp_path / "config.yaml").write_text("of: something else")
    with pytest.raises(StorageError, match="already contains a run"):
        train(tmp_path, data, epochs=1)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", ".lock"}


def test_a_training_of_an_earlier_version_keeps_others_out(data, tmp_path):
    """It locks ``.lock`` and the directory of the run."""
    from lowerbound.runs.locking import lock, lock_folder

    run, refused = tmp_path / "run", pytest.raises(StorageError, match="is training into")
    train(run, data, epochs=1)
    with lock(run / ".lock"), lock_folder(run), refused:
        train(run, data, epochs=2, resume=True)
    with RunDirectory(run).lock(), refused, lock(run / ".lock"):
        pass


def test_many_locks_need_one_hook_for_forked_children(tmp_path, monkeypatch):
    from lowerbound.runs import locking

    hooks: list[dict] = []
    monkeypatch.setattr(os, "register_at_fork", lambda **given: hooks.append(given))
    locking._drop_locks_in_children.cache_clear()
    for _ in range(3):
        with locking.lock(tmp_path / ".lock"):
            pass
    assert len(hooks) == 1


def write(store, step: int) -> None:
    files = {"model": {"weight": torch.full((2,), float(step))}}
    store.write(step, files, {"progress": {"step": step}}, {}, "training: {}")


@pytest.mark.filterwarnings("error")
def test_a_reader_beside_a_writer_starts_again(tmp_path, monkeypatch):
    """What it was about to read is deleted by two later checkpoints, or is replaced."""
    from lowerbound.runs import checkpoints

    store = RunDirectory(tmp_path).checkpoints
    write(store, 1)
    steps, real = [2, 3, 3], checkpoints.digest

    def digest(path):
        if steps and ".partial" not in str(path):
            write(store, steps.pop(0))
            if len(steps) == 1:
                write(store, steps.pop(0))
        return real(path)

    monkeypatch.setattr(checkpoints, "digest", digest)
    tensors, state = store.read_newest()
    assert state["progress"]["step"] == 3
    assert tensors["model"]["weight"].tolist() == [3.0, 3.0]
    assert not steps


# Edited files


def edit(directory: Path, change: Callable[[dict], None]) -> None:
    config = yaml.safe_load((directory / "config.yaml").read_text())
    change(config)
    (directory / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.parametrize(("name", "value"), [("batch_size", 4), ("seed", 1), ("ema", 0.5)])
def test_an_edited_setting_that_decides_the_run_is_refused(name, value, data, tmp_path):
    """The command passes on what the edited file says."""
    train(tmp_path / "run", data, epochs=1)
    edit(tmp_path / "run", lambda config: config["training"].update({name: value}))
    with pytest.raises(SettingsError, match=r"config\.yaml was edited since; write the earlier"):
        train(tmp_path / "run", data, epochs=2, resume=True, **{name: value})


def test_an_edited_description_is_refused(data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    edit(tmp_path / "run", lambda config: config["objective"].update(samples=5))
    with pytest.raises(SettingsError, match=r"objective\.samples=5, but .* written with 1"):
        train(tmp_path / "run", data, epochs=2, resume=True)


def test_an_edited_setting_that_may_change_is_recorded(data, tmp_path):
    train(tmp_path / "run", data, epochs=1, config={"data": {"source": "here"}})

    def change(config):
        config["training"].update(learning_rate=0.5)
        config["data"].update(source="there")

    edit(tmp_path / "run", change)
    train(tmp_path / "run", data, epochs=2, learning_rate=0.5, resume=True)
    expected = {"epochs": 1, "learning_rate": 0.02, "data": {"source": "here"}}
    for folder in (tmp_path / "run", newest(tmp_path / "run")):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert config["resumed"] == [{"from_step": 2, "before": expected}]
        assert config["training"]["learning_rate"] == 0.5


# Values that are not finite


class Spoil(Observer):
    """Makes a value infinite or not a number at a step, as no update of the weights can."""

    def __init__(self, spoil: Callable) -> None:
        self.spoil = spoil

    def on_step(self, loop) -> None:
        if loop.progress.step == 4:
            self.spoil(loop)


def spoil_average(loop) -> None:
    next(loop.ema.module.parameters()).data.fill_(float("nan"))


def spoil_optimizer(loop) -> None:
    next(iter(loop.optimizer.state.values()))["exp_avg_sq"].fill_(float("inf"))


@pytest.mark.parametrize(
    ("spoil", "where"),
    [(spoil_average, "the averaged weights"), (spoil_optimizer, "the optimiser's state")],
)
def test_values_that_are_not_finite_are_not_saved(spoil, where, data, tmp_path):
    with pytest.raises(NonFiniteError, match=where):
        train(tmp_path / "run", data, ema=0.9, observers=[Spoil(spoil)])
    assert step_of(tmp_path / "run") == 2


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(data, tmp_path):
    from lowerbound.runs.saving import make_header
    from lowerbound.runs.tensor_files import write_tensors

    model = train(None, data, epochs=1).model
    name, value = next(iter(model.state_dict().items()))
    value.fill_(float("nan"))
    with pytest.raises(StorageError, match=f"{name} is not finite"):
        lb.save(model, tmp_path / "model")
    write_tensors(tmp_path / "old.safetensors", model.state_dict(), make_header(model))
    with pytest.raises(StorageError, match=f"the weight {name} is not finite"):
        lb.load(tmp_path / "old")


def test_a_checkpoint_that_is_not_finite_is_passed_over(data, tmp_path):
    train(tmp_path / "run", data, epochs=2, ema=0.9)
    tensors, state = RunDirectory(tmp_path / "run").read_newest()
    tensors["averaged"] = {name: v * float("nan") for name, v in tensors["averaged"].items()}
    config = state.pop("config")
    state["progress"]["step"] = 6
    store = RunDirectory(tmp_path / "run").checkpoints
    header = yaml.safe_load("{}")
    store.write(6, tensors, state, header, yaml.safe_dump(config))
    with pytest.warns(UserWarning, match=r"step-00000006/averaged\.safetensors.*not finite"):
        assert RunDirectory(tmp_path / "run").read_newest()[1]["progress"]["step"] == 4


class Attention(torch.nn.Linear):
    """A layer with a mask, which is infinite where nothing may be seen."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))


def make_masked() -> lb.LatentModel:
    torch.manual_seed(0)
    network = lb.mlp(SIZE, 2)
    network.add_module("attention", Attention(1, 1))
    return lb.LatentModel(
        lb.StandardNormal(1), lb.Gaussian(network), lb.Gaussian(lb.mlp(1, SIZE), scale=1.0)
    )


@pytest.mark.parametrize("settings", [{"ema": 0.5}, {"tolerance": 0.01}, {"validation": 0.2}])
def test_an_infinite_buffer_is_trained_saved_and_resumed(settings, data, tmp_path):
    usual = {"batch_size": 5, "progress": False, "compile": "never", **settings}
    for epochs in (3, 4):
        model = make_masked()
        run = lb.fit(
            model, lb.ELBO(), data, directory=tmp_path, epochs=epochs, resume=epochs > 3, **usual
        )
    assert len(run.history) == 4
    loaded = lb.load(tmp_path, constructor=make_masked)
    for each in (model, loaded):
        mask = each.posterior.network.attention.mask
        assert torch.equal(mask, torch.full((2, 2), -torch.inf).triu(1))


@pytest.mark.parametrize("name", ["weight", "mask"])
def test_infinite_weights_and_undefined_buffers_are_refused(name, data, tmp_path):
    def spoil(loop):
        value = getattr(loop.model.posterior.network.attention, name)
        value.data.fill_({"weight": torch.inf, "mask": torch.nan}[name])

    usual = {"batch_size": 5, "progress": False, "compile": "never"}
    with pytest.raises(NonFiniteError, match="the model's weights"):
        lb.fit(make_masked(), lb.ELBO(), data, epochs=3, observers=[Spoil(spoil)], **usual)
