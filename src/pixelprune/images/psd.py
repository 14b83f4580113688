"""What Photoshop files say beyond what Pillow reads: whether they hold a picture, and what an extra channel is."""

from __future__ import annotations

from PIL.PsdImagePlugin import PsdImageFile

from pixelprune.images.errors import ImageError

_MULTICHANNEL = 7  # a color mode
_VERSION_INFO = 1057  # the id of a resource: 4 bytes, then whether the merged picture is stored


def refuse_without_picture(image: PsdImageFile) -> None:
    """Raise an ImageError for files whose stored picture is not what Photoshop shows."""
    if _color_mode(image) == _MULTICHANNEL:
        raise ImageError("a PSD in multichannel mode is not supported; convert it to RGB first")
    if any(number == _VERSION_INFO and data[4:5] == b"\0" for number, _, data in image.resources):
        raise ImageError(
            "a PSD that was saved without its merged picture; save it with maximum compatibility, or as PNG"
        )


def has_saved_channel(image: PsdImageFile) -> bool:
    """Whether an extra channel is a saved one, not transparency, which a negative number of layers says."""
    return image.has_transparency_data and _layer_count(image) >= 0


def _color_mode(image: PsdImageFile) -> int:
    assert image.fp is not None
    position = image.fp.tell()
    image.fp.seek(24)
    mode = int.from_bytes(image.fp.read(2))
    image.fp.seek(position)
    return mode


def _layer_count(image: PsdImageFile) -> int:
    assert image.fp is not None
    position = image.fp.tell()
    image.fp.seek(26)
    for _ in range(2):  # colors and resources, each behind its length
        image.fp.seek(int.from_bytes(image.fp.read(4)), 1)
    has_layers = int.from_bytes(image.fp.read(4)) > 0
    image.fp.seek(4, 1)
    layers = int.from_bytes(image.fp.read(2), signed=True)
    image.fp.seek(position)
    return layers if has_layers else 0
