"""Raw data are made into examples like those on which a model was trained."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from lowerbound.data.anndata import is_anndata
from lowerbound.data.examples import Examples
from lowerbound.data.formats import PICTURE_SUFFIXES
from lowerbound.data.images import convert_images, read_picture_list
from lowerbound.data.joined_names import join_names
from lowerbound.data.load import load_data
from lowerbound.data.options import KeepIn, ReadOptions
from lowerbound.data.preprocessing import Preprocessing
from lowerbound.data.reading import read_all, read_memory
from lowerbound.data.rows import split_row_numbers, take_columns
from lowerbound.data.sources import refuse_unnamed
from lowerbound.data.table_files import read_rows
from lowerbound.data.unused import list_names, warn_unused
from lowerbound.errors import DataError, ShapeError
from lowerbound.settings import check_arguments

_REMEDY = "or make lb.Examples with the shape, kind and levels that the model was trained on"


def read_raw(
    data: Any,
    preprocessing: Preprocessing,
    *,
    name: str = "data",
    fields: Iterable[str] = (),
    keep_in: KeepIn = "auto",
    cache: str | None = None,
) -> Examples:
    """Make raw data into examples like those on which a model was trained.

    Pictures are converted to the size and colour of those examples, uint8 pixels are treated in the
    same way, and categories get the same integers. Columns with names get the same order. If the
    model was trained on pixels, floating-point arrays are not changed, because they are scaled
    already.

    Args:
        data: a path or a name, as for :func:`lowerbound.load_data`; pictures, as paths or as PIL's
            images; an array, a tensor, a sparse matrix or AnnData. If it is
            :class:`~lowerbound.Examples`, only the order of columns with names, and the integers of
            requested fields change, if they stand for other categories.
        preprocessing: the preprocessing of the examples on which the model was trained.
        name: the name of the data in messages.
        fields: the names of the requested fields.
        keep_in: where the values of a file are stored while they are used, see
            :func:`lowerbound.load_data`.
        cache: the folder for decoded pictures, see :func:`lowerbound.load_data`.

    Raises:
        DataError, ShapeError: if the data cannot be made into such examples, saying why.

    Example:
        >>> from PIL import Image
        >>> grey = Preprocessing((1, 8, 8), levels=256)
        >>> read_raw([Image.new("RGB", (40, 30)), Image.new("L", (9, 9))], grey)
        Examples(data: 2 of 1 x 8 x 8, torch.uint8, pixels as-is)
    """
    if preprocessing.schema is not None:
        return read_rows(data, preprocessing.schema, name=name)
    asked = [field for field in fields if field in preprocessing.fields]
    if isinstance(data, Examples):
        _refuse_other_levels(data, preprocessing)
        data = _arrange_columns(data, preprocessing)
        return translate_codes(preprocessing.fields, data, asked)
    pictures = _find_pictures(data)
    if pictures is not None:
        examples = _apply_treatment(_read_pictures(pictures, preprocessing, name), preprocessing)
    elif isinstance(data, str | os.PathLike):
        settings = make_load_settings(preprocessing, data) | {"keep_in": keep_in, "cache": cache}
        settings["fields"] = [field for field in asked if field != "label"]
        examples = _read_path(data, preprocessing, settings)
    else:
        examples = _apply_treatment(_read_memory(data, preprocessing, name, asked), preprocessing)
    examples = _arrange_columns(examples, preprocessing)
    _check_likeness(examples, preprocessing)
    for field in preprocessing.fields:
        examples = _translate_codes(preprocessing.fields, examples, field, is_asked=field in asked)
    levels = examples.levels
    if preprocessing.value_kind == "codes":
        levels = preprocessing.levels  # the largest codes may not occur
    return replace(examples, levels=levels, preprocessing=preprocessing)


def _find_pictures(data: Any) -> list[Path | Image] | None:
    """Find pictures that are given one by one; ``None`` for other data."""
    if isinstance(data, Image):
        return [data]
    if isinstance(data, str | os.PathLike):
        path = Path(data).expanduser()
        if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
            return [path]
        return None
    if not isinstance(data, list | tuple) or not data:
        return None
    if not all(isinstance(entry, str | os.PathLike | Image) for entry in data):
        return None
    return [_expand_path(entry) for entry in data]


def _expand_path(entry: Any) -> Path | Image:
    if isinstance(entry, Image):
        return entry
    return Path(entry).expanduser()


def _read_pictures(
    pictures: list[Path | Image], preprocessing: Preprocessing, name: str
) -> Examples:
    size, color = preprocessing.image_size, preprocessing.color
    if size is None:
        raise DataError(
            f"{name}: the model was trained on {_describe_kind(preprocessing)} of shape "
            f"{preprocessing.shape}, not on pictures; give an array"
        )
    for picture in pictures:
        if isinstance(picture, Path) and picture.is_dir():
            raise DataError(
                f"{picture}: is a folder in a list of pictures; give the folder alone, or a list "
                "of its pictures"
            )
    return read_picture_list(
        pictures, size=size, color=color, resize=preprocessing.resize, name=name
    )


def make_load_settings(
    preprocessing: Preprocessing, source: str | os.PathLike[str]
) -> dict[str, Any]:
    """Make the settings of :func:`lowerbound.load_data` for a file or a folder of raw data."""
    settings: dict[str, Any] = {
        "image_size": preprocessing.image_size,
        "color": preprocessing.color,
        "resize": preprocessing.resize,
        "pixels": preprocessing.pixels,
        "seed": preprocessing.seed,
        "kind": preprocessing.value_kind,
        "missing": preprocessing.missing,
        "layout": {2: "signals", 4: "volumes"}.get(len(preprocessing.shape), "auto"),
    }
    if Path(source).suffix.lower() == ".h5ad":
        settings["layer"] = preprocessing.layer
    return settings


def _read_path(
    source: str | os.PathLike[str], preprocessing: Preprocessing, settings: dict[str, Any]
) -> Examples:
    try:
        return read_all(source, **check_arguments(load_data, settings))
    except DataError as error:
        if not Path(source).expanduser().is_file():
            raise
        # The file does not fit the model's settings, which the user did not choose.
        raise DataError(
            f"{error}. The model was trained on {_describe_kind(preprocessing)} of shape "
            f"{preprocessing.shape}"
        ) from error


def _read_memory(
    data: Any, preprocessing: Preprocessing, name: str, fields: Iterable[str]
) -> Examples:
    """Read data that are in memory. An array that has the right shape is not copied."""
    about: dict[str, Any] = {"kind": preprocessing.value_kind, "missing": preprocessing.missing}
    if is_anndata(data):
        return Examples.of(data, name=name, fields=list(fields), layer=preprocessing.layer, **about)
    shape = tuple(getattr(data, "shape", ()))
    is_array = isinstance(data, np.ndarray | Tensor | list | tuple)
    if not is_array or not preprocessing.is_of_pictures or shape[1:] == preprocessing.shape:
        return _set_levels(preprocessing, Examples.of(data, name=name, **about))
    _refuse_one_picture(shape, preprocessing, name)
    options = ReadOptions(keep_in="auto", **about)
    examples = _set_levels(preprocessing, read_memory(data, name, options))
    if examples.levels is None or examples.shape[0] not in (1, 3):
        return examples
    return convert_images(
        examples,
        size=preprocessing.image_size,
        color=preprocessing.color,
        resize=preprocessing.resize,
    )


def _refuse_one_picture(shape: tuple[int, ...], preprocessing: Preprocessing, name: str) -> None:
    """Raise ``ShapeError`` for one picture, which would be read as several grey pictures."""
    channels, *sides = preprocessing.shape
    is_channels_last = shape[2:] in ((1,), (3,), (4,)) and list(shape[1:]) != sides
    is_channels_first = shape == preprocessing.shape and channels > 1
    if is_channels_last or is_channels_first:
        raise ShapeError(
            f"{name}: the shape {shape} looks like one picture; give an array of pictures, such as "
            "picture[None]"
        )


def _set_levels(preprocessing: Preprocessing, examples: Examples) -> Examples:
    """Set the levels of bytes to the model's number, unless a byte is too large for it."""
    levels = preprocessing.levels
    if levels is None or examples.levels != 256 or preprocessing.value_kind is not None:
        return examples
    values = examples.values
    if levels < 256 and all(
        int(values[index].max()) < levels for index in split_row_numbers(values)
    ):
        return replace(examples, levels=levels)
    return examples


def _apply_treatment(examples: Examples, preprocessing: Preprocessing) -> Examples:
    """Treat pixels as the model's pixels were treated, unless they are scaled already."""
    if (examples.levels is None) != (preprocessing.levels is None):
        return examples
    if preprocessing.pixels == "as-is":
        return examples
    return examples.prepare(preprocessing.pixels, seed=preprocessing.seed)


def _arrange_columns(examples: Examples, preprocessing: Preprocessing) -> Examples:
    """Bring the entries of vectors into the order of the model's, if these have names.

    Columns on which the model was not trained are left out, with a warning.

    Raises:
        DataError: if columns of the model are not there, naming the first, or have no names.
    """
    known, found = preprocessing.columns, examples.columns
    if known is None or known == found:
        return examples
    if found is None:
        refuse_unnamed(known, examples.name, "the model was trained on")
        return examples
    places = {name: place for place, name in enumerate(found)}
    absent = [name for name in known if name not in places]
    if absent:
        raise DataError(
            f"{examples.name}: {len(absent):,} of the {len(known):,} columns on which the model "
            f"was trained are not there: {join_names(absent)}. Give data of all of them, or train "
            "a model on those that you have"
        )
    unknown = places.keys() - set(known)
    if unknown:
        names = [name for name in found if name in unknown]
        warn_unused(
            f"{examples.name}: {len(names):,} columns are left out, because the model was not "
            f"trained on them: {list_names(names)}"
        )
    order = np.array([places[name] for name in known])
    return replace(examples, values=take_columns(examples.values, order), columns=known)


def _check_likeness(examples: Examples, preprocessing: Preprocessing) -> None:
    """Raise ``DataError`` or ``ShapeError`` if examples are not like the model's."""
    name, levels = examples.name, examples.levels
    if examples.shape != preprocessing.shape:
        raise ShapeError(
            f"{name}: examples of shape {examples.shape}, but the model was trained on "
            f"{_describe_kind(preprocessing)} of shape {preprocessing.shape}. Only 8-bit "
            f"pictures can be converted to another shape; {_REMEDY}"
        )
    if levels is None or preprocessing.value_kind is not None:
        return
    if preprocessing.levels is None or levels > preprocessing.levels:
        raise DataError(
            f"{name}: pixels of {levels} levels, but the model was trained on "
            f"{_describe_kind(preprocessing)}; convert them as the training data were converted "
            f"({_REMEDY})"
        )


def _refuse_other_levels(examples: Examples, preprocessing: Preprocessing) -> None:
    """Raise ``DataError`` if the user gave pixels another number of levels than the model's.

    Levels of examples with a preprocessing are right, because they come from the source. Binary
    pixels suit a model that was trained on binarised pixels.
    """
    levels, expected = examples.levels, preprocessing.levels
    if examples.preprocessing is not None or None in (levels, expected) or levels == expected:
        return
    if examples.kind is not None or preprocessing.value_kind is not None:
        return
    if levels == 2 and preprocessing.pixels.startswith("binarize"):
        return
    raise DataError(
        f"{examples.name}: pixels of {levels} levels, but the model was trained on "
        f"{_describe_kind(preprocessing)}, so they would have another scale; pass "
        f"levels={expected} to lb.Examples if that is correct, or convert them as the training "
        "data were converted"
    )


def _describe_kind(preprocessing: Preprocessing) -> str:
    if preprocessing.value_kind is not None:
        return preprocessing.value_kind
    if preprocessing.levels is None:
        return "real numbers"
    return f"pixels of {preprocessing.levels} levels"


def translate_codes(
    categories: Mapping[str, tuple[str, ...] | None], examples: Examples, asked: Iterable[str]
) -> Examples:
    """Translate the integers of some fields, so that they stand for the given categories.

    Args:
        categories: the meanings of the new integers of each field; ``None`` if not known.
        examples: the examples, whose integers may stand for other categories.
        asked: the names of the fields.

    Raises:
        DataError: if a field contains a category that is not given.
    """
    for field in asked:
        examples = _translate_codes(categories, examples, field, is_asked=True)
    return examples


def _translate_codes(
    categories: Mapping[str, tuple[str, ...] | None],
    examples: Examples,
    field: str,
    *,
    is_asked: bool,
) -> Examples:
    """Translate the integers of one field to those with which the model was trained.

    Raises:
        DataError: if the model requests the field but was not trained on one of its categories.
    """
    known, found = categories.get(field), examples.categories_by_field.get(field)
    if known is None or found is None or known == found:
        return examples
    values = examples.all_fields[field]
    unknown = [found[code] for code in values.unique().tolist() if found[code] not in known]
    if unknown and is_asked:
        raise DataError(
            f"{examples.name}: the field {field!r} has the category {unknown[0]!r}, but the model "
            f"was trained on {', '.join(known)}"
        )
    if unknown:
        return examples
    place = {name: code for code, name in enumerate(known)}
    codes = torch.tensor([place.get(entry, -1) for entry in found])
    values = codes[values.cpu()]
    if field == "label" and examples.labels is not None:
        return replace(examples, labels=values, label_names=known)
    return replace(
        examples,
        fields={**examples.fields, field: values},
        categories={**examples.categories, field: known},
    )
