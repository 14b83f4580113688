"""From a Pillow image of any mode to the uint8 RGB array that a model sees."""

from __future__ import annotations

import numpy as np
import PIL.Image

from pixelprune.images import deep
from pixelprune.selection._blocks import Image
from pixelprune.selection.errors import not_one_of

# What becomes of transparency: composited over white, or left out, which shows the colors that are stored below it.
TRANSPARENCY = ("white", "ignore")


_ROWS = 256  # converted at a time: whole copies in each mode on the way would take several times the memory


def check_transparency(transparency: str) -> None:
    if transparency not in TRANSPARENCY:
        raise not_one_of("transparency", transparency, TRANSPARENCY)


def to_rgb(image: PIL.Image.Image, transparency: str = "white") -> Image:
    """A Pillow image of any mode as uint8 (H, W, 3).

    Raises:
        ImageError: it cannot be decoded correctly, or nothing says which of its samples are black and white.
    """
    return decoded_to_rgb(deep.load(image), transparency)


def decoded_to_rgb(image: PIL.Image.Image, transparency: str) -> Image:
    """`to_rgb` of an image that `deep.load` has decoded."""
    if deep.is_deep(image):
        return deep.to_rgb(image, over_white=transparency == "white")
    rgb = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, _ROWS):
        bottom = min(top + _ROWS, image.height)
        rgb[top:bottom] = np.asarray(_flat(image.crop((0, top, image.width, bottom)), transparency))
    return rgb


def _flat(image: PIL.Image.Image, transparency: str) -> PIL.Image.Image:
    if image.mode == "La":  # which Pillow converts to nothing else
        image = image.convert("LA")
    if image.has_transparency_data and transparency == "white":
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    image.info.pop("transparency", None)  # of this strip alone; Pillow would warn that it is left out
    return image.convert("RGB")
