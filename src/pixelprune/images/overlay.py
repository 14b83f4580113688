"""The picture of a selection: kept blocks in color, copies tinted blue, all others grayed out."""

from __future__ import annotations

import numpy as np
import PIL.Image

from pixelprune.selection._blocks import Image, in_blocks
from pixelprune.selection.select import Selection, check_size

# Dropped pixels move this far from their own lightness towards the color of a veil.
_DROPPED = (176, 176, 176)
_COPIED = (90, 160, 245)
_OPACITY = 0.68
# Edges are mixed half and half, so that text stays readable under them.
_HALF_LINE = np.array((64, 80, 112), np.uint8)


def overlay(image: Image, selection: Selection, *, grid: bool = False) -> PIL.Image.Image:
    """Draw which blocks of `image` a selection keeps.

    Args:
        image: uint8 (H, W, 3) or (H, W), the image that was selected from.
        selection: its selection.
        grid: whether to draw the edges of all blocks.

    Returns:
        RGB image of W × H pixels. Kept blocks are unchanged unless `grid` is set; dropped blocks that come back as
        copies are blue, and the others gray.

    Raises:
        ValueError: the selection belongs to an image of another size.

    Example:
        >>> import numpy as np
        >>> import pixelprune
        >>> page = np.full((64, 96, 3), 255, np.uint8)
        >>> overlay(page, pixelprune.select(page)).size
        (96, 64)
    """
    check_size(image, selection)
    picture = image.copy() if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    blocks = in_blocks(picture, selection.block)
    for row, keep, copied in zip(blocks, selection.keep, selection.restored, strict=True):
        # Row by row: in float, all of them would take several times more.
        for chosen, veil in ((~keep & ~copied, _DROPPED), (copied, _COPIED)):
            lightness = row[chosen].mean(axis=-1, keepdims=True)
            row[chosen] = np.rint(lightness + (np.array(veil) - lightness) * _OPACITY)
    if grid:
        for edge in (blocks[:, :, 0, :], blocks[:, :, :, 0]):
            edge[:] = edge // 2 + _HALF_LINE
    return PIL.Image.fromarray(picture)
