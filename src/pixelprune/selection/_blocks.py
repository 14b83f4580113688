"""The geometry of arrays: an image as blocks of pixels, and rows of bytes that compiled code can walk."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Source = npt.NDArray[np.int32]
# Height and width of one block within the array that holds it: (B, B) in an image of pixels.
Cell = tuple[int, int]


def channels(image: Image) -> int:
    """Samples per pixel."""
    return image.shape[2] if image.ndim == 3 else 1


def block_at(image: Image, n: int, cell: Cell) -> Image:
    """View of block n, of the shape of `cell` (and 3 channels if the image has them)."""
    height, width = cell
    row, column = divmod(n, image.shape[1] // width)
    return image[row * height : (row + 1) * height, column * width : (column + 1) * width]


def in_blocks(image: Image, block: int) -> Image:
    """View of an image (H, W[, channels]) as (R, C, B, B, channels)."""
    rows, columns = image.shape[0] // block, image.shape[1] // block
    return image.reshape(rows, block, columns, block, channels(image)).swapaxes(1, 2)


def with_contiguous_rows(image: Image) -> Image:
    """`image` itself if each row of pixels is one stretch of bytes, as in any crop; else a copy."""
    pixel = channels(image)
    inner = (1,) if image.ndim == 2 else (pixel, 1)
    if image.strides[1:] == inner and image.strides[0] >= image.shape[1] * pixel:
        return image
    copy = np.empty(image.shape, np.uint8)
    if image.ndim == 2:
        copy[:] = image
    else:  # plane by plane: numpy is slow at interleaving channels
        for channel in range(pixel):
            copy[:, :, channel] = image[:, :, channel]
    return copy
