"""The preprocessing that a trained model stores, so that it accepts raw data of the same kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lowerbound.data.columns import Schema
from lowerbound.data.options import Color, Kind, Missing, Pixels, Resize, Size
from lowerbound.describe import describable
from lowerbound.errors import DataError


@describable
@dataclass(frozen=True)
class Preprocessing:
    """How raw pictures and arrays become examples of the kind that a model was trained on.

    :func:`lowerbound.load_data` attaches it to the examples that it returns, :func:`lowerbound.fit`
    to the model, and :func:`lowerbound.save` writes it into the model's file. To add a treatment of
    raw data, such as a standardisation, add an argument with a default, so that older files can
    still be read.

    Args:
        shape: the shape of one example. Pictures are converted to its height, width and colour.
        levels: the number of values that a pixel or code can take; ``None`` for other data.
        value_kind: ``"counts"``, ``"codes"``, or ``None`` for pixels and real numbers.
        pixels: how pixels are treated, see :class:`lowerbound.Examples`.
        seed: the seed of ``pixels="binarize-once"``.
        resize: how pictures get their size: ``"crop"`` cuts off the edges, ``"stretch"`` changes
            the aspect ratio.
        missing: ``"nan"`` if NaN means that an entry was not observed.
        layer: the layer of AnnData that is read instead of X.
        fields: the names of the fields, each with the meanings of its integers, or ``None`` if they
            are not known. The labels are the field ``label``.
        schema: the columns of a table; ``None`` for other data.
        columns: the names of the entries of vectors, such as the variables of AnnData; ``None`` if
            they are not known.

    Example:
        >>> import lowerbound as lb
        >>> import torch
        >>> pictures = torch.zeros(20, 1, 40, 30, dtype=torch.uint8)
        >>> data = lb.load_data(pictures, image_size=16, color="rgb", pixels="dequantize")
        >>> data.preprocessing.shape, data.preprocessing.pixels
        ((3, 16, 16), 'dequantize')
        >>> data.preprocessing.image_size, data.preprocessing.color
        ((16, 16), 'rgb')
    """

    shape: tuple[int, ...]
    levels: int | None = None
    value_kind: Kind | None = None
    pixels: Pixels = "as-is"
    seed: int = 0
    resize: Resize = "crop"
    missing: Missing | None = None
    layer: str | None = None
    fields: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    schema: Schema | None = None
    columns: tuple[str, ...] | None = None

    @property
    def is_of_pictures(self) -> bool:
        """Whether the examples are pictures, in grey or in colour."""
        is_image = len(self.shape) == 3 and self.shape[0] in (1, 3)
        return is_image and self.levels is not None and self.value_kind is None

    @property
    def image_size(self) -> Size | None:
        """The height and width of pictures; ``None`` for other data."""
        if not self.is_of_pictures:
            return None
        return self.shape[1], self.shape[2]

    @property
    def color(self) -> Color:
        """The colour of pictures; ``"keep"`` for other data."""
        if not self.is_of_pictures:
            return "keep"
        colors: dict[int, Color] = {1: "grey", 3: "rgb"}
        return colors[self.shape[0]]

    def treating_pixels(self, pixels: Pixels, seed: int) -> Preprocessing | None:
        """Make the preprocessing of the same examples after another treatment of their pixels.

        It is ``None`` for ``"dequantize"`` after ``"binarize-once"``, since a single treatment of
        raw pixels cannot do both.
        """
        if self.pixels != "binarize-once":
            return replace(self, pixels=pixels, seed=seed * (pixels == "binarize-once"))
        if pixels == "dequantize":
            return None
        return self  # the binary pixels stay as they were drawn


def find_category_codes(value: Any, name: str, preprocessing: Preprocessing | None) -> Any:
    """Find the integers for categories of a field that are given as text; keep other values.

    Raises:
        DataError: if text is not a category of the field, or its categories are not known.

    Example:
        >>> pets = Preprocessing((1, 8, 8), fields={"label": ("cat", "dog")})
        >>> find_category_codes("dog", "label", pets), find_category_codes(0, "label", pets)
        (1, 0)
        >>> find_category_codes(["dog", "cat"], "label", pets)
        [1, 0]
    """
    if isinstance(value, str):
        return _find_code(value, name, preprocessing)
    if not isinstance(value, list | tuple | np.ndarray) or getattr(value, "shape", None) == ():
        return value
    if not any(isinstance(entry, str) for entry in value):
        return value
    return [_find_code(entry, name, preprocessing) for entry in value]


def _find_code(value: Any, name: str, preprocessing: Preprocessing | None) -> int:
    categories = None
    if preprocessing is not None:
        categories = preprocessing.fields.get(name)
    if categories is None:
        raise DataError(
            f"{name}={value!r}: the model does not know the names of the categories of {name!r}; "
            "give integers"
        )
    if value not in categories:
        raise DataError(
            f"{name}={value!r} is not a category; the categories are {', '.join(categories)}"
        )
    return categories.index(value)
