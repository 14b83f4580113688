"""Pages of a PDF as uint8 RGB arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pixelprune import _extras
from pixelprune.images.errors import MAX_PIXELS, ImageError, one_line
from pixelprune.selection._blocks import Image

if TYPE_CHECKING:
    import pypdfium2


def render(document: pypdfium2.PdfDocument, path: Path, page: int, dpi: int) -> Image:
    if not 1 <= page <= len(document):
        raise ImageError(f"{path}: page must be from 1 to {len(document)}, got {page}")
    if dpi < 1:
        raise ImageError(f"dpi must be at least 1, got {dpi}")
    with one_line(path, f"page {page} cannot be rendered"):
        sheet = document[page - 1]
        width, height = (side * dpi / 72 for side in sheet.get_size())
        if width * height > MAX_PIXELS:
            raise ImageError(f"page {page} has {width:.0f} x {height:.0f} pixels at {dpi} dpi; lower the dpi")
        return np.array(sheet.render(scale=dpi / 72, rev_byteorder=True).to_numpy()[:, :, :3])


@contextmanager
def opened_pdf(path: Path) -> Iterator[pypdfium2.PdfDocument]:
    try:
        import pypdfium2
    except ImportError:
        raise ImageError(f"{path}: PDF pages need pypdfium2: {_extras.install('pdf')}") from None
    with one_line(path, "not a readable PDF"):
        try:
            document = pypdfium2.PdfDocument(path)
        except pypdfium2.PdfiumError as error:
            if "password" in str(error):
                raise ImageError("the PDF is encrypted; remove its password first") from None
            raise
    with document:
        yield document
