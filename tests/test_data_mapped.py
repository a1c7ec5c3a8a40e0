"""Values that stay in their file: the same as in memory, and only those in use take memory."""

import os
import re
import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from PIL import Image

import lowerbound as lb
from lowerbound.data import images, memory
from lowerbound.data.arrays import as_examples
from lowerbound.data.mapped import MappedRows
from lowerbound.errors import DataError, SettingsError
from lowerbound.training import batches

RNG = np.random.default_rng(0)
ARRAYS = {
    "vectors": RNG.normal(size=(30, 4)),
    "single precision": RNG.normal(size=(30, 4)).astype(np.float32),
    "half precision": RNG.normal(size=(30, 4)).astype(np.float16),
    "grey": RNG.integers(0, 256, (30, 6, 5), dtype=np.uint8),
    "channels last": RNG.integers(0, 256, (30, 6, 5, 3), dtype=np.uint8),
    "channels first": RNG.integers(0, 256, (30, 3, 6, 5), dtype=np.uint8),
    "binary": RNG.random((30, 7)) < 0.5,
}


@pytest.fixture
def saved(tmp_path):
    def save(array):
        np.save(tmp_path / "values.npy", array)
        return tmp_path / "values.npy"

    return save


@pytest.mark.parametrize("name", ARRAYS)
def test_a_file_gives_the_same_parts_as_memory(name, saved):
    path = saved(ARRAYS[name])
    mapped, read = (
        lb.load_data(path, keep_in=place, test_fraction=0.3) for place in ("file", "memory")
    )
    for part in ("train", "test"):
        there, here = getattr(mapped, part), getattr(read, part)
        assert isinstance(there.values, MappedRows)
        assert isinstance(here.values, torch.Tensor)
        assert (there.shape, there.levels, len(there)) == (here.shape, here.levels, len(here))
        index = torch.tensor([3, 0, 3, 5])
        assert torch.equal(there.batch(index), here.batch(index))
        assert torch.equal(
            there.subset(index).batch(index[1:2]), here.subset(index).batch(index[1:2])
        )
        assert torch.equal(there.to("cpu").values.float(), here.values.float())
        if name != "half precision":  # which memory holds in single precision
            assert there.digest() == here.digest()
    every = torch.arange(30)
    assert torch.equal(mapped.all().batch(every), read.all().batch(every))


VALUES = np.arange(24, dtype=np.float32).reshape(6, 4)
STORAGES = {
    "memory": lambda saved: torch.from_numpy(VALUES),
    "file": lambda saved: np.load(saved(VALUES), mmap_mode="r"),
    "sparse": lambda saved: scipy.sparse.csr_matrix(VALUES),
}


@pytest.mark.parametrize("storage", STORAGES)
def test_an_index_has_the_meaning_of_an_index_of_a_tensor(storage, saved):
    """Negative positions count from the end, and others outside are refused."""
    names = tuple("abcdef")
    whole = lb.Examples.of(STORAGES[storage](saved), fields={"number": torch.arange(6)})
    whole = replace(whole, files=names)
    for examples, first in ((whole, 0), (whole.subset(torch.arange(1, 6)), 1)):
        mask = torch.arange(len(examples)) % 2 == 0
        for index in (torch.tensor([-1, 0, -2]), mask):
            rows = torch.arange(first, 6)[index]
            assert torch.equal(examples.batch(index), torch.from_numpy(VALUES)[rows])
            assert torch.equal(examples.given(index, ["number"])["number"], rows)
            part = examples.subset(index)
            assert torch.equal(part.rows, rows)
            assert part.files == tuple(names[row] for row in rows)
            assert torch.equal(part.batch(torch.arange(len(rows))), examples.batch(index))
        for outside in (len(examples), -len(examples) - 1):
            index = torch.tensor([0, outside])
            for read in (examples.batch, examples.subset):
                with pytest.raises(IndexError, match=f"index {outside} is out of"):
                    read(index)


def test_what_is_large_stays_in_its_file_and_what_is_small_does_not(saved, monkeypatch):
    path = saved(ARRAYS["grey"])
    assert isinstance(lb.load_data(path).train.values, torch.Tensor)
    monkeypatch.setattr(memory, "find_memory_bytes", lambda: 4 * path.stat().st_size - 4)
    assert isinstance(lb.load_data(path).train.values, MappedRows)
    assert isinstance(lb.load_data(path, keep_in="memory").train.values, torch.Tensor)


def test_a_memory_map_that_is_given_stays_one(saved):
    array = np.load(saved(ARRAYS["grey"]), mmap_mode="r")
    assert isinstance(lb.load_data(array).train.values, MappedRows)
    assert isinstance(lb.load_data((array, ARRAYS["grey"])).train.values, MappedRows)
    assert isinstance(lb.load_data(array, keep_in="memory").train.values, torch.Tensor)
    assert isinstance(lb.Examples.of(array).values, MappedRows)
    part = as_examples(array[10:20], name="part")
    assert torch.equal(
        part.batch(torch.arange(10)),
        as_examples(ARRAYS["grey"][10:20], name="a").batch(torch.arange(10)),
    )


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_what_a_map_shows_is_what_is_read(mode, saved):
    array = np.load(saved(ARRAYS["grey"]), mmap_mode=mode)
    expected = ARRAYS["grey"].copy()
    values = MappedRows.of(array)
    if mode != "r":
        array[3], expected[3] = 7, 7
    assert (values.source.handle is None) == (mode == "c")
    for order in (
        torch.arange(30),
        torch.arange(30).flip(0),
        torch.tensor([4]),
        torch.tensor([5, 5, 2]),
        torch.arange(0),
    ):
        assert np.array_equal(values[order].numpy(), expected[order.numpy()])


@pytest.mark.parametrize("part", [slice(10, 20), slice(29, 30), slice(0, 1)])
def test_a_slice_of_a_map_begins_where_it_begins(part, tmp_path):
    large = np.random.default_rng(0).random((30, 700)).astype("float32")
    np.save(tmp_path / "large.npy", large)
    values = MappedRows.of(np.load(tmp_path / "large.npy", mmap_mode="r")[part])
    assert values.source.handle is not None
    assert np.array_equal(values[torch.arange(len(values)).flip(0)].numpy(), large[part][::-1])


def test_rows_are_read_in_pieces_where_one_call_does_not_give_all(saved, monkeypatch):
    monkeypatch.setattr("lowerbound.data.mapped._CALL_BYTES", 7)
    values = MappedRows.of(np.load(saved(ARRAYS["grey"]), mmap_mode="r"))
    for order in (torch.arange(30), torch.tensor([8, 3])):
        assert np.array_equal(values[order].numpy(), ARRAYS["grey"][order.numpy()])


def test_a_file_that_was_replaced_is_not_read_in_the_place_of_the_map(saved):
    path = saved(ARRAYS["grey"])
    array = np.load(path, mmap_mode="r")
    path.unlink()
    np.save(path, 255 - ARRAYS["grey"])
    assert np.array_equal(MappedRows.of(array)[torch.arange(30)].numpy(), ARRAYS["grey"])
    path.unlink()
    assert np.array_equal(MappedRows.of(array)[torch.arange(30)].numpy(), ARRAYS["grey"])


def test_a_file_that_becomes_shorter_is_reported(saved):
    path = saved(ARRAYS["grey"])
    values = MappedRows.of(np.load(path, mmap_mode="r"))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(DataError, match="the file became shorter"):
        values[torch.tensor([0, 29])]


def test_what_cannot_stay_in_its_file_is_refused_with_a_way_out(saved):
    with pytest.raises(DataError, match=r"entries of type >f4 cannot stay.*--keep-in memory"):
        lb.load_data(saved(np.ones((9, 3), dtype=">f4")), keep_in="file")
    with pytest.raises(DataError, match=r"are not contiguous.*ascontiguousarray"):
        lb.load_data(saved(np.asfortranarray(ARRAYS["vectors"])), keep_in="file")
    with pytest.raises(DataError, match="integers of type int64 may be pixels"):
        lb.load_data(saved(np.ones((9, 3), dtype=np.int64)), keep_in="file")
    with pytest.raises(SettingsError, match=r"binarize-once.*use 'binarize'"):
        lb.load_data(saved(ARRAYS["grey"]), keep_in="file", pixels="binarize-once")
    with pytest.raises(DataError, match=r"another size.*--keep-in memory"):
        lb.load_data(saved(ARRAYS["grey"]), keep_in="file", image_size=4)
    bad = ARRAYS["vectors"].copy()
    bad[17, 2] = np.nan
    with pytest.raises(DataError, match=r"row 17, entry 2 is nan"):
        lb.load_data(saved(bad), keep_in="file")
    with pytest.raises(DataError, match=r"span \[.*\]; rescale"):
        lb.load_data(saved(ARRAYS["vectors"]), keep_in="file", pixels="binarize")


def test_only_npy_and_h5ad_files_can_stay(tmp_path):
    np.savez(tmp_path / "values.npz", x=ARRAYS["grey"])
    with pytest.raises(DataError, match=r"only a \.npy or \.h5ad file"):
        lb.load_data(tmp_path / "values.npz", keep_in="file")


def test_two_files_do_not_become_one(tmp_path):
    for name in ("train", "test"):
        np.save(tmp_path / f"{name}.npy", ARRAYS["grey"])
    pair = lb.load_data((tmp_path / "train.npy", tmp_path / "test.npy"), keep_in="file")
    with pytest.raises(DataError, match="--split train or test"):
        pair.all()


def test_a_file_is_looked_through_once(saved, monkeypatch):
    looks = []
    finite = torch.isfinite
    path = saved(ARRAYS["vectors"])
    monkeypatch.setattr(
        torch, "isfinite", lambda values: looks.append(len(values)) or finite(values)
    )
    lb.load_data(path, keep_in="file").train.subset(torch.arange(3)).prepare("as-is")
    assert looks == [30]


def make_vae():
    torch.manual_seed(0)
    decoder = lb.Gaussian(lb.mlp(2, 8, (2, 6, 5)))
    return lb.LatentModel(lb.StandardNormal(2), lb.Gaussian(lb.mlp((1, 6, 5), 8, 4)), decoder)


@pytest.mark.parametrize("compile", ["never", "always"])
@pytest.mark.parametrize("pool", [1, 300, 1 << 20])
def test_training_from_a_file_is_training_from_memory_in_the_same_order(
    pool, compile, saved, traced, monkeypatch
):
    """Whether batches are read one by one, or several together."""
    monkeypatch.setattr(batches, "_POOL_BYTES", pool)
    monkeypatch.setattr(
        batches.BatchSource,
        "shuffle",
        lambda source, size, generator: torch.randperm(len(source.examples), generator=generator),
    )
    path = saved(ARRAYS["grey"])
    settings = {
        "epochs": 3,
        "batch_size": 4,
        "progress": False,
        "compile": compile,
        "pictures_every": 0,
    }
    runs = []
    for place in ("file", "memory"):
        data = lb.load_data(path, keep_in=place, pixels="dequantize")
        runs.append(lb.fit(make_vae(), lb.ELBO(), data.train, validation=data.test, **settings))
    there, here = (run.model.state_dict() for run in runs)
    assert all(torch.equal(there[name], here[name]) for name in here)
    histories = [[(r["train"], r["validation"]) for r in run.history] for run in runs]
    assert histories[0] == histories[1]


def source_of(path):
    examples = lb.Examples.of(np.load(path, mmap_mode="r"))
    return batches.BatchSource(examples, torch.device("cpu"))


def generator():
    return torch.Generator().manual_seed(3)


@pytest.mark.parametrize("size", [1, 4, 7, 300])
def test_an_order_by_blocks_is_an_order(size, tmp_path, monkeypatch):
    """Every example once, whole blocks in a pool, each pool shuffled, another order per seed."""
    monkeypatch.setattr(batches, "_BLOCK_BYTES", 50)
    monkeypatch.setattr(batches, "_POOL_BYTES", 1000)
    np.save(tmp_path / "rows.npy", np.arange(2030, dtype=np.uint8).reshape(203, 10))
    source = source_of(tmp_path / "rows.npy")
    order = source.shuffle(size, generator())
    assert torch.equal(order.sort().values, torch.arange(203))
    assert torch.equal(order, source.shuffle(size, generator()))
    assert not torch.equal(order, source.shuffle(size, torch.Generator().manual_seed(4)))
    assert source.keeps_blocks(size) == (size < 203)
    if source.keeps_blocks(size):
        pool = 100 // size * size
        blocks = [set((part // 5).tolist()) for part in order.split(pool)]
        assert sum(map(len, blocks)) <= 41 + len(blocks) - 1  # a block may lie across two pools
        assert len((order[:pool].diff() == 1).nonzero()) < 0.2 * pool
    read = torch.cat([batch.tensor for batch in source.batches(order, size)])
    assert torch.equal(read, torch.from_numpy(np.load(tmp_path / "rows.npy"))[order])


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="threads are counted where Linux lists them"
)
def test_reading_ahead_starts_no_thread_that_computes(tmp_path):
    """With more OpenMP threads than cores, those of the training sleep at every wait.

    On two cores training then has a fifth of its speed.
    """
    np.save(tmp_path / "rows.npy", np.zeros((20_000, 4), np.uint8))
    values = source_of(tmp_path / "rows.npy").examples.subset(torch.randperm(20_000)).values
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with ThreadPoolExecutor(1) as reader:
            reader.submit(int).result()
            threads = set(os.listdir("/proc/self/task"))
            reader.submit(values.__getitem__, torch.randperm(20_000)).result()
            assert set(os.listdir("/proc/self/task")) <= threads
    finally:
        torch.set_num_threads(before)


def test_data_that_one_pool_holds_have_the_order_that_they_have_in_memory(saved):
    source = source_of(saved(ARRAYS["grey"]))
    assert torch.equal(source.shuffle(4, generator()), torch.randperm(30, generator=generator()))


@pytest.mark.parametrize("between", [0, 30, 60, 1 << 12])
def test_rows_that_lie_near_each_other_are_read_in_one_call(between, saved, monkeypatch):
    monkeypatch.setattr("lowerbound.data.mapped._GAP_BYTES", between)
    values = MappedRows.of(np.load(saved(ARRAYS["grey"]), mmap_mode="r"))
    calls = []
    read = os.pread
    monkeypatch.setattr(
        os, "pread", lambda handle, size, start: calls.append(size) or read(handle, size, start)
    )
    index = torch.tensor([3, 4, 9, 2, 12, 12, 14, 29])
    assert np.array_equal(values[index].numpy(), ARRAYS["grey"][index.numpy()])
    assert (
        calls
        == {0: [90, 30, 30, 30, 30], 30: [90, 30, 90, 30], 60: [90, 180, 30], 4096: [840]}[between]
    )


def test_a_run_by_blocks_goes_on_from_its_file_only(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_POOL_BYTES", 200)
    path = saved(ARRAYS["grey"])
    settings = {
        "batch_size": 4,
        "progress": False,
        "pictures_every": 0,
        "directory": tmp_path / "run",
    }
    lb.fit(make_vae(), lb.ELBO(), lb.load_data(path, keep_in="file").train, epochs=1, **settings)
    with pytest.raises(SettingsError, match=r"examples\.train\.order=blocks"):
        lb.fit(make_vae(), lb.ELBO(), lb.load_data(path).train, epochs=2, resume=True, **settings)


@pytest.mark.parametrize("pool", [100, 1 << 20])
def test_a_run_on_a_file_goes_on_as_if_it_had_never_stopped(pool, saved, tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "_POOL_BYTES", pool)
    path = saved(ARRAYS["grey"])
    settings = {"batch_size": 4, "progress": False, "pictures_every": 0}
    runs = []
    for steps in ((20,), (11, 20)):
        for count in steps:
            data = lb.load_data(path, keep_in="file")
            directory = tmp_path / f"run-{len(steps)}"
            runs.append(
                lb.fit(
                    make_vae(),
                    lb.ELBO(),
                    data.train,
                    steps=count,
                    directory=directory,
                    resume=count > steps[0],
                    **settings,
                )
            )
    whole, _, again = (run.model.state_dict() for run in runs)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_readers_end_with_an_epoch_that_is_cut_short(saved):
    import threading

    source = source_of(saved(ARRAYS["grey"]))
    ahead = source.batches(torch.arange(30), 4)
    assert torch.equal(next(ahead).tensor, torch.from_numpy(ARRAYS["grey"][:4]))
    ahead.close()
    assert not [
        thread for thread in threading.enumerate() if thread.name.startswith("lowerbound-reader")
    ]


# Pictures


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "faces"
    place.mkdir()
    for number in range(12):
        Image.fromarray(RNG.integers(0, 256, (6, 5), dtype=np.uint8)).save(place / f"{number}.png")
    return place


def test_pictures_are_decoded_once(folder, tmp_path, monkeypatch):
    settings = {"cache": str(tmp_path / "decoded")}
    read = lb.load_data(folder, keep_in="memory", **settings)
    assert not (tmp_path / "decoded").exists()
    mapped = lb.load_data(folder, keep_in="file", **settings)
    assert isinstance(mapped.train.values, MappedRows)
    index = torch.arange(len(read.train))
    assert torch.equal(mapped.train.batch(index), read.train.batch(index))
    assert mapped.train.files == read.train.files
    (kept,) = (tmp_path / "decoded").iterdir()
    assert kept.name.startswith("faces-")
    monkeypatch.setattr(images, "_read_all", _only_opens(images._read_all, monkeypatch))
    again = lb.load_data(folder, keep_in="file", **settings)
    assert torch.equal(again.train.batch(index), read.train.batch(index))


def _only_opens(read_all, monkeypatch):
    def forbidden(path):
        raise AssertionError(f"{path} was decoded again")

    monkeypatch.setattr(images, "read_picture_unsilenced", forbidden)
    return read_all


def test_changed_pictures_and_settings_are_decoded_anew(folder, tmp_path):
    settings = {"keep_in": "file", "cache": str(tmp_path / "decoded")}
    lb.load_data(folder, **settings)
    assert lb.load_data(folder, image_size=4, **settings).shape == (1, 4, 4)
    Image.fromarray(np.full((6, 5), 9, dtype=np.uint8)).save(folder / "0.png")
    data = lb.load_data(folder, **settings)
    assert (data.all().batch(torch.tensor([0])) == 9 / 255).all()
    assert len(list((tmp_path / "decoded").iterdir())) == 3


@pytest.mark.parametrize("keep_in", ["memory", "file"])
def test_grey_pictures_before_one_in_colour_are_spread_over_its_channels(keep_in, folder, tmp_path):
    Image.new("RGB", (5, 6), (255, 0, 0)).save(folder / "9.png")
    data = lb.load_data(folder, keep_in=keep_in, cache=str(tmp_path / "decoded"))
    x = data.all().batch(torch.arange(12))
    assert x.shape == (12, 3, 6, 5)
    assert torch.equal(x[0, 0], x[0, 2])
    assert torch.equal(x[9, :, 0, 0], torch.tensor([1.0, 0.0, 0.0]))


def test_many_pictures_are_kept_but_used_from_memory(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_SMALLEST_STORED_BYTES", 12 * 30)
    data = lb.load_data(folder, cache=str(tmp_path / "decoded"))
    assert isinstance(data.train.values, torch.Tensor)
    assert len(list((tmp_path / "decoded").iterdir())) == 1


def test_nothing_half_written_is_left_behind(folder, tmp_path):
    (folder / "11.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"11\.png"):
        lb.load_data(folder, keep_in="file", cache=str(tmp_path / "decoded"))
    assert list((tmp_path / "decoded").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        DataError, match=r"file/decoded: decoded pictures cannot be stored there.*--cache DIR"
    ):
        lb.load_data(folder, keep_in="file", cache=str(tmp_path / "file" / "decoded"))


def test_no_room_is_said_before_anything_is_written(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(
        DataError, match=r"the decoded pictures take .* GiB are free; give another folder"
    ):
        lb.load_data(folder, keep_in="file", cache=str(tmp_path / "decoded"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps, which only Linux has")
def test_a_large_file_takes_little_memory(tmp_path):
    """Of a file of 128 MiB that is read at random, hardly anything is in memory at any time.

    A batch of 4 MiB is read row by row, and then put together and in order.
    """
    path = tmp_path / "large.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_2_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (1 << 15, 4096)}
        )
        file.truncate(file.tell() + (1 << 27))
    data = lb.load_data(path, keep_in="file").train
    mapped = []
    tracemalloc.start()
    try:
        for index in torch.randperm(len(data)).split(1000):
            data.batch(index)
            mapped.append(measure_resident_memory(path))
        _, allocated = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0 < max(mapped) < 16
    assert 4 < allocated / 2**20 < 16


def measure_resident_memory(path: Path) -> float:
    """Measure how many MiB of a mapped file are in memory."""
    _, _, mapping = Path("/proc/self/smaps").read_text().partition(f"{path}\n")
    return int(re.search(r"^Rss: *(\d+) kB$", mapping, re.MULTILINE)[1]) / 1024


def test_what_was_refused_is_refused_again_and_in_every_part(tmp_path):
    values = np.zeros((20, 3), dtype=np.float32)
    values[15] = 200.0
    np.save(tmp_path / "odd.npy", values)
    mapped = lb.Examples(MappedRows.of(np.load(tmp_path / "odd.npy", mmap_mode="r")))
    for _ in range(2):
        with pytest.raises(DataError, match="can be binarised"):
            mapped.prepare("binarize")
    fine, odd = mapped.subset(torch.arange(10)), mapped.subset(torch.arange(10, 20))
    fine.prepare("binarize")
    with pytest.raises(DataError, match="can be binarised"):
        odd.prepare("binarize")
