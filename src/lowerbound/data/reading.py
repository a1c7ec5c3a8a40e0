"""One way in for all data: from a name, a path or an array to a training and a test part."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.arrays import Parts, as_examples, idx_files, read_array_file, read_idx_folder
from lowerbound.data.catalogue import CATALOGUE
from lowerbound.data.examples import Dataset, Examples
from lowerbound.data.images import convert_images, is_picture, read_image_folder
from lowerbound.data.named import cache_folder, load_named
from lowerbound.data.options import Color, KeepIn, Pixels, Resize
from lowerbound.data.picture import Size, parse_size
from lowerbound.errors import DataError


def read_dataset(
    source: Any, *, test_fraction: float, pixels: Pixels, seed: int, **settings: Any
) -> Dataset:
    """What :func:`lowerbound.load_data` says, for settings that it has checked."""
    parts = _parts(source, **settings)
    if isinstance(parts, Examples):
        train, test = parts.split(test_fraction, seed=seed, setting="test_fraction")
    else:
        train, test = parts
    return Dataset(train, test, _name(source)).prepare(pixels, seed=seed)


def read_all(
    source: Any, *, test_fraction: float, pixels: Pixels, seed: int, **settings: Any
) -> Examples:
    """All examples of a source in its order, with nothing held out: the same settings, but for ``test_fraction``."""
    parts = _parts(source, **settings)
    if isinstance(parts, Examples):
        return parts.prepare(pixels, seed=seed) if pixels != "as-is" else parts
    return Dataset(*parts, _name(source)).prepare(pixels, seed=seed).all()


@dataclass(frozen=True)
class _Form:
    """What form the values are to have, and where."""

    size: Size | None
    color: Color
    resize: Resize
    keep_in: KeepIn
    cache: Path


def _parts(
    source: Any, *, image_size: Any, color: Color, resize: Resize, keep_in: KeepIn, cache: Any
) -> Parts:
    folder = cache_folder("pictures") if cache is None else Path(cache).expanduser()
    form = _Form(parse_size(image_size), color, resize, keep_in, folder)
    parts = _read(source, form)
    if isinstance(parts, Examples):
        return convert_images(parts, size=form.size, color=color, resize=resize)
    train, test = (
        convert_images(part, size=form.size, color=color, resize=resize) for part in parts
    )
    _check_agreement(train, test)
    return train, test


def _name(source: object) -> str:
    if isinstance(source, (str, os.PathLike)):
        name = os.fspath(source)
        return name if name in CATALOGUE else Path(name).resolve().name or str(name)
    if isinstance(source, (Dataset, Examples)):
        return source.name
    return _name(source[0]) if isinstance(source, tuple) and source else "data"


def _read(source: Any, form: _Form) -> Parts:
    if isinstance(source, Dataset):
        return source.train, source.test
    if isinstance(source, str) and source in CATALOGUE:
        return load_named(source)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source, form)
    if isinstance(source, tuple):
        if len(source) != 2:
            raise DataError(
                f"data: a tuple of {len(source)} entries; give one array, or a pair (train, test)"
            )
        train, test = (
            _single(part, name, form) for part, name in zip(source, ("train", "test"), strict=True)
        )
        return train, test
    return _from_memory(source, "data", form.keep_in)


def _single(source: Any, name: str, form: _Form) -> Examples:
    """One part of a pair."""
    if not isinstance(source, (str, os.PathLike, tuple, Dataset)):
        return _from_memory(source, name, form.keep_in)
    parts = None if isinstance(source, tuple) else _read(source, form)
    if not isinstance(parts, Examples):
        raise DataError(
            f"{name}: this part of the pair has two parts itself; give one of them, or it alone without a pair"
        )
    return parts


def _from_memory(source: Any, name: str, keep_in: KeepIn) -> Examples:
    if isinstance(source, Examples):
        return source
    if isinstance(source, (torch.utils.data.Dataset, torch.utils.data.DataLoader)):
        raise DataError(
            f"{name}: a {type(source).__name__} is not read; stack its examples into one tensor [examples, ...]"
        )
    if isinstance(source, np.memmap) and keep_in != "memory":
        return as_examples(source, name=name)
    try:
        if isinstance(source, Tensor):
            source = source.detach().cpu()
            source = (source.float() if source.dtype == torch.bfloat16 else source).numpy()
        array = np.array(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: cannot be read as one array of numbers ({error})") from error
    if array.ndim == 1 and name == "test" and array.dtype.kind in "iu":
        raise DataError(
            f"test: the shape {array.shape} looks like labels, but a pair is (train, test); give labels as "
            "Examples(values, labels=...)"
        )
    return as_examples(array, name=name)


def _read_path(source: str | os.PathLike[str], form: _Form) -> Parts:
    text = os.fspath(source)
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path) and text:
        if idx_files(path):
            return read_idx_folder(path)
        return read_image_folder(path, **vars(form))
    if not os.path.isfile(path):
        raise _missing(text)
    if is_picture(path):
        raise DataError(
            f"{path}: one picture is not a data set; give the folder that holds all of them, such as {path.parent}"
        )
    return read_array_file(path, form.keep_in)


def _missing(text: str) -> DataError:
    path = Path(os.path.expanduser(text))
    try:
        neighbours = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        neighbours = []
    names = difflib.get_close_matches(text.lower(), CATALOGUE, n=1, cutoff=0.6)
    files = [
        str(path.parent / near)
        for near in difflib.get_close_matches(path.name, neighbours, n=1, cutoff=0.8)
    ]
    hint = f"; did you mean {(names or files)[0]!r}?" if names or files else "."
    return DataError(
        f"{text!r}: there is no such file or folder, nor a data set of that name{hint} "
        f"The named data sets are {', '.join(CATALOGUE)}"
    )


def _check_agreement(train: Examples, test: Examples) -> None:
    if train.shape != test.shape:
        raise DataError(
            f"{train.name} has examples of shape {train.shape}, but {test.name} of shape {test.shape}; give both one shape "
            "(for pictures, image_size and color can: --image-size 64 --color grey)"
        )
    if train.levels != test.levels:
        kinds = [f"{part.values.dtype} with {part.levels or 'no'} levels" for part in (train, test)]
        raise DataError(
            f"{train.name} holds {kinds[0]}, but {test.name} {kinds[1]}; give both the same type"
        )
