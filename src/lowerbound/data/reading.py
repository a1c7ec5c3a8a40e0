"""A name, a path or an array is read into a training and a test part."""

from __future__ import annotations

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lowerbound.data.anndata import is_anndata
from lowerbound.data.arrays import as_examples
from lowerbound.data.catalogue import CATALOGUE
from lowerbound.data.dataset import Dataset, Parts
from lowerbound.data.examples import Examples
from lowerbound.data.fields import OBSERVED
from lowerbound.data.formats import PICTURE_SUFFIXES, find_format
from lowerbound.data.frames import is_frame
from lowerbound.data.images import convert_images
from lowerbound.data.named import choose_cache_folder, load_named
from lowerbound.data.options import Missing, Pixels, ReadOptions
from lowerbound.data.picture import parse_size
from lowerbound.data.preprocessing import Preprocessing
from lowerbound.data.sources import check_column_names, refuse_unnamed
from lowerbound.data.sparse import is_sparse
from lowerbound.data.suspects import warn_unmatched
from lowerbound.data.table_files import (
    parse_column_types,
    parse_missing_values,
    read_frame,
    read_rows,
)
from lowerbound.data.tables import is_table, refuse_lossy
from lowerbound.errors import DataError


def read_dataset(
    source: Any, *, test_fraction: float, pixels: Pixels, seed: int, labels: Any, **settings: Any
) -> Dataset:
    """Read the data set that :func:`lowerbound.load_data` returns, with checked settings."""
    parts = _read_parts(source, **settings)
    if labels is not None:
        parts = _attach_labels(parts, labels)
    train, test = _split(parts, test_fraction, seed)
    return Dataset(train, test, _find_name(source)).prepare(pixels, seed=seed)


def _split(parts: Parts, test_fraction: float, seed: int) -> tuple[Examples, Examples | None]:
    """Split examples that do not have a test part of their own; too few get none."""
    if not isinstance(parts, Examples):
        return parts
    if round(len(parts) * test_fraction) == 0:
        return parts.subset(torch.arange(len(parts))), None
    return parts.split(test_fraction, seed=seed, setting="test_fraction")


def read_all(
    source: Any, *, test_fraction: float, pixels: Pixels, seed: int, **settings: Any
) -> Examples:
    """Read all examples of a source in order, without a split. ``test_fraction`` is not used."""
    parts = _read_parts(source, **settings)
    if not isinstance(parts, Examples):
        return Dataset(*parts, _find_name(source)).prepare(pixels, seed=seed).all()
    if pixels == "as-is":
        return parts
    return parts.prepare(pixels, seed=seed)


def _read_parts(
    source: Any,
    *,
    image_size: Any,
    cache: Any,
    fields: Any,
    columns: Any,
    missing_values: Any,
    **settings: Any,
) -> Parts:
    folder = choose_cache_folder("pictures")
    if cache is not None:
        folder = Path(cache).expanduser()
    options = ReadOptions(
        size=parse_size(image_size),
        cache=folder,
        fields=parse_fields(fields),
        columns=parse_column_types(columns),
        missing_values=parse_missing_values(missing_values),
        **settings,
    )
    parts = _read(source, options)
    if isinstance(parts, Examples):
        return _attach_preprocessing(_finish(parts, options), options)
    train, test = (_finish(part, options) for part in parts)
    if train.kind == test.kind == "codes":
        levels = max(train.levels or 0, test.levels or 0)
        train, test = replace(train, levels=levels), replace(test, levels=levels)
    _check_agreement(train, test)
    return _attach_preprocessing(train, options), _attach_preprocessing(test, options)


def parse_fields(fields: Any) -> tuple[str, ...] | None:
    """Parse names of fields from a sequence, or from text such as ``"batch,age"`` or ``"none"``.

    Example:
        >>> parse_fields("batch,age"), parse_fields("none"), parse_fields(["age"])
        (('batch', 'age'), (), ('age',))
    """
    if fields is None:
        return None
    if fields == "none":
        return ()
    if isinstance(fields, str):
        fields = [name.strip() for name in fields.split(",")]
    return tuple(fields)


def _finish(part: Examples, options: ReadOptions) -> Examples:
    """Convert pictures to the requested form, and refuse options that had no effect."""
    if options.kind is not None and getattr(part.preprocessing, "schema", None) is not None:
        raise DataError(
            f"{part.name}: the columns of a table have types of their own, so "
            f"kind={options.kind!r} does not apply; train the recipe table, or give the "
            f"{options.kind} as an array, such as a .npy, .npz or .h5ad file"
        )
    if options.kind is not None and part.kind != options.kind:
        raise DataError(
            f"{part.name}: kind={options.kind!r} has no effect, because the entries are "
            f"{part.kind or part.values.dtype}; remove it"
        )
    dims = {"auto": len(part.shape), "signals": 2, "volumes": 4}[options.layout]
    if len(part.shape) != dims:
        raise DataError(
            f"{part.name}: layout={options.layout!r} has no effect on examples of shape "
            f"{part.shape}; remove it"
        )
    if options.missing is not None and OBSERVED not in part.fields:
        raise DataError(
            f"{part.name}: missing={options.missing!r} has no effect, because all entries are "
            "observed; remove it"
        )
    for name in options.fields or ():
        if name not in part.all_fields:
            raise DataError(
                f"{part.name}: has no field {name!r}; the fields are: "
                f"{', '.join(part.all_fields) or 'none'}"
            )
    return convert_images(part, size=options.size, color=options.color, resize=options.resize)


def _attach_preprocessing(part: Examples, options: ReadOptions) -> Examples:
    """Attach a record of how examples were made, unless they already have one."""
    known = part.preprocessing
    if known is not None and known.schema is not None:
        return part
    if known is not None and known.shape == part.shape and part.kind != "codes":
        return part
    missing: Missing | None = None
    if OBSERVED in part.fields:
        missing = "nan"
    made = Preprocessing(
        shape=part.shape,
        levels=part.levels,
        value_kind=part.kind,
        pixels=part.pixels,
        resize=options.resize,
        missing=missing,
        layer=options.layer,
        fields=part.categories_by_field,
        columns=part.columns,
    )
    return replace(part, preprocessing=made)


def _attach_labels(parts: Parts, labels: Any) -> Examples:
    if isinstance(parts, Examples) and parts.labels is None:
        return replace(parts, labels=labels)
    if isinstance(parts, Examples):
        raise DataError(f"{parts.name}: already has labels; remove labels=")
    raise DataError(
        f"{parts[0].name}: has its own test part, so labels= is ambiguous; give a pair of "
        "lb.Examples.of(values, labels=...)"
    )


def _find_name(source: object) -> str:
    if isinstance(source, (Dataset, Examples)):
        return source.name
    if isinstance(source, tuple) and source:
        return _find_name(source[0])
    if not isinstance(source, (str, os.PathLike)):
        return "data"
    name = os.fspath(source)
    if name in CATALOGUE:
        return name
    return Path(name).resolve().name or str(name)


def _read(source: Any, options: ReadOptions) -> Parts:
    if isinstance(source, Dataset):
        if not source.has_test:
            return source.train
        return source.train, source.test
    if isinstance(source, str) and source in CATALOGUE:
        return load_named(source)
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source, options)
    if isinstance(source, tuple):
        return _read_pair(source, options)
    return read_memory(source, "data", options)


def _read_pair(source: tuple[Any, ...], options: ReadOptions) -> tuple[Examples, Examples]:
    if len(source) != 2:
        raise DataError(
            f"data: a tuple has {len(source)} entries; give one array, or a pair (train, test)"
        )
    train = _read_single(source[0], "train", options)
    schema = getattr(train.preprocessing, "schema", None)
    if schema is not None:  # the test part has the same columns
        return train, read_rows(source[1], schema, name="test")
    return train, _read_single(source[1], "test", options)


def _read_single(source: Any, name: str, options: ReadOptions) -> Examples:
    """Read one part of a pair."""
    if not isinstance(source, (str, os.PathLike, tuple, Dataset)):
        return read_memory(source, name, options)
    if not isinstance(source, tuple):
        parts = _read(source, options)
        if isinstance(parts, Examples):
            return parts
    raise DataError(
        f"{name}: this part of the pair has two parts itself; give one of them, or give it "
        "without a pair"
    )


def read_memory(source: Any, name: str, options: ReadOptions) -> Examples:
    """Read the examples in an array, tensor, sparse matrix or AnnData object.

    Raises:
        DataError: if the data cannot be read.
    """
    if isinstance(source, Examples):
        return source
    if isinstance(source, (torch.utils.data.Dataset, torch.utils.data.DataLoader)):
        raise DataError(
            f"{name}: a {type(source).__name__} cannot be read; stack its examples into one "
            "tensor [examples, ...]"
        )
    if is_anndata(source) or is_sparse(source):
        return Examples.of(
            source,
            name=name,
            kind=options.kind,
            missing=options.missing,
            fields=options.fields,
            layer=options.layer,
        )
    _refuse_layer(options, name)
    if is_frame(source) and options.kind is None and options.missing is None:
        warn_unmatched([source], options.missing_values, name)
        return read_frame(source, name, options)
    refuse_lossy(source, name)
    about: dict[str, Any] = {
        "name": name,
        "kind": options.kind,
        "missing": options.missing,
        "layout": options.layout,
    }
    if isinstance(source, np.memmap) and options.keep_in != "memory":
        return as_examples(source, **about)
    columns = None
    if is_table(source):
        columns = check_column_names(source.columns, name)
    try:
        if isinstance(source, Tensor):
            source = source.detach().cpu()
            if source.dtype == torch.bfloat16:  # numpy does not have it
                source = source.float()
            source = source.numpy()
        array = np.array(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name}: cannot be read as one array of numbers ({error})") from error
    if array.ndim == 1 and name == "test" and array.dtype.kind in "iu":
        raise DataError(
            f"test: the shape {array.shape} looks like labels, but a pair is (train, test); give "
            "labels as Examples(values, labels=...)"
        )
    return as_examples(array, columns=columns, **about)


def _refuse_layer(options: ReadOptions, name: str) -> None:
    if options.layer is not None:
        raise DataError(
            f"{name}: layer={options.layer!r} has no effect, because only AnnData has layers; "
            "remove it"
        )


def _read_path(source: str | os.PathLike[str], options: ReadOptions) -> Parts:
    text = os.fspath(source)
    path = Path(os.path.expanduser(text))
    if not text or not (os.path.isdir(path) or os.path.isfile(path)):
        raise _make_missing_error(text)
    if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file():
        raise DataError(
            f"{path}: one picture is not a data set; give the folder that contains all of them, "
            f"such as {path.parent}"
        )
    entry = find_format(path, options.keep_in)
    if not entry.has_layers:
        _refuse_layer(options, str(path))
    return entry.read(path, options)


def _make_missing_error(text: str) -> DataError:
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
    hint = "."
    if names or files:
        hint = f"; did you mean {(names or files)[0]!r}?"
    return DataError(
        f"{text!r} is not a file, a folder, or the name of a data set{hint} "
        f"The named data sets are {', '.join(CATALOGUE)}"
    )


def _check_agreement(train: Examples, test: Examples) -> None:
    if train.shape != test.shape:
        raise DataError(
            f"{train.name} has examples of shape {train.shape}, but {test.name} of shape "
            f"{test.shape}; give both the same shape (for pictures, with image_size and color: "
            "--image-size 64 --color grey)"
        )
    if train.kind != test.kind:
        raise DataError(
            f"{train.name} contains {train.kind or train.values.dtype}, but {test.name} "
            f"{test.kind or test.values.dtype}; give both the same kind"
        )
    if train.columns is not None and test.columns is None:
        refuse_unnamed(train.columns, test.name, f"{train.name} has")
    elif train.columns not in (None, test.columns):
        raise DataError(
            f"{train.name} and {test.name} have other columns, or the same in another order; give "
            "both the same columns (for AnnData, test[:, train.var_names])"
        )
    for name in train.categories.keys() & test.categories.keys():
        if train.categories[name] != test.categories[name]:
            raise DataError(
                f"{train.name} has the categories {', '.join(train.categories[name])} of the field "
                f"{name!r}, but {test.name} {', '.join(test.categories[name])}; give both the same "
                "categories (in pandas, categoricals of one dtype)"
            )
    if train.levels != test.levels:
        kinds = [f"{part.values.dtype} with {part.levels or 'no'} levels" for part in (train, test)]
        raise DataError(
            f"{train.name} contains {kinds[0]}, but {test.name} {kinds[1]}; give both the same type"
        )
