"""Samples of more than 8 bits, and files that Pillow decodes to another picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
from PIL import TiffImagePlugin

from pixelprune.images.errors import ImageError
from pixelprune.selection._blocks import Image

_PHOTOMETRIC, _BITS, _SAMPLES, _PLANAR, _SAMPLE_FORMAT = 262, 258, 277, 284, 339
_COLOR_MAP = 320
_WHITE_IS_ZERO, _SIGNED, _SEPARATE = 0, 2, 2

# Formats, and a mode in one of them, whose pictures come out as a negative or without their mask.
_MISREAD = {("XBM", "1"), ("PSD", "1"), *(("CUR", mode) for mode in ("1", "L", "P", "RGB", "RGBA"))}

_ROWS = 256  # converted at a time, so that intermediate values take little memory


def is_deep(image: PIL.Image.Image) -> bool:
    """Whether samples have more than the 8 bits of a model's input."""
    return image.mode.startswith("I") or image.mode == "F"


def to_gray(image: PIL.Image.Image) -> tuple[Image, np.ndarray[Any, Any] | None]:
    """A deep image as uint8 (H, W), and where it is transparent, bool (H, W), or None.

    16-bit samples are scaled to 8 bits. 32-bit integers are taken to span 255, 65535 or all of
    their bits, whichever first holds them all. Of floating point values, 1 is white; whole numbers
    are taken to span 255 or 65535.

    Raises:
        ImageError: nothing says which samples are black and white.
    """
    if image.format == "FITS":
        raise ImageError("FITS with samples of more than 8 bits is not supported; convert it to PNG first")
    values = np.asarray(image)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if image.mode == "F":
        gray = _by_rows(values, _floats(values))
    elif image.mode == "I":
        unsigned = tags.get(_BITS) == (32,) and tags.get(_SAMPLE_FORMAT, (1,)) != (_SIGNED,)
        values = values.view(np.uint32) if unsigned else values
        gray = _by_rows(values, _integers(values, always=65535 if image.format == "PPM" else 0))
    else:
        full_scale = 2 ** tags.get(_BITS, (16,))[0] - 1
        table = np.rint(np.arange(65536).clip(0, full_scale) * (255 / full_scale)).astype(np.uint8)
        gray = table[values]
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        np.subtract(255, gray, out=gray)
    key = image.info.get("transparency")
    return gray, values == key if isinstance(key, int) else None


def _integers(values: np.ndarray[Any, Any], always: int) -> float:
    smallest, largest = values.min(initial=0), values.max(initial=0)
    if smallest < 0:
        raise ImageError(
            f"signed samples reach {smallest}, and nothing says which is black; convert it to 8 bits first"
        )
    return always or next(scale for scale in (255, 65535, 2**32 - 1) if largest <= scale)


def _floats(values: np.ndarray[Any, Any]) -> float:
    largest = max((float(rows.max(initial=0, where=np.isfinite(rows))) for rows in _strips(values)), default=0)
    if largest <= 1:
        return 1
    if largest <= 65535 and all(_are_whole(rows) for rows in _strips(values)):
        return 255 if largest <= 255 else 65535
    raise ImageError(f"floating point samples reach {largest:g}, where 1 is white; convert it to 8 bits first")


def _are_whole(rows: np.ndarray[Any, Any]) -> bool:
    rows = rows[np.isfinite(rows)]
    return bool((np.abs(rows - np.rint(rows)) < 0.01).all())


def _by_rows(values: np.ndarray[Any, Any], full_scale: float) -> Image:
    gray = np.empty(values.shape, np.uint8)
    for source, target in zip(_strips(values), _strips(gray), strict=True):
        finite = np.where(np.isnan(source), 0, source).clip(0, full_scale)
        target[:] = np.rint(finite * (255 / full_scale))
    return gray


def _strips(values: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [values[row : row + _ROWS] for row in range(0, len(values), _ROWS)]


def _nothing(_: PIL.Image.Image) -> None:
    return


def before_loading(image: PIL.Image.Image) -> Callable[[PIL.Image.Image], None]:
    """Correct or refuse what Pillow would decode wrongly; what comes back checks the decoded image.

    Raises:
        ImageError: the image cannot be decoded rightly.
    """
    tiles = getattr(image, "tile", None)
    if not tiles:
        return _nothing
    if (image.format, image.mode) in _MISREAD:
        raise ImageError(f"{image.format} of this kind is misread by Pillow; convert it to PNG first")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _refuse_noise(image)
        return _with_8_bit_palette
    key = image.info.get("transparency")
    rawmode = tiles[0].args if image.format == "PNG" else None
    if rawmode in ("L;2", "L;4") and isinstance(key, int):
        # Pillow scales the samples to 8 bits, and leaves the transparent color as it is in the file.
        image.info["transparency"] = key * 255 // (2 ** int(rawmode[2]) - 1)
    if rawmode == "RGB;16B" and isinstance(key, tuple):
        del image.info["transparency"]
        return lambda loaded: _refuse_color(loaded, key)
    return _nothing


def _refuse_noise(image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuse what Pillow decodes as noise."""
    tags, (codec, _, _, arguments) = image.tag_v2, image.tile[0]
    deep = max(tags.get(_BITS, (1,))) > 8
    if codec == "raw" and deep and tags.get(_SAMPLES, 1) > 1 and tags.get(_PLANAR) == _SEPARATE:
        raise ImageError(
            "an uncompressed TIFF with separate planes of 16 bits is not supported; convert it to PNG first"
        )
    # libtiff swaps the bytes, and Pillow once more.
    if codec == "libtiff" and isinstance(arguments, tuple) and arguments[0] in ("I;16BS", "I;32BS", "F;32BF"):
        raise ImageError(
            "a compressed big-endian TIFF with signed or 32-bit samples is not supported; convert it to PNG first"
        )


def _with_8_bit_palette(image: PIL.Image.Image) -> None:
    """Some writers put 8 bits where colors have 16, which would make all of them black."""
    colors = getattr(image, "tag_v2", {}).get(_COLOR_MAP, ())
    if image.mode == "P" and colors and max(colors) < 256:
        image.putpalette(bytes(colors), "RGB;L")


def _refuse_color(image: PIL.Image.Image, key: tuple[int, ...]) -> None:
    """Pillow keeps the upper 8 of 16 bits, which cannot tell a transparent color from its neighbors."""
    upper = np.array([sample >> 8 for sample in key], np.uint8)
    if any((rows == upper).all(2).any() for rows in _strips(np.asarray(image))):
        raise ImageError(
            "a transparent color in a PNG of 16 bits per sample is not supported; convert it to 8 bits first"
        )
