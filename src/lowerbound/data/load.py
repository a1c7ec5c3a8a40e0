"""``load_data``: one way in for all data."""

# The annotations of settings are read at run time, by the command before torch is imported: hence the quoted types, and
# no import of torch at the top.
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from lowerbound.data.options import Color, KeepIn, Pixels, Resize
from lowerbound.settings import check_arguments, has_settings, settings_of

if TYPE_CHECKING:
    from lowerbound.data.examples import Dataset


@has_settings
def load_data(
    source: Any,
    *,
    image_size: Annotated[
        int | tuple[int, int] | list[int] | str | None,
        Field(description="bring pictures to this size: 64, or 64x48 for height x width"),
    ] = None,
    color: Annotated[Color, Field(description="keep, or turn pictures into grey or rgb")] = "keep",
    resize: Annotated[
        Resize, Field(description="to image_size by cutting the middle out, or by stretching")
    ] = "crop",
    test_fraction: Annotated[
        float,
        Field(
            gt=0,
            lt=1,
            description="held out at random where the source has no test part of its own",
        ),
    ] = 0.1,
    pixels: Annotated[
        Pixels,
        Field(
            description="8-bit pixels as they are, dequantised, or binary: drawn at every pass or once"
        ),
    ] = "as-is",
    keep_in: Annotated[
        KeepIn,
        Field(
            description="memory; or the file, of which memory holds what is in use; auto: the file if it is large"
        ),
    ] = "auto",
    cache: Annotated[
        str | None,
        Field(
            description="folder that keeps what many pictures were decoded to, if not the usual one"
        ),
    ] = None,
    seed: Annotated[
        int, Field(ge=0, lt=2**31, description="of the random test part and of binarize-once")
    ] = 0,
) -> "Dataset":
    """A training and a test part, from wherever the data are.

    Args:
        source: one of

            - a name from :data:`~lowerbound.data.catalogue.CATALOGUE`, such as ``"mnist"`` (a folder of that name is
              ``"./mnist"``);
            - the path of a folder of pictures, see :func:`~lowerbound.data.images.read_image_folder`, or of MNIST's four
              files;
            - the path of a ``.npy``, ``.npz`` or IDX file, see :func:`~lowerbound.data.arrays.read_array_file`;
            - an array or tensor, see :func:`~lowerbound.data.arrays.as_examples` (it is copied, unless it is memory-mapped);
            - :class:`Examples` or a :class:`Dataset`;
            - a pair ``(train, test)`` of any of these.
        image_size: brings pictures to this height and width: an integer for squares, or ``(height, width)``.
        color: ``"keep"``, or turn pictures into ``"grey"`` or ``"rgb"``. Kept, a folder with any picture in colour
            is in colour.
        resize: how to reach ``image_size``: ``"crop"`` keeps the aspect and cuts the middle out, ``"stretch"`` does not.
        test_fraction: how much to hold out at random where ``source`` has no test part of its own; ignored where it has.
        pixels: what to make of 8-bit pixels, see :class:`Examples`; ``"as-is"`` leaves given examples as they are.
        keep_in: where the values are while they are used. ``"memory"``, in their storage type. ``"file"``: in the ``.npy``
            file, which is memory-mapped; a folder of pictures is decoded once into such a file, for all later runs too.
            ``"auto"``: in memory if they take up to a quarter of it, and decoded pictures of 64 MiB and more are kept for
            later runs in any case. Memory-mapped arrays stay as they are but for ``"memory"``.
        cache: the folder for decoded pictures; ``~/.cache/lowerbound/pictures`` (``$XDG_CACHE_HOME``) if not given.
        seed: for the random test part, and for ``pixels="binarize-once"``.

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
        load_data, {name: given[name] for name in settings_of(load_data).model_fields}
    )
    from lowerbound.data.reading import read_dataset

    return read_dataset(source, **settings)
