"""Readers of the named data sets, which find, download and check the files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.data.arrays import as_examples, read_array_file
from lowerbound.data.catalogue import CATALOGUE, NamedDataset
from lowerbound.data.dataset import Parts
from lowerbound.data.examples import Examples
from lowerbound.data.fetch import DownloadError, download
from lowerbound.data.formats import IDX_FILES, find_idx_files
from lowerbound.data.idx import read_idx, read_idx_folder
from lowerbound.data.images import convert_images, read_image_folder
from lowerbound.data.sprites import make_sprites
from lowerbound.errors import DataError

FOLDER_VARIABLE = "LOWERBOUND_DATA"

_DEBIAN = Path("/usr/share/datasets")
_PUBLISHED_KEYS = "x_train, y_train, x_test, y_test"


def load_named(name: str) -> Parts:
    """Read a named data set from the first folder that contains it, or download it.

    The folders are ``$LOWERBOUND_DATA``, the usual caches of torchvision (MNIST, Fashion-MNIST) and
    scikit-learn (Olivetti), Debian's folder of data sets, and the library's own cache
    ``~/.cache/lowerbound`` (``$XDG_CACHE_HOME``), into which files are downloaded.

    Raises:
        DataError: if a file is not the published one, naming it; or if a file is not found and
            cannot be downloaded, naming the file and its folder.
    """
    entry = CATALOGUE[name]
    parts = entry.read(entry)
    if isinstance(parts, Examples):
        return _set_name(parts, entry)
    return _set_name(parts[0], entry), _set_name(parts[1], entry)


def _set_name(part: Examples, entry: NamedDataset) -> Examples:
    return replace(part, name=entry.name, label_names=entry.label_names or part.label_names)


def choose_cache_folder(name: str) -> Path:
    """Choose the folder for downloads of a data set."""
    return Path(os.environ.get("XDG_CACHE_HOME") or _find_home(".cache")) / "lowerbound" / name


def _find_home(*below: str) -> Path:
    return Path(os.path.expanduser("~"), *below)


def _find_own_folder() -> list[Path]:
    """Find the folder that the user named, as a list with one entry or none."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return []
    if not os.path.isdir(os.path.expanduser(folder)):
        raise DataError(
            f"{FOLDER_VARIABLE}={folder}: the folder does not exist; create it or unset the "
            "variable"
        )
    return [Path(folder).expanduser()]


def _find_first_file(places: Iterable[Path]) -> Path | None:
    return next((place for place in places if place.is_file()), None)


def _fetch(
    entry: NamedDataset, target: Path, check: Callable[[Path], object], searched: Sequence[Path]
) -> Path:
    """Download a file, or raise one error with all attempts and the remedies."""
    try:
        download([home.format(target.name) for home in entry.homes], target, check)
    except DownloadError as error:
        raise DataError(
            f"{entry.name}: was not found on this machine and could not be downloaded ({error}). "
            f"Either put {target.name} into {target.parent}, or set {FOLDER_VARIABLE} to a folder "
            f"that contains {', or '.join(entry.files)}. "
            f"Searched: {', '.join(dict.fromkeys(str(place) for place in searched))}"
        ) from error
    return target


def _check_digest(array: NDArray[Any], *, name: str, digest: str, file: Path) -> None:
    # Labels are bytes in their files but int64 in Examples. Published pixels are always bytes.
    if array.dtype == np.int64:
        array = array.astype(np.uint8)
    found = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
    if found != digest:
        raise DataError(
            f"{file}: is not the published {name}: the SHA-256 of its decoded entries begins with "
            f"{found[:12]} instead of {digest[:12]}; delete or replace the file, or give its path "
            "to read it as it is"
        )


def read_digits(entry: NamedDataset) -> Examples:
    """Read the digits that are installed with scikit-learn."""
    from sklearn.datasets import load_digits

    data = load_digits()
    values = torch.from_numpy(data.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    return Examples(values, levels=17, labels=labels, name=entry.name)


def draw_sprites(entry: NamedDataset) -> Examples:
    """Draw the sprites, which need no file."""
    return make_sprites(entry.train)


def read_published_parts(entry: NamedDataset) -> tuple[Examples, Examples]:
    """Read MNIST, or a data set with files of the same layout."""
    places = _list_idx_places(entry)
    for place in places:
        if (place.suffix == ".npz" and place.is_file()) or len(find_idx_files(place)) == len(
            IDX_FILES
        ):
            return _read_parts(entry, place)
    cache = places[-1]
    for stem, digest in zip(IDX_FILES, entry.digests, strict=True):
        if stem not in find_idx_files(cache):
            check = partial(_check_idx, name=entry.name, digest=digest)
            _fetch(entry, cache / f"{stem}.gz", check, places)
    return _read_parts(entry, cache)


def _list_idx_places(entry: NamedDataset) -> list[Path]:
    name, torchvision = entry.name, Path(entry.torchvision or entry.name)
    places = []
    for root in _find_own_folder():
        places += [
            root / f"{name}.npz",
            root / name,
            root / torchvision,
            root / torchvision.parts[0],
        ]
    roots = [Path("data"), _find_home("data")]
    if torch_home := os.environ.get("TORCH_HOME"):
        roots.append(Path(torch_home))
    roots += [_find_home(".cache", "torch"), _find_home(".torch")]
    return [
        *places,
        *(root / torchvision for root in roots),
        _DEBIAN / name,
        choose_cache_folder(name),
    ]


def _read_parts(entry: NamedDataset, place: Path) -> tuple[Examples, Examples]:
    if place.suffix == ".npz":
        parts, files = read_array_file(place, fields=()), [place] * len(IDX_FILES)
    else:
        parts, found = read_idx_folder(place), find_idx_files(place)
        files = [found[stem] for stem in IDX_FILES]
    name = entry.name
    if isinstance(parts, Examples):
        raise DataError(
            f"{place}: has no test part, so it is not {name}; expected {_PUBLISHED_KEYS}"
        )
    contents = [content for part in parts for content in (part.values.to("cpu"), part.labels)]
    for file, content, digest in zip(files, contents, entry.digests, strict=True):
        if content is None:
            raise DataError(
                f"{file}: has no labels, so it is not {name}; expected {_PUBLISHED_KEYS}"
            )
        _check_digest(content.numpy(), name=name, digest=digest, file=file)
    # Some files store each image as a row of 784 entries.
    train, test = (
        replace(part, values=part.values.to("cpu").reshape(-1, *entry.shape)) for part in parts
    )
    return train, test


def _check_idx(file: Path, *, name: str, digest: str) -> None:
    _check_digest(read_idx(file), name=name, digest=digest, file=file)


def read_frey_faces(entry: NamedDataset) -> Examples:
    """Read the frames of the video from Roweis's file or from a ``.npz``."""
    file = "frey_rawface.mat"
    target = choose_cache_folder(entry.name) / file
    places = [
        folder / name
        for root in _find_own_folder()
        for folder in (root, root / entry.name)
        for name in ("frey_faces.npz", file)
    ]
    places.append(target)
    read = partial(_read_frey, entry=entry)
    return read(_find_first_file(places) or _fetch(entry, target, read, places))


def _read_frey(file: Path, entry: NamedDataset) -> Examples:
    examples: Parts
    if file.suffix == ".npz":
        examples = read_array_file(file, fields=())
    else:
        frames = _read_mat(file, "ff")
        if frames.shape != (560, 1965):
            raise DataError(
                f"{file}: ff has the shape {frames.shape} instead of (560, 1965); delete or "
                "replace the file"
            )
        examples = as_examples(frames.T.reshape(-1, 28, 20), name=str(file))
    if not isinstance(examples, Examples):
        raise DataError(f"{file}: has two parts, so it is not {entry.name}; expected one array x")
    values = examples.values.to("cpu")
    _check_digest(values.numpy(), name=entry.name, digest=entry.digests[0], file=file)
    return replace(examples, values=values.reshape(-1, *entry.shape))


def _read_mat(file: Path, key: str) -> NDArray[Any]:
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(file)[key])
    except Exception as error:  # scipy raises various errors for a damaged file
        raise DataError(
            f"{file}: cannot be read as MATLAB's {key} ({error}); delete or replace the file"
        ) from error


def read_olivetti(entry: NamedDataset) -> Examples:
    """Read the photographs of the AT&T folder, or their 64x64 version by Roweis.

    The pixels of the two versions differ slightly.
    """
    file = "olivettifaces.mat"
    target = choose_cache_folder(entry.name) / file
    folders = [root / "orl_faces" for root in _find_own_folder()]
    sklearn = Path(
        os.environ.get("SCIKIT_LEARN_DATA") or _find_home("scikit_learn_data")
    ).expanduser()
    sklearn_file = sklearn / "olivetti_py3.pkz"
    files = [*(root / file for root in _find_own_folder()), target]
    for folder in folders:
        if folder.is_dir():
            return _read_orl(folder)
    found = _find_first_file(files)
    if found is None and sklearn_file.is_file():
        return _read_olivetti_cache(sklearn_file)
    check = partial(_check_olivetti, digest=entry.digests[0])
    found = found or _fetch(entry, target, check, [*folders, sklearn_file, *files])
    check(found)
    faces = _read_mat(found, "faces").T.astype(np.float64)
    faces -= faces.min()
    return _make_faces((faces / faces.max()).reshape(-1, 64, 64).transpose(0, 2, 1), found)


def _read_orl(folder: Path) -> Examples:
    pictures = read_image_folder(folder, size=None, color="grey", resize="stretch")
    counts: list[int] = []
    if isinstance(pictures, Examples) and pictures.labels is not None:
        counts = pictures.labels.bincount().tolist()
    if not isinstance(pictures, Examples) or counts != [10] * 40:
        raise DataError(
            f"{folder}: has {len(counts)} class folders of {sorted(set(counts))} pictures, instead "
            "of s1 ... s40 with 10 each; complete it, or give its path to read it as it is"
        )
    return convert_images(pictures, size=(64, 64), color="grey", resize="stretch")


def _check_olivetti(file: Path, *, digest: str) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != digest:
        raise DataError(
            f"{file}: is not the published file: its SHA-256 begins with {found[:12]} instead of "
            f"{digest[:12]}; delete or replace it"
        )


def _read_olivetti_cache(file: Path) -> Examples:
    from sklearn.datasets import fetch_olivetti_faces

    try:
        faces = fetch_olivetti_faces(data_home=str(file.parent), download_if_missing=False).images
    except Exception as error:  # scikit-learn raises various errors for a damaged file
        raise DataError(
            f"{file}: scikit-learn cannot read its cache ({error}); delete the file"
        ) from error
    return _make_faces(faces, file)


def _make_faces(faces: NDArray[Any], file: Path) -> Examples:
    """Undo the scaling of 8-bit greys to [0, 1]. The values determine the number of levels."""
    shades = np.unique(faces)
    for steps in range(1, 256):
        if (
            faces.shape == (400, 64, 64)
            and np.abs(shades * steps - np.rint(shades * steps)).max() < 0.01
        ):
            values = torch.from_numpy(np.rint(faces * steps).astype(np.uint8))[:, None]
            return Examples(
                values, levels=steps + 1, labels=torch.arange(400) // 10, name=str(file)
            )
    raise DataError(
        f"{file}: does not contain 400 faces of 64 x 64 8-bit greys; delete or replace it"
    )
