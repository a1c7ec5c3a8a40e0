"""The formats of files and folders of data, one entry each.

Help texts, messages and the documentation are made from these entries. This module imports neither
numpy nor torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lowerbound.data.options import KeepIn, ReadOptions, import_when_called
from lowerbound.errors import DataError

if TYPE_CHECKING:
    from lowerbound.data.dataset import Parts

# The number of bytes from which the format of a file is recognised.
_START_BYTES = 6
_NUMPY = b"\x93NUMPY"
_GZIP = b"\x1f\x8b"

PICTURE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
)

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
"""The four files of MNIST's layout."""


@dataclass(frozen=True)
class FileFormat:
    """A format of files or folders that :func:`~lowerbound.load_data` reads.

    To add one, write its reader and an entry of :data:`FORMATS`.

    Args:
        name: the name of the format in messages.
        help: one line for the documentation.
        recognise: a function that recognises the format, from a path and the first bytes of a file.
        read: a function that reads the examples at a path.
        is_folder: whether the format is that of a folder.
        stays_in_file: whether values can be used without reading all of them into memory.
        has_layers: whether the format has layers, one of which is read.
    """

    name: str
    help: str
    recognise: Callable[[Path, bytes], bool]
    read: Callable[[Path, ReadOptions], Parts]
    is_folder: bool = False
    stays_in_file: bool = False
    has_layers: bool = False


def find_idx_files(folder: Path) -> dict[str, Path]:
    """Find the files of MNIST's layout in a folder, gzipped or not, by name without ``.gz``."""
    found = {}
    for stem in IDX_FILES:
        dotted = stem.replace("-idx", ".idx")  # the name that torchvision once used
        for name in (stem, f"{stem}.gz", dotted, f"{dotted}.gz"):
            if (folder / name).is_file():
                found[stem] = folder / name
                break
    return found


def _get_suffix(path: Path) -> str:
    """The suffix of a file, without the ``.gz`` of a compressed one."""
    if path.suffix.lower() == ".gz":
        path = path.with_suffix("")
    return path.suffix.lower()


FORMATS: tuple[FileFormat, ...] = (
    FileFormat(
        ".npy",
        "One array, written by `numpy.save`. A large one stays on disk.",
        lambda path, start: start.startswith(_NUMPY),
        import_when_called("lowerbound.data.arrays", "read_npy"),
        stays_in_file=True,
    ),
    FileFormat(
        ".npz",
        "Named arrays, written by `numpy.savez`: `x_train` and `x_test` with `y_train` and "
        "`y_test`, or `train` and `test`, or `x` with `y`, or `data` with `labels`, or one array "
        "of any name. Other arrays are fields, which `fields` (`--fields`) names; with two parts "
        "these are called `NAME_train` and `NAME_test`. Also a sparse matrix, written by "
        "`scipy.sparse.save_npz`.",
        lambda path, start: path.suffix.lower() == ".npz",
        import_when_called("lowerbound.data.npz", "read_npz"),
    ),
    FileFormat(
        ".h5ad",
        "AnnData, read by the package anndata: X or a layer (`layer`, `--layer`), with columns of "
        "obs as fields (`fields`, `--fields`), and the names of the variables. A large one stays "
        "on disk, if it is stored by rows.",
        lambda path, start: path.suffix.lower() == ".h5ad",
        import_when_called("lowerbound.data.h5ad", "read_h5ad"),
        stays_in_file=True,
        has_layers=True,
    ),
    FileFormat(
        ".csv",
        "A table with the names of its columns in the first row, and with entries of any type, "
        "some of which may be missing. Read by pyarrow, as the next two formats are.",
        lambda path, start: _get_suffix(path) in (".csv", ".tsv"),
        import_when_called("lowerbound.data.table_files", "read_csv"),
    ),
    FileFormat(
        ".parquet",
        "A table.",
        lambda path, start: path.suffix.lower() == ".parquet",
        import_when_called("lowerbound.data.table_files", "read_parquet"),
    ),
    FileFormat(
        ".feather",
        "A table, in the file format of Arrow (also `.arrow`).",
        lambda path, start: path.suffix.lower() in (".feather", ".arrow"),
        import_when_called("lowerbound.data.table_files", "read_feather"),
    ),
    FileFormat(
        "IDX",
        "One array in MNIST's format, gzipped or not.",
        lambda path, start: start.startswith((_GZIP, b"\0\0")) and path.suffix.lower() != ".npy",
        import_when_called("lowerbound.data.idx", "read_idx_file"),
    ),
    FileFormat(
        "MNIST's four files",
        f"A folder with {', '.join(f'`{name}`' for name in IDX_FILES)}, gzipped or not.",
        lambda path, start: bool(find_idx_files(path)),
        import_when_called("lowerbound.data.idx", "read_idx_parts"),
        is_folder=True,
    ),
    FileFormat(
        "pictures",
        f"A folder of pictures ({' '.join(PICTURE_SUFFIXES)}), of one folder for each class, or "
        "of the folders `train` and `test`.",
        lambda path, start: True,
        import_when_called("lowerbound.data.images", "read_pictures"),
        is_folder=True,
    ),
)
"""The formats for :func:`~lowerbound.load_data`. The first that recognises a path reads it."""


def _join_with_or(names: Iterable[str]) -> str:
    """Join names as in ``a``, ``a or b``, or ``a, b or c``."""
    *others, last = names
    if not others:
        return last
    return f"{', '.join(others)} or {last}"


FILE_NAMES = _join_with_or(entry.name for entry in FORMATS if not entry.is_folder)
FOLDER_NAMES = _join_with_or(entry.name for entry in FORMATS if entry.is_folder)
PATHS = f"a {FILE_NAMES} file, or a folder of {FOLDER_NAMES}"
"""All formats, in words that continue a sentence such as "give ..."."""


def find_format(path: Path, keep_in: KeepIn) -> FileFormat:
    """Find the format of a file or folder.

    Args:
        path: the file or folder.
        keep_in: whether the values should stay in their file.

    Raises:
        DataError: if the file is empty or cannot be read, if its format is not known, or if its
            format does not allow its values to stay in the file.
    """
    if path.is_dir():
        return next(entry for entry in FORMATS if entry.is_folder and entry.recognise(path, b""))
    entry = _find_file_format(path)
    if keep_in == "file" and not entry.stays_in_file:
        able = _join_with_or(entry.name for entry in FORMATS if entry.stays_in_file)
        raise DataError(
            f"{path}: only a {able} file can be used without reading it into memory; write the "
            "values to such a file, or remove keep_in"
        )
    return entry


def _find_file_format(path: Path) -> FileFormat:
    try:
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not start:
        raise DataError(f"{path}: the file is empty; write or copy it again")
    for entry in FORMATS:
        if not entry.is_folder and entry.recognise(path, start):
            return entry
    raise DataError(
        f"{path}: the format of this file is not known; give {PATHS}, or in Python an array"
    )
