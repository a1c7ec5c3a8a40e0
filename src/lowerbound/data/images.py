"""Folders of pictures, and pictures that are arrays already."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lowerbound.data.arrays import Parts
from lowerbound.data.examples import Examples
from lowerbound.data.memory import refuse_absurd
from lowerbound.data.options import Color, Resize
from lowerbound.data.picture import Size, planes, read_picture, recolor, resized
from lowerbound.errors import DataError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass(frozen=True)
class _Listing:
    """The pictures of one part, in order, and the class folder of each (``None`` where there are no class folders)."""

    files: tuple[Path, ...]
    classes: tuple[str, ...] | None


def is_picture(path: Path) -> bool:
    """Whether a path is named like a picture that can be read."""
    return path.suffix.lower() in SUFFIXES


def read_image_folder(folder: Path, *, size: Size | None, color: Color, resize: Resize) -> Parts:
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

    Raises:
        DataError: if there are no pictures, one cannot be read, or sizes differ, naming the file.
    """
    both = (folder / "train", folder / "test")
    roots = both if all(root.is_dir() for root in both) else (folder,)
    listings = [_list(root) for root in roots]
    values = _read_all([file for listing in listings for file in listing.files], size=size, color=color, resize=resize)
    found = {name for listing in listings for name in listing.classes or ()}
    label_names = tuple(sorted(found, key=_natural))
    starts = np.cumsum([0, *(len(listing.files) for listing in listings)])
    parts = [
        Examples(
            torch.from_numpy(values[start:stop]),
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
        entries = [e for e in folder.iterdir() if not e.name.startswith(".") and e.name.lower() not in _LITTER]
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read ({error.strerror or error})") from error
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
        "folder without pictures" if e.is_dir() else e.suffix.lower() or "file without suffix" for e in entries
    )
    if not kinds:
        return "it is empty"
    found = "found " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    arrays = [e.name for e in entries if e.suffix.lower() in (".npy", ".npz")]
    return f"{found}; to read {arrays[0]}, give the path of that file" if arrays else found


def _read_all(files: Sequence[Path], *, size: Size | None, color: Color, resize: Resize) -> NDArray[np.uint8]:
    """All pictures as one array ``[N, C, H, W]``; grey ones are spread over three channels once one is in colour."""
    values: NDArray[np.uint8] | None = None
    for row, file in enumerate(files):
        image = recolor(read_picture(file), color)
        if size is not None:
            image = resized(image, size, resize)
        pixels = planes(image)
        if values is None:
            values = _allocate(len(files), pixels.shape)
        if pixels.shape[1:] != values.shape[2:]:
            raise DataError(
                f"{files[0]} has {values.shape[3]} x {values.shape[2]} pixels (width x height), but {file} has "
                f"{image.width} x {image.height}; set image_size (--image-size 64) to bring all to one size"
            )
        if len(pixels) > values.shape[1]:
            grey, values = values, _allocate(len(files), pixels.shape)
            values[:row] = grey[:row]
        values[row] = pixels
    assert values is not None  # a listing is never empty
    return values


def _allocate(count: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    refuse_absurd(
        count * int(np.prod(shape)),
        f"{count} pictures of shape {shape} do not fit into memory",
        "set a smaller image_size (--image-size 64)",
    )
    return np.empty((count, *shape), dtype=np.uint8)


def convert_images(examples: Examples, *, size: Size | None, color: Color, resize: Resize) -> Examples:
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
        wish = [f"image_size={size}"] * (size is not None) + [f"color={color!r}"] * (color != "keep")
        raise DataError(
            f"{examples.name}: {' and '.join(wish)} can be had for uint8 images of 1 or 3 channels only, these are "
            f"{examples.values.dtype} of shape {shape}"
        )
    raw = examples.values.cpu().numpy()
    height, width = size or shape[1:]
    result = _allocate(len(raw), (channels, height, width))
    for row, pixels in enumerate(raw):
        image = recolor(
            Image.fromarray(np.ascontiguousarray(pixels[0] if shape[0] == 1 else np.moveaxis(pixels, 0, 2))), color
        )
        result[row] = planes(image if size is None else resized(image, size, resize))
    # Lanczos overshoots; Pillow cuts that off at 255 only, which data of fewer levels can exceed.
    np.minimum(result, examples.levels - 1, out=result)
    return replace(examples, values=torch.from_numpy(result))
