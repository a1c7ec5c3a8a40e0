"""Reading the named data sets: where their files are looked for, and how it is made sure that they are the right ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lowerbound.data.arrays import Parts, as_examples, read_array_file
from lowerbound.data.formats import idx_files
from lowerbound.data.idx import read_idx, read_idx_folder
from lowerbound.data.catalogue import CATALOGUE
from lowerbound.data.examples import Examples
from lowerbound.data.fetch import DownloadError, download
from lowerbound.data.images import convert_images, read_image_folder
from lowerbound.errors import DataError

FOLDER_VARIABLE = "LOWERBOUND_DATA"

# SHA-256 of the decoded entries (uint8, in C order), so that one digest holds for every container: training images and
# labels, test images and labels; or all images.
DIGESTS: dict[str, tuple[str, ...]] = {
    "mnist": (
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
    "fashion-mnist": (
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    ),
    "frey-faces": ("2438ba4f0d2a6bd8bac43de756141eaa33c8d248dd613d464bdb1210d9b7af78",),
}
# Of the file: scikit-learn pins the same one.
OLIVETTI_DIGEST = "b612fb967f2dc77c9c62d3e1266e0c73d5fca46a4b8906c18e454d41af987794"

_HOMES: dict[str, tuple[str, ...]] = {
    "mnist": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/{}",
        "https://storage.googleapis.com/cvdf-datasets/mnist/{}",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{}",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/{}",
    ),
    "frey-faces": ("https://cs.nyu.edu/~roweis/data/frey_rawface.mat",),
    "olivetti": (
        "https://ndownloader.figshare.com/files/5976027",
        "https://cs.nyu.edu/~roweis/data/olivettifaces.mat",
    ),
}
_LABELS = {
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}
_TORCHVISION = {"mnist": "MNIST/raw", "fashion-mnist": "FashionMNIST/raw"}
_IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_DEBIAN = Path("/usr/share/datasets")


def load_named(name: str) -> Parts:
    """A data set of the catalogue, from the first place that has it, else downloaded.

    The places are the folder ``$LOWERBOUND_DATA``, the usual caches of torchvision (MNIST, Fashion-MNIST) and scikit-learn
    (Olivetti), Debian's folder of data sets, and the library's own cache ``~/.cache/lowerbound`` (``$XDG_CACHE_HOME``), into
    which downloads go.

    Raises:
        DataError: if a file is not the published one, naming it; or if there is none and none can be downloaded, naming
            what to put where.
    """
    return replace_names(_READERS[name](), name)


def replace_names(parts: Parts, name: str) -> Parts:
    """The same parts, called ``name`` in messages."""
    if isinstance(parts, Examples):
        return replace(parts, name=name)
    return replace(parts[0], name=name), replace(parts[1], name=name)


def cache_folder(name: str) -> Path:
    """Where downloads of a data set are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or _home(".cache")) / "lowerbound" / name


def _home(*below: str) -> Path:
    return Path(os.path.expanduser("~"), *below)


def _own_folder() -> list[Path]:
    """The folder that the user named, as a list of none or one."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return []
    if not os.path.isdir(os.path.expanduser(folder)):
        raise DataError(
            f"{FOLDER_VARIABLE}={folder}: there is no such folder; create it, or unset the variable"
        )
    return [Path(folder).expanduser()]


def _digits() -> Examples:
    from sklearn.datasets import load_digits

    data = load_digits()
    values = torch.from_numpy(data.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target.astype(np.int64))
    return Examples(
        values, levels=17, labels=labels, label_names=tuple("0123456789"), name="digits"
    )


def _published_parts(name: str) -> tuple[Examples, Examples]:
    """MNIST, or what has its layout."""
    places = _idx_places(name)
    for place in places:
        if (place.suffix == ".npz" and place.is_file()) or len(idx_files(place)) == len(_IDX):
            return _read_parts(name, place)
    cache = places[-1]
    for stem, digest in zip(_IDX, DIGESTS[name], strict=True):
        if stem not in idx_files(cache):
            target = cache / f"{stem}.gz"
            check = partial(_check_idx, name=name, digest=digest)
            _fetch(name, [home.format(target.name) for home in _HOMES[name]], target, check, places)
    return _read_parts(name, cache)


def _idx_places(name: str) -> list[Path]:
    torchvision = _TORCHVISION[name]
    places = []
    for root in _own_folder():
        places += [
            root / f"{name}.npz",
            root / name,
            root / torchvision,
            root / torchvision.split("/", maxsplit=1)[0],
        ]
    torch_home = os.environ.get("TORCH_HOME")
    roots = [Path("data"), _home("data"), *([Path(torch_home)] if torch_home else [])]
    roots += [_home(".cache", "torch"), _home(".torch")]
    return [*places, *(root / torchvision for root in roots), _DEBIAN / name, cache_folder(name)]


def _read_parts(name: str, place: Path) -> tuple[Examples, Examples]:
    parts = read_array_file(place) if place.suffix == ".npz" else read_idx_folder(place)
    if isinstance(parts, Examples):
        raise DataError(
            f"{place}: has no test part, so it is not {name}; expected x_train, y_train, x_test, y_test"
        )
    files = (
        [place] * len(_IDX) if place.suffix == ".npz" else [idx_files(place)[stem] for stem in _IDX]
    )
    contents = [content for part in parts for content in (part.values.to("cpu"), part.labels)]
    for file, content, digest in zip(files, contents, DIGESTS[name], strict=True):
        if content is None:
            raise DataError(
                f"{file}: has no labels, so it is not {name}; expected x_train, y_train, x_test, y_test"
            )
        _check_digest(content.numpy(), name=name, digest=digest, file=file)
    shape = CATALOGUE[name].shape  # some keep each image as a row of 784
    train, test = (
        replace(part, values=part.values.to("cpu").reshape(-1, *shape), label_names=_LABELS[name])
        for part in parts
    )
    return train, test


def _check_idx(file: Path, *, name: str, digest: str) -> None:
    _check_digest(read_idx(file), name=name, digest=digest, file=file)


def _check_digest(array: NDArray[Any], *, name: str, digest: str, file: Path) -> None:
    # Labels are bytes in their files and integers in Examples; pixels that are not bytes are not the published ones.
    content = array.astype(np.uint8) if array.dtype == np.int64 else array
    found = hashlib.sha256(np.ascontiguousarray(content).tobytes()).hexdigest()
    if found != digest:
        raise DataError(
            f"{file}: not the published {name}: the SHA-256 of its decoded entries begins {found[:12]} where {digest[:12]} was "
            "expected; delete or replace the file, or give its path to read it as it is"
        )


def _fetch(
    name: str,
    urls: Sequence[str],
    target: Path,
    check: Callable[[Path], object],
    searched: Sequence[Path],
) -> None:
    """Downloads a file, or says in one message what was tried and what the user can do."""
    try:
        download(urls, target, check)
    except DownloadError as error:
        raise DataError(
            f"{name}: not found on this machine, and it could not be downloaded ({error}). Either put {target.name} into "
            f"{target.parent}, or set {FOLDER_VARIABLE} to a folder that holds {', or '.join(CATALOGUE[name].files)}. "
            f"Searched: {', '.join(dict.fromkeys(str(place) for place in searched))}"
        ) from error


def _frey_faces() -> Examples:
    name, file = "frey-faces", "frey_rawface.mat"
    target = cache_folder(name) / file
    places = [
        folder / f
        for root in _own_folder()
        for folder in (root, root / name)
        for f in ("frey_faces.npz", file)
    ]
    places.append(target)
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        _fetch(name, _HOMES[name], target, _read_frey, places)
        found = target
    return _read_frey(found)


def _read_frey(file: Path) -> Examples:
    if file.suffix == ".npz":
        examples = read_array_file(file)
        if not isinstance(examples, Examples):
            raise DataError(f"{file}: has two parts, so it is not frey-faces; expected one array x")
    else:
        frames = _read_mat(file, "ff")
        if frames.shape != (560, 1965):
            raise DataError(
                f"{file}: ff has the shape {frames.shape}, expected (560, 1965); delete or replace the file"
            )
        examples = as_examples(frames.T.reshape(-1, 28, 20), name=str(file))
    _check_digest(
        examples.values.to("cpu").numpy(),
        name="frey-faces",
        digest=DIGESTS["frey-faces"][0],
        file=file,
    )
    return replace(
        examples, values=examples.values.to("cpu").reshape(-1, *CATALOGUE["frey-faces"].shape)
    )


def _read_mat(file: Path, key: str) -> NDArray[Any]:
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(file)[key])
    except Exception as error:  # whatever scipy stumbles over in a damaged file
        raise DataError(
            f"{file}: cannot be read as MATLAB's {key} ({error}); delete or replace the file"
        ) from error


def _olivetti() -> Examples:
    """The photographs of the AT&T folder, or their usual 64x64 version (Roweis), the pixels of which differ slightly."""
    name, file = "olivetti", "olivettifaces.mat"
    target = cache_folder(name) / file
    folders = [root / "orl_faces" for root in _own_folder()]
    sklearn = Path(os.environ.get("SCIKIT_LEARN_DATA") or _home("scikit_learn_data")).expanduser()
    sklearn_file = sklearn / "olivetti_py3.pkz"
    files = [*(root / file for root in _own_folder()), target]
    for folder in folders:
        if folder.is_dir():
            return _read_orl(folder)
    found = next((place for place in files if place.is_file()), None)
    if found is None and sklearn_file.is_file():
        return _read_olivetti_cache(sklearn_file)
    if found is None:
        _fetch(name, _HOMES[name], target, _check_olivetti, [*folders, sklearn_file, *files])
    return _read_olivetti(found or target)


def _read_orl(folder: Path) -> Examples:
    pictures = read_image_folder(folder, size=None, color="grey", resize="stretch")
    counts = (
        []
        if isinstance(pictures, tuple) or pictures.labels is None
        else pictures.labels.bincount().tolist()
    )
    if isinstance(pictures, tuple) or counts != [10] * 40:
        raise DataError(
            f"{folder}: has {len(counts)} class folders of {sorted(set(counts))} pictures, expected s1 ... s40 with 10 each; "
            "complete it, or give its path to read it as it is"
        )
    return convert_images(pictures, size=(64, 64), color="grey", resize="stretch")


def _check_olivetti(file: Path) -> None:
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != OLIVETTI_DIGEST:
        raise DataError(
            f"{file}: not the published file: its SHA-256 begins {found[:12]} where {OLIVETTI_DIGEST[:12]} was expected; "
            "delete or replace it"
        )


def _read_olivetti(file: Path) -> Examples:
    _check_olivetti(file)
    faces = _read_mat(file, "faces").T.astype(np.float64)
    faces -= faces.min()
    return _as_faces((faces / faces.max()).reshape(-1, 64, 64).transpose(0, 2, 1), file)


def _read_olivetti_cache(file: Path) -> Examples:
    from sklearn.datasets import fetch_olivetti_faces

    try:
        faces = fetch_olivetti_faces(data_home=str(file.parent), download_if_missing=False).images
    except Exception as error:  # whatever scikit-learn stumbles over in a damaged file
        raise DataError(
            f"{file}: scikit-learn cannot read its cache ({error}); delete the file"
        ) from error
    return _as_faces(faces, file)


def _as_faces(faces: NDArray[Any], file: Path) -> Examples:
    """Undoes the scaling of 8-bit greys to [0, 1], whose number of steps is found from the values."""
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
    raise DataError(f"{file}: not 400 faces of 64 x 64 in 8-bit greys; delete or replace the file")


_READERS: dict[str, Callable[[], Parts]] = {
    "digits": _digits,
    "mnist": partial(_published_parts, "mnist"),
    "fashion-mnist": partial(_published_parts, "fashion-mnist"),
    "frey-faces": _frey_faces,
    "olivetti": _olivetti,
}
