"""The function ``load_data``, which reads data from any source."""

# The command reads the annotations of settings before it imports torch. Therefore types are quoted
# here, and torch is not imported at the top.
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lowerbound.data.options import Color, KeepIn, Kind, Layout, Missing, Pixels, Resize, Unknown
from lowerbound.errors import SettingsError
from lowerbound.settings import check_arguments, has_settings, read_settings

if TYPE_CHECKING:
    from lowerbound.data.dataset import Dataset


@has_settings
def load_data(
    source: Any,
    *,
    image_size: Annotated[
        int | tuple[int, int] | list[int] | str | None,
        Field(description="size to which pictures are resized: 64, or 64x48 for height x width"),
    ] = None,
    color: Annotated[
        Color,
        Field(description="whether to keep the colour, or to convert pictures to grey or rgb"),
    ] = "keep",
    resize: Annotated[
        Resize,
        Field(
            description="whether to crop the edges or to stretch pictures to the size image_size"
        ),
    ] = "crop",
    test_fraction: Annotated[
        float,
        Field(
            ge=0,
            lt=1,
            description="fraction of the examples in a random test part. Fewer than one example "
            "makes no test part. It is not used if the source has its own test part",
        ),
    ] = 0.1,
    pixels: Annotated[
        Pixels,
        Field(
            description="treatment of 8-bit pixels: as they are, dequantised, or binary, drawn "
            "again in every epoch or once"
        ),
    ] = "as-is",
    kind: Annotated[
        Kind | None,
        Field(
            description="meaning of integers that are not pixels: counts, or codes of categories"
        ),
    ] = None,
    missing: Annotated[
        Missing | None,
        Field(description="how unobserved entries are marked: nan. By default NaN is refused"),
    ] = None,
    fields: Annotated[
        tuple[str, ...] | list[str] | str | None,
        Field(
            description="names of arrays of a .npz, or of columns of AnnData's obs, that belong "
            "to each example but are not scored, separated by commas; none ignores all others"
        ),
    ] = None,
    layer: Annotated[str | None, Field(description="layer of AnnData to read instead of X")] = None,
    layout: Annotated[
        Layout,
        Field(
            description="what the dimensions of arrays mean. auto: vectors, pictures, or volumes "
            "with channels. signals: examples x channels x time, where channels may be absent. "
            "volumes: examples x channels x depth x height x width, where channels may be absent"
        ),
    ] = "auto",
    columns: Annotated[
        dict[Any, str] | str | None,
        Field(
            description="types of some columns of a table, such as age=count,job=categorical. "
            "Those of all other columns are inferred"
        ),
    ] = None,
    missing_values: Annotated[
        tuple[Any, ...] | list[Any] | str | float | None,
        Field(
            description="values that stand for missing ones in a table, separated by commas, in "
            "addition to empty cells and NaN: ?,-999"
        ),
    ] = None,
    unknown: Annotated[
        Unknown,
        Field(
            description="what becomes of a category that the training table does not have: it is "
            "an error, or it belongs to the category other, like categories that occur only once"
        ),
    ] = "error",
    keep_in: Annotated[
        KeepIn,
        Field(
            description="whether values are read into memory, or stay in their file until they "
            "are used. auto leaves them in the file if they are large"
        ),
    ] = "auto",
    cache: Annotated[
        str | None,
        Field(description="folder for decoded pictures"),
    ] = None,
    seed: Annotated[
        int,
        Field(ge=0, lt=2**31, description="seed of the random test part and of binarize-once"),
    ] = 0,
    labels: Any = None,
) -> "Dataset":
    """Load a training and a test part from any source of data.

    Args:
        source: one of

            - a name from :data:`~lowerbound.data.catalogue.CATALOGUE`, such as ``"mnist"``. Write
              ``"./mnist"`` for a folder of that name;
            - the path of a file or folder in a format of
              :data:`~lowerbound.data.formats.FORMATS`;
            - an array or tensor, see :func:`~lowerbound.data.arrays.as_examples`. It is copied,
              unless it is memory-mapped;
            - a sparse matrix of SciPy or an AnnData object, see :meth:`Examples.of`. Only the rows
              of a batch become dense;
            - a DataFrame of pandas, polars, pyarrow or another library that narwhals knows. The
              types of its columns are inferred, see
              :func:`~lowerbound.data.inference.infer_schema`, and entries may be missing. With
              ``kind`` or ``missing``, all columns must be numeric, and it is read as an array;
            - :class:`Examples` or a :class:`Dataset`;
            - a pair ``(train, test)`` of any of these.
        image_size: the height and width to which pictures are resized: an integer for squares, or
            ``(height, width)``.
        color: ``"keep"``, or ``"grey"`` or ``"rgb"`` to convert pictures. With ``"keep"``, a folder
            that contains one picture in colour is read in colour.
        resize: how pictures get the size ``image_size``: ``"crop"`` keeps the aspect ratio and cuts
            off the edges, ``"stretch"`` changes the aspect ratio.
        test_fraction: the fraction of the examples in a random test part. If it rounds to no
            example, as with 0 or with few examples, there is no test part. It is not used if
            ``source`` has its own test part.
        pixels: how 8-bit pixels are treated, see :class:`Examples`. With ``"as-is"``, given
            :class:`Examples` keep their own treatment.
        kind: ``"counts"`` or ``"codes"`` for whole numbers that are not pixels, see
            :class:`Examples`.
        missing: ``"nan"`` if NaN means that an entry was not observed, see :class:`Examples`.
        fields: the names of values that belong to each example but are not scored: arrays of a
            ``.npz``, or columns of ``obs`` of AnnData. Other arrays of a ``.npz`` are ignored; but
            without ``fields`` they are refused.
        layer: the layer of AnnData to read instead of X.
        layout: what the dimensions of arrays mean. ``"auto"``: ``[N, D]`` are vectors, ``[N, H,
            W]`` and ``[N, C, H, W]`` are pictures, and ``[N, C, D, H, W]`` are volumes.
            ``"signals"``: ``[N, T]`` and ``[N, C, T]`` are signals. ``"volumes"``: ``[N, D, H, W]``
            and ``[N, C, D, H, W]`` are volumes.
        columns: the types of some columns of a table by name, such as ``{"age": "count"}`` or
            ``"age=count,job=categorical"``: ``real``, ``positive``, ``proportion``, ``count``,
            ``ordinal``, ``categorical``, ``boolean``, ``time``, or ``identifier`` to leave a column
            out, see :class:`~lowerbound.data.Column`.
        missing_values: a value, or several, that stand for missing ones in a table, such as
            ``["?", -999]``.
        unknown: what becomes of categories that a table does not have: ``"error"``, or ``"other"``.
        keep_in: where values are stored. ``"memory"``: in memory, in their storage type.
            ``"file"``: in their memory-mapped ``.npy`` file, or in their ``.h5ad`` file. A folder
            of pictures is decoded once into a ``.npy`` file, which later runs use again.
            ``"auto"``: in memory if they take up to a quarter of it, otherwise in the file; decoded
            pictures of 64 MiB and more are always stored for later runs. Memory-mapped arrays are
            read into memory only with ``"memory"``.
        cache: the folder for decoded pictures. The default is ``~/.cache/lowerbound/pictures``
            (``$XDG_CACHE_HOME``).
        seed: the seed of the random test part, and of ``pixels="binarize-once"``.
        labels: an integer or text for each example, see :class:`Examples`. The source must have
            neither labels nor a test part.

    Raises:
        DataError: if data cannot be read or used, naming the file or row.
        SettingsError: if an argument is out of range.

    Example:
        >>> import torch
        >>> data = load_data(torch.rand(50, 3), test_fraction=0.2)
        >>> data.shape, len(data.train), len(data.test)
        ((3,), 40, 10)
    """
    given = locals()
    if missing is not None and not isinstance(missing, str):
        raise SettingsError(
            f"load_data: missing={missing!r} must be 'nan', for arrays whose NaN mark missing "
            f"entries; name the values of a table that stand for missing ones by missing_values="
        )
    settings = check_arguments(
        load_data, {name: given[name] for name in read_settings(load_data).model_fields}
    )
    from lowerbound.data.reading import read_dataset

    return read_dataset(source, labels=labels, **settings)
