"""From any file that Pillow reads, or a PDF page, to the uint8 RGB array that a model sees."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image
from PIL import ImageOps

from pixelprune._engine import Image
from pixelprune.models import ModelPreset, preset

if TYPE_CHECKING:
    import pypdfium2

# Pillow refuses more with an error; pages of a PDF are held to the same bound.
MAX_PIXELS = 2 * 89_478_485


class ImageError(ValueError):
    """A file that cannot be shown to a model; the text is one line that says why."""


def load_image(path: str | os.PathLike[str], *, page: int = 1, dpi: int = 144) -> Image:
    """Read an image file, or render a page of a PDF, as uint8 RGB (H, W, 3).

    EXIF orientation is applied, of an animation the first frame is taken, 16-bit and floating
    point values are scaled to 8 bits, and transparency is laid over white, as the processors in
    transformers do.

    Args:
        path: any file that Pillow reads, or a PDF (with the extra ``pixelprune[pdf]``).
        page: of a PDF, counted from 1.
        dpi: resolution to render a PDF page at.

    Raises:
        ImageError: (a ValueError) the file is missing, empty, truncated, no image, a single
            pixel, too large, or has no such page.

    Example:
        >>> from pixelprune.samples import sample_path
        >>> load_image(sample_path("page")).shape
        (1684, 1191, 3)
    """
    path = Path(path)
    if is_pdf(path):
        with _opened_pdf(path) as document:
            return _render(document, path, page, dpi)
    if page != 1:
        raise ImageError(f"page must be 1 for a file that is no PDF, got {page}")
    with _one_line(path), PIL.Image.open(path) as image:
        if image.size == (1, 1):
            raise ImageError("a single pixel holds nothing to predict or to prune")
        return to_rgb(ImageOps.exif_transpose(image))


def fit_image(image: Image | PIL.Image.Image, model: str | ModelPreset = "qwen3-vl") -> Image:
    """Resize an image to what `model` would see, ready for `select`.

    Both sides become multiples of the model's block side within its bounds on the number of
    pixels. The filter is Pillow's bicubic one. Image processors that resize with torchvision round
    differently, at some sizes visibly so at sharp edges; what is kept can differ by a few blocks.

    Args:
        image: Pillow image of any mode, or uint8 array (H, W, 3) or (H, W) of any size.
        model: a name from `pixelprune.models`, or a `ModelPreset` of your own.

    Returns:
        uint8 (H', W', 3).

    Raises:
        ValueError: the image is of another kind, or no side may be 200 times the other; the
            model is not known.

    Example:
        >>> import numpy as np
        >>> fit_image(np.zeros((1684, 1191), np.uint8), "qwen3-vl").shape
        (1696, 1184, 3)
    """
    fitted = preset(model)
    if isinstance(image, np.ndarray):
        image = _from_array(image)
    elif not isinstance(image, PIL.Image.Image):
        raise ValueError(f"image must be a Pillow image or a numpy array, got {type(image).__name__}")
    height, width = fitted.fit_size(image.height, image.width)
    rgb = to_rgb(image)
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.array(PIL.Image.fromarray(rgb).resize((width, height), PIL.Image.Resampling.BICUBIC))


def to_rgb(image: PIL.Image.Image) -> Image:
    """A Pillow image of any mode as uint8 (H, W, 3)."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = _to_8_bits(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def page_count(path: str | os.PathLike[str]) -> int:
    """Pages of a PDF; 1 for every other file.

    Raises:
        ImageError: the PDF cannot be opened.
    """
    path = Path(path)
    if not is_pdf(path):
        return 1
    with _opened_pdf(path) as document:
        return len(document)


def is_pdf(path: Path) -> bool:
    """Whether the file begins like a PDF, whatever its name.

    Raises:
        ImageError: the file cannot be read, or is empty.
    """
    with _one_line(path), path.open("rb") as file:
        head = file.read(1024)
        if not head:
            raise ImageError("the file is empty")
    return b"%PDF-" in head


def _to_8_bits(values: np.ndarray[Any, Any]) -> Image:
    """Integers as 16-bit samples, floats as [0, 1] if they all fit in it, else as [0, 255]."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
        scale = 255.0 if values.min() >= 0 and values.max() <= 1 else 1.0
    else:
        scale, values = 1 / 257, values.clip(0, 65535)
    grey: Image = np.rint(values * scale).clip(0, 255).astype(np.uint8)
    return grey


def _from_array(image: np.ndarray[Any, Any]) -> PIL.Image.Image:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"image must be uint8 (H, W, 3) or (H, W), got {image.dtype} {image.shape}")
    if not image.size:
        raise ValueError(f"image must not be empty, got shape {image.shape}")
    return PIL.Image.fromarray(np.ascontiguousarray(image))


def _render(document: pypdfium2.PdfDocument, path: Path, page: int, dpi: int) -> Image:
    if not 1 <= page <= len(document):
        raise ImageError(f"{path}: page must be from 1 to {len(document)}, got {page}")
    if dpi < 1:
        raise ImageError(f"dpi must be at least 1, got {dpi}")
    with _one_line(path):
        sheet = document[page - 1]
        width, height = (side * dpi / 72 for side in sheet.get_size())
        if width * height > MAX_PIXELS:
            raise ImageError(f"page {page} has {width:.0f} x {height:.0f} pixels at {dpi} dpi; lower the dpi")
        return np.array(sheet.render(scale=dpi / 72, rev_byteorder=True).to_numpy()[:, :, :3])


@contextmanager
def _opened_pdf(path: Path) -> Iterator[pypdfium2.PdfDocument]:
    try:
        import pypdfium2
    except ImportError:
        raise ImageError(f"{path}: PDF pages need pypdfium2; pip install 'pixelprune[pdf]'") from None
    with _one_line(path):
        document = pypdfium2.PdfDocument(path)
    with document:
        yield document


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on a bad file into an ImageError of one line."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except PIL.UnidentifiedImageError:
        raise ImageError(f"{path}: not an image in a format that Pillow reads") from None
    except MemoryError:
        raise ImageError(f"{path}: not enough memory to decode it") from None
    except Exception as error:  # decoders raise nearly anything on damaged data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"{path}: {reason}") from None
