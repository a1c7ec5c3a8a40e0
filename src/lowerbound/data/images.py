"""Folders of pictures, lists of pictures, and arrays of pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor

from lowerbound.data.dataset import Parts
from lowerbound.data.decoded import choose_decoded_file, write_decoded
from lowerbound.data.examples import Examples
from lowerbound.data.folders import Listing, list_entries, list_pictures, make_natural_key
from lowerbound.data.joined_names import join_names
from lowerbound.data.mapped import MappedRows
from lowerbound.data.memory import refuse_too_large, stays_in_file
from lowerbound.data.options import Color, KeepIn, ReadOptions, Resize, Size
from lowerbound.data.picture import (
    UnreadablePictureError,
    convert_color,
    join_planes,
    read_picture_unsilenced,
    resize_picture,
    silence_warnings,
    split_planes,
    turn_upright,
)
from lowerbound.data.rows import Rows
from lowerbound.data.unused import Unused, list_names, warn_unused
from lowerbound.errors import DataError

# Decoded pictures of at least this size are stored, so that later runs need not decode them.
_SMALLEST_STORED_BYTES = 1 << 26
# The number of pictures that are decoded ahead.
_PICTURES_AHEAD = 256


def read_image_folder(
    folder: Path,
    *,
    size: Size | None,
    color: Color,
    resize: Resize,
    keep_in: KeepIn = "memory",
    cache: Path | None = None,
) -> Parts:
    """Read the pictures in a folder as uint8 arrays ``[N, C, H, W]``.

    A folder has one of three layouts:

    - pictures in the folder itself;
    - one sub-folder for each class. Classes become labels, and are numbered in natural order:
      ``s2`` before ``s10``;
    - the two sub-folders ``train`` and ``test``, each in one of the layouts above, which become the
      two parts. Other folders, such as ``valid``, are not read.

    A warning names what is not read. Hidden files do not count.

    Args:
        folder: the folder of the pictures.
        size: the ``(height, width)`` of the pictures, or ``None`` if all pictures have one size.
        color: ``"keep"`` gives ``C`` = 1 if all pictures are stored in grey, otherwise 3.
        resize: how a picture is resized to ``size``: ``"crop"`` or ``"stretch"``.
        keep_in: ``"memory"``; or ``"file"`` to decode pictures once into a file in ``cache``, from
            which they are read when needed. ``"auto"`` stores decoded pictures if they are many,
            and reads them into memory if they fit.
        cache: the folder for decoded pictures. Without it, none are stored.

    Raises:
        DataError: if the folder contains no pictures, if one cannot be read, or if their sizes
            differ, naming the file.
    """
    both = (folder / "train", folder / "test")
    roots: tuple[Path, ...] = (folder,)
    if all(root.is_dir() for root in both):
        roots = both
    listings = [list_pictures(root) for root in roots]
    _report_unread(folder, roots, listings)
    files = [file for listing in listings for file in listing.files]
    unused = Unused()
    load = partial(_load, size=size, color=color, resize=resize, unused=unused)
    kept = None
    if cache is not None and keep_in != "memory":
        kept = choose_decoded_file(folder, files, (size, color, resize), cache)
    values = _read_all(files, load, keep_in, kept)
    unused.report(str(folder))
    found = {name for listing in listings for name in listing.classes or ()}
    label_names = tuple(sorted(found, key=make_natural_key))
    starts = np.cumsum([0, *(len(listing.files) for listing in listings)])
    parts = [
        Examples(
            _select_part(values, start, stop),
            levels=256,
            name=str(root),
            files=tuple(file.relative_to(folder).as_posix() for file in listing.files),
            **_make_labels(listing, label_names),
        )
        for root, listing, (start, stop) in zip(roots, listings, pairwise(starts), strict=True)
    ]
    if len(parts) == 1:
        return parts[0]
    return parts[0], parts[1]


def _report_unread(folder: Path, roots: Sequence[Path], listings: Sequence[Listing]) -> None:
    unread = [
        (root / name).relative_to(folder).as_posix()
        for root, listing in zip(roots, listings, strict=True)
        for name in listing.unread
    ]
    if len(roots) > 1:
        unread += [entry.name for entry in list_entries(folder) if entry not in roots]
    if unread:
        warn_unused(f"{folder}: not read, because they are not pictures: {list_names(unread)}")


def _make_labels(listing: Listing, label_names: tuple[str, ...]) -> dict[str, Any]:
    if listing.classes is None:
        return {}
    labels = torch.tensor([label_names.index(name) for name in listing.classes])
    return {"labels": labels, "label_names": label_names}


def read_pictures(folder: Path, options: ReadOptions) -> Parts:
    """Read the examples of :func:`read_image_folder` with options."""
    return read_image_folder(
        folder,
        size=options.size,
        color=options.color,
        resize=options.resize,
        keep_in=options.keep_in,
        cache=options.cache,
    )


def read_picture_list(
    pictures: Sequence[Path | Image], *, size: Size, color: Color, resize: Resize, name: str
) -> Examples:
    """Read a list of pictures, given as paths or as PIL's images, and resize them to one size.

    Args:
        pictures: the pictures, at least one.
        size: ``(height, width)``.
        color: ``"grey"`` or ``"rgb"``.
        resize: as for :func:`read_image_folder`.
        name: the name of the pictures in messages.

    Raises:
        DataError: if a picture cannot be read, naming it.
    """
    unused = Unused()
    opened = [
        _prepare_picture(picture, f"{name}: picture {place}", unused)
        for place, picture in enumerate(pictures)
    ]
    load = partial(_load, size=size, color=color, resize=resize, unused=unused)
    files = None
    if all(isinstance(picture, Path) for picture in pictures):
        files = tuple(map(str, pictures))
    values = torch.from_numpy(_read_all(opened, load, "memory", None))
    unused.report(name)
    return Examples(values, levels=256, name=name, files=files)


def _prepare_picture(picture: Path | Image, name: str, unused: Unused) -> Path | Image:
    if isinstance(picture, Path):
        return picture  # several threads decode it later
    return turn_upright(picture, name, unused)


_Pixels = NDArray[np.uint8]
_Load = Callable[..., _Pixels]


class _UnexpectedColor(Exception):
    """A picture is in colour, but the first picture was grey."""


def _load(
    picture: Path | Image, *, size: Size | None, color: Color, resize: Resize, unused: Unused
) -> _Pixels:
    if isinstance(picture, Path):
        picture = read_picture_unsilenced(picture, unused)
    return split_planes(resize_picture(convert_color(picture, color), size, resize))


def _read_all(
    files: Sequence[Path | Image], load: _Load, keep_in: KeepIn, kept: Path | None
) -> _Pixels:
    """Read all pictures into one array ``[N, C, H, W]``, memory-mapped if they stay in a file."""
    if kept is not None and kept.exists():
        return _open(kept, keep_in)
    with silence_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            first = load(files[0])
            shape = (len(files), *first.shape)
            rows = _decode_all(files, load, first.shape, pool)
            if kept is not None and (
                keep_in == "file" or math.prod(shape) >= _SMALLEST_STORED_BYTES
            ):
                write_decoded(kept, shape, rows)
                return _open(kept, keep_in)
            values = _allocate(*shape)
            for row, pixels in enumerate(rows):
                values[row] = pixels
            return values
        except _UnexpectedColor:
            pass
        except UnreadablePictureError as error:
            raise DataError(f"{error}{_describe_others(files, str(error), pool)}") from error
    return _read_all(files, partial(load, color="rgb"), keep_in, kept)


def _describe_others(files: Sequence[Path | Image], known: str, pool: ThreadPoolExecutor) -> str:
    """Describe the pictures that cannot be read, in addition to the one of a message."""
    paths = [file for file in files if isinstance(file, Path)]
    others: list[Path] = []
    for start in range(0, len(paths), _PICTURES_AHEAD):
        some = paths[start : start + _PICTURES_AHEAD]
        faults = zip(some, pool.map(_find_fault, some), strict=True)
        others += [path for path, fault in faults if fault not in (None, known)]
    if not others:
        return ""
    return f". These cannot be read either: {join_names(others, 5)}"


def _find_fault(path: Path) -> str | None:
    """Why a picture cannot be read; ``None`` if it can be read."""
    try:
        read_picture_unsilenced(path, Unused())
    except UnreadablePictureError as error:
        return str(error)
    except DataError:  # a picture of a kind that is refused, which has a message of its own
        return None
    return None


def _decode_all(
    files: Sequence[Path | Image],
    load: Callable[[Path | Image], _Pixels],
    shape: tuple[int, ...],
    pool: ThreadPoolExecutor,
) -> Iterator[_Pixels]:
    """Decode pictures with several threads, a few hundred at a time, and yield them in order.

    Raises:
        DataError: if one has a different size from the first.
        _UnexpectedColor: if one is in colour and the first was not.
    """
    for start in range(0, len(files), _PICTURES_AHEAD):
        some = files[start : start + _PICTURES_AHEAD]
        for file, pixels in zip(some, pool.map(load, some), strict=True):
            if pixels.shape[1:] != shape[1:]:
                raise DataError(
                    f"{files[0]} has {shape[2]} x {shape[1]} pixels (width x height), but {file} "
                    f"has {pixels.shape[2]} x {pixels.shape[1]}; set image_size (--image-size 64) "
                    "to bring all to one size"
                )
            if len(pixels) > shape[0]:
                raise _UnexpectedColor
            yield np.broadcast_to(pixels, shape)


def _open(kept: Path, keep_in: KeepIn) -> _Pixels:
    mode: Literal["r"] | None = None
    if stays_in_file(keep_in, kept.stat().st_size):
        mode = "r"
    return cast(_Pixels, np.load(kept, mmap_mode=mode, allow_pickle=False))


def _select_part(values: _Pixels, start: int, stop: int) -> Tensor | MappedRows:
    if isinstance(values, np.memmap):
        return MappedRows.of(values).select(torch.arange(start, stop))
    return torch.from_numpy(values[start:stop])


def _allocate(count: int, *shape: int) -> NDArray[np.uint8]:
    refuse_too_large(
        count * int(np.prod(shape)),
        f"{count} pictures of shape {shape} do not fit into memory",
        "set a smaller image_size (--image-size 64)",
    )
    return np.empty((count, *shape), dtype=np.uint8)


def convert_images(
    examples: Examples, *, size: Size | None, color: Color, resize: Resize
) -> Examples:
    """Convert pictures in memory to another size or colour.

    Args:
        examples: uint8 pictures ``[N, C, H, W]`` with ``C`` = 1 or 3. Other examples are accepted
            only if they need no conversion.
        size: ``(height, width)``, or ``None`` to keep the size.
        color: ``"keep"`` keeps the channels.
        resize: as for :func:`read_image_folder`.

    Raises:
        DataError: if the examples are not such pictures.

    Example:
        >>> pictures = Examples.of(torch.zeros(2, 1, 28, 28, dtype=torch.uint8))
        >>> convert_images(pictures, size=(32, 32), color="rgb", resize="crop").shape
        (3, 32, 32)
    """
    shape = examples.shape
    channels = {"keep": shape[0], "grey": 1, "rgb": 3}[color]
    if shape == (channels, *(size or shape[1:])):
        return examples
    levels = examples.levels
    is_image = len(shape) == 3 and shape[0] in (1, 3)
    if levels is None or examples.kind is not None or not is_image:
        wishes = {"image_size": size, "color": color}
        unchanged = {"image_size": None, "color": "keep"}
        wish = " and ".join(
            f"{name}={value!r}" for name, value in wishes.items() if value != unchanged[name]
        )
        raise DataError(
            f"{examples.name}: {wish} is possible only for uint8 pictures of 1 or 3 channels, but "
            f"these are {examples.values.dtype} of shape {shape}"
        )
    if isinstance(examples.values, Rows):
        raise DataError(
            f"{examples.name}: pictures of shape {shape} that stay in their file cannot be "
            "converted to another size or colour; convert the file, or read it into memory "
            "(keep_in='memory', --keep-in memory)"
        )
    raw = examples.values.cpu().numpy()
    height, width = size or shape[1:]
    result = _allocate(len(raw), channels, height, width)
    for row, pixels in enumerate(raw):
        result[row] = split_planes(
            resize_picture(convert_color(join_planes(pixels), color), size, resize)
        )
    # Lanczos overshoots, and Pillow clips at 255, which is too high for fewer than 256 levels.
    np.minimum(result, levels - 1, out=result)
    return replace(examples, values=torch.from_numpy(result))
