"""Pages of a PDF as uint8 RGB arrays."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pixelprune import _extras
from pixelprune.images.errors import MAX_PIXELS, ImageError, one_line, refuse_single_pixel
from pixelprune.selection._blocks import Image

if TYPE_CHECKING:
    import pypdfium2

_ENOUGH = 1000  # pages that are missing in a row: what follows is not looked for, which would take minutes


class PdfPages:
    """The pages of an opened PDF."""

    numbered = True

    def __init__(self, path: Path, document: pypdfium2.PdfDocument) -> None:
        self._path, self._document, self._count = path, document, len(document)

    def __len__(self) -> int:
        return self._count

    def missing(self) -> list[int]:
        """The pages, counted from 1, that the file counts and does not hold."""
        from pypdfium2.raw import FS_SIZEF, FPDF_GetPageSizeByIndexF

        missing: list[int] = []
        size, in_a_row = FS_SIZEF(), 0
        for page in range(1, self._count + 1):
            # Asking for the size finds a page, and does not load what is on it.
            found = FPDF_GetPageSizeByIndexF(self._document.raw, page - 1, size)
            in_a_row = 0 if found else in_a_row + 1
            if in_a_row == _ENOUGH:
                return [*missing, *range(page, self._count + 1)]
            if not found:
                missing.append(page)
        return missing

    def read(self, page: int, dpi: int, transparency: str) -> Image:
        """A page, counted from 1, as uint8 (H, W, 3), with what is filled into its form fields."""
        if dpi < 1:
            raise ImageError(f"dpi must be at least 1, got {dpi}")
        with one_line(self._path, f"page {page} cannot be rendered"), closing(self._document[page - 1]) as sheet:
            width, height = (side * dpi / 72 for side in sheet.get_size())
            if width * height > MAX_PIXELS:
                raise ImageError(f"page {page} has {width:.0f} x {height:.0f} pixels at {dpi} dpi; lower the dpi")
            refuse_single_pixel((math.ceil(width), math.ceil(height)))
            with closing(sheet.render(scale=dpi / 72, rev_byteorder=True, may_draw_forms=True)) as bitmap:
                return np.array(bitmap.to_numpy()[:, :, :3])


@contextmanager
def opened_pdf(path: Path) -> Iterator[PdfPages]:
    try:
        import pypdfium2
    except ImportError:
        raise ImageError(f"{path}: PDF pages need pypdfium2: {_extras.install('pdf')}") from None
    with one_line(path, "not a readable PDF"):
        try:
            # pypdfium2 expands a leading "~", which is a letter here.
            document = pypdfium2.PdfDocument(path.absolute())
        except pypdfium2.PdfiumError as error:
            if "password" in str(error):
                raise ImageError("the PDF is encrypted; remove its password first") from None
            raise
    with document:
        with one_line(path, "not a readable PDF"):
            _init_forms(document)
            pages = PdfPages(path, document)
        yield pages


def _init_forms(document: pypdfium2.PdfDocument) -> None:
    """Have what is filled into form fields drawn; must happen before pages are loaded or counted."""
    # XFA forms come with ordinary fields, which are drawn; that XFA itself is not, is logged for each file.
    logger = logging.getLogger("pypdfium2._helpers.document")
    logger.addFilter(_is_not_about_xfa)
    try:
        document.init_forms()
    finally:
        logger.removeFilter(_is_not_about_xfa)


def _is_not_about_xfa(record: logging.LogRecord) -> bool:
    return "XFA" not in record.getMessage()
