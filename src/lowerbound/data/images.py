"""Folders of pictures, and pictures that are arrays already."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lowerbound.data.arrays import Parts
from lowerbound.data.decoded import decoded_file, write_decoded
from lowerbound.data.examples import Examples
from lowerbound.data.mapped import Mapped
from lowerbound.data.memory import refuse_absurd, stays_in_file
from lowerbound.data.options import Color, KeepIn, Resize
from lowerbound.data.picture import Size, planes, quiet, read_picture_aloud, recolor, resized
from lowerbound.errors import DataError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}

# Bytes of decoded pictures from which on they are kept, so that no later run waits for the decoding.
_WORTH_KEEPING = 1 << 26
# Pictures that are decoded ahead.
_AHEAD = 256


@dataclass(frozen=True)
class _Listing:
    """The pictures of one part, in order, and the class folder of each (``None`` where there are no class folders)."""

    files: tuple[Path, ...]
    classes: tuple[str, ...] | None


def is_picture(path: Path) -> bool:
    """Whether a path is named like a picture that can be read."""
    return path.suffix.lower() in SUFFIXES


def read_image_folder(
    folder: Path,
    *,
    size: Size | None,
    color: Color,
    resize: Resize,
    keep_in: KeepIn = "memory",
    cache: Path | None = None,
) -> Parts:
    """The pictures in a folder, as uint8 images ``[N, C, H, W]``.

    Three layouts are read: pictures in the folder itself; one sub-folder for each class, which becomes the label
    (numbered in natural order: ``s2`` before ``s10``); and the two sub-folders ``train`` and ``test``, each in one of
    the former layouts, which become the two parts (other folders beside these, such as ``valid``, are not read).
    Hidden files and files that are not pictures are passed over.

    Args:
        folder: where the pictures are.
        size: ``(height, width)`` to bring them to, or ``None`` if they have one size.
        color: ``"keep"`` gives ``C`` = 1 if all pictures are stored in grey, else 3.
        resize: how to bring a picture to ``size``.
        keep_in: ``"memory"``; ``"file"``: in ``cache``, decoded once, where they stay as they are used. ``"auto"``: many
            pictures are decoded once, and read into memory if they fit.
        cache: the folder for decoded pictures; without it there are none.

    Raises:
        DataError: if there are no pictures, one cannot be read, or sizes differ, naming the file.
    """
    both = (folder / "train", folder / "test")
    roots = both if all(root.is_dir() for root in both) else (folder,)
    listings = [_list(root) for root in roots]
    files = [file for listing in listings for file in listing.files]
    load = partial(_load, size=size, color=color, resize=resize)
    kept = (
        None
        if cache is None or keep_in == "memory"
        else decoded_file(folder, files, (size, color, resize), cache)
    )
    values = _read_all(files, load, keep_in, kept)
    found = {name for listing in listings for name in listing.classes or ()}
    label_names = tuple(sorted(found, key=_natural))
    starts = np.cumsum([0, *(len(listing.files) for listing in listings)])
    parts = [
        Examples(
            _part(values, start, stop),
            levels=256,
            labels=None
            if listing.classes is None
            else torch.tensor([label_names.index(name) for name in listing.classes]),
            label_names=None if listing.classes is None else label_names,
            name=str(root),
            files=tuple(file.relative_to(folder).as_posix() for file in listing.files),
        )
        for root, listing, (start, stop) in zip(roots, listings, pairwise(starts), strict=True)
    ]
    return (parts[0], parts[1]) if len(parts) == 2 else parts[0]


def _natural(name: str) -> tuple[object, ...]:
    """A sort key by which numbers within names count as numbers."""
    # Text and numbers alternate, text first, so that only like is compared with like; the name itself breaks ties.
    parts = re.split(r"([0-9]+)", name)
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


def _entries(folder: Path) -> list[Path]:
    try:
        entries = [
            e
            for e in folder.iterdir()
            if not e.name.startswith(".") and e.name.lower() not in _LITTER
        ]
    except OSError as error:
        raise DataError(
            f"{folder}: the folder cannot be read ({error.strerror or error})"
        ) from error
    return sorted(entries, key=lambda entry: _natural(entry.name))


def _list(root: Path) -> _Listing:
    entries = _entries(root)
    loose = [entry for entry in entries if is_picture(entry) and not entry.is_dir()]
    inside: dict[str, list[Path]] = {}
    for sub in (entry for entry in entries if entry.is_dir()):
        below = _entries(sub)
        for deeper in (entry for entry in below if entry.is_dir()):
            if any(is_picture(entry) for entry in _entries(deeper)):
                raise DataError(
                    f"{deeper}: pictures more than one folder below {root}; give {sub} instead, or move them up so that each "
                    "class is one folder"
                )
        pictures = [entry for entry in below if is_picture(entry) and not entry.is_dir()]
        if pictures:
            inside[sub.name] = pictures
    if loose and inside:
        raise DataError(
            f"{root}: has {len(loose)} pictures (the first is {loose[0].name}) beside class folders with pictures "
            f"({', '.join(list(inside)[:3])}); move them into a class folder, or the class folders elsewhere"
        )
    if not loose and not inside:
        raise DataError(f"{root}: holds no pictures ({' '.join(SUFFIXES)}); {_what_else(entries)}")
    if loose:
        return _Listing(tuple(loose), None)
    return _Listing(
        tuple(file for files in inside.values() for file in files),
        tuple(name for name, files in inside.items() for _ in files),
    )


def _what_else(entries: Sequence[Path]) -> str:
    kinds = Counter(
        "folder without pictures" if e.is_dir() else e.suffix.lower() or "file without suffix"
        for e in entries
    )
    if not kinds:
        return "it is empty"
    found = "found " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    arrays = [e.name for e in entries if e.suffix.lower() in (".npy", ".npz")]
    return f"{found}; to read {arrays[0]}, give the path of that file" if arrays else found


_Pixels = NDArray[np.uint8]
_Load = Callable[..., _Pixels]


class _Colored(Exception):
    """A picture in colour, after ones in grey."""


def _load(file: Path, *, size: Size | None, color: Color, resize: Resize) -> _Pixels:
    image = recolor(read_picture_aloud(file), color)
    return planes(image if size is None else resized(image, size, resize))


def _read_all(files: Sequence[Path], load: _Load, keep_in: KeepIn, kept: Path | None) -> _Pixels:
    """All pictures as one array ``[N, C, H, W]``, memory-mapped where they stay in a file."""
    if kept is not None and kept.exists():
        return _open(kept, keep_in)
    with quiet(), ThreadPoolExecutor(os.cpu_count()) as pool:
        first = load(files[0])
        shape = (len(files), *first.shape)
        rows = _decoded(files, load, first.shape, pool)
        try:
            if kept is not None and (keep_in == "file" or math.prod(shape) >= _WORTH_KEEPING):
                write_decoded(kept, shape, rows)
                return _open(kept, keep_in)
            values = _allocate(*shape)
            for row, pixels in enumerate(rows):
                values[row] = pixels
            return values
        except _Colored:
            pass
    return _read_all(files, partial(load, color="rgb"), keep_in, kept)


def _decoded(
    files: Sequence[Path],
    load: Callable[[Path], _Pixels],
    shape: tuple[int, ...],
    pool: ThreadPoolExecutor,
) -> Iterator[_Pixels]:
    """Pictures in their order, decoded by several threads a few at a time.

    Raises:
        DataError: if one has another size than the first.
        _Colored: if one is in colour and the first was not.
    """
    for start in range(0, len(files), _AHEAD):
        some = files[start : start + _AHEAD]
        for file, pixels in zip(some, pool.map(load, some), strict=True):
            if pixels.shape[1:] != shape[1:]:
                raise DataError(
                    f"{files[0]} has {shape[2]} x {shape[1]} pixels (width x height), but {file} has "
                    f"{pixels.shape[2]} x {pixels.shape[1]}; set image_size (--image-size 64) to bring all to one size"
                )
            if len(pixels) > shape[0]:
                raise _Colored
            yield np.broadcast_to(pixels, shape)


def _open(kept: Path, keep_in: KeepIn) -> _Pixels:
    mode: Literal["r"] | None = "r" if stays_in_file(keep_in, kept.stat().st_size) else None
    return cast(_Pixels, np.load(kept, mmap_mode=mode, allow_pickle=False))


def _part(values: _Pixels, start: int, stop: int) -> Tensor | Mapped:
    if isinstance(values, np.memmap):
        return Mapped.of(values).select(torch.arange(start, stop))
    return torch.from_numpy(values[start:stop])


def _allocate(count: int, *shape: int) -> NDArray[np.uint8]:
    refuse_absurd(
        count * int(np.prod(shape)),
        f"{count} pictures of shape {shape} do not fit into memory",
        "set a smaller image_size (--image-size 64)",
    )
    return np.empty((count, *shape), dtype=np.uint8)


def convert_images(
    examples: Examples, *, size: Size | None, color: Color, resize: Resize
) -> Examples:
    """Images that are in memory already, at another size or in another colour.

    Args:
        examples: uint8 images ``[N, C, H, W]`` with ``C`` = 1 or 3; anything else passes only if nothing is to do.
        size: ``(height, width)``, or ``None`` to leave it.
        color: ``"keep"`` leaves the channels.
        resize: as for :func:`read_image_folder`.

    Raises:
        DataError: if these are not such images.

    Example:
        >>> pictures = Examples.of(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
        >>> convert_images(pictures, size=(32, 32), color="rgb", resize="crop").shape
        (3, 32, 32)
    """
    shape = examples.shape
    channels = {"keep": shape[0], "grey": 1, "rgb": 3}[color]
    if shape == (channels, *(size or shape[1:])):
        return examples
    if examples.levels is None or len(shape) != 3 or shape[0] not in (1, 3):
        wish = [f"image_size={size}"] * (size is not None) + [f"color={color!r}"] * (
            color != "keep"
        )
        raise DataError(
            f"{examples.name}: {' and '.join(wish)} can be had for uint8 images of 1 or 3 channels only, these are "
            f"{examples.values.dtype} of shape {shape}"
        )
    if isinstance(examples.values, Mapped):
        raise DataError(
            f"{examples.name}: pictures of shape {shape} that stay in their file are not brought to another size or colour; "
            "write them so, or read them into memory (keep_in='memory', --keep-in memory)"
        )
    raw = examples.values.cpu().numpy()
    height, width = size or shape[1:]
    result = _allocate(len(raw), channels, height, width)
    for row, pixels in enumerate(raw):
        image = recolor(
            Image.fromarray(
                np.ascontiguousarray(pixels[0] if shape[0] == 1 else np.moveaxis(pixels, 0, 2))
            ),
            color,
        )
        result[row] = planes(image if size is None else resized(image, size, resize))
    # Lanczos overshoots; Pillow cuts that off at 255 only, which data of fewer levels can exceed.
    np.minimum(result, examples.levels - 1, out=result)
    return replace(examples, values=torch.from_numpy(result))
