from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowerbound.data import load_data
from lowerbound.data.images import read_image_folder
from lowerbound.data.picture import MAX_PIXELS, read_picture, resize_picture
from lowerbound.errors import DataError

# What is not used is reported, see test_data_unused.py.
reports_unused = pytest.mark.filterwarnings("ignore::lowerbound.data.unused.UnusedDataWarning")

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 5), dtype=np.uint8)
COLOR = RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray = GREY, **settings) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **settings)
    return path


def read(folder: Path, **settings) -> torch.Tensor:
    parts = read_image_folder(
        folder, **{"size": None, "color": "keep", "resize": "crop", **settings}
    )
    assert not isinstance(parts, tuple)
    return parts.values


def decoded(path: Path) -> np.ndarray:
    return np.asarray(read_picture(path))


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".pgm", ".bmp", ".tif", ".tiff", ".gif"])
def test_lossless_greys(tmp_path, suffix):
    save(tmp_path / f"a{suffix}")
    assert np.array_equal(read(tmp_path)[0, 0].numpy(), GREY)


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".bmp", ".tif"])
def test_lossless_colors(tmp_path, suffix):
    save(tmp_path / f"a{suffix}", COLOR)
    assert np.array_equal(read(tmp_path)[0].numpy(), np.moveaxis(COLOR, 2, 0))


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".webp"])
def test_lossy_formats(tmp_path, suffix):
    smooth = np.tile(np.linspace(0, 255, 32).astype(np.uint8), (32, 1))
    save(tmp_path / f"a{suffix}", np.stack([smooth] * 3, 2), quality=95)
    assert np.abs(read(tmp_path)[0].numpy().astype(int) - smooth).max() <= 8


def test_order_and_labels_are_natural(tmp_path):
    for index, name in enumerate(["s10/1", "s2/10", "s2/9", "s1/b", "s1/B"]):
        save(tmp_path / f"{name}.png", np.full((2, 2), index, dtype=np.uint8))
    examples = read_image_folder(tmp_path, size=None, color="keep", resize="crop")
    assert examples.values[:, 0, 0, 0].tolist() == [4, 3, 2, 1, 0]
    assert examples.labels.tolist() == [0, 0, 1, 1, 2]
    assert examples.label_names == ("s1", "s2", "s10")
    data = load_data(tmp_path, test_fraction=0.4)
    assert data.train.label_names == examples.label_names
    assert sorted([*data.train.labels.tolist(), *data.test.labels.tolist()]) == [0, 0, 1, 1, 2]


def test_flat_folders_have_no_labels(tmp_path):
    for index in range(4):
        save(tmp_path / f"{index}.png")
    data = load_data(str(tmp_path), test_fraction=0.25)
    assert (len(data.train), len(data.test), data.train.labels) == (3, 1, None)
    assert data.name == tmp_path.name


@reports_unused
def test_train_and_test_folders_are_the_parts(tmp_path):
    for name, shade in (("train/a/1", 1), ("train/b/1", 2), ("test/b/1", 3), ("valid/a/1", 4)):
        save(tmp_path / f"{name}.png", np.full((2, 2), shade, dtype=np.uint8))
    data = load_data(tmp_path, test_fraction=0.9)
    assert data.train.values[:, 0, 0, 0].tolist() == [1, 2]
    assert data.test.values[:, 0, 0, 0].tolist() == [3]
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1], [1])
    assert data.test.label_names == ("a", "b")


def test_one_picture_in_color_puts_both_parts_in_color(tmp_path):
    save(tmp_path / "train" / "1.png")
    save(tmp_path / "train" / "2.png")
    save(tmp_path / "test" / "1.png", COLOR)
    data = load_data(tmp_path)
    assert data.shape == (3, 6, 5)
    assert np.array_equal(data.train.values.numpy(), np.broadcast_to(GREY, (2, 3, 6, 5)))
    assert np.array_equal(data.test.values[0].numpy(), np.moveaxis(COLOR, 2, 0))
    assert load_data(tmp_path, color="grey").shape == (1, 6, 5)
    assert load_data((tmp_path / "train", tmp_path / "test"), color="rgb").shape == (3, 6, 5)
    with pytest.raises(DataError, match=r"\(1, 6, 5\).*\(3, 6, 5\).*--color"):
        load_data((tmp_path / "train", tmp_path / "test"))


@reports_unused
def test_litter_is_passed_over(tmp_path):
    save(tmp_path / "1.png")
    for name in (".DS_Store", "Thumbs.db", "notes.txt", ".hidden.png", "._1.png", "desktop.ini"):
        (tmp_path / name).write_bytes(b"litter")
    save(tmp_path / ".thumbnails" / "1.png")
    save(tmp_path / "__MACOSX" / "1.png")
    (tmp_path / "empty").mkdir()
    assert len(read(tmp_path)) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "it is empty"),
        (
            ("a.npy", "b.npy", "c.txt", "d"),
            "found 2 .npy, 1 .txt, 1 file without suffix; to read a.npy, give the path",
        ),
        (("a.heic", "sub/b.txt"), "found 1 .heic, 1 folder without pictures"),
    ],
)
def test_a_folder_without_pictures_says_what_it_has(tmp_path, files, message):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    with pytest.raises(DataError, match="contains no pictures") as caught:
        load_data(tmp_path)
    assert message in str(caught.value)


def test_pictures_that_would_be_lost_are_refused(tmp_path):
    save(tmp_path / "mixed" / "loose.png")
    save(tmp_path / "mixed" / "class" / "1.png")
    with pytest.raises(
        DataError,
        match=r"mixed: has 1 pictures \(the first is loose\.png\) next to class folders .*\(class",
    ):
        load_data(tmp_path / "mixed")
    save(tmp_path / "deep" / "a" / "b" / "1.png")
    with pytest.raises(
        DataError,
        match=r"deep/a/b: contains pictures more than one folder below .*; give .*deep/a instead",
    ):
        load_data(tmp_path / "deep")


def test_a_single_picture_is_no_data_set(tmp_path):
    with pytest.raises(
        DataError, match=f"one picture is not a data set; give the folder .*{tmp_path.name}"
    ):
        load_data(save(tmp_path / "1.png"))


def test_different_sizes_name_two_files(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.png", GREY[:, :4])
    with pytest.raises(
        DataError,
        match=r"a\.png has 5 x 6 .* but .*b\.png has 4 x 6; set image_size \(--image-size 64\)",
    ):
        load_data(tmp_path)
    assert load_data(tmp_path, image_size=(8, 7), test_fraction=0.5).shape == (1, 8, 7)


def damaged(whole: bytes) -> dict[str, bytes]:
    return {
        "cut short": whole[: len(whole) * 2 // 3],
        "cut in its header": whole[:12],
        "empty": b"",
        "text": b"<html>404 not found</html>",
        "zeros": bytes(len(whole)),
    }


@pytest.mark.parametrize("kind", damaged(b""))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".pgm", ".webp", ".bmp", ".gif", ".tif"])
def test_damaged_pictures_are_named(tmp_path, suffix, kind):
    save(tmp_path / "good.png", RANDOM.integers(0, 256, (40, 40), dtype=np.uint8))
    path = save(tmp_path / f"z{suffix}", RANDOM.integers(0, 256, (40, 40), dtype=np.uint8))
    path.write_bytes(damaged(path.read_bytes())[kind])
    with pytest.raises(DataError, match=rf"z\{suffix}: .*; delete it or (copy|save) it again"):
        load_data(tmp_path)


def test_all_pictures_that_cannot_be_read_are_named_at_once(tmp_path):
    for number in range(4):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "2.png").write_bytes(b"")
    others = rf"1\.png: .* again\. These cannot be read either: {tmp_path / '2.png'}$"
    with pytest.raises(DataError, match=others):
        load_data(tmp_path)
    (tmp_path / "2.png").unlink()
    with pytest.raises(DataError, match=r"1\.png: .* save it again$"):
        load_data(tmp_path)


def test_a_flipped_byte_never_escapes_as_another_error(tmp_path):
    path = save(tmp_path / "a.png", RANDOM.integers(0, 256, (20, 20), dtype=np.uint8))
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        garbled = bytearray(whole)
        garbled[position] ^= 0xFF
        path.write_bytes(garbled)
        try:
            read(tmp_path)
        except DataError as error:
            assert "a.png" in str(error)  # noqa: PT017


def test_a_broken_link_is_named(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"a\.png: the picture cannot be read \(No such file"):
        load_data(tmp_path)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size, and has no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [10_001, 13_000, 60_000])
def test_gigantic_pictures_are_refused_by_their_header(tmp_path, side):
    """Above the library's own limit, and where Pillow would warn or refuse."""
    (tmp_path / "huge.png").write_bytes(png_header(side, side))
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(DataError, match=r"huge\.png: has .*more than the limit of 100 megapixels"):
        load_data(tmp_path, image_size=64)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert side * side > MAX_PIXELS


def test_folders_larger_than_memory_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "1.png")
    monkeypatch.setattr("lowerbound.data.memory.find_memory_bytes", lambda: 29)
    with pytest.raises(DataError, match=r"1 pictures of shape .* do not fit into memory"):
        load_data(tmp_path)


def test_alpha_is_laid_over_white(tmp_path):
    half = np.full((2, 2), 128, dtype=np.uint8)
    alpha = np.array([[0, 255], [128, 255]], dtype=np.uint8)
    rgba = np.stack([half, half // 2, half, alpha], 2)
    grey = decoded(save(tmp_path / "la.png", np.stack([half, alpha], 2)))
    assert grey.tolist() == [[255, 128], [191, 128]]
    color = decoded(save(tmp_path / "rgba.png", rgba))
    assert color[0].tolist() == [[255, 255, 255], [128, 64, 128]]
    assert color[1, 0].tolist() == pytest.approx([191, 159, 191], abs=1)


def test_a_transparent_shade_is_white(tmp_path):
    assert decoded(save(tmp_path / "l.png", GREY, transparency=int(GREY[1, 1])))[1, 1] == 255
    rgb = decoded(save(tmp_path / "rgb.png", COLOR, transparency=tuple(COLOR[2, 2].tolist())))
    assert rgb[2, 2].tolist() == [255] * 3
    assert np.array_equal(rgb[0], COLOR[0])


def test_bilevel_pictures_are_black_and_white(tmp_path):
    bits = GREY > 128
    for suffix in ("png", "pbm", "tif"):
        assert np.array_equal(decoded(save(tmp_path / f"a.{suffix}", bits)), bits * np.uint8(255))
    transparent = tmp_path / "t.png"
    Image.fromarray(bits).save(transparent, transparency=0)
    assert (decoded(transparent) == 255).all()


def test_palettes_are_looked_up(tmp_path):
    indexed = Image.fromarray(np.array([[0, 1], [1, 2]], dtype=np.uint8), mode=None).convert("P")
    indexed.putpalette([255, 0, 0, 0, 255, 0, 10, 10, 10])
    indexed.save(tmp_path / "color.png")
    assert decoded(tmp_path / "color.png")[0].tolist() == [[255, 0, 0], [0, 255, 0]]
    indexed.save(tmp_path / "transparent.png", transparency=bytes([0, 255, 255]))
    assert decoded(tmp_path / "transparent.png")[0].tolist() == [[255, 255, 255], [0, 255, 0]]
    indexed.putpalette([200] * 3 + [100] * 3 + [10] * 3)
    indexed.save(tmp_path / "grey.png")
    assert decoded(tmp_path / "grey.png").tolist() == [[200, 100], [100, 10]]


@pytest.mark.parametrize("suffix", [".png", ".pgm", ".tif"])
@reports_unused
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    shades = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    assert np.array_equal(decoded(save(tmp_path / f"a{suffix}", shades)).ravel(), np.arange(256))
    between = np.array([[128, 129, 65535 - 128, 65535 - 129]], dtype=np.uint16)
    assert decoded(save(tmp_path / f"b{suffix}", between)).tolist() == [[0, 1, 255, 254]]


@reports_unused
def test_float_pictures_in_the_unit_interval(tmp_path):
    assert decoded(
        save(tmp_path / "a.tif", np.array([[0, 0.5, 1]], dtype=np.float32))
    ).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (
            np.array([[0, 255]], dtype=np.float32),
            r"floating-point pixels outside \[0, 1\], from 0.0 to 255.0",
        ),
        (np.array([[0, np.nan]], dtype=np.float32), "floating-point pixels"),
        (np.array([[0, 70_000]], dtype=np.int32), "32-bit integer pixels, from 0 to 70000"),
    ],
)
def test_pixels_of_unknown_scale_are_refused(tmp_path, array, kind):
    save(tmp_path / "wide.tif", array)
    with pytest.raises(DataError, match=rf"wide\.tif: {kind}.*have no known scale"):
        load_data(tmp_path)


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert decoded(tmp_path / "a.jpg")[4, 4].tolist() == pytest.approx([255, 0, 0], abs=8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_respected(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        1: GREY,
        2: GREY[:, ::-1],
        3: GREY[::-1, ::-1],
        4: GREY[::-1],
        5: GREY.T,
        6: np.rot90(GREY, -1),
        7: GREY[::-1, ::-1].T,
        8: np.rot90(GREY),
    }
    assert np.array_equal(
        decoded(save(tmp_path / f"a{suffix}", GREY, exif=exif)), upright[orientation]
    )


def test_damaged_exif_does_not_damage_the_picture(tmp_path):
    assert np.array_equal(decoded(save(tmp_path / "a.png", GREY, exif=b"Exif\0\0nonsense")), GREY)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
@reports_unused
def test_the_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (4, 4), shade) for shade in ("red", "blue")]
    lossless = {"lossless": True} if suffix == ".webp" else {}
    frames[0].save(tmp_path / f"a{suffix}", save_all=True, append_images=frames[1:], **lossless)
    assert decoded(tmp_path / f"a{suffix}")[0, 0].tolist() == [255, 0, 0]


def test_foreign_formats_are_not_decoded(tmp_path):
    """PostScript under the name of a PNG would start another program."""
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    with pytest.raises(DataError, match=r"a\.png: is damaged or not a picture in a known format"):
        load_data(tmp_path)


def test_crop_takes_the_middle_and_stretch_takes_all():
    wide = np.zeros((8, 32), dtype=np.uint8)
    wide[:, 12:20] = 200
    picture = Image.fromarray(wide)
    cropped = np.asarray(resize_picture(picture, (8, 8), "crop"))
    assert np.array_equal(cropped, wide[:, 12:20])
    stretched = np.asarray(resize_picture(picture, (8, 8), "stretch"))
    assert stretched[:, 3:5].min() > 150
    assert stretched[:, [0, 7]].max() < 50


@pytest.mark.parametrize("source", [(7, 3), (3, 7), (101, 67), (1, 1)])
@pytest.mark.parametrize("target", [(5, 5), (3, 11), (11, 3), (1, 1), (64, 48)])
def test_a_constant_stays_constant_at_any_size(source, target):
    for fit in ("crop", "stretch"):
        result = np.asarray(resize_picture(Image.new("L", source, 77), target, fit))
        assert result.shape == target
        assert (result == 77).all()


def test_shrinking_is_antialiased():
    stripes = np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))
    assert (
        np.abs(
            np.asarray(resize_picture(Image.fromarray(stripes), (8, 8), "crop")).astype(int) - 127
        ).max()
        <= 12
    )


@pytest.mark.skipif(
    "LOWERBOUND_DATA" not in os.environ, reason="LOWERBOUND_DATA names no folder of data sets"
)
def test_faces_of_forty_people():
    folder = Path(os.environ["LOWERBOUND_DATA"]) / "orl_faces"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    data = load_data(folder, image_size=32)
    assert (data.shape, len(data.train), len(data.test)) == ((1, 32, 32), 360, 40)
    labels = torch.cat([data.train.labels, data.test.labels])
    assert labels.bincount().tolist() == [10] * 40
    assert data.train.label_names[9] == "s10"
    assert 40 < data.train.values.float().std() < 70
