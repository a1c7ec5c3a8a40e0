"""The data set ``sprites``: drawn pictures of one shape each, whose factors are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lowerbound.data.examples import Examples
from lowerbound.runtime import noise
from lowerbound.settings import check_seed, check_whole_number

SHAPES = ("square", "ellipse", "heart")

# The values of the other factors are evenly spaced: their number, the first, and the last.
_GRIDS = {
    "scale": (6, 0.5, 1.0),
    "orientation": (40, 0.0, 2 * math.pi * 39 / 40),
    "position_x": (32, 0.0, 1.0),
    "position_y": (32, 0.0, 1.0),
}

_SIDE = 64
# In pixels: the radius of the circle that contains each shape at scale 1, and the least distance of
# this circle from the border.
_RADIUS, _MARGIN = 14.0, 1.5
_PICTURES_AT_ONCE = 500


def make_sprites(count: int = 6000, *, seed: int = 0) -> Examples:
    """Draw binary pictures of 64 x 64 pixels, each of one shape, with their factors as fields.

    The factors are independent and uniform over a grid, as in dSprites (Matthey, Higgins, Hassabis
    & Lerchner 2017); the pictures are drawn by this library.

    - ``shape``: a square, an ellipse or a heart, as a category.
    - ``scale``: 6 sizes from 0.5 to 1.
    - ``orientation``: 40 angles in radians, evenly spaced over the circle. A quarter turn of a
      square, or a half turn of an ellipse, changes nothing.
    - ``position_x`` and ``position_y``: 32 positions each from 0 to 1, from left to right and from
      top to bottom.

    Args:
        count: the number of pictures.
        seed: of the factors. Picture i depends only on ``seed`` and i.

    Returns:
        Examples ``[count, 1, 64, 64]`` of two levels, with these fields.

    Raises:
        SettingsError: for a count or a seed that is out of range.

    Example:
        >>> sprites = make_sprites(20)
        >>> sprites.shape, sprites.categories["shape"]
        ((1, 64, 64), ('square', 'ellipse', 'heart'))
        >>> list(sprites.fields)
        ['shape', 'scale', 'orientation', 'position_x', 'position_y']
    """
    count = check_whole_number("make_sprites: count", count)
    seed = noise.derived_seed(check_seed("make_sprites", seed), "sprites")
    with noise.per_example(seed, torch.arange(count)):
        uniform = noise.uniform((count, 1 + len(_GRIDS)), axis=0, dtype=torch.float64)
    factors = {"shape": (uniform[:, 0] * len(SHAPES)).long()}
    for column, (name, (steps, first, last)) in enumerate(_GRIDS.items(), 1):
        step = (uniform[:, column] * steps).long()
        factors[name] = first + step * ((last - first) / (steps - 1))
    parts = [
        draw_shapes(*[factor[rows] for factor in factors.values()])
        for rows in torch.arange(count).split(_PICTURES_AT_ONCE)
    ]
    numeric = {name: factor.float() for name, factor in factors.items() if name != "shape"}
    return Examples(
        torch.cat(parts)[:, None],
        levels=2,
        fields={"shape": factors["shape"], **numeric},
        categories={"shape": SHAPES},
        name="sprites",
    )


def draw_shapes(shape: Tensor, scale: Tensor, orientation: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Draw one shape in each picture, ``[N, 64, 64]``, 0 or 1 by the centre of each pixel.

    Args:
        shape: the positions in ``SHAPES``, ``[N]``.
        scale: sizes from 0 to 1, ``[N]``.
        orientation: angles in radians, ``[N]``.
        x: positions from left to right, from 0 to 1, ``[N]``.
        y: positions from top to bottom, from 0 to 1, ``[N]``.

    Example:
        >>> half = torch.tensor([0.5], dtype=torch.float64)
        >>> square = draw_shapes(torch.tensor([0]), 2 * half, 0 * half, half, half)
        >>> square.sum(2).unique().tolist()  # each row is empty, or as wide as the square
        [0, 20]
    """
    first = _MARGIN + _RADIUS - 0.5
    centres = torch.arange(_SIDE, dtype=torch.float64)
    across = centres - (first + x * (_SIDE - 1 - 2 * first))[:, None]
    down = centres - (first + y * (_SIDE - 1 - 2 * first))[:, None]
    cosine, sine = (turn(orientation)[:, None, None] for turn in (torch.cos, torch.sin))
    # Coordinates that turn and grow with the shape, in which it fills a circle of radius 1.
    radius = (_RADIUS * scale)[:, None, None]
    u = (cosine * across[:, None, :] + sine * down[:, :, None]) / radius
    v = (cosine * down[:, :, None] - sine * across[:, None, :]) / radius
    pictures = torch.zeros(u.shape, dtype=torch.uint8)
    for number, is_inside in enumerate((_is_in_square, _is_in_ellipse, _is_in_heart)):
        chosen = shape == number
        pictures[chosen] = is_inside(u[chosen], v[chosen]).to(torch.uint8)
    return pictures


def _is_in_square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= math.sqrt(0.5)


def _is_in_ellipse(u: Tensor, v: Tensor) -> Tensor:
    return u.square() + (v / 0.6).square() <= 1


def _is_in_heart(u: Tensor, v: Tensor) -> Tensor:
    """Whether (a^2 + b^2 - 1)^3 <= a^2 b^3: a heart on its tip, in the circle of radius 1."""
    a, b = 1.26 * u, 0.24 - 1.26 * v
    a_squared, b_squared = a.square(), b.square()
    excess = a_squared + b_squared - 1
    return excess * excess.square() <= a_squared * b_squared * b
