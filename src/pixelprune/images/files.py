"""From any file that Pillow reads, or a PDF page, to the uint8 RGB array that a model sees."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from pixelprune.images import signatures
from pixelprune.images.errors import ImageError, refuse_address, refuse_single_pixel
from pixelprune.images.modes import check_transparency, to_rgb
from pixelprune.images.pages import opened
from pixelprune.images.pdf import opened_pdf
from pixelprune.images.sizes import ModelPreset, preset
from pixelprune.selection._blocks import Image


def load_image(path: str | os.PathLike[str], *, page: int = 1, dpi: int = 144, transparency: str = "white") -> Image:
    """Read an image file, or render a page of a PDF, as uint8 RGB (H, W, 3).

    EXIF orientation is applied; for an animation, the first frame is used. 16-bit samples are scaled
    to 8 bits. 32-bit and signed integers are taken to span 255, 65535 or all of their bits (127 if they
    have 8), whichever first holds them all. Of floating point values, 0 is black and 1 is white; whole
    numbers are taken to span 255 or 65535. No framework scales gray samples of more than 8 bits: transformers and vLLM
    clip them at 255, which leaves little but white. Convert such files before a model gets them.

    Transparency is composited over white, as vLLM does, and as the processors in transformers do from
    version 5.21 on with a Pillow image that is handed to them. Older versions leave it out, and so do
    all versions with a path or an address that they read themselves, as in `apply_chat_template`:
    ``transparency="ignore"`` shows that.

    Args:
        path: any file that Pillow reads, a PDF (with the extra ``pdf``), or HEIC (``heif``).
        page: of a PDF or a TIFF, counted from 1.
        dpi: resolution to render a PDF page at.
        transparency: "white", or "ignore" to show the colors that are stored below it.

    Raises:
        ImageError: (a ValueError) `path` is a URL, or the file is missing, empty, truncated, not an image, a single
            pixel, too large, has no such page, or nothing says which of its samples are black and white.
        ValueError: `transparency` is not one of these.

    Example:
        >>> from pixelprune.images.samples import sample_path
        >>> load_image(sample_path("page")).shape
        (1684, 1191, 3)
    """
    if not isinstance(path, str | os.PathLike):
        raise ImageError(f"path must be the path of a file, got {type(path).__name__}; fit_image takes Pillow images")
    check_transparency(transparency)
    refuse_address(os.fspath(path))
    path = Path(path)
    with opened(path) as pages:
        count = len(pages)
        if not 1 <= page <= count:
            wanted = f"from 1 to {count}" if count > 1 else "1, the only one"
            raise ImageError(f"{path}: page must be {wanted}, got {page}")
        return pages.read(page, dpi, transparency)


def fit_image(image: Image | PIL.Image.Image, model: str | ModelPreset = "qwen3-vl") -> Image:
    """Resize an image to what `model` would see, ready for `select`.

    Both sides become multiples of the model's block side within its bounds on the number of
    pixels. The filter is Pillow's bicubic one. Image processors that resize with torchvision round
    differently, at some sizes visibly so at sharp edges; what is kept can differ by a few blocks.
    Like those processors, this ignores a Pillow image's EXIF orientation; `load_image` applies it.

    Args:
        image: Pillow image of any mode, or uint8 array (H, W, 3), (H, W, 4) with alpha, or (H, W),
            of any size above a single pixel.
        model: the name of a preset, or your own `ModelPreset`.

    Returns:
        uint8 (H', W', 3).

    Raises:
        ValueError: the image is of another kind, or one side is more than 200 times the other; the
            model is not known.

    Example:
        >>> import numpy as np
        >>> fit_image(np.zeros((1684, 1191), np.uint8), "qwen3-vl").shape
        (1696, 1184, 3)
    """
    fitted = preset(model)
    if isinstance(image, np.ndarray):
        _check_array(image)
    elif not isinstance(image, PIL.Image.Image):
        raise ValueError(f"image must be a Pillow image or a numpy array, got {type(image).__name__}")
    height, width = image.shape[:2] if isinstance(image, np.ndarray) else (image.height, image.width)
    refuse_single_pixel((width, height))
    size = fitted.fit_size(height, width)
    if isinstance(image, np.ndarray) and image.ndim == 3 and image.shape[2] == 3:
        rgb = image  # large ones are not copied on the way
    else:
        rgb = to_rgb(PIL.Image.fromarray(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image)
    if size == (height, width):
        return rgb.copy() if rgb is image else rgb
    picture = PIL.Image.fromarray(np.ascontiguousarray(rgb))
    return np.array(picture.resize(size[::-1], PIL.Image.Resampling.BICUBIC))


def numbered_pages(path: str | os.PathLike[str]) -> int | None:
    """Pages of a PDF, or of a TIFF that has more than one; None for a file that is one image.

    Raises:
        ImageError: the file cannot be opened.
    """
    path = Path(path)
    head = signatures.head_of(path)
    if not signatures.is_tiff(head) and not signatures.is_pdf(path, head):
        return None
    with opened(path) as pages:
        return len(pages) if pages.numbered else None


def missing_pages(path: str | os.PathLike[str]) -> list[int]:
    """The pages that a PDF counts and does not hold, by number; none of other files.

    Raises:
        ImageError: the file cannot be opened.
    """
    path = Path(path)
    if not signatures.is_pdf(path, signatures.head_of(path)):
        return []
    with opened_pdf(path) as pdf:
        return pdf.missing()


def _check_array(image: np.ndarray[Any, Any]) -> None:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise ValueError(
            f"image must be uint8 (H, W, 3), (H, W, 4) or (H, W), got {image.dtype} {image.shape}; "
            "scale it to 0..255, convert it to uint8, and move channels last"
        )
