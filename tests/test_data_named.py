from __future__ import annotations

import gzip
import hashlib
import io
import os
import struct
import subprocess
import sys
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from lowerbound.data import CATALOGUE, fetch, load_data, named
from lowerbound.errors import DataError

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
RANDOM = np.random.default_rng(0)
ARRAYS = (
    RANDOM.integers(0, 256, (12, 28, 28), dtype=np.uint8),
    RANDOM.integers(0, 10, 12, dtype=np.uint8),
    RANDOM.integers(0, 256, (5, 28, 28), dtype=np.uint8),
    RANDOM.integers(0, 10, 5, dtype=np.uint8),
)
FRAMES = RANDOM.integers(0, 256, (1965, 28, 20), dtype=np.uint8)
REAL = os.environ.get("LOWERBOUND_DATA")


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(
        bytes([0, 0, 8, array.ndim])
        + struct.pack(f">{array.ndim}I", *array.shape)
        + array.tobytes()
    )


def put_idx(folder: Path, arrays=ARRAYS, names=FILES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(FILES, arrays, strict=True):
        if name in names:
            (folder / f"{name}.gz").write_bytes(idx(array))
    return folder


def sha(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A machine without data and network, where small arrays count as the published files."""
    for variable in ("LOWERBOUND_DATA", "TORCH_HOME", "SCIKIT_LEARN_DATA"):
        monkeypatch.delenv(variable, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(home)
    monkeypatch.setattr(named, "_DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(fetch, "open_url", offline)
    for name in ("mnist", "fashion-mnist"):
        pin(monkeypatch, name, *(sha(array) for array in ARRAYS))
    pin(monkeypatch, "frey-faces", sha(FRAMES))
    return tmp_path


def pin(monkeypatch, name, *digests):
    """Let content of these digests count as the published data set."""
    monkeypatch.setitem(CATALOGUE, name, replace(CATALOGUE[name], digests=digests))


def offline(url):
    raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")


def serve(contents: dict[str, bytes], log: list[str]):
    def open_url(url):
        log.append(url)
        for ending, content in contents.items():
            if url.endswith(ending):
                return io.BytesIO(content)
        raise urllib.error.HTTPError(url, 404, "Not Found", None, None)

    return open_url


def assert_is_the_set(data, name):
    assert (data.name, data.shape) == (name, (1, 28, 28))
    for part, images, labels in ((data.train, *ARRAYS[:2]), (data.test, *ARRAYS[2:])):
        assert np.array_equal(part.values[:, 0].numpy(), images)
        assert part.labels.tolist() == labels.tolist()
        assert (part.levels, part.name, len(part.label_names)) == (256, name, 10)


def test_the_catalogue_is_light():
    code = (
        "import sys; from lowerbound.data.catalogue import CATALOGUE; "
        "assert not {'torch', 'numpy', 'PIL', 'sklearn'} & set(sys.modules); print(*CATALOGUE)"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    known = ["digits", "sprites", "mnist", "fashion-mnist", "frey-faces", "olivetti"]
    assert listed.split() == known


def test_every_entry_can_be_read_and_described():
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert entry.description
        assert "\n" not in entry.description
        assert entry.licence
        assert callable(entry.read)


def test_digits():
    data = load_data("digits", test_fraction=0.2, seed=1)
    entry = CATALOGUE["digits"]
    assert (data.shape, len(data.train) + len(data.test)) == (entry.shape, entry.train)
    assert data.train.levels == 17
    assert data.train.values.max() == 16
    assert torch.cat([data.train.labels, data.test.labels]).bincount().min() > 150
    x = data.train.batch(torch.arange(100))
    assert (x.min(), x.max()) == (0, 1)
    again = load_data("digits", test_fraction=0.2, seed=1)
    assert torch.equal(again.test.values, data.test.values)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("layout", ["{name}", "{torch}"])
def test_the_folder_of_the_user(machine, monkeypatch, name, layout):
    torch_name = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}[name]
    put_idx(machine / "mine" / layout.format(name=name, torch=torch_name))
    monkeypatch.setenv("LOWERBOUND_DATA", str(machine / "mine"))
    assert_is_the_set(load_data(name), name)


@pytest.mark.parametrize("rows", [False, True])
def test_npz_in_the_folder_of_the_user(machine, monkeypatch, rows):
    keys = ("x_train", "y_train", "x_test", "y_test")
    arrays = [a.reshape(len(a), -1) if rows and a.ndim == 3 else a for a in ARRAYS]
    np.savez(machine / "mnist.npz", **dict(zip(keys, arrays, strict=True)))
    monkeypatch.setenv("LOWERBOUND_DATA", str(machine))
    assert_is_the_set(load_data("mnist"), "mnist")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("mnist", "home/data/MNIST/raw"),
        ("mnist", "home/.cache/torch/MNIST/raw"),
        ("mnist", "torch/MNIST/raw"),
        ("fashion-mnist", "home/.torch/FashionMNIST/raw"),
        ("fashion-mnist", "debian/fashion-mnist"),
        ("mnist", "cache/lowerbound/mnist"),
    ],
)
def test_usual_places(machine, monkeypatch, name, place):
    monkeypatch.setenv("TORCH_HOME", str(machine / "torch"))
    put_idx(machine / place)
    assert_is_the_set(load_data(name), name)


def test_the_folder_of_the_user_comes_first(machine, monkeypatch):
    put_idx(machine / "mine" / "mnist")
    put_idx(machine / "cache/lowerbound/mnist", arrays=[a[::-1] for a in ARRAYS])
    monkeypatch.setenv("LOWERBOUND_DATA", str(machine / "mine"))
    assert_is_the_set(load_data("mnist"), "mnist")


@pytest.mark.parametrize("wrong", range(4))
def test_other_content_is_refused_by_its_file(machine, wrong):
    arrays = list(ARRAYS)
    arrays[wrong] = arrays[wrong][::-1].copy()
    folder = put_idx(machine / "cache/lowerbound/mnist", arrays)
    with pytest.raises(DataError, match=f"{FILES[wrong]}.gz: is not the published mnist") as caught:
        load_data("mnist")
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"x": ARRAYS[0]}, "has no test part"),
        ({"x_train": ARRAYS[0], "x_test": ARRAYS[2]}, "has no labels"),
        (
            {
                "x_train": ARRAYS[0] / 255,
                "y_train": ARRAYS[1],
                "x_test": ARRAYS[2],
                "y_test": ARRAYS[3],
            },
            "is not the published",
        ),
    ],
)
def test_npz_that_is_something_else(machine, monkeypatch, contents, message):
    np.savez(machine / "mnist.npz", **contents)
    monkeypatch.setenv("LOWERBOUND_DATA", str(machine))
    with pytest.raises(DataError, match=rf"mnist\.npz: {message}"):
        load_data("mnist")


def test_downloads_are_kept(machine, monkeypatch):
    log: list[str] = []
    served = {f"{name}.gz": idx(array) for name, array in zip(FILES, ARRAYS, strict=True)}
    monkeypatch.setattr(fetch, "open_url", serve(served, log))
    assert_is_the_set(load_data("mnist"), "mnist")
    assert len(log) == 4
    cache = machine / "cache/lowerbound/mnist"
    assert sorted(p.name for p in cache.iterdir()) == sorted(f"{name}.gz" for name in FILES)
    monkeypatch.setattr(fetch, "open_url", offline)
    assert_is_the_set(load_data("mnist"), "mnist")


def test_only_what_lacks_is_downloaded(machine, monkeypatch):
    put_idx(machine / "cache/lowerbound/mnist", names=FILES[:3])
    log: list[str] = []
    monkeypatch.setattr(fetch, "open_url", serve({f"{FILES[3]}.gz": idx(ARRAYS[3])}, log))
    assert_is_the_set(load_data("mnist"), "mnist")
    assert len(log) == 1


@pytest.mark.parametrize("bad", [b"", b"<html>", idx(ARRAYS[0])[:-9], idx(ARRAYS[0][::-1])])
def test_the_second_home_is_tried_and_nothing_broken_stays(machine, monkeypatch, bad):
    good = serve({f"{name}.gz": idx(array) for name, array in zip(FILES, ARRAYS, strict=True)}, [])
    monkeypatch.setattr(
        fetch, "open_url", lambda url: io.BytesIO(bad) if "amazonaws" in url else good(url)
    )
    assert_is_the_set(load_data("mnist"), "mnist")
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "second"))
    monkeypatch.setattr(fetch, "open_url", lambda url: io.BytesIO(bad))
    with pytest.raises(DataError, match="could not be downloaded") as caught:
        load_data("mnist")
    assert ".part-" not in str(caught.value)
    assert not list((machine / "second/lowerbound/mnist").iterdir())


class Hanging(io.BytesIO):
    def read(self, size=-1):
        raise TimeoutError("timed out")


@pytest.mark.parametrize(
    ("stream", "limits", "message"),
    [
        (Hanging, {}, "timed out"),
        (lambda: io.BytesIO(bytes(100)), {"MAX_BYTES": 10}, "sends more than"),
        (lambda: io.BytesIO(bytes(100)), {"DEADLINE_SECONDS": -1.0}, "took longer than"),
    ],
)
def test_homes_that_misbehave(machine, monkeypatch, stream, limits, message):
    for name, value in limits.items():
        monkeypatch.setattr(fetch, name, value)
    monkeypatch.setattr(fetch, "open_url", lambda url: stream())
    with pytest.raises(DataError, match=message):
        load_data("frey-faces")
    assert not list((machine / "cache/lowerbound/frey-faces").iterdir())


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "frey-faces", "olivetti"])
def test_without_network_one_message_says_what_to_put_where(machine, monkeypatch, name):
    mine = machine / "mine"
    mine.mkdir()
    monkeypatch.setenv("LOWERBOUND_DATA", str(mine))
    with pytest.raises(DataError, match=f"^{name}: was not found on this machine") as caught:
        load_data(name)
    message = str(caught.value)
    assert "Temporary failure in name resolution" in message
    assert f"into {machine / 'cache/lowerbound' / name}" in message
    assert "set LOWERBOUND_DATA to a folder that contains" in message
    for file in CATALOGUE[name].files:
        assert file in message
    assert str(mine) in message.partition("Searched: ")[2]
    assert "\n" not in message


def test_a_cache_that_cannot_be_written(machine, monkeypatch):
    (machine / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(machine / "file"))
    with pytest.raises(DataError, match=r"downloads cannot be stored there .*set XDG_CACHE_HOME"):
        load_data("frey-faces")


def test_a_variable_that_names_no_folder(machine, monkeypatch):
    monkeypatch.setenv("LOWERBOUND_DATA", str(machine / "nowhere"))
    for name in ("mnist", "frey-faces", "olivetti"):
        with pytest.raises(
            DataError, match=r"LOWERBOUND_DATA=.*nowhere: the folder does not exist"
        ):
            load_data(name)


@pytest.mark.parametrize("form", ["npz", "mat", "download"])
def test_frey_faces(machine, monkeypatch, form):
    monkeypatch.setenv("LOWERBOUND_DATA", str(machine))
    matrix = {"ff": FRAMES.reshape(1965, 560).T}
    if form == "npz":
        np.savez(machine / "frey_faces.npz", x=FRAMES)
    elif form == "mat":
        savemat(machine / "frey_rawface.mat", matrix)
    else:
        stream = io.BytesIO()
        savemat(stream, matrix)
        monkeypatch.setattr(fetch, "open_url", serve({"frey_rawface.mat": stream.getvalue()}, []))
    data = load_data("frey-faces")
    assert (data.name, data.shape, len(data.train), len(data.test)) == (
        "frey-faces",
        (1, 28, 20),
        1769,
        196,
    )
    rows = {row.numpy().tobytes() for part in (data.train, data.test) for row in part.values}
    assert rows == {frame.tobytes() for frame in FRAMES}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"ff": FRAMES[::-1].reshape(1965, 560).T}, "not the published frey-faces"),
        ({"ff": FRAMES[:10].reshape(10, 560).T}, r"the shape \(560, 10\)"),
        ({"gg": FRAMES[0]}, "cannot be read as MATLAB's ff"),
        (None, "cannot be read as MATLAB's ff"),
    ],
)
def test_frey_faces_that_are_something_else(machine, monkeypatch, contents, message):
    path = machine / "frey_rawface.mat"
    path.write_bytes(b"not matlab")
    if contents is not None:
        savemat(path, contents)
    monkeypatch.setenv("LOWERBOUND_DATA", str(machine))
    with pytest.raises(DataError, match=rf"frey_rawface\.mat: .*{message}"):
        load_data("frey-faces")


@pytest.fixture
def faces(monkeypatch) -> np.ndarray:
    """400 pictures of shades 13 ... 255, which the MATLAB file has as columns of their columns."""
    pictures = RANDOM.integers(13, 256, (400, 64, 64), dtype=np.uint8)
    pictures[0, 0, :2] = 13, 255
    return pictures


def test_olivetti_from_its_file(machine, monkeypatch, faces):
    stream = io.BytesIO()
    savemat(stream, {"faces": faces.transpose(0, 2, 1).reshape(400, 4096).T})
    pin(monkeypatch, "olivetti", hashlib.sha256(stream.getvalue()).hexdigest())
    monkeypatch.setattr(fetch, "open_url", serve({"5976027": stream.getvalue()}, []))
    examples = named.load_named("olivetti")
    assert np.array_equal(examples.values[:, 0].numpy(), faces - 13)
    assert examples.levels == 243
    assert examples.labels.tolist() == [i // 10 for i in range(400)]
    # the scale of scikit-learn: from 0 to 1
    x = examples.batch(torch.arange(400))
    assert (x.min(), x.max()) == (0, 1)
    (machine / "cache/lowerbound/olivetti/olivettifaces.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"olivettifaces\.mat: is not the published file"):
        load_data("olivetti")


def test_olivetti_from_the_cache_of_scikit_learn(machine, monkeypatch, faces):
    import joblib

    cache = machine / "sk"
    cache.mkdir()
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(cache))
    joblib.dump(faces.transpose(0, 2, 1).reshape(400, 4096), cache / "olivetti_py3.pkz", compress=1)
    assert np.array_equal(named.load_named("olivetti").values[:, 0].numpy(), faces - 13)
    joblib.dump(RANDOM.random((400, 4096)), cache / "olivetti_py3.pkz", compress=1)
    with pytest.raises(DataError, match="does not contain 400 faces of 64 x 64 8-bit greys"):
        load_data("olivetti")
    (cache / "olivetti_py3.pkz").write_bytes(b"damaged")
    with pytest.raises(DataError, match="scikit-learn cannot read its cache"):
        load_data("olivetti")


def test_olivetti_from_folders(machine, monkeypatch):
    for person in range(1, 41):
        folder = machine / "orl_faces" / f"s{person}"
        folder.mkdir(parents=True)
        for number in range(1, 11):
            Image.new("L", (92, 112), person * 6).save(folder / f"{number}.pgm")
    monkeypatch.setenv("LOWERBOUND_DATA", str(machine))
    data = load_data("olivetti", test_fraction=0.25)
    assert (data.shape, len(data.train), len(data.test)) == ((1, 64, 64), 300, 100)
    assert torch.equal(data.train.values[:, 0, 5, 5], ((data.train.labels + 1) * 6).to(torch.uint8))
    (machine / "orl_faces/s7/3.pgm").unlink()
    with pytest.raises(DataError, match=r"orl_faces: has 40 class folders of \[9, 10\] pictures"):
        load_data("olivetti")


@pytest.mark.skipif(REAL is None, reason="LOWERBOUND_DATA names no folder of data sets")
@pytest.mark.parametrize("name", list(CATALOGUE))
def test_the_published_files(name, monkeypatch):
    monkeypatch.undo()
    try:
        monkeypatch.setattr(fetch, "open_url", offline)
        data = load_data(name, seed=0)
    except DataError as error:
        if "not found on this machine" not in str(error):
            raise
        pytest.skip(f"{name} is not in LOWERBOUND_DATA")
    entry = CATALOGUE[name]
    assert data.shape == entry.shape
    counts = (len(data.train), len(data.test))
    assert counts == (entry.train, entry.test) if entry.test else sum(counts) == entry.train
    assert (data.train.labels is None) == (name in ("frey-faces", "sprites"))
