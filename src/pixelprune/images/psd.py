"""What Photoshop files say beyond what Pillow reads: whether they hold a picture, and what of it is transparent."""

from __future__ import annotations

from itertools import accumulate
from typing import BinaryIO, NamedTuple, cast

import numpy as np
import PIL.Image
from PIL.PsdImagePlugin import PsdImageFile

from pixelprune.images.errors import ImageError

_MULTICHANNEL = 7  # a color mode
_PACKED = 1  # a compression
_TRANSPARENT_INDEX, _VERSION_INFO = 1047, 1057  # ids of resources
_COLORS = {"L": 1, "RGB": 3, "LAB": 3, "CMYK": 4}  # channels of the modes that Pillow gives no alpha


def load(image: PsdImageFile) -> PIL.Image.Image:
    """Decode; what comes back is the image itself, or a copy where Pillow gets transparency wrong.

    Raises:
        ImageError: the stored picture is not what Photoshop shows.
    """
    transparent, alpha = True, None
    start = _at(image, 26, sections=3).tell() if image.tile else 0
    if image.tile and image.tile[0].offset > start:  # not decoded yet, and no layer that somebody has sought
        _refuse_without_picture(image)
        planes = _planes(image)
        # Pillow looks for packed channels too early if there are more of them than it reads.
        image.tile = [tile._replace(offset=plane.offset) for tile, plane in zip(image.tile, planes, strict=False)]
        # The first extra channel is transparency if the number of layers is negative, and a saved selection otherwise.
        transparent = _layer_count(image) < 0
        extra = planes[_COLORS.get(image.mode, len(planes)) :]
        alpha = _decoded(image, extra[0]) if transparent and extra else None
    image.load()
    if alpha is not None:
        copy = image.convert("RGB")
        copy.putalpha(alpha)
        return copy
    if image.mode == "RGBA" and not transparent:
        return image.convert("RGB")
    index = _transparent_index(image)
    if index is not None:
        indexed = image.copy()
        indexed.info["transparency"] = index
        return indexed
    return image


def _refuse_without_picture(image: PsdImageFile) -> None:
    file = _at(image, 24)
    if int.from_bytes(file.read(2)) == _MULTICHANNEL:
        raise ImageError("a PSD in multichannel mode is not supported; convert it to RGB first")
    # 4 bytes, then whether the merged picture is stored.
    if any(number == _VERSION_INFO and data[4:5] == b"\0" for number, _, data in image.resources):
        raise ImageError(
            "a PSD that was saved without its merged picture; save it with maximum compatibility, or as PNG"
        )


def _transparent_index(image: PsdImageFile) -> int | None:
    """The transparent color of an indexed picture; None if all are opaque."""
    found = (int.from_bytes(data[:2]) for number, _, data in image.resources if number == _TRANSPARENT_INDEX)
    return next((index for index in found if image.mode == "P" and index < 256), None)


def _layer_count(image: PsdImageFile) -> int:
    file = _at(image, 26, sections=2)  # behind colors and resources
    if not int.from_bytes(file.read(4)):
        return 0
    file.seek(4, 1)
    return int.from_bytes(file.read(2), signed=True)


class _Plane(NamedTuple):
    """Where the samples of a channel are."""

    decoder: str
    offset: int
    length: int


def _planes(image: PsdImageFile) -> list[_Plane]:
    channels = int.from_bytes(_at(image, 12).read(2))
    file = _at(image, 26, sections=3)
    if int.from_bytes(file.read(2)) == _PACKED:
        rows = np.frombuffer(file.read(2 * channels * image.height), ">u2").reshape(channels, image.height)
        decoder, lengths = "packbits", rows.sum(1, dtype=np.int64).tolist()
    else:
        decoder, lengths = "raw", [image.width * image.height] * channels
    offsets = accumulate(lengths, initial=file.tell())
    return [_Plane(decoder, offset, length) for offset, length in zip(offsets, lengths, strict=False)]


def _decoded(image: PsdImageFile, plane: _Plane) -> PIL.Image.Image:
    data = _at(image, plane.offset).read(plane.length)
    return PIL.Image.frombytes("L", image.size, data, plane.decoder, "L")


def _at(image: PsdImageFile, offset: int, sections: int = 0) -> BinaryIO:
    """The file at an offset, or behind some sections that begin there; decoding seeks to where its data is."""
    assert image.fp is not None
    file = cast(BinaryIO, image.fp)
    file.seek(offset)
    for _ in range(sections):
        file.seek(int.from_bytes(file.read(4)), 1)
    return file
