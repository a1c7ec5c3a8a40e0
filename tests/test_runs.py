"""The run directory: what is written, what resuming brings back, and what damage does."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import lowerbound as lb
from lowerbound.cli import main
from lowerbound.errors import SettingsError, StorageError
from lowerbound.report.drawing import find_grid_side
from lowerbound.report.figures import manifold_points
from lowerbound.runs.directory import RunDirectory
from lowerbound.runs.tensor_files import read_tensors
from lowerbound.training import observers, preparing
from lowerbound.training.observing import Observer
from lowerbound.training.progress import Progress, Windows
from lowerbound.training.quick_step import QuickStep

pytestmark = pytest.mark.usefixtures("without_learning_curves")

SIZE = 4


def make_vae(latent: int = 2, shape=SIZE) -> lb.LatentModel:
    torch.manual_seed(0)
    return lb.LatentModel(
        lb.StandardNormal(latent),
        lb.Gaussian(lb.mlp(shape, 5, 2 * latent)),
        lb.Gaussian(lb.mlp(latent, 5, shape), scale=1.0),
    )


def train(directory, data, model=None, objective=None, **settings):
    settings = {
        "epochs": 6,
        "batch_size": 8,
        "progress": False,
        "device": "cpu",
        "learning_rate": 0.01,
    } | settings
    return lb.fit(
        model or make_vae(), objective or lb.ELBO(), data, directory=directory, **settings
    )


def metrics(directory: Path) -> list[dict]:
    """The lines of ``metrics.jsonl``, apart from what a clock says."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("seconds", "examples_per_second")}
        for line in lines
    ]


def state_of(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint: weights, averages, optimiser and random state."""
    files, _ = RunDirectory(directory).read_newest()
    return {
        f"{file}/{name}": value
        for file, tensors in files.items()
        for name, value in tensors.items()
    }


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in (directory / "checkpoints").iterdir())


@pytest.fixture
def data() -> torch.Tensor:
    return torch.randn(20, SIZE)


@pytest.fixture
def pictures() -> torch.Tensor:
    return (torch.rand(12, 1, 8, 8) * 255).to(torch.uint8)


@pytest.fixture
def every_epoch(monkeypatch):
    """A checkpoint after every epoch, and none within it."""
    monkeypatch.setattr(observers.Recorder, "_is_due", lambda self: True)
    monkeypatch.setattr(observers.Recorder, "on_step", Observer.on_step)


@dataclass
class Stop(Observer):
    """Ends a training after a step, by an error or a signal."""

    step: int
    by: BaseException | int
    seen: list[int] = field(default_factory=list)

    def on_step(self, loop) -> None:
        self.seen.append(loop.progress.step)
        if loop.progress.step != self.step:
            return
        if isinstance(self.by, int):
            os.kill(os.getpid(), self.by)
        else:
            raise self.by


def interrupted(directory, data, stop: Stop, **settings) -> None:
    usual = preparing.make_observers
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "make_observers", lambda *given: [*usual(*given), stop])
        with pytest.raises((KeyboardInterrupt, RuntimeError)):
            train(directory, data, **settings)


# Resuming

VARIANTS = {
    "plain": {},
    "sgd-momentum": {"optimizer": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)},
    "nadam": {"optimizer": "nadam"},
    "rprop": {"optimizer": "rprop"},
    "adafactor": {"optimizer": "adafactor"},
    "asgd": {"optimizer": "asgd"},
    "schedule": {"schedule": "cosine", "warmup_steps": 5, "weight_decay": 0.01, "clip_norm": 1.0},
    "average": {"ema": 0.9},
    "validation": {"validation": 0.25},
    "everything": {"ema": 0.9, "validation": 0.25, "patience": 5, "schedule": "linear"},
    "steps": {"epochs": None, "steps": 13},
}


@pytest.mark.parametrize(
    "stop_after", [1, 7, 9], ids=["first step", "within an epoch", "end of an epoch"]
)
@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_resuming_is_as_if_it_had_never_stopped(settings, stop_after, data, tmp_path):
    straight = train(tmp_path / "straight", data, **settings)
    interrupted(tmp_path / "resumed", data, Stop(stop_after, RuntimeError("power cut")), **settings)
    resumed = train(tmp_path / "resumed", data, resume=True, **settings)
    assert metrics(tmp_path / "resumed") == metrics(tmp_path / "straight")
    assert resumed.best_epoch == straight.best_epoch
    kept, expected = resumed.model.state_dict(), straight.model.state_dict()
    assert all(torch.equal(kept[name], expected[name]) for name in expected)
    one, other = state_of(tmp_path / "resumed"), state_of(tmp_path / "straight")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_resuming_after_a_signal(number, data, tmp_path):
    train(tmp_path / "straight", data)
    interrupted(tmp_path / "resumed", data, Stop(7, number))
    train(tmp_path / "resumed", data, resume=True)
    assert metrics(tmp_path / "resumed") == metrics(tmp_path / "straight")
    one, other = state_of(tmp_path / "resumed"), state_of(tmp_path / "straight")
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_resuming_twice(data, tmp_path):
    train(tmp_path / "straight", data)
    interrupted(tmp_path / "resumed", data, Stop(4, RuntimeError()))
    interrupted(tmp_path / "resumed", data, Stop(11, RuntimeError()), resume=True)
    train(tmp_path / "resumed", data, resume=True)
    assert metrics(tmp_path / "resumed") == metrics(tmp_path / "straight")


def test_an_update_cut_short_is_not_written(data, tmp_path, monkeypatch, every_epoch):
    train(tmp_path / "straight", data)
    real, calls = QuickStep.__call__, []

    def cut_short(self):
        real(self)
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(QuickStep, "__call__", cut_short)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "resumed", data)
    assert names(tmp_path / "resumed") == ["step-00000003", "step-00000006"]
    train(tmp_path / "resumed", data, resume=True)
    assert metrics(tmp_path / "resumed") == metrics(tmp_path / "straight")


def test_a_training_may_go_on_for_longer(data, tmp_path):
    train(tmp_path / "long", data, epochs=5)
    train(tmp_path / "short", data, epochs=2)
    train(tmp_path / "short", data, epochs=5, resume=True)
    assert metrics(tmp_path / "short") == metrics(tmp_path / "long")


def test_resuming_what_is_finished_changes_nothing(data, tmp_path):
    first = train(tmp_path / "run", data, ema=0.9, validation=0.25)
    before = {
        path: path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.is_file() and path.suffix != ".png"
    }
    again = train(tmp_path / "run", data, ema=0.9, validation=0.25, resume=True)
    assert {path: path.read_bytes() for path in before} == before
    assert again.history == first.history
    assert all(
        torch.equal(again.model.state_dict()[name], value)
        for name, value in first.model.state_dict().items()
    )


def test_early_stopping_is_final(data, tmp_path):
    settings = {"validation": data + 1, "patience": 2, "epochs": 60, "learning_rate": 0.03}
    first = train(tmp_path / "run", data + 4, **settings)
    assert first.stopped_early
    again = train(tmp_path / "run", data + 4, resume=True, **settings)
    assert (again.stopped_early, again.best_epoch, again.history) == (
        True,
        first.best_epoch,
        first.history,
    )


def test_metrics_newer_than_the_checkpoint_are_dropped(data, tmp_path):
    train(tmp_path / "run", data, epochs=2)
    kept = metrics(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3}\n{"epo')
    train(tmp_path / "run", data, epochs=2, resume=True)
    assert metrics(tmp_path / "run") == kept


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed=0, not 1"),
        ({"batch_size": 9}, "batch_size=8, not 9"),
        ({"validation": 0.25}, r"examples\.train\.count=20, not 15"),
        ({"objective": lb.ELBO(samples=2)}, r"has objective\.samples=1, not 2"),
    ],
)
def test_resuming_something_else_is_refused(change, message, data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    with pytest.raises(SettingsError, match=message):
        train(tmp_path / "run", data, resume=True, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "sgd"}, "Adam, not SGD"),
        ({"model": make_vae(3)}, r"has model\.prior\.shape=\[2\], not \[3\]"),
        ({"ema": 0.5}, "has averaged weights=none, not exponentially"),
    ],
)
def test_resuming_with_other_parts_is_refused(change, message, data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    with pytest.raises((StorageError, SettingsError), match=message):
        train(tmp_path / "run", data, resume=True, **change)


def test_resuming_on_other_data_is_refused(data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    with pytest.raises(SettingsError, match=r"has examples\.train\.sha256="):
        train(tmp_path / "run", data + 1, resume=True)


def test_what_changes_on_the_way_is_written_down(data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    train(tmp_path / "run", data, epochs=3, clip_norm=5.0, resume=True)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["training"]["epochs"] == 3
    assert config["training"]["clip_norm"] == 5.0
    assert config["resumed"] == [{"from_step": 3, "before": {"epochs": 1, "clip_norm": None}}]
    train(tmp_path / "run", data, epochs=3, clip_norm=5.0, resume=True)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text()) == config


def test_a_changed_weight_decay_holds_after_resuming(data, tmp_path):
    for name, decay in (("same", None), ("more", 10.0)):
        train(tmp_path / name, data, epochs=1, optimizer="sgd")
        train(tmp_path / name, data, epochs=2, optimizer="sgd", weight_decay=decay, resume=True)
    same, more = (state_of(tmp_path / name) for name in ("same", "more"))
    norm = {
        name: sum(v.norm() for k, v in state.items() if k.startswith("model/"))
        for name, state in [("same", same), ("more", more)]
    }
    assert norm["more"] < norm["same"]


def test_an_epoch_that_the_steps_cut_short_goes_on(data, tmp_path):
    train(tmp_path / "cut", data, epochs=None, steps=4)  # three batches make an epoch
    resumed = train(tmp_path / "cut", data, epochs=None, steps=9, resume=True)
    straight = train(tmp_path / "straight", data, epochs=None, steps=9)
    assert [record["step"] for record in resumed.history] == [3, 6, 9]
    assert metrics(tmp_path / "cut")[0] == metrics(tmp_path / "straight")[0]
    assert resumed.history[1]["train"] == pytest.approx(straight.history[1]["train"], rel=1e-12)
    assert all(
        torch.equal(a, b)
        for a, b in zip(resumed.model.parameters(), straight.model.parameters(), strict=True)
    )


def test_the_best_weights_survive_a_resumption_without_a_better_epoch(data, tmp_path):
    settings = {"validation": 0.25, "learning_rate": 0.05, "epochs": 3}
    first = train(tmp_path / "run", data, **settings)
    best = {name: value.clone() for name, value in first.model.state_dict().items()}
    config = tmp_path / "run" / "config.yaml"
    state = tmp_path / "run" / "checkpoints"
    (newest,) = state.glob("step-*")
    told = json.loads((newest / "state.json").read_text())
    told["progress"]["best_bound"] = 1e9  # no epoch to come can be better
    (newest / "state.json").write_text(json.dumps(told))
    sums = newest / "SHA256SUMS"
    lines = [line for line in sums.read_text().splitlines() if not line.endswith("state.json")]
    sums.write_text(
        "\n".join(
            [
                *lines,
                f"{hashlib.sha256((newest / 'state.json').read_bytes()).hexdigest()}  state.json",
            ]
        )
        + "\n"
    )
    resumed = train(tmp_path / "run", data, **settings | {"epochs": 5}, resume=True)
    assert config.exists()
    assert all(torch.equal(value, best[name]) for name, value in resumed.model.state_dict().items())


def test_the_best_model_is_found_where_a_crash_put_it_aside(data, tmp_path):
    train(tmp_path / "run", data, epochs=2, validation=0.25)
    checkpoints = tmp_path / "run" / "checkpoints"
    before = lb.load(tmp_path / "run").state_dict()
    (newest,) = checkpoints.glob("step-*")
    newest.rename(checkpoints / f".{newest.name}.retired")
    assert all(
        torch.equal(value, before[name])
        for name, value in lb.load(tmp_path / "run").state_dict().items()
    )


def test_the_best_model_loads_where_only_the_newest_checkpoint_is_damaged(data, tmp_path):
    train(tmp_path / "run", data, epochs=2, validation=0.25)
    before = lb.load(tmp_path / "run").state_dict()
    (newest,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    (newest / "state.json").write_bytes(b"{damaged")
    assert all(
        torch.equal(value, before[name])
        for name, value in lb.load(tmp_path / "run").state_dict().items()
    )


def test_a_full_disk_is_the_user_s_to_mend(data, tmp_path, monkeypatch):
    from lowerbound.runs import checkpoints

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_unsynced_tensors", full)
    with pytest.raises(
        StorageError, match="cannot be written \\(No space left on device\\); make room"
    ):
        train(tmp_path / "run", data, epochs=1)


def test_resuming_nothing_is_refused(data, tmp_path):
    with pytest.raises(StorageError, match=r"config\.yaml"):
        train(tmp_path / "run", data, resume=True)
    assert not (tmp_path / "run").exists()


def test_no_run_is_resumed_without_a_lock(data, tmp_path, monkeypatch):
    """Not even one that another process has created since the beginning of this call."""
    from lowerbound.training import resuming

    monkeypatch.setattr(resuming, "open_run", lambda *given: pytest.fail("is not locked"))
    with pytest.raises(StorageError, match=r"config\.yaml"):
        train(tmp_path / "run", data, resume=True)


@pytest.mark.parametrize(
    "content", ["{}", "training: 3", "training: {seed: 0}", "training: {seed: 0, batch_size: 8}"]
)
def test_resuming_without_the_settings_is_refused(content, data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    (tmp_path / "run" / "config.yaml").write_text(content)
    with pytest.raises(StorageError, match="lacks settings"):
        train(tmp_path / "run", data, resume=True)


# Damage


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = [
    "model.safetensors",
    "optimizer.safetensors",
    "random.safetensors",
    "state.json",
    "SHA256SUMS",
]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "damage",
    [flip_a_byte, Path.unlink, lambda path: path.write_bytes(b"")],
    ids=["flip", "gone", "empty"],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    file, damage, data, tmp_path, every_epoch
):
    train(tmp_path / "straight", data, epochs=4)
    train(tmp_path / "run", data, epochs=3)
    assert names(tmp_path / "run") == ["step-00000006", "step-00000009"]
    damage(tmp_path / "run" / "checkpoints" / "step-00000009" / file)
    with pytest.warns(UserWarning, match=r"step-00000009.*older checkpoint is used instead"):
        _, state = RunDirectory(tmp_path / "run").read_newest()
    assert state["progress"]["step"] == 6
    with pytest.warns(UserWarning, match=r"step-00000009.*older checkpoint is used instead"):
        train(tmp_path / "run", data, epochs=4, resume=True)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "straight")


def test_damage_everywhere_is_named_file_by_file(data, tmp_path, every_epoch):
    train(tmp_path / "run", data, epochs=2)
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        flip_a_byte(folder / "model.safetensors")
    with pytest.raises(
        StorageError, match=r"step-00000006/model\.safetensors.*step-00000003/model\.safetensors"
    ):
        train(tmp_path / "run", data, resume=True)


def test_a_damaged_model_is_not_loaded(data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    flip_a_byte(tmp_path / "run" / "checkpoints" / "step-00000003" / "model.safetensors")
    with pytest.raises(StorageError, match="missing or damaged"):
        lb.load(tmp_path / "run")


# What is written


def test_the_files_of_a_run(pictures, tmp_path):
    train(
        tmp_path / "run",
        pictures,
        make_vae(2, (1, 8, 8)),
        epochs=4,
        pictures_every=2,
        validation=0.25,
    )
    root = tmp_path / "run"
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    last = "checkpoints/step-00000008"
    assert found == {
        ".lock", "config.yaml", "metrics.jsonl", "bound.png", "manifold.png",
        "samples/epoch-0002.png", "samples/epoch-0004.png",
        "reconstructions/epoch-0002.png", "reconstructions/epoch-0004.png",
        f"{last}/model.safetensors", f"{last}/optimizer.safetensors", f"{last}/random.safetensors",
        f"{last}/best-model.safetensors", f"{last}/state.json", f"{last}/config.yaml",
        f"{last}/SHA256SUMS",
    }  # fmt: skip


def test_the_last_epoch_is_always_drawn(pictures, tmp_path):
    train(tmp_path / "run", pictures, make_vae(2, (1, 8, 8)), epochs=3, pictures_every=2)
    drawn = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert drawn == ["epoch-0002.png", "epoch-0003.png"]


def test_the_manifold_is_twenty_by_twenty(pictures, tmp_path):
    train(tmp_path / "run", pictures, make_vae(2, (1, 8, 8)), epochs=1)
    # tiles of 8 x 8 enlarged six times, 2 pixels between and around them
    with Image.open(tmp_path / "run" / "manifold.png") as manifold:
        assert manifold.size == (20 * 50 + 2, 20 * 50 + 2)


def draw_manifold(shape, folder: Path) -> tuple[np.ndarray, torch.Tensor, int]:
    """Train for a step on examples of two latents: the manifold, its values, and its side."""
    x = torch.rand(4, *shape)
    decoder = lb.Gaussian(lb.mlp(2, shape), scale=1.0, mean="sigmoid")
    model = lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp(shape, 4)), decoder)
    train(folder, x, model, epochs=1, start=False, pictures_every=0)
    with Image.open(folder / "manifold.png") as picture:
        assert "are shown" not in picture.text.get("Description", "")
        side = find_grid_side(shape, 20)
        return np.array(picture), lb.load(folder).decode(manifold_points(side)), side


@pytest.mark.parametrize("size", [196, 197, 256])
def test_the_manifold_of_large_pictures_has_as_many_as_fit_and_in_their_places(size, tmp_path):
    """The axes of the picture are those of the latents, so no row of values is broken in two."""
    sheet, values, side = draw_manifold((1, size, size), tmp_path / "run")
    assert side == min(20, 3998 // (size + 2))
    assert sheet.shape == (side * (size + 2) + 2,) * 2
    expected = (values * 255).round().reshape(side, side, size, size).numpy()
    for row in range(side):
        for column in range(side):
            top, left = row * (size + 2) + 2, column * (size + 2) + 2
            tile = sheet[top : top + size, left : left + size].astype(float)
            np.testing.assert_allclose(tile, expected[row, column], atol=1)


def test_the_manifold_of_signals_has_four_in_a_row(tmp_path):
    sheet, _, side = draw_manifold((1, 30), tmp_path / "run")
    assert side == 4
    assert sheet.shape[:2] == (4 * 110, 4 * 320)


@pytest.mark.parametrize(
    ("latent", "settings"), [(3, {}), (2, {"pictures_every": 0})], ids=["3 latents", "no pictures"]
)
def test_what_is_not_drawn(latent, settings, pictures, tmp_path):
    train(tmp_path / "run", pictures, make_vae(latent, (1, 8, 8)), epochs=1, **settings)
    assert (tmp_path / "run" / "manifold.png").exists() == (latent == 2)
    assert (tmp_path / "run" / "samples").exists() == (latent == 3)


def test_vectors_are_not_drawn(data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    assert [path.name for path in (tmp_path / "run").rglob("*.png")] == ["bound.png"]


@pytest.mark.parametrize("shape", [(2, 9), (1, 3, 4, 5), (2, 6, 6)])
def test_signals_volumes_and_other_channels_are_drawn_on_the_scale_of_the_data(shape, tmp_path):
    values = 10 * torch.randn(12, *shape)
    train(tmp_path / "run", values, make_vae(3, shape), epochs=1)
    for folder in ("samples", "reconstructions"):
        with Image.open(tmp_path / "run" / folder / "epoch-0001.png") as picture:
            note = picture.text["Description"]
        if len(shape) == 2:
            assert note.startswith("every panel spans")
        else:
            assert note.startswith(f"black is {float(values.min()):.4g} and white is")


def test_drawing_changes_no_figure(pictures, tmp_path):
    for name, every in (("drawn", 1), ("plain", 0)):
        train(tmp_path / name, pictures, make_vae(2, (1, 8, 8)), epochs=3, pictures_every=every)
    assert metrics(tmp_path / "drawn") == metrics(tmp_path / "plain")


def test_the_newest_two_checkpoints_are_kept(data, tmp_path, every_epoch):
    train(tmp_path / "run", data, epochs=5, validation=0.25, batch_size=5)
    assert names(tmp_path / "run") == ["step-00000012", "step-00000015"]


def test_the_best_checkpoint_is_the_best_epochs(data, tmp_path, every_epoch):
    settings = {"validation": data + 1, "learning_rate": 0.03}
    run = train(tmp_path / "run", data + 4, epochs=20, **settings)
    tensors, state = RunDirectory(tmp_path / "run").read_newest()
    best, progress = tensors["best-model"], state["progress"]
    assert progress["best_epoch"] == run.best_epoch < 20
    short = train(None, data + 4, epochs=run.best_epoch, **settings)
    assert all(torch.equal(best[name], value) for name, value in short.model.state_dict().items())
    loaded = lb.load(tmp_path / "run")
    assert lb.evaluate(loaded, lb.ELBO(), data + 1).mean == pytest.approx(
        progress["best_bound"], rel=1e-9
    )


def test_the_average_is_what_is_loaded(data, tmp_path):
    run = train(tmp_path / "run", data, ema=0.9)
    loaded, raw = (
        lb.load(tmp_path / "run").state_dict(),
        RunDirectory(tmp_path / "run").read_newest()[0]["model"],
    )
    assert all(torch.equal(loaded[name], value) for name, value in run.model.state_dict().items())
    assert not all(torch.equal(loaded[name], value) for name, value in raw.items())


def test_digests_verify_with_the_systems_own_tool(data, tmp_path):
    train(tmp_path / "run", data, epochs=1, validation=0.25)
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        told = subprocess.run(
            ["sha256sum", "--check", "--strict", "SHA256SUMS"],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        listed = {line.removesuffix(": OK") for line in told.stdout.splitlines()}
        assert listed == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}


def test_a_checkpoints_state_is_plain_json(data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    text = (tmp_path / "run" / "checkpoints" / "step-00000003" / "state.json").read_text()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(text, parse_constant=refuse)["progress"]["step"] == 3


def test_the_configuration_says_all_settings(data, tmp_path):
    train(tmp_path / "run", data, epochs=2, validation=0.25, ema=0.9, schedule="linear")
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["training"] == {
        "epochs": 2, "steps": None, "batch_size": 8, "optimizer": "adam", "learning_rate": 0.01,
        "schedule": "linear", "warmup_steps": 0, "weight_decay": None, "clip_norm": None,
        "ema": 0.9, "patience": None, "tolerance": None, "start": True, "standardize": False,
        "seed": 0, "device": "cpu",
        "compile": "auto", "precision": "float32", "threads": None, "profile": False,
        "save_every": 30.0, "pictures_every": 1,
    }  # fmt: skip
    assert config["objective"] == {
        "kind": "ELBO", "samples": 1, "kl": "auto", "gradient": "pathwise", "beta": 1.0,
        "free_bits": 0.0, "capacity": None, "group_weights": None,
    }  # fmt: skip
    digest = config["examples"]["train"].pop("sha256")
    assert len(bytes.fromhex(digest)) == 32
    assert config["examples"]["train"] == {
        "count": 15,
        "shape": [SIZE],
        "pixels": "as-is",
        "levels": None,
    }
    assert config["examples"]["validation"]["count"] == 5
    assert config["versions"]["torch"] == torch.__version__
    assert config["lowerbound"] == lb.__version__


class OwnLinear(nn.Linear):
    """A network of one's own, which the library cannot describe."""


def test_parts_of_ones_own_are_recorded_by_name(data, tmp_path):
    model = lb.LatentModel(
        lb.StandardNormal(2),
        lb.Gaussian(OwnLinear(SIZE, 4)),
        lb.Gaussian(nn.Linear(2, SIZE), scale=1.0),
    )
    train(tmp_path / "run", data, model, epochs=1, optimizer=torch.optim.SGD, schedule=abs)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    network = config["model"]["posterior"]["network"]
    assert network == {"foreign": f"{__name__}.OwnLinear"}
    assert config["training"]["optimizer"] == {"foreign": "torch.optim.sgd.SGD"}


def test_nothing_is_overwritten(data, tmp_path):
    train(tmp_path / "run", data, epochs=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StorageError, match="already contains a run"):
        train(tmp_path / "run", data, epochs=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_impossible_directory_is_refused(data, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        train(tmp_path / "file" / "run", data, epochs=1)


def test_a_run_whose_numbers_end_leaves_its_last_finite_checkpoint(data, tmp_path):
    with pytest.raises(lb.errors.NonFiniteError) as caught:
        train(tmp_path / "run", data * 1e4, optimizer="sgd", learning_rate=100.0, epochs=20)
    _, state = RunDirectory(tmp_path / "run").read_newest()
    assert state["progress"]["step"] == caught.value.step - 1
    with pytest.warns(UserWarning, match="training failed, so the model may be useless: step"):
        loaded = lb.load(tmp_path / "run")
    assert all(value.isfinite().all() for value in loaded.state_dict().values())


# No pickles


def test_no_file_of_a_run_is_a_pickle(pictures, tmp_path):
    train(tmp_path / "run", pictures, make_vae(2, (1, 8, 8)), epochs=2, validation=0.25, ema=0.9)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            # protocol 2 to 5 begin so; torch.save writes a zip
            assert path.read_bytes()[:2] not in (
                b"\x80\x02",
                b"\x80\x03",
                b"\x80\x04",
                b"\x80\x05",
                b"PK",
            ), path
            assert path.suffix in (".yaml", ".jsonl", ".json", ".safetensors", ".png", ""), path


def test_a_checkpoints_tensors_are_loadable_by_themselves(data, tmp_path):
    run = train(tmp_path / "run", data, epochs=1)
    file = tmp_path / "run" / "checkpoints" / "step-00000003" / "model.safetensors"
    assert read_tensors(file)[1]["model"]["kind"] == "LatentModel"
    assert torch.equal(lb.load(file).encode(data), run.model.encode(data))


# From another process


PROGRAM = """
import os, signal, sys
from lowerbound.cli import main
from lowerbound.training.progress import Progress

real = Progress.advance

def advance(self, examples):
    real(self, examples)
    if self.step == 5:
        os.kill(os.getpid(), signal.SIGTERM)

Progress.advance = advance
main(sys.argv[1:])
"""


def test_terminating_the_command_leaves_a_run_that_goes_on(tmp_path, monkeypatch, trains):
    monkeypatch.chdir(tmp_path)
    np.save("pictures.npy", np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8))
    arguments = [
        "train",
        "aevb-gaussian",
        "--data",
        "pictures.npy",
        "--epochs",
        "3",
        "--batch-size",
        "10",
        "--hidden",
        "4",
    ]
    arguments += ["--samples", "1", "--pictures-every", "0", "--out"]
    killed = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments, "resumed"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == 130
    assert (
        killed.stderr.splitlines()[-1]
        == "lowerbound: interrupted; to continue: lowerbound train --resume resumed"
    )
    assert "Traceback" not in killed.stderr
    assert names(tmp_path / "resumed") == ["step-00000005"]
    for rest in (["train", "--resume", "resumed"], [*arguments, "straight"]):
        with pytest.raises(SystemExit, match=r"^0$"):
            main(rest)
    assert metrics(tmp_path / "resumed") == metrics(tmp_path / "straight")
    one, other = state_of(tmp_path / "resumed"), state_of(tmp_path / "straight")
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_a_run_of_an_earlier_version_goes_on(data, tmp_path):
    """Its configuration lacks settings that objectives have got since."""
    train(tmp_path / "run", data, epochs=1)
    file = tmp_path / "run" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    for name in ("beta", "free_bits", "capacity"):
        del config["objective"][name]
    file.write_text(yaml.safe_dump(config))
    assert train(tmp_path / "run", data, epochs=2, resume=True).history[-1]["epoch"] == 2


def test_progress_of_an_earlier_version_is_read():
    """Its checkpoints hold other names, and the rule of a tolerance among the rest."""
    old = {"epoch": 3, "half": True, "pace": 0.5, "window": 400, "window_end": 900, "idle": 1}
    progress = Progress.from_state(old)
    assert (progress.epoch, progress.bfloat16) == (3, True)
    assert progress.windows == Windows(rate_factor=0.5, length=400, end=900, idle=1)
    again = Progress.from_state(json.loads(json.dumps(asdict(progress))))
    assert asdict(again) == asdict(progress)
    with pytest.raises(TypeError):
        Progress.from_state({"unknown": 1})


class OfLabel(lb.Conditional):
    """A part that needs the label, and makes little of it."""

    needs = ("label",)

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, z, *, label):
        return self.inner(z + 0.1 * label[:, None])


def test_a_model_that_needs_labels_is_drawn_with_those_of_examples(pictures, tmp_path):
    model = make_vae(2, (1, 8, 8))
    model.likelihood = OfLabel(model.likelihood)
    digits = lb.Examples(pictures, levels=256, labels=torch.arange(12) % 3)
    train(tmp_path / "run", digits, model, epochs=1)
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 1
    assert len(list((tmp_path / "run" / "reconstructions").iterdir())) == 1
    assert not (tmp_path / "run" / "manifold.png").exists()
