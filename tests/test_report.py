"""Pictures: where each pixel goes."""

import math
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image

from lowerbound.errors import ShapeError
from lowerbound.report.figures import (
    is_image,
    manifold_points,
    save_grid,
    save_learning_curves,
    save_pairs,
)

GAP, WHITE = 2, 255


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def shade(value: int, size: int = 48, channels: int = 1) -> torch.Tensor:
    return torch.full((1, channels, size, size), value / 255)


def record(epoch: int, *parts: str) -> dict:
    return {"epoch": epoch} | {
        part: {"bound": -9.0 + epoch, "rate": 1.0, "distortion": 8.0 - epoch} for part in parts
    }


def test_tiles_run_row_by_row_with_gaps_between_and_around(tmp_path):
    sheet = pixels(
        save_grid(torch.cat([shade(10), shade(20), shade(30)]), tmp_path / "grid.png", columns=2)
    )
    expected = np.full((2 * 50 + GAP, 2 * 50 + GAP), WHITE)
    expected[2:50, 2:50] = 10
    expected[2:50, 52:100] = 20
    expected[52:100, 2:50] = 30
    np.testing.assert_array_equal(sheet, expected)


def test_height_and_width_are_not_confused(tmp_path):
    image = (torch.arange(48 * 40).reshape(1, 1, 48, 40) % 256) / 255
    sheet = pixels(save_grid(image, tmp_path / "grid.png"))
    np.testing.assert_array_equal(sheet[2:-2, 2:-2], np.arange(48 * 40).reshape(48, 40) % 256)


def test_small_images_are_enlarged_by_a_whole_factor(tmp_path):
    image = torch.arange(64).reshape(1, 1, 8, 8) / 255
    sheet = pixels(save_grid(image, tmp_path / "grid.png"))
    np.testing.assert_array_equal(
        sheet[2:-2, 2:-2], np.kron(np.arange(64).reshape(8, 8), np.ones((6, 6)))
    )


def test_large_images_keep_their_size(tmp_path):
    assert pixels(save_grid(shade(9, size=100), tmp_path / "grid.png")).shape == (104, 104)


def test_colours_keep_their_channel(tmp_path):
    image = torch.cat([shade(10), shade(20), shade(30)], 1)
    sheet = pixels(save_grid(image, tmp_path / "grid.png"))
    assert sheet.shape == (52, 52, 3)
    assert sheet[2:-2, 2:-2].reshape(-1, 3).tolist() == [[10, 20, 30]] * 48 * 48
    assert sheet[0, 0].tolist() == [WHITE] * 3


@pytest.mark.parametrize(
    ("value", "grey"), [(-3.0, 0), (0.0, 0), (0.5, 128), (1.0, 255), (7.0, 255)]
)
def test_values_are_clipped_and_rounded(value, grey, tmp_path):
    sheet = pixels(save_grid(torch.full((1, 1, 48, 48), value), tmp_path / "grid.png"))
    assert np.unique(sheet[2:-2, 2:-2]).tolist() == [grey]


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (4, 2, 2), (5, 3, 2), (64, 8, 8)]
)
def test_a_grid_is_about_square(count, columns, rows, tmp_path):
    sheet = pixels(save_grid(torch.zeros(count, 1, 48, 48), tmp_path / "grid.png"))
    assert sheet.shape == (rows * 50 + GAP, columns * 50 + GAP)


def test_missing_folders_are_made(tmp_path):
    path = tmp_path / "a" / "b" / "grid.png"
    assert save_grid(shade(0), path) == path
    assert path.exists()


@pytest.mark.parametrize("shape", [(3, 784), (3, 2, 8, 8), (1, 8, 8)])
def test_what_is_no_picture_is_refused(shape, tmp_path):
    with pytest.raises(ShapeError, match="expected images"):
        save_grid(torch.zeros(shape), tmp_path / "grid.png")


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 8, 8), True), ((3, 8, 8), True), ((2, 8, 8), False), ((64,), False), ((8, 8), False)],
)
def test_which_shapes_are_pictures(shape, expected):
    assert is_image(shape) is expected


def test_pairs_have_the_original_on_the_left_and_no_gap_within(tmp_path):
    originals, again = torch.cat([shade(10), shade(20)]), torch.cat([shade(110), shade(120)])
    sheet = pixels(save_pairs(originals, again, tmp_path / "pairs.png", columns=1))
    expected = np.full((2 * 50 + GAP, 96 + 2 * GAP), WHITE)
    for top, (left, right) in zip((2, 52), ((10, 110), (20, 120)), strict=True):
        expected[top : top + 48, 2:50] = left
        expected[top : top + 48, 50:98] = right
    np.testing.assert_array_equal(sheet, expected)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 3), (9, 4)])
def test_pairs_stand_four_in_a_row_at_most(count, columns, tmp_path):
    images = torch.zeros(count, 1, 48, 48)
    assert pixels(save_pairs(images, images, tmp_path / "pairs.png")).shape[1] == columns * 98 + GAP


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
