"""Reading, converting and resizing one picture."""

from __future__ import annotations

import io
import operator
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, UnidentifiedImageError

from lowerbound.data.options import Color, Resize, Size
from lowerbound.data.unused import Unused
from lowerbound.errors import DataError, SettingsError

MAX_PIXELS = 100_000_000
MAX_SIDE = 4096

# Only these decoders run. Others start programs or draw vector graphics.
_FORMATS = ("PNG", "JPEG", "PPM", "WEBP", "BMP", "TIFF", "GIF")
_ORIENTATION = 0x0112

_WIDE = (
    "more than 8 bits for each value, but only 8 are used; to use all of them, give the pictures "
    "as one .npy file of floating-point values"
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadablePictureError(DataError):
    """A file is not a picture, or is damaged."""


def parse_size(image_size: Any) -> Size | None:
    """Parse ``(height, width)`` from an integer, a pair, text such as ``"64x48"``, or ``None``.

    Raises:
        SettingsError: for anything else, and for sides outside 1 ... 4096.

    Example:
        >>> parse_size(64), parse_size((28, 20)), parse_size("28x20"), parse_size(None)
        ((64, 64), (28, 20), (28, 20), None)
    """
    if image_size is None:
        return None
    try:
        sides = _parse_sides(image_size)
        if any(isinstance(side, (bool, np.bool_)) for side in sides):
            raise TypeError
        height, width = (operator.index(side) for side in sides)
    except (TypeError, ValueError):
        raise SettingsError(
            f"image_size={image_size!r}: give one integer for squares, or (height, width) "
            "(--image-size 64, or 64x48)"
        ) from None
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise SettingsError(
            f"image_size={image_size!r}: each side must be from 1 to {MAX_SIDE} pixels"
        )
    return height, width


def _parse_sides(image_size: Any) -> Sequence[Any]:
    if isinstance(image_size, str):
        image_size = [int(side) for side in image_size.lower().split("x")]
        if len(image_size) == 1:
            image_size *= 2
    if isinstance(image_size, (tuple, list)):
        return image_size
    return (image_size, image_size)


def read_picture(path: Path) -> Image.Image:
    """Read a picture into PIL's mode ``L`` (8-bit grey) or ``RGB``, and turn it upright.

    Transparent pixels are blended with white, 16-bit values are divided by 257, palettes are looked
    up, pixels of one bit become 0 and 255, and other colour spaces are converted. Of an animation
    or several pages, the first is read. A palette of greys gives mode ``L``. RGB pixels give mode
    ``RGB``, even if all of them are grey. Colour profiles are not applied.

    A warning says what is lost: bits, frames and pages, or a colour profile other than sRGB.

    Raises:
        DataError: if the file is empty or damaged, has more than 100 megapixels (which its header
            says before anything is decoded), or has pixels of unknown scale, naming the file.
    """
    unused = Unused()
    with silence_warnings():
        picture = read_picture_unsilenced(path, unused)
    unused.report(str(path.parent))
    return picture


@contextmanager
def silence_warnings() -> Iterator[None]:
    """Within the block, silence Pillow's warnings of metadata and of sizes, which we check."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_picture_unsilenced(path: Path, unused: Unused) -> Image.Image:
    """Read a picture like :func:`read_picture`, in a thread, which cannot silence warnings.

    What is lost is added to ``unused``.
    """
    try:
        if not path.stat().st_size:
            raise UnreadablePictureError(f"{path}: the file is empty; delete it or copy it again")
        # Given a name, Pillow would map the file, and confuse width and height of turned TIFFs.
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _make_size_error(path, f"{image.width} x {image.height} pixels")
            _note_other_frames(image, path.name, unused)
            is_wide = _has_wide_colors(image)
            image.load()
            _note_profile(image, path.name, unused)
            if is_wide and image.mode in ("RGB", "RGBA"):
                unused.add(_WIDE, path.name)
            return _turn_upright(_convert_to_eight_bits(image, path, unused), image)
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise _make_size_error(path, "so many pixels that Pillow suspects an attack") from error
    except UnidentifiedImageError as error:
        raise UnreadablePictureError(
            f"{path}: is damaged or not a picture in a known format ({', '.join(_FORMATS)}); "
            "delete it or save it again"
        ) from error
    except Exception as error:  # the decoders raise various errors for a damaged file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadablePictureError(
            f"{path}: the picture cannot be read ({reason}); delete it or copy it again"
        ) from error


def turn_upright(image: Image.Image, name: str, unused: Unused) -> Image.Image:
    """Convert a picture that PIL opened or made as :func:`read_picture` does.

    What is lost is added to ``unused``.

    Raises:
        DataError: if it is damaged, or has pixels of unknown scale.
    """
    try:
        with silence_warnings():
            _note_other_frames(image, name, unused)
            image.load()
            _note_profile(image, name, unused)
            return _turn_upright(_convert_to_eight_bits(image, name, unused), image)
    except DataError:
        raise
    except Exception as error:  # PIL decodes files when they are first used
        reason = str(error) or type(error).__name__
        raise DataError(f"{name}: the picture cannot be read ({reason}); make it again") from error


def _make_size_error(path: Path, size: str) -> DataError:
    return DataError(
        f"{path}: has {size}, more than the limit of {MAX_PIXELS // 10**6} megapixels; "
        "shrink it first, or delete it"
    )


def _note_other_frames(image: Image.Image, name: str, unused: Unused) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        unused.add("several frames or pages, but only the first is used", name, f": {frames}")


def _note_profile(image: Image.Image, name: str, unused: Unused) -> None:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        description = ImageCms.getProfileDescription(profile).strip()
    except Exception:  # there is none, or the picture can be used although it is damaged
        return
    if "srgb" not in description.lower():
        unused.add("a colour profile, which is not applied", name, f": {description}")


def _has_wide_colors(image: Image.Image) -> bool:
    """Whether the file has colours of 16 bits. Pillow keeps 8 of them. It is not loaded yet."""
    stored = [tile.args for tile in getattr(image, "tile", ())]
    if image.format == "PPM":
        return any(isinstance(args, tuple) and args[-1] > 255 for args in stored)
    return any(";16" in str(args) for args in stored)


def _convert_to_eight_bits(image: Image.Image, path: Path | str, unused: Unused) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image)
        bytes_ = _convert_sixteen_bits(values, image.info.get("transparency", -1))
        _note_lost_bits(values, bytes_, 257, path, unused)
        return Image.fromarray(bytes_)
    if mode in ("I", "F"):
        return _convert_wide(image, path, unused)
    if image.has_transparency_data:
        return _blend_with_white(image)
    if mode in ("1", "L"):
        return image.convert("L")
    colored = image.convert("RGB")
    if mode != "P":
        return colored
    return _reduce_grey_palette(colored)


def _convert_sixteen_bits(values: NDArray[Any], transparent: Any) -> NDArray[np.uint8]:
    white = values == transparent
    return np.rint(np.where(white, 65535, values) / 257).astype(np.uint8)


def _note_lost_bits(
    values: NDArray[Any], kept: NDArray[np.uint8], scale: float, path: Path | str, unused: Unused
) -> None:
    """Note that values are not multiples of ``scale``, so that rounding has changed them."""
    if np.allclose(values, kept * float(scale), rtol=0, atol=1e-6):
        return
    found, left = len(np.unique(values)), len(np.unique(kept))
    span = f"from {values.min():,.6g} to {values.max():,.6g}"
    unused.add(_WIDE, Path(path).name, f": {found:,} values {span} become {left}")


def _convert_wide(image: Image.Image, path: Path | str, unused: Unused) -> Image.Image:
    values = np.asarray(image)
    if image.mode == "F" and values.min() >= 0 and values.max() <= 1:  # also false for NaN
        kept = np.rint(values * 255).astype(np.uint8)
        _note_lost_bits(values, kept, 1 / 255, path, unused)
        return Image.fromarray(kept)
    kinds = {"F": "floating-point pixels outside [0, 1]", "I": "32-bit integer pixels"}
    raise DataError(
        f"{path}: {kinds[image.mode]}, from {values.min()} to {values.max()}, have no known scale; "
        "save the picture with 8 or 16 bits, or give all of them as one .npy file of floating point"
    )


def _blend_with_white(image: Image.Image) -> Image.Image:
    mode, layers = "RGB", "RGBA"
    if image.mode in ("1", "L", "LA", "La"):
        mode, layers = "L", "LA"
    if image.mode == "1":
        image = image.convert("L")  # PIL stores the transparent shade in the picture's info
    layered = image.convert(layers)
    result = Image.new(mode, layered.size, "white")
    result.paste(layered.convert(mode), mask=layered.getchannel("A"))
    if image.mode not in ("P", "PA"):
        return result
    return _reduce_grey_palette(result)


def _reduce_grey_palette(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    if (values[..., :1] == values[..., 1:]).all():
        return image.getchannel("R")
    return image


def _turn_upright(result: Image.Image, source: Image.Image) -> Image.Image:
    try:
        method = _UPRIGHT.get(source.getexif().get(_ORIENTATION, 1))
    except Exception:  # the picture can be used although its metadata are damaged
        return result
    if method is None:
        return result
    return result.transpose(method)


def convert_color(image: Image.Image, color: Color) -> Image.Image:
    """Convert a picture to grey (luma after ITU-R BT.601) or RGB, or keep its colour."""
    if color == "keep":
        return image
    return image.convert({"grey": "L", "rgb": "RGB"}[color])


def resize_picture(image: Image.Image, size: Size | None, resize: Resize) -> Image.Image:
    """Resize a picture to ``size`` = (height, width) with Lanczos's antialiasing filter.

    ``"crop"`` keeps the aspect ratio and cuts both ends of the longer side evenly. ``"stretch"``
    changes the aspect ratio. Without a size, the picture is returned as it is.

    Example:
        >>> resize_picture(Image.new("L", (100, 50)), (8, 8), "crop").size
        (8, 8)
    """
    if size is None:
        return image
    height, width = size
    cut_x = cut_y = 0.0
    if resize == "crop":
        scale = min(image.width / width, image.height / height)
        cut_x = max(0.0, (image.width - width * scale) / 2)
        cut_y = max(0.0, (image.height - height * scale) / 2)
    box = (cut_x, cut_y, image.width - cut_x, image.height - cut_y)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def split_planes(image: Image.Image) -> NDArray[np.uint8]:
    """Make the array of pixels of an ``L`` or ``RGB`` picture, ``[C, H, W]``."""
    values = np.asarray(image, dtype=np.uint8)
    if values.ndim == 2:
        return values[None]
    return np.moveaxis(values, 2, 0)


def join_planes(values: NDArray[np.uint8]) -> Image.Image:
    """Make the ``L`` or ``RGB`` picture of pixels ``[C, H, W]``."""
    if len(values) == 1:
        return Image.fromarray(np.ascontiguousarray(values[0]))
    return Image.fromarray(np.ascontiguousarray(np.moveaxis(values, 0, 2)))
