"""Pictures: where each pixel goes."""

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image

from lowerbound.errors import ShapeError
from lowerbound.report.drawing import can_draw, find_limits, save_examples, save_pairs
from lowerbound.report.figures import manifold_points, save_learning_curves

GAP, WHITE = 2, 255


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def draw(tmp_path, values, **settings) -> np.ndarray:
    return pixels(save_examples(values, tmp_path / "sheet.png", **settings).path)


def shade(value: int, size: int = 192, channels: int = 1) -> torch.Tensor:
    """A picture of one grey value, of a size that is not enlarged."""
    return torch.full((1, channels, size, size), value / 255)


def record(epoch: int, *parts: str) -> dict:
    return {"epoch": epoch} | {
        part: {"bound": -9.0 + epoch, "rate": 1.0, "distortion": 8.0 - epoch} for part in parts
    }


def test_tiles_run_row_by_row_with_gaps_between_and_around(tmp_path):
    sheet = draw(tmp_path, torch.cat([shade(10), shade(20), shade(30)]), columns=2)
    expected = np.full((2 * 194 + GAP, 2 * 194 + GAP), WHITE)
    expected[2:194, 2:194] = 10
    expected[2:194, 196:388] = 20
    expected[196:388, 2:194] = 30
    np.testing.assert_array_equal(sheet, expected)


def test_height_and_width_are_not_confused(tmp_path):
    sheet = draw(tmp_path, (torch.arange(192 * 160).reshape(1, 1, 192, 160) % 256) / 255)
    np.testing.assert_array_equal(sheet[2:-2, 2:-2], np.arange(192 * 160).reshape(192, 160) % 256)


@pytest.mark.parametrize(("side", "factor"), [(8, 6), (28, 6), (32, 6), (48, 4), (64, 3), (96, 2)])
def test_small_images_are_enlarged_by_a_whole_factor(side, factor, tmp_path):
    image = (torch.arange(side**2).reshape(1, 1, side, side) % 256) / 255
    sheet = draw(tmp_path, image)
    np.testing.assert_array_equal(
        sheet[2:-2, 2:-2],
        np.kron(np.arange(side**2).reshape(side, side) % 256, np.ones((factor, factor))),
    )


def test_large_images_keep_their_size(tmp_path):
    assert draw(tmp_path, shade(9, size=150)).shape == (154, 154)


def test_colours_keep_their_channel(tmp_path):
    sheet = draw(tmp_path, torch.cat([shade(10), shade(20), shade(30)], 1))
    assert sheet.shape == (196, 196, 3)
    assert sheet[2:-2, 2:-2].reshape(-1, 3).tolist() == [[10, 20, 30]] * 192 * 192
    assert sheet[0, 0].tolist() == [WHITE] * 3


@pytest.mark.parametrize(
    ("value", "grey"), [(-3.0, 0), (0.0, 0), (0.5, 128), (1.0, 255), (7.0, 255)]
)
def test_values_are_clipped_and_rounded(value, grey, tmp_path):
    sheet = draw(tmp_path, torch.full((1, 1, 48, 48), value))
    assert np.unique(sheet[2:-2, 2:-2]).tolist() == [grey]


def test_other_limits_are_black_and_white_and_noted(tmp_path):
    values = torch.linspace(-2, 3, 6).reshape(1, 1, 1, 6).expand(1, 1, 6, 6)
    drawing = save_examples(values, tmp_path / "x.png", limits=find_limits(values))
    assert drawing.note == "black is -2 and white is 3"
    assert pixels(drawing.path)[2, 2:-2:6].tolist() == [0, 51, 102, 153, 204, 255]
    assert find_limits(torch.tensor([0.2, 0.9])) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (4, 2, 2), (5, 3, 2), (64, 8, 8)]
)
def test_a_grid_is_about_square(count, columns, rows, tmp_path):
    sheet = draw(tmp_path, torch.zeros(count, 1, 192, 192))
    assert sheet.shape == (rows * 194 + GAP, columns * 194 + GAP)


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        ((1500, 1, 8, 8), 1024),
        ((300, 1, 300, 300), 169),
        ((2, 3, 30, 9000), 2),
        ((3, 1, 3100, 40), 3),
        ((50, 1, 16889), 50),
        ((50, 1, 1, 16889), 50),
        ((90, 12, 40), 64),
        ((200, 1, 40, 200, 200), 114),
        ((2, 20, 40, 40), 2),
    ],
)
def test_no_side_has_more_than_4000_pixels(shape, shown, tmp_path):
    drawing = save_examples(torch.rand(1).expand(shape), tmp_path / "x.png")
    assert max(pixels(drawing.path).shape) <= 4000
    assert drawing.count == shown
    is_partial = shown < shape[0]
    assert (f"{shown:,} of {shape[0]:,} are shown" in drawing.note) == is_partial
    with Image.open(drawing.path) as image:
        assert image.text.get("Description", "") == drawing.note


def test_pictures_larger_than_a_sheet_are_reduced_by_averaging(tmp_path):
    picture = torch.zeros(1, 1, 2, 9000)
    picture[..., ::2] = 1.0
    drawing = save_examples(picture, tmp_path / "x.png")
    assert drawing.note == "each is reduced by a factor of 3"
    assert np.unique(pixels(drawing.path)[2:-2, 2:-2]).tolist() == [85, 170]


def test_volumes_are_drawn_as_three_slices_through_their_middle(tmp_path):
    depth, height, width = 4, 32, 30
    index = torch.arange(depth * height * width).reshape(1, 1, depth, height, width) % 251
    drawing = save_examples(index / 255, tmp_path / "x.png")
    assert drawing.note == "three slices through the middle of each volume"
    sheet, volume = pixels(drawing.path)[2:-2, 2:-2][::6, ::6], index[0, 0].numpy()
    np.testing.assert_array_equal(sheet[:, :30], volume[2])
    np.testing.assert_array_equal(sheet[:4, 31:61], volume[:, 16])
    np.testing.assert_array_equal(sheet[:4, 62:94], volume[:, :, 15])
    assert np.unique(sheet[4:, 31:]).tolist() == [WHITE]
    assert sheet.shape == (32, 94)


def test_other_numbers_of_channels_stand_side_by_side(tmp_path):
    drawing = save_examples(torch.cat([shade(10), shade(20)], 1), tmp_path / "x.png")
    assert drawing.note == "2 channels side by side"
    sheet = pixels(drawing.path)[2:-2, 2:-2]
    assert np.unique(sheet[:, :192]).tolist() == [10]
    assert np.unique(sheet[:, 192]).tolist() == [WHITE]
    assert np.unique(sheet[:, 193:]).tolist() == [20]


def find_curve(panel: np.ndarray) -> np.ndarray:
    """The height of the curve in each column of a panel: the mean row of what is blue."""
    blue = panel[..., 2] - panel[..., 0]
    return (blue * np.arange(len(blue))[:, None]).sum(0) / blue.sum(0)


def test_signals_are_curves_in_panels_of_one_scale(tmp_path):
    wave = (
        torch.sin(torch.linspace(0, 6, 301)).expand(6, 1, 301)
        * torch.linspace(1, 0, 6)[:, None, None]
    )
    drawing = save_examples(wave, tmp_path / "x.png")
    sheet = pixels(drawing.path).astype(int)
    assert sheet.shape == (220, 1280, 3)
    assert drawing.note == "every panel spans -1 to 1"
    for number, (top, left) in {0: (0, 0), 3: (0, 960), 4: (110, 0)}.items():
        panel = sheet[top : top + 110, left + 12 : left + 308]
        expected = 55 - 45 * wave[number, 0, 2:298].numpy() / float(wave.abs().max())
        np.testing.assert_allclose(find_curve(panel), expected, atol=3)


@pytest.mark.parametrize("shape", [(2, 1, 30), (2, 3, 1, 30)])
def test_pairs_of_signals_are_drawn_over_each_other(shape, tmp_path):
    signals = torch.rand(shape)
    assert pixels(save_pairs(signals, signals, tmp_path / "x.png").path).shape == (140, 640, 3)


def test_missing_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "grid.png"
    assert save_examples(shade(0), path).path == path
    assert path.exists()


@pytest.mark.parametrize("shape", [(3, 784), (3, 1, 2, 8, 8, 8)])
def test_what_cannot_be_drawn_is_refused(shape, tmp_path):
    with pytest.raises(ShapeError, match=r"cannot be drawn; signals \(C, T\), pictures"):
        save_examples(torch.zeros(shape), tmp_path / "grid.png")
    assert not can_draw(shape[1:])


def test_pairs_have_the_original_on_the_left_and_no_gap_within(tmp_path):
    originals, again = torch.cat([shade(10), shade(20)]), torch.cat([shade(110), shade(120)])
    sheet = pixels(save_pairs(originals, again, tmp_path / "pairs.png", columns=1).path)
    expected = np.full((2 * 194 + GAP, 384 + 2 * GAP), WHITE)
    for top, (left, right) in zip((2, 196), ((10, 110), (20, 120)), strict=True):
        expected[top : top + 192, 2:194] = left
        expected[top : top + 192, 194:386] = right
    np.testing.assert_array_equal(sheet, expected)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 3), (9, 4)])
def test_pairs_stand_four_in_a_row_at_most(count, columns, tmp_path):
    images = torch.zeros(count, 1, 192, 192)
    sheet = pixels(save_pairs(images, images, tmp_path / "pairs.png").path)
    assert sheet.shape[1] == columns * 386 + GAP


@pytest.mark.parametrize(
    "history",
    [
        [record(1, "train")],
        [record(1, "train", "validation")],
        [record(epoch, "train") for epoch in range(1, 6)],
        [record(epoch, "train", "validation") for epoch in range(1, 41)],
    ],
    ids=["one epoch", "one epoch, validation", "no validation", "many epochs"],
)
def test_the_course_is_a_png_of_one_size(history, tmp_path):
    path = save_learning_curves(history, tmp_path / "deep" / "bound.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert pixels(path).shape[:2] == (432, 1320)


def test_the_course_shows_the_validation_in_its_own_colour(tmp_path):
    red = np.array([0xD1, 0x49, 0x5B])
    epochs = range(1, 6)
    without = pixels(
        save_learning_curves([record(e, "train") for e in epochs], tmp_path / "without.png")
    )[..., :3]
    beside = pixels(
        save_learning_curves(
            [record(e, "train", "validation") for e in epochs], tmp_path / "with.png"
        )
    )[..., :3]
    assert not (without == red).all(-1).any()
    assert (beside == red).all(-1).any()


def draw_baseline(folder, **more):
    history = [record(epoch, "train") | more for epoch in range(1, 6)]
    return pixels(save_learning_curves(history, folder / "bound.png"))[..., :3]


def find_longest_line(sheet):
    return (sheet == 128).all(-1).sum(1).max()


def find_height_of_curve(sheet):
    teal = (np.abs(sheet[:, :440].astype(int) - [0x1F, 0x6F, 0x8B]).max(-1) < 10).any(1)
    return np.flatnonzero(teal).max() - np.flatnonzero(teal).min()


def test_the_baseline_is_a_horizontal_line_beside_the_bound(tmp_path):
    sheet = draw_baseline(tmp_path, baseline=-11.0)
    assert find_longest_line(sheet[:, :400]) > 150  # dashes over the width of the first panel
    assert find_longest_line(sheet[:, 440:]) < 50
    assert find_longest_line(draw_baseline(tmp_path)) < 50


def test_a_distant_baseline_does_not_flatten_the_curve(tmp_path):
    sheet = draw_baseline(tmp_path, baseline=-1000.0)
    assert find_longest_line(sheet) < 50
    assert find_height_of_curve(sheet) > 200


@pytest.mark.parametrize("side", [1, 2, 5, 20])
def test_the_manifold_is_the_grid_of_inverse_gaussian_quantiles(side):
    points = manifold_points(side)
    quantile = NormalDist().inv_cdf
    expected = [
        (quantile((column + 0.5) / side), -quantile((row + 0.5) / side))
        for row in range(side)
        for column in range(side)
    ]
    torch.testing.assert_close(
        points, torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=1e-6
    )


def test_the_manifold_leaves_equal_probability_between_its_points():
    across = manifold_points(8)[:8, 0]
    masses = [NormalDist().cdf(float(value)) for value in across]
    assert all(math.isclose(b - a, 1 / 8, abs_tol=1e-6) for a, b in pairwise(masses))
