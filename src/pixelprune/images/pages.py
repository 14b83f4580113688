"""Any file that is read, opened: how many pages it has, and each as a uint8 RGB array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import PIL.Image
from PIL import EpsImagePlugin, ImageFile, ImageOps, TiffImagePlugin

from pixelprune.images import deep, modes, signatures
from pixelprune.images.errors import MAX_PIXELS, ImageError, one_line
from pixelprune.images.pdf import opened_pdf
from pixelprune.selection._blocks import Image


class Pages(Protocol):
    """The pages of an opened file; `numbered` says whether they are told apart by number."""

    numbered: bool

    def __len__(self) -> int: ...

    def read(self, page: int, dpi: int, transparency: str) -> Image:
        """A page, counted from 1, as uint8 (H, W, 3); `dpi` counts for a PDF, `transparency` for other files.

        Raises:
            ImageError: it cannot be read.
        """


@contextmanager
def opened(path: Path) -> Iterator[Pages]:
    """Open an image file or a PDF.

    Raises:
        ImageError: the file is missing, empty, or of a kind that is not read.
    """
    head = signatures.head_of(path)
    if signatures.is_pdf(path, head):
        with opened_pdf(path) as pdf:
            yield pdf
        return
    with ExitStack() as stack:
        with one_line(path):
            image = stack.enter_context(_opened_image(path, head, stack))
        yield ImagePages(path, image, _tiff_pages(path) if image.format == "TIFF" else [0])


class ImagePages:
    """A file that Pillow reads: one page, or those of a TIFF."""

    def __init__(self, path: Path, image: PIL.Image.Image, frames: list[int]) -> None:
        self._path, self._image, self._frames = path, image, frames
        self.numbered = len(frames) > 1

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, page: int, dpi: int, transparency: str) -> Image:
        with one_line(f"{self._path} page {page}" if self.numbered else self._path):
            if self.numbered:
                self._image.seek(self._frames[page - 1])
            _check_size(self._image.size)
            return modes.to_rgb(_loaded(self._image), transparency)


def refuse_single_pixel(size: tuple[int, int]) -> None:
    if size == (1, 1):
        raise ImageError("a single pixel leaves nothing to predict or to prune")


def _check_size(size: tuple[int, int]) -> None:
    refuse_single_pixel(size)
    # Pillow checks the first page of a file only.
    if size[0] * size[1] > MAX_PIXELS:
        raise PIL.Image.DecompressionBombError


def _opened_image(path: Path, head: bytes, stack: ExitStack) -> PIL.Image.Image:
    try:
        # Pillow maps an uncompressed TIFF that it opens by name into memory, with the sides swapped
        # if the picture is turned by 90 degrees.
        return PIL.Image.open(stack.enter_context(path.open("rb")) if signatures.is_tiff(head) else path)
    except PIL.UnidentifiedImageError:
        if signatures.is_heif(head):
            return _opened_heif(path)
        if kind := signatures.unsupported(head):
            raise ImageError(str(kind)) from None
        raise


def _opened_heif(path: Path) -> PIL.Image.Image:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(str(signatures.HEIC)) from None
    # Not registered with Pillow, so that importing this package changes nothing for others.
    file = pillow_heif.open_heif(path)
    _check_size(file.size)
    image: PIL.Image.Image = file.to_pillow()
    return image


def _loaded(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image or a copy of it, decoded and turned upright."""
    try:
        image = deep.load(image)
    except ImageError:
        raise
    except Exception as error:
        if kind := _unsupported(image, error):
            raise ImageError(kind) from None
        raise
    with suppress(Exception):  # damaged metadata does not make the pixels unreadable
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _unsupported(image: PIL.Image.Image, error: Exception) -> str:
    """What is not supported, if that is why an intact image cannot be decoded; else empty."""
    if isinstance(image, ImageFile.StubImageFile) or image.format == "MPEG":
        return str(signatures.STUBS.get(image.format or "", f"{image.format} is not supported"))
    if image.format == "EPS" and not EpsImagePlugin.has_ghostscript():
        return str(signatures.EPS)
    if "not available" in str(error):  # Pillow was built without this decoder
        return f"{image.format} is not supported by this installation of Pillow ({error}); convert it to PNG first"
    return ""


def _tiff_pages(path: Path) -> list[int]:
    """The frames of a TIFF that are pages: neither thumbnails nor masks.

    The directories are walked here, because Pillow stops at the first one that it cannot decode.
    """
    frames, offsets = [0], {0}
    with suppress(Exception), path.open("rb") as file:  # what is damaged is said when its page is read
        header = file.read(8)
        directory = TiffImagePlugin.ImageFileDirectory_v2(header + (file.read(8) if header[2] == 43 else b""))
        while directory.next not in offsets:
            offsets.add(directory.next)
            file.seek(directory.next)
            directory.load(file)
            frame = len(offsets) - 2
            if frame and not _is_auxiliary(directory):
                frames.append(frame)
    return frames


def _is_auxiliary(directory: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Whether a TIFF directory holds a thumbnail or a mask of another one."""
    new_kind, kind = directory.get(254, 0), directory.get(255, 0)
    return (isinstance(new_kind, int) and bool(new_kind & 0b101)) or kind == 2
