"""Whatever data contain and is not used is used, refused, or reported."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from scipy import sparse

import lowerbound as lb
from lowerbound.data.unused import UnusedDataWarning
from lowerbound.errors import DataError, SettingsError

DRAWN = np.random.default_rng(0)
GREY = DRAWN.integers(0, 256, (8, 8)).astype(np.uint8)


def warned(folder) -> str:
    """The only warning about a folder."""
    with pytest.warns(UnusedDataWarning) as caught:
        lb.load_data(folder)
    assert len(caught) == 1
    return str(caught[0].message)


def test_sixteen_bits_that_are_lost_are_reported(tmp_path):
    values = DRAWN.integers(49, 3532, (8, 8)).astype(np.uint16)
    values[0, :2] = 49, 3531
    for name in ("a.png", "b.png"):
        Image.fromarray(values).save(tmp_path / name)
    message = warned(tmp_path)
    assert "2 pictures have more than 8 bits" in message
    assert "from 49 to 3,531 become 15" in message


def test_sixteen_bits_without_a_loss_are_not_reported(tmp_path):
    Image.fromarray(GREY.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert torch.equal(lb.load_data(tmp_path).train.values[0, 0], torch.from_numpy(GREY))


def test_colours_of_sixteen_bits_are_reported(tmp_path):
    rows = b"".join(b"\0" + bytes(range(48)) for _ in range(8))
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    ]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert "more than 8 bits" in warned(tmp_path)


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_further_frames_and_pages_are_reported(suffix, tmp_path):
    frames = [Image.fromarray(np.roll(GREY, step)) for step in range(3)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    assert f"only the first is used (a.{suffix}: 3)" in warned(tmp_path)


def test_a_colour_profile_is_reported_unless_it_is_srgb(tmp_path):
    picture = Image.fromarray(GREY).convert("RGB")
    profiles = {name: ImageCms.createProfile(name) for name in ("sRGB", "LAB")}
    for name, profile in profiles.items():
        (tmp_path / name).mkdir()
        data = ImageCms.ImageCmsProfile(profile).tobytes()
        picture.save(tmp_path / name / "a.png", icc_profile=data)
    assert lb.load_data(tmp_path / "sRGB").shape == (3, 8, 8)
    assert "a colour profile, which is not applied" in warned(tmp_path / "LAB")


def test_files_that_are_not_pictures_are_reported(tmp_path):
    for part in ("train", "test", "valid"):
        (tmp_path / part).mkdir()
        Image.fromarray(GREY).save(tmp_path / part / "a.png")
    (tmp_path / "train" / "labels.csv").write_text("a,1")
    assert warned(tmp_path).endswith("not pictures: train/labels.csv, valid")


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "dia"])
def test_sparse_files_of_every_format_are_matrices(kind, tmp_path):
    matrix = sparse.random(40, 6, density=0.2, random_state=0, format="csr")
    sparse.save_npz(tmp_path / "a.npz", matrix.asformat(kind))
    read = lb.load_data(tmp_path / "a.npz").all()
    assert read.shape == (6,)
    assert np.array_equal(read.values[torch.arange(40)].numpy(), matrix.toarray())


def test_arrays_beside_a_sparse_matrix_are_refused(tmp_path):
    sparse.save_npz(tmp_path / "a.npz", sparse.eye(6, format="csr"))
    with np.load(tmp_path / "a.npz") as archive:
        np.savez(tmp_path / "b.npz", y=np.arange(6), **archive)
    with pytest.raises(DataError, match="a sparse matrix and also y"):
        lb.load_data(tmp_path / "b.npz")


def test_names_that_differ_only_in_case_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", X=np.ones((9, 3)), x=np.zeros((5, 3)))
    with pytest.raises(DataError, match="differ only in case"):
        lb.load_data(tmp_path / "a.npz")


@pytest.mark.parametrize("keep_in", ["memory", "file"])
def test_a_second_array_in_a_file_is_refused(keep_in, tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.save(file, np.ones((9, 3), "float32"))
        np.save(file, np.zeros((9, 3), "float32"))
    with pytest.raises(DataError, match="more bytes after its array"):
        lb.load_data(tmp_path / "a.npy", keep_in=keep_in)


@pytest.mark.parametrize("read", [lb.load_data, lb.Examples.of])
def test_what_an_array_would_lose_is_refused(read):
    with pytest.raises(DataError, match="1 entries of the array are masked"):
        read(np.ma.masked_greater(np.array([[0.0, 1.0], [2.0, 9.0]]), 5))
    with pytest.raises(DataError, match="sparse or nested"):
        read(torch.eye(9).to_sparse())


def test_a_column_that_is_not_numeric_is_named():
    pandas = pytest.importorskip("pandas")
    for column in ([True, False] * 5, ["a", "b"] * 5):
        with pytest.raises(DataError, match="the column 'smokes' is of type"):
            lb.Examples.of(pandas.DataFrame({"age": [0.5] * 10, "smokes": column}))


@pytest.mark.parametrize("entry", [None, 1])
@pytest.mark.parametrize("kind", ["Int64", "UInt8", "Float64", "boolean"])
def test_a_column_of_a_type_of_pandas_own_is_named_with_a_remedy_that_helps(kind, entry):
    pandas = pytest.importorskip("pandas")
    column = pandas.array([1, 0, entry], dtype=kind)
    for columns in ({"a": column}, {"a": column, "b": [0.1, 0.2, 0.3]}):
        table = pandas.DataFrame(columns)
        if np.asarray(table[:1]).dtype != object and entry == 1:
            continue  # numpy reads it
        with pytest.raises(DataError, match=f"column 'a' is of pandas' type {kind}") as caught:
            lb.Examples.of(table)
        assert "table.astype({'a': 'float64'})" in str(caught.value)
        assert ('missing="nan", because 1 of its' in str(caught.value)) is (entry is None)
        converted = table.astype({"a": "float64"})
        settings = {"missing": "nan"} if entry is None else {}
        assert lb.Examples.of(converted, **settings).values[:2, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("read", [lb.Examples.of, lambda table: lb.load_data(table).all()])
@pytest.mark.parametrize("kind", ["UInt8", "Float64", "boolean"])
def test_a_table_of_a_type_of_pandas_own_without_missing_entries_is_read(kind, read):
    pandas = pytest.importorskip("pandas")
    columns = {"a": pandas.array([1, 0, 1], dtype=kind)}
    assert read(pandas.DataFrame(columns)).values.tolist() == [[1], [0], [1]]


def test_a_column_of_missing_text_is_named():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"a": pandas.array(["x", None], dtype="string"), "b": [0.1, 0.2]})
    with pytest.raises(DataError, match="the column 'a' is of type string, and not numeric"):
        lb.Examples.of(table)


@pytest.mark.parametrize("count", [1, 2])
def test_a_few_pictures_are_data_without_a_test_part(count, tmp_path):
    for number in range(count):
        Image.fromarray(GREY).save(tmp_path / f"{number}.png")
    data = lb.load_data(tmp_path, pixels="dequantize")
    assert (len(data.train), data.has_test, len(data.all())) == (count, False, count)
    assert "no test part" in repr(data)
    with pytest.raises(DataError, match=r"use \.train"):
        data.test  # noqa: B018
    assert lb.load_data(data).has_test is False


def test_one_example_cannot_be_split():
    with pytest.raises(SettingsError, match=r"one example cannot be split.*--validation 0"):
        lb.Examples.of(torch.rand(1, 3)).split(0.5, setting="validation")
