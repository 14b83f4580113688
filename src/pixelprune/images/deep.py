"""Samples of more than 8 bits, signed ones, and files that Pillow decodes to another picture."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import PIL.Image
from PIL import ImageFile, PsdImagePlugin, TiffImagePlugin

from pixelprune.images import psd, tiff
from pixelprune.images.errors import ImageError
from pixelprune.selection._blocks import Image

# Formats, and a mode in one of them, whose pictures come out as a negative or without their mask.
_MISREAD = {("XBM", "1"), ("PSD", "1"), *(("CUR", mode) for mode in ("1", "L", "P", "RGB", "RGBA"))}
_COLOR_MAP = 320  # the tag of a TIFF

_ROWS = 64  # converted at a time, so that intermediate values take little memory


def is_deep(image: PIL.Image.Image) -> bool:
    """Whether samples are something other than the 8 bits of a model's input: more of them, or signed."""
    return image.mode.startswith("I") or image.mode == "F" or _is_signed_8_bit(image)


def to_rgb(image: PIL.Image.Image, *, over_white: bool) -> Image:
    """A decoded deep image as uint8 (H, W, 3), a transparent color over white or as it is.

    16-bit samples are scaled to 8 bits. 32-bit integers, and signed ones, are taken to span 255,
    65535 or all of their bits (127 if they have 8), whichever first holds them all. Of floating point
    values, 0 is black and 1 white; whole numbers are taken to span 255 or 65535.

    Raises:
        ImageError: nothing says which samples are black and white.
    """
    if image.format == "FITS":
        raise ImageError("FITS with samples of more than 8 bits is not supported; convert it to PNG first")
    full_scale = _full_scale(image)
    white_is_zero = _tags(image).get(tiff.PHOTOMETRIC) == tiff.WHITE_IS_ZERO
    key = image.info.get("transparency") if over_white else None
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top, samples in _strips(image):
        gray = np.rint(np.where(np.isnan(samples), 0, samples).clip(0, full_scale) * (255 / full_scale))
        if white_is_zero:
            gray = 255 - gray
        if isinstance(key, int):
            gray[samples == key] = 255
        rgb[top : top + len(gray)] = gray[:, :, None]
    return rgb


def _is_signed_8_bit(image: PIL.Image.Image) -> bool:
    """Whether the samples of a TIFF in Pillow's mode L, which is unsigned, are signed."""
    return image.mode == "L" and _tags(image).get(tiff.SAMPLE_FORMAT) == (tiff.SIGNED,)


def _tags(image: PIL.Image.Image) -> Mapping[int, Any]:
    return image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}


def _strips(image: PIL.Image.Image) -> Iterator[tuple[int, np.ndarray[Any, Any]]]:
    """Some rows of samples at a time, and which is the first: a copy of all would double what Pillow takes."""
    unsigned = image.mode == "I" and _is_unsigned(_tags(image))
    stored = np.uint32 if unsigned else np.int8 if _is_signed_8_bit(image) else None
    for top in range(0, image.height, _ROWS):
        samples = np.asarray(image.crop((0, top, image.width, min(top + _ROWS, image.height))))
        yield top, samples.view(stored) if stored else samples


def _is_unsigned(tags: Mapping[int, Any]) -> bool:
    """Whether the samples of a TIFF in Pillow's mode I, which is signed, are not."""
    return tags.get(tiff.BITS) == (32,) and tags.get(tiff.SAMPLE_FORMAT) != (tiff.SIGNED,)


def _full_scale(image: PIL.Image.Image) -> int:
    """The sample that is white."""
    tags = _tags(image)
    if image.mode == "F":
        return _full_scale_of_floats(image)
    if image.mode not in ("I", "L"):
        return int(2 ** tags.get(tiff.BITS, (16,))[0] - 1)
    _refuse_negative(min((int(samples.min()) for _, samples in _strips(image)), default=0))
    if image.format == "PPM":
        return 65535
    bits = tags.get(tiff.BITS, (32,))[0]
    all_bits = 2 ** (bits if _is_unsigned(tags) else bits - 1) - 1
    largest = max((int(samples.max()) for _, samples in _strips(image)), default=0)
    return next((scale for scale in (255, 65535) if largest <= scale <= all_bits), all_bits)


def _full_scale_of_floats(image: PIL.Image.Image) -> int:
    smallest, largest, whole = 0.0, 0.0, True
    for _, samples in _strips(image):
        finite = samples[np.isfinite(samples)]
        smallest, largest = min(smallest, float(finite.min(initial=0))), max(largest, float(finite.max(initial=0)))
        whole = whole and bool((np.abs(finite - np.rint(finite)) < 0.01).all())
    if smallest >= 0:
        if largest <= 1:
            return 1
        if whole and largest <= 65535:
            return 255 if largest <= 255 else 65535
    reached = smallest if smallest < 0 else largest
    raise ImageError(
        f"floating point samples reach {reached:g}, where 0 is black and 1 is white; convert it to 8 bits first"
    )


def _refuse_negative(smallest: int) -> None:
    if smallest < 0:
        raise ImageError(
            f"signed samples reach {smallest}, and nothing says which is black; convert it to 8 bits first"
        )


def load(image: PIL.Image.Image) -> PIL.Image.Image:
    """Decode; what comes back is the image itself, or a copy where Pillow gets transparency wrong.

    Raises:
        ImageError: Pillow would decode it as noise, or has lost its transparent color.
    """
    tiles = getattr(image, "tile", None)
    key = image.info.get("transparency")
    rawmode = tiles[0].args if tiles and image.format == "PNG" else None
    if tiles and (image.format, image.mode) in _MISREAD:
        raise ImageError(f"{image.format} of this kind is misread by Pillow; convert it to PNG first")
    if tiles and isinstance(image, TiffImagePlugin.TiffImageFile):
        _refuse_noise(image)
    if isinstance(image, PsdImagePlugin.PsdImageFile):
        return psd.load(image)
    if rawmode == "RGB;16B" and isinstance(key, tuple):
        lower = _with_lower_bytes(image)
        return _without_color(image, key, lower)
    image.load()
    _use_8_bit_palette(image)
    if rawmode in ("L;2", "L;4") and isinstance(key, int):
        # Pillow scales the samples to 8 bits, and leaves the transparent color as it is in the file.
        image = image.copy()
        image.info["transparency"] = key * 255 // (2 ** int(rawmode[2]) - 1)
    elif image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        raise ImageError(
            "the transparent color has 16 bits per sample, and the image is decoded to 8; "
            "pass the path of the file to load_image, or convert it to 8 bits first"
        )
    return image


def _refuse_noise(image: TiffImagePlugin.TiffImageFile) -> None:
    """Refuse what Pillow decodes as noise."""
    tags, (codec, _, _, arguments) = image.tag_v2, image.tile[0]
    bits = max(tags.get(tiff.BITS, (1,)))
    if tags.get(tiff.PLANAR) == tiff.SEPARATE:
        if codec == "raw" and tags.get(tiff.SAMPLES, 1) == 1:
            # Of how the samples are stored, Pillow takes the first letter.
            if bits not in (1, 8) or tags.get(tiff.PHOTOMETRIC) == tiff.WHITE_IS_ZERO or tags.get(tiff.FILL_ORDER) == 2:
                raise ImageError("a TIFF with a single plane that is marked as separate; pass its path to load_image")
        elif codec == "raw" and bits > 8:
            raise ImageError(
                "an uncompressed TIFF with separate planes of 16 bits is not supported; convert it to PNG first"
            )
        # Alpha would be 0 everywhere.
        if image.mode in ("LA", "La", "PA"):
            raise ImageError("a TIFF with gray and alpha in separate planes is not supported; convert it to PNG first")
    # libtiff swaps the bytes, and Pillow once more.
    if codec == "libtiff" and isinstance(arguments, tuple) and arguments[0] in ("I;16BS", "I;32BS", "F;32BF"):
        raise ImageError(
            "a compressed big-endian TIFF with signed or 32-bit samples is not supported; convert it to PNG first"
        )


def _use_8_bit_palette(image: PIL.Image.Image) -> None:
    """Some writers put 8 bits where colors have 16, which would make all of them black."""
    colors = getattr(image, "tag_v2", {}).get(_COLOR_MAP, ())
    if image.mode == "P" and colors and max(colors) < 256:
        image.putpalette(bytes(colors), "RGB;L")


def _with_lower_bytes(image: PIL.Image.Image) -> PIL.Image.Image:
    """A second image of a PNG that is not decoded yet, which holds the lower 8 of its 16 bits."""
    assert isinstance(image, ImageFile.ImageFile)
    assert image.fp is not None
    image.fp.seek(0)  # to be decoded, each image goes to where its pixels begin
    lower = PIL.Image.open(io.BytesIO(image.fp.read()))
    # PNG has the upper byte first. Read as if the lower one came first, the "upper" byte is the lower one.
    lower.tile = [tile._replace(args="RGB;16L") for tile in lower.tile]
    return lower


def _without_color(image: PIL.Image.Image, key: tuple[int, ...], lower: PIL.Image.Image) -> PIL.Image.Image:
    """A copy in which the pixels of a color of 16 bits per sample are transparent.

    Pillow keeps the upper 8 bits, which cannot tell this color from its neighbors.
    """
    opaque = np.zeros((image.height, image.width), bool)
    image.load()
    lower.load()
    for part, color in ((image, np.array(key) >> 8), (lower, np.array(key) & 255)):
        for top, samples in _strips(part):
            opaque[top : top + len(samples)] |= (samples != color).any(2)
    copy = image.copy()
    del copy.info["transparency"]
    copy.putalpha(PIL.Image.fromarray(opaque.view(np.uint8) * np.uint8(255)))
    return copy
