from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
import torch

from lowerbound.data import Dataset, Examples, load_data
from lowerbound.data.arrays import as_examples
from lowerbound.data.idx import read_idx
from lowerbound.errors import DataError, LowerboundError, SettingsError

GREYS = np.random.default_rng(0).integers(0, 256, (20, 6, 5), dtype=np.uint8)


def together(data: Dataset) -> set[bytes]:
    return {row.numpy().tobytes() for part in (data.train, data.test) for row in part.values}


def idx(array: np.ndarray, code: int) -> bytes:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((9, 4), (4,)),
        ((9, 8, 7), (1, 8, 7)),
        ((9, 3, 8, 7), (3, 8, 7)),
        ((9, 8, 7, 3), (3, 8, 7)),
        ((9, 8, 7, 1), (1, 8, 7)),
        ((9, 3, 8, 3), (3, 8, 3)),
        ((9, 16, 2, 3), (16, 2, 3)),
        ((9, 2, 3, 4, 5), (2, 3, 4, 5)),
    ],
)
def test_layouts(shape, expected):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    examples = as_examples(values, name="a")
    assert examples.shape == expected
    if shape[-1] != expected[-1]:
        assert np.array_equal(np.moveaxis(examples.values.numpy(), 1, 3), values)


@pytest.mark.parametrize(
    ("layout", "shape", "expected"),
    [
        ("signals", (20, 9), (1, 9)),
        ("signals", (20, 2, 9), (2, 9)),
        ("volumes", (20, 2, 3, 4), (1, 2, 3, 4)),
        ("volumes", (20, 3, 2, 3, 4), (3, 2, 3, 4)),
    ],
)
def test_signals_and_volumes_are_loaded_by_their_layout(layout, shape, expected, tmp_path):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.save(tmp_path / "a.npy", values)
    np.savez(tmp_path / "a.npz", x=values)
    for source in (values, tmp_path / "a.npy", tmp_path / "a.npz"):
        data = load_data(source, layout=layout, test_fraction=0)
        assert data.shape == expected
        assert np.array_equal(data.train.values.numpy().reshape(shape), values)
    mapped = load_data(tmp_path / "a.npy", layout=layout, keep_in="file", test_fraction=0)
    assert mapped.shape == expected
    rows = mapped.train.values[torch.tensor([3, 1])].numpy()
    assert np.array_equal(rows.reshape(2, *shape[1:]), values[[3, 1]])


@pytest.mark.parametrize(
    ("layout", "shape", "message"),
    [
        ("signals", (9, 2, 3, 4), r"must be \[examples, channels, time\] or \[examples, time\]"),
        ("volumes", (9, 2, 3), r"\(9, 2, 3\) must be \[examples, channels, depth, height, width\]"),
        ("signals", (9, 0), "with at least one of each"),
    ],
)
def test_other_dimensions_than_those_of_the_layout_are_refused(layout, shape, message):
    with pytest.raises(DataError, match=message):
        load_data(np.zeros(shape, dtype=np.float32), layout=layout)


def test_a_layout_of_examples_that_are_something_else_is_refused():
    with pytest.raises(DataError, match=r"layout='signals' has no effect on .* \(3,\); remove it"):
        load_data(Examples(torch.zeros(9, 3)), layout="signals")


@pytest.mark.parametrize(
    ("dtype", "kept", "levels"),
    [
        ("u1", torch.uint8, 256),
        ("?", torch.uint8, 2),
        ("f2", torch.float32, None),
        ("f4", torch.float32, None),
        ("f8", torch.float64, None),
        (">f4", torch.float32, None),
    ],
)
def test_types(tmp_path, dtype, kept, levels):
    np.save(tmp_path / "a.npy", np.ones((10, 3), dtype=dtype))
    data = load_data(tmp_path / "a.npy")
    assert (data.train.values.dtype, data.train.levels) == (kept, levels)
    assert (data.train.values == 1).all()
    assert data.name == "a.npy"


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2), dtype=np.int64), r'integers of type int64 .*astype\("uint8"\)'),
        (np.zeros((3, 2), dtype=np.uint16), "integers of type uint16"),
        (np.zeros((3, 2), dtype=np.complex64), "complex numbers"),
        (np.array([["a", "b"]]), "strings"),
        (np.array([[b"a", b"b"]]), "strings"),
        (np.zeros((3, 2), dtype=[("a", "f4")]), "records"),
        (np.zeros((3, 2), dtype="M8[s]"), "datetime64"),
        (np.zeros((3, 2), dtype=np.longdouble), "torch does not have the type"),
        (np.zeros(3), r"the shape \(3,\) .*one value per example has the shape \[examples, 1\]"),
        (np.float64(3), r"the shape \(\)"),
        (np.zeros((0, 3)), r"the shape \(0, 3\)"),
        (np.zeros((3, 0)), r"the shape \(3, 0\)"),
        (np.zeros((1, 2, 3, 4, 5, 6)), r"the shape \(1, 2, 3, 4, 5, 6\)"),
        (
            np.zeros((3, 8, 8, 4), dtype=np.uint8),
            r"alpha channel; remove that channel \(\[\.\.\., :3\]\)",
        ),
        (np.array([[0.0, 1.0], [np.nan, 2.0]]), "row 1, entry 0 is nan"),
    ],
)
def test_arrays_that_no_model_can_take(tmp_path, array, message):
    path = tmp_path / "bad.npy"
    np.save(path, array)
    with pytest.raises(DataError, match=f"bad.npy: .*{message}"):
        load_data(path)
    with pytest.raises(DataError, match=f"data: .*{message}"):
        load_data(array)


def test_object_arrays_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object))
    np.savez(tmp_path / "objects.npz", x=np.array([{"a": 1}], dtype=object))
    for name in ("objects.npy", "objects.npz"):
        with pytest.raises(DataError, match=f"{name}: cannot be read .*without object entries"):
            load_data(tmp_path / name)


def test_damaged_npy(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, GREYS)
    whole = path.read_bytes()
    # Cut within the entries, within the header and within the version; another format; empty; a
    # header that claims a terabyte.
    huge = whole.replace(b"(20, 6, 5), }", b"(9999, 9999, 9999), }")
    for content in (whole[:200], whole[:40], whole[:7], b"hello world", b"", huge):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npy: "):
            load_data(path)


def test_damaged_npz(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=GREYS)
    whole = path.read_bytes()
    garbled = bytearray(whole)
    garbled[len(whole) // 2] ^= 255
    for content in (whole[:200], bytes(garbled), b"PK\x03\x04 is not enough", b"hello", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.npz: "):
            load_data(path)


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train", "", "test", ""),
    ],
)
def test_npz_with_two_parts(tmp_path, keys):
    contents = dict(zip(keys, (GREYS, np.arange(20), GREYS[:4], np.arange(4)), strict=True))
    np.savez(tmp_path / "a.npz", **{key: value for key, value in contents.items() if key})
    data = load_data(tmp_path / "a.npz", test_fraction=0.5)
    assert np.array_equal(data.train.values[:, 0].numpy(), GREYS)
    assert np.array_equal(data.test.values[:, 0].numpy(), GREYS[:4])
    if keys[1]:
        assert data.test.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("keys", [("x", "y"), ("x",), ("data",), ("data", "labels"), ("whatever",)])
def test_npz_with_one_part(tmp_path, keys):
    np.savez(tmp_path / "a.npz", **dict(zip(keys, (GREYS, np.arange(20)), strict=False)))
    data = load_data(tmp_path / "a.npz", test_fraction=0.25)
    assert (len(data.train), len(data.test), data.shape) == (15, 5, (1, 6, 5))
    assert together(data) == {row.tobytes() for row in GREYS}
    if len(keys) == 2:
        assert np.array_equal(data.test.values[:, 0].numpy(), GREYS[data.test.labels])


def test_npz_of_unclear_keys_lists_them(tmp_path):
    np.savez(tmp_path / "a.npz", images=GREYS, masks=GREYS)
    with pytest.raises(DataError, match=r"a\.npz: contains images, masks; expected x_train"):
        load_data(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz")
    with pytest.raises(DataError, match=r"b\.npz: contains no arrays"):
        load_data(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "labels", [np.zeros(20), np.zeros((20, 1), dtype=int), np.zeros(19, dtype=int)]
)
def test_labels_are_integers_one_each(tmp_path, labels):
    np.savez(tmp_path / "a.npz", x=GREYS, y=labels)
    with pytest.raises(DataError, match=r"a\.npz \[x\].*labels"):
        load_data(tmp_path / "a.npz")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
def test_idx_types(tmp_path, code, dtype, packed):
    array = np.arange(24).reshape(4, 3, 2).astype(dtype)
    content = idx(array, code)
    path = tmp_path / "some-idx3"
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    assert np.array_equal(read_idx(path), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (idx(GREYS, 0x08)[:-1], "the file is cut short"),
        (idx(GREYS, 0x08) + b"x", "the file is longer"),
        (idx(GREYS, 0x08)[:9], "ends within its header"),
        (b"\0\0\x07\x01" + bytes(40), "is not an IDX file; it begins with the bytes 00 00 07 01"),
        (b"\0\0\x08\0", "not an IDX file"),
        (b"\0\0", "not an IDX file"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "its header claims an array .*GiB"),
        (gzip.compress(idx(GREYS, 0x08))[:-20], "cannot be read"),
        (gzip.compress(b"text", mtime=0), "not an IDX file"),
        (b"\x1f\x8bnonsense", "cannot be read"),
        (b"plain text, not numbers", "the format of this file is not known"),
        (b"", "the file is empty"),
    ],
)
def test_damaged_idx(tmp_path, content, message):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte: .*{message}"):
        load_data(path)


def test_idx_folder_has_two_parts(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(GREYS, 8))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(
        gzip.compress(idx(np.arange(20, dtype=np.uint8), 8))
    )
    with pytest.raises(
        DataError, match=r"contains train-images.*, but not t10k-images-idx3-ubyte\.gz"
    ):
        load_data(tmp_path)
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(GREYS[:3], 8))
    data = load_data(str(tmp_path))
    assert np.array_equal(data.train.values[:, 0].numpy(), GREYS)
    assert np.array_equal(data.test.values[:, 0].numpy(), GREYS[:3])
    assert data.train.labels.tolist() == list(range(20))
    assert data.test.labels is None


def test_one_idx_file_is_split(tmp_path):
    (tmp_path / "pictures.idx").write_bytes(idx(GREYS, 8))
    data = load_data(tmp_path / "pictures.idx", test_fraction=0.5, seed=1)
    assert len(data.train) == len(data.test) == 10
    assert together(data) == {row.tobytes() for row in GREYS}


def test_sources_in_memory():
    examples = Examples.of(torch.rand(10, 3, dtype=torch.float64))
    whole = load_data(examples)
    assert (len(whole.train), len(whole.test)) == (9, 1)
    assert load_data(whole).train is whole.train
    for source in (examples.values, examples.values.numpy(), examples.values.tolist()):
        assert torch.equal(load_data(source).train.values, whole.train.values)
    gradient = torch.rand(10, 3, requires_grad=True)
    assert not load_data(gradient).train.values.requires_grad
    assert load_data(torch.rand(10, 3).bfloat16()).train.values.dtype == torch.float32


def test_pairs(tmp_path):
    np.save(tmp_path / "train.npy", GREYS)
    np.savez(tmp_path / "both.npz", train=GREYS, test=GREYS)
    data = load_data((tmp_path / "train.npy", torch.from_numpy(GREYS[:4])), test_fraction=0.9)
    assert (len(data.train), len(data.test)) == (20, 4)
    for pair, message in (
        ((GREYS, GREYS[:, :5]), r"\(1, 6, 5\).*\(1, 5, 5\)"),
        (
            (GREYS, GREYS / 255),
            "train contains torch.uint8 with 256 levels, but test torch.float64 with no levels",
        ),
        ((GREYS, np.arange(20)), r"looks like labels.*Examples\(values, labels="),
        ((GREYS,), "a tuple has 1 entries"),
        ((tmp_path / "both.npz", GREYS), "train: this part of the pair has two parts itself"),
        ((GREYS, data), "test: this part of the pair has two parts itself"),
        ((GREYS, (GREYS, GREYS)), "test: this part of the pair has two parts itself"),
    ):
        with pytest.raises(DataError, match=message):
            load_data(pair)


@pytest.mark.parametrize(
    "source",
    [None, {}, object(), [1, [2]], b"bytes", 3, torch.utils.data.TensorDataset(torch.ones(2))],
)
def test_what_is_no_array_is_refused(source):
    with pytest.raises(DataError, match="data: "):
        load_data(source)


def test_given_arrays_are_not_shared():
    array = np.zeros((10, 3))
    data = load_data(array)
    array[:] = 1
    assert not data.train.values.any()


def test_images_in_memory_are_resized_and_recoloured():
    data = load_data(GREYS, image_size=(12, 10), color="rgb")
    assert data.shape == (3, 12, 10)
    assert torch.equal(data.train.values[:, 0], data.train.values[:, 2])
    colors = np.zeros((10, 8, 8, 3), dtype=np.uint8)
    colors[..., 0] = 255
    grey = load_data(colors, color="grey")
    assert grey.shape == (1, 8, 8)
    assert set(grey.train.values.unique().tolist()) == {76}  # 0.299 * 255
    binary = load_data(GREYS > 128, image_size=9)
    assert set(binary.train.values.unique().tolist()) == {0, 1}
    assert binary.train.levels == 2


@pytest.mark.parametrize("settings", [{"image_size": 9}, {"color": "rgb"}])
@pytest.mark.parametrize(
    "array", [np.zeros((9, 4)), np.zeros((9, 8, 8)), np.zeros((9, 2, 8, 8), dtype=np.uint8)]
)
def test_only_pictures_are_resized(array, settings):
    with pytest.raises(
        DataError,
        match=f"data: {next(iter(settings))}=.* is possible only for uint8 pictures of 1 or 3",
    ):
        load_data(array, **settings)


def test_wishes_that_are_met_already_pass():
    assert load_data(np.zeros((9, 8, 8)), image_size=8, color="grey").shape == (1, 8, 8)


@pytest.mark.parametrize("fraction", [1, -0.1, 1.5, float("nan"), float("inf"), "half", None, True])
def test_test_fractions_out_of_range(fraction):
    with pytest.raises(SettingsError, match="fraction"):
        load_data(GREYS, test_fraction=fraction)


@pytest.mark.parametrize("fraction", [0, 0.001])
def test_less_than_one_example_is_no_test_part(fraction):
    assert not load_data(GREYS, test_fraction=fraction).has_test


@pytest.mark.parametrize(
    "settings",
    [
        *(
            {"image_size": size}
            for size in (0, -1, 5000, 8.5, "big", True, (1, 2, 3), (0, 4), (), [8, None])
        ),
        *({"seed": seed} for seed in (-1, 0.5, "0", None, True, 1 << 64)),
        {"color": "red"},
        {"color": None},
        {"resize": "squash"},
        {"pixels": "fuzzy"},
    ],
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(SettingsError, match=next(iter(settings))):
        load_data(GREYS, **settings)


def test_settings_that_pass():
    assert load_data(
        GREYS, image_size=[8, 9], seed=np.int64(3), test_fraction=np.float32(0.5)
    ).shape == (
        1,
        8,
        9,
    )


def test_pixels_and_seed():
    static = load_data(GREYS, pixels="binarize-once", seed=5)
    assert static.train.levels == 2
    assert torch.equal(
        static.test.values, load_data(GREYS, pixels="binarize-once", seed=5).test.values
    )
    dynamic = load_data(GREYS, pixels="binarize")
    assert dynamic.train.pixels == "binarize"
    assert load_data(dynamic).test.pixels == "binarize"
    with pytest.raises(DataError, match="known discretisation"):
        load_data(GREYS / 255, pixels="dequantize")


@pytest.mark.parametrize("name", ["nowhere.npy", "no/such/folder", "", "a\0b", "x" * 5000])
def test_missing_paths(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError,
        match=r"is not a file, a folder.*digits, sprites, mnist, fashion-mnist, frey-faces",
    ):
        load_data(name)


def test_near_misses_are_suggested(tmp_path):
    for wrong, right in (
        ("mnits", "mnist"),
        ("Digits", "digits"),
        ("fashion_mnist", "fashion-mnist"),
        ("freyfaces", "frey-faces"),
    ):
        with pytest.raises(DataError, match=f"did you mean '{right}'"):
            load_data(wrong)
    np.save(tmp_path / "training.npy", GREYS)
    with pytest.raises(DataError, match=r"did you mean '.*training\.npy'"):
        load_data(tmp_path / "trainig.npy")


def test_messages_are_one_line(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object))
    for source in (tmp_path / "objects.npy", "nowhere", np.zeros(3), None):
        with pytest.raises(LowerboundError) as caught:
            load_data(source)
        assert "\n" not in str(caught.value)
