"""``load_data``, which reads data from any source."""

# The command reads the annotations of settings before torch is imported: hence the quoted types,
# and no import of torch at the top.
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lowerbound.data.options import Color, KeepIn, Kind, Missing, Pixels, Resize
from lowerbound.settings import check_arguments, has_settings, read_settings

if TYPE_CHECKING:
    from lowerbound.data.dataset import Dataset


@has_settings
def load_data(
    source: Any,
    *,
    image_size: Annotated[
        int | tuple[int, int] | list[int] | str | None,
        Field(description="resize pictures to this size: 64, or 64x48 for height x width"),
    ] = None,
    color: Annotated[
        Color, Field(description="keep the colour, or convert pictures to grey or rgb")
    ] = "keep",
    resize: Annotated[
        Resize,
        Field(description="resize to image_size by cutting off the edges, or by stretching"),
    ] = "crop",
    test_fraction: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="share of the examples to test on, drawn at random, if the source has no "
            "test part of its own",
        ),
    ] = 0.1,
    pixels: Annotated[
        Pixels,
        Field(
            description="8-bit pixels as they are, dequantised, or binary: drawn again in every "
            "epoch, or once"
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
        Field(description="nan if NaN means that an entry was not observed; else NaN is refused"),
    ] = None,
    fields: Annotated[
        tuple[str, ...] | list[str] | str | None,
        Field(
            description="values of each example that are not scored: names of arrays of a .npz "
            "or of columns of AnnData's obs, separated by commas; none to read none of them"
        ),
    ] = None,
    layer: Annotated[str | None, Field(description="layer of AnnData to read, if not X")] = None,
    keep_in: Annotated[
        KeepIn,
        Field(
            description="read all values into memory, or only those in use from the file; auto: "
            "from the file if they are large"
        ),
    ] = "auto",
    cache: Annotated[
        str | None,
        Field(description="folder for decoded pictures, if not the usual one"),
    ] = None,
    seed: Annotated[
        int,
        Field(ge=0, lt=2**31, description="seed of the random test part and of binarize-once"),
    ] = 0,
    labels: Any = None,
) -> "Dataset":
    """A training and a test part, from any source of data.

    Args:
        source: one of

            - a name from :data:`~lowerbound.data.catalogue.CATALOGUE`, such as ``"mnist"``. A
              folder of that name is ``"./mnist"``;
            - the path of a file or folder of a kind in :data:`~lowerbound.data.formats.FORMATS`;
            - an array or tensor, see :func:`~lowerbound.data.arrays.as_examples`. It is copied,
              unless it is memory-mapped;
            - a sparse matrix of scipy's or an AnnData object, see :meth:`Examples.of`;
            - :class:`Examples` or a :class:`Dataset`;
            - a pair ``(train, test)`` of any of these.
        image_size: the height and width to which pictures are resized: an integer for squares, or
            ``(height, width)``.
        color: ``"keep"``, or ``"grey"`` or ``"rgb"`` to convert pictures. If the colour is kept,
            one picture in colour makes the whole folder colour.
        resize: how pictures get the size ``image_size``: ``"crop"`` keeps the aspect ratio and cuts
            off the edges, ``"stretch"`` does not.
        test_fraction: the share of the examples to test on, drawn at random. It has no effect if
            ``source`` has its own test part.
        pixels: how 8-bit pixels are treated, see :class:`Examples`; ``"as-is"`` leaves given
            examples as they are.
        kind: ``"counts"`` or ``"codes"`` for whole numbers that are not pixels, see
            :class:`Examples`.
        missing: ``"nan"`` if NaN means that an entry was not observed, see :class:`Examples`.
        fields: the names of values that belong to each example and are not scored: arrays of a
            ``.npz``, or columns of ``obs`` of AnnData. Other arrays of a ``.npz`` are refused if no
            names are given, and otherwise not read.
        layer: the layer of AnnData to read, if not X.
        keep_in: where the values are stored while they are used. ``"memory"``: in memory, in their
            storage type. ``"file"``: in the ``.npy`` file, which is memory-mapped; a folder of
            pictures is decoded once into such a file, which later runs use too. ``"auto"``: in
            memory if they take up to a quarter of it; decoded pictures of 64 MiB and more are
            stored for later runs in any case. Memory-mapped arrays are read into memory only for
            ``"memory"``.
        cache: the folder for decoded pictures, if not ``~/.cache/lowerbound/pictures``
            (``$XDG_CACHE_HOME``).
        seed: seed of the random test part, and of ``pixels="binarize-once"``.
        labels: an integer or text for each example of a source without a test part and without
            labels of its own, see :class:`Examples`.

    Raises:
        DataError: for data that cannot be read or used, naming the file or row.
        SettingsError: for an argument that is out of range.

    Example:
        >>> import torch
        >>> data = load_data(torch.rand(50, 3), test_fraction=0.2)
        >>> data.shape, len(data.train), len(data.test)
        ((3,), 40, 10)
    """
    given = locals()
    settings = check_arguments(
        load_data, {name: given[name] for name in read_settings(load_data).model_fields}
    )
    from lowerbound.data.reading import read_dataset

    return read_dataset(source, labels=labels, **settings)
