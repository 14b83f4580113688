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

from pixelprune import _extras
from pixelprune.images.sizes import ModelPreset, preset
from pixelprune.selection._blocks import Image

if TYPE_CHECKING:
    import pypdfium2

# Pillow refuses more with an error; pages of a PDF are held to the same bound.
MAX_PIXELS = 2 * 89_478_485

# What the samples of Pillow's deep modes may be meant to span; all others have 16 bits.
_FULL_SCALES = {"I": (255, 65535), "F": (1, 255, 65535)}


class ImageError(ValueError):
    """A file that cannot be shown to a model; the text is one line that says why."""


def load_image(path: str | os.PathLike[str], *, page: int = 1, dpi: int = 144) -> Image:
    """Read an image file, or render a page of a PDF, as uint8 RGB (H, W, 3).

    EXIF orientation is applied; for an animation or a multi-page TIFF, the first frame is used;
    transparency is composited over white, as the processors in transformers do. 16-bit samples are scaled
    to 8 bits, where those processors would clip them at 255; 32-bit integers are taken to span
    255 or 65535, and floating point values 1, 255 or 65535, whichever first holds them all.

    Args:
        path: any file that Pillow reads, or a PDF (with the extra ``pdf``).
        page: of a PDF, counted from 1.
        dpi: resolution to render a PDF page at.

    Raises:
        ImageError: (a ValueError) the file is missing, empty, truncated, not an image, a single
            pixel, too large, or has no such page.

    Example:
        >>> from pixelprune.images.samples import sample_path
        >>> load_image(sample_path("page")).shape
        (1684, 1191, 3)
    """
    if not isinstance(path, str | os.PathLike):
        raise ImageError(f"path must be the path of a file, got {type(path).__name__}; fit_image takes Pillow images")
    path = Path(path)
    if is_pdf(path):
        with _opened_pdf(path) as document:
            return _render(document, path, page, dpi)
    if page != 1:
        raise ImageError(f"{path}: page must be 1 for a file that is not a PDF, got {page}")
    with _one_line(path), PIL.Image.open(path) as image:
        _refuse_single_pixel(image)
        return to_rgb(_upright(image))


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
        image = _from_array(image)
    elif not isinstance(image, PIL.Image.Image):
        raise ValueError(f"image must be a Pillow image or a numpy array, got {type(image).__name__}")
    _refuse_single_pixel(image)
    height, width = fitted.fit_size(image.height, image.width)
    rgb = to_rgb(image)
    if rgb.shape[:2] == (height, width):
        return rgb
    return np.array(PIL.Image.fromarray(rgb).resize((width, height), PIL.Image.Resampling.BICUBIC))


def to_rgb(image: PIL.Image.Image) -> Image:
    """A Pillow image of any mode as uint8 (H, W, 3)."""
    if image.mode.startswith("I") or image.mode == "F":
        gray = _to_8_bits(np.asarray(image), _FULL_SCALES.get(image.mode, (65535,)))
        return np.repeat(gray[:, :, None], 3, axis=2)
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
    with _one_line(path):
        # Opening a pipe can block forever, and what is read from it is gone.
        if path.exists() and not path.is_file():
            raise ImageError("not a regular file, but a folder, a pipe or a device")
        with path.open("rb") as file:
            head = file.read(1024)
        if not head:
            raise ImageError("the file is empty")
    return head.lstrip(b"\xef\xbb\xbf\0 \t\r\n").startswith(b"%PDF-")


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged metadata does not make the pixels unreadable
        return image


def _refuse_single_pixel(image: PIL.Image.Image) -> None:
    if image.size == (1, 1):
        raise ImageError("a single pixel leaves nothing to predict or to prune")


def _to_8_bits(values: np.ndarray[Any, Any], full_scales: tuple[int, ...]) -> Image:
    """Scale samples to 8 bits; the first of `full_scales` that holds all finite ones counts."""
    largest = values.max(initial=0, where=np.isfinite(values))
    full_scale = next((scale for scale in full_scales if largest <= scale), full_scales[-1])
    values = np.where(np.isnan(values), 0, values)
    gray: Image = np.rint(values.clip(0, full_scale) * (255 / full_scale)).astype(np.uint8)
    return gray


def _from_array(image: np.ndarray[Any, Any]) -> PIL.Image.Image:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        raise ValueError(
            f"image must be uint8 (H, W, 3), (H, W, 4) or (H, W), got {image.dtype} {image.shape}; "
            "scale it to 0..255, convert it to uint8, and move channels last"
        )
    return PIL.Image.fromarray(np.ascontiguousarray(image))


def _render(document: pypdfium2.PdfDocument, path: Path, page: int, dpi: int) -> Image:
    if not 1 <= page <= len(document):
        raise ImageError(f"{path}: page must be from 1 to {len(document)}, got {page}")
    if dpi < 1:
        raise ImageError(f"dpi must be at least 1, got {dpi}")
    with _one_line(path, f"page {page} cannot be rendered"):
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
        raise ImageError(f"{path}: PDF pages need pypdfium2: {_extras.install('pdf')}") from None
    with _one_line(path, "not a readable PDF"):
        try:
            document = pypdfium2.PdfDocument(path)
        except pypdfium2.PdfiumError as error:
            if "password" in str(error):
                raise ImageError("the PDF is encrypted; remove its password first") from None
            raise
    with document:
        yield document


@contextmanager
def _one_line(path: Path, problem: str = "") -> Iterator[None]:
    """Turn whatever a decoder raises on a bad file into an ImageError of one line."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except PIL.UnidentifiedImageError:
        raise ImageError(f"{path}: not an image in a format that Pillow reads") from None
    except PIL.Image.DecompressionBombError:
        raise ImageError(f"{path}: more than {MAX_PIXELS:,} pixels, refused as a decompression bomb") from None
    except MemoryError:
        raise ImageError(f"{path}: not enough memory to decode it") from None
    except Exception as error:  # decoders raise nearly anything on damaged data
        by_system = isinstance(error, OSError) and error.strerror
        text = by_system or f"damaged image: {error or type(error).__name__}"
        reason = problem or " ".join(text.split())
        raise ImageError(f"{path}: {reason}") from None
