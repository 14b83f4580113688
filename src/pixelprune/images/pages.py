"""Any file that is read, opened: how many pages it has, and each as a uint8 RGB array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import PIL.Image
from PIL import EpsImagePlugin, ImageFile, ImageOps, TiffImagePlugin

from pixelprune.images import deep, modes, signatures, tiff
from pixelprune.images.errors import MAX_PIXELS, ImageError, one_line, refuse_single_pixel
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
            # Pillow maps an uncompressed TIFF that it opens by name into memory, with the sides swapped
            # if the picture is turned by 90 degrees.
            directories = tiff.opened(path) if signatures.is_tiff(head) else None
            source = stack.enter_context(directories.file) if directories else path
            image = stack.enter_context(_opened_image(path, head, source))
        yield ImagePages(path, image, directories if image.format == "TIFF" else None)


class ImagePages:
    """A file that Pillow reads: one page, or those of a TIFF."""

    def __init__(self, path: Path, image: PIL.Image.Image, directories: tiff.Tiff | None) -> None:
        self._path, self._image = path, image
        self._frames = directories.frames if directories else [0]
        self._inverted = directories.inverted if directories else set()
        self.numbered = len(self._frames) > 1

    def __len__(self) -> int:
        return len(self._frames)

    def read(self, page: int, dpi: int, transparency: str) -> Image:
        with one_line(f"{self._path} page {page}" if self.numbered else self._path):
            if self.numbered:
                self._image.seek(self._frames[page - 1])
            if self._frames[page - 1] in self._inverted and isinstance(self._image, TiffImagePlugin.TiffImageFile):
                self._image.tag_v2[tiff.PHOTOMETRIC] = tiff.WHITE_IS_ZERO
            if isinstance(self._image, ImageFile.StubImageFile):  # for Pillow 12, a single pixel
                raise ImageError(_unsupported(self._image))
            _check_size(self._image.size)
            return modes.decoded_to_rgb(_loaded(self._image), transparency)


def _check_size(size: tuple[int, int]) -> None:
    refuse_single_pixel(size)
    # Pillow checks the first page of a file only.
    if size[0] * size[1] > MAX_PIXELS:
        raise PIL.Image.DecompressionBombError


def _opened_image(path: Path, head: bytes, source: Path | BinaryIO) -> PIL.Image.Image:
    try:
        return PIL.Image.open(source)
    except PIL.UnidentifiedImageError:
        if signatures.is_tiff(head) and (described := tiff.described(path)):
            raise ImageError(f"a {described} is not supported; convert it to PNG first") from None
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


def _unsupported(image: PIL.Image.Image, error: Exception | None = None) -> str:
    """What is not supported, if that is why an intact image cannot be decoded; else empty."""
    if isinstance(image, ImageFile.StubImageFile) or image.format == "MPEG":
        return str(signatures.STUBS.get(image.format or "", f"{image.format} is not supported"))
    if image.format == "EPS" and not EpsImagePlugin.has_ghostscript():
        return str(signatures.EPS)
    if "not available" in str(error):  # Pillow was built without this decoder
        return f"{image.format} is not supported by this installation of Pillow ({error}); convert it to PNG first"
    return ""
