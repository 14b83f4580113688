"""From the paths of a command line to the images to work on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import PIL.Image

from pixelprune.cli._common import describe
from pixelprune.images.errors import ImageError
from pixelprune.images.files import fit_image, is_pdf, load_image, page_count
from pixelprune.selection._blocks import Image


@dataclass(frozen=True)
class Sheet:
    """One image to work on: a file, or one page of a PDF."""

    path: Path
    page: int | None = None

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return str(self.path) if self.page is None else f"{self.path} page {self.page}"

    def load(self, model: str, dpi: int) -> tuple[tuple[int, int], Image]:
        """Its (height, width) as a file, and the image that `model` would see.

        Raises:
            ImageError: it cannot be read, or the model cannot take it.
        """
        image = load_image(self.path, page=self.page or 1, dpi=dpi)
        try:
            return (image.shape[0], image.shape[1]), fit_image(image, model)
        except ValueError as error:
            raise ImageError(f"{self.label}: {error}") from None


# What `show` calls its pictures; in folders they are skipped.
PICTURE_SUFFIX = ".kept.png"


def find_sheets(paths: list[str]) -> tuple[list[Sheet], list[str]]:
    """All images that `paths` stand for, and a line for each path that cannot be used.

    Folders are searched recursively, by the suffixes of image files; hidden files and folders,
    links to folders, and pictures that `show` made are skipped.
    """
    sheets: list[Sheet] = []
    errors: list[str] = []
    for path in paths:
        if not path:
            errors.append("an empty path was given")
            continue
        for file in _files(Path(path), errors):
            try:
                sheets += [Sheet(file, page + 1) for page in range(page_count(file))] if is_pdf(file) else [Sheet(file)]
            except ImageError as error:
                errors.append(str(error))
    return sheets, errors


def _files(path: Path, errors: list[str]) -> list[Path]:
    """The image files below a folder; `path` itself if it is not a folder."""
    try:
        if not path.is_dir():
            return [path]
    except OSError:  # such as a name that is too long: reading it will report that
        return [path]
    suffixes = {*PIL.Image.registered_extensions(), ".pdf"}
    found: list[Path] = []
    before = len(errors)
    for parent, folders, names in os.walk(path, onerror=lambda error: errors.append(describe(error))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        wanted = [name for name in names if not name.startswith(".") and not name.endswith(PICTURE_SUFFIX)]
        found += [Path(parent, name) for name in wanted if Path(name).suffix.lower() in suffixes]
    if not found and len(errors) == before:
        errors.append(f"{path}: no image in this folder")
    return sorted(found)


def with_names(sheets: list[Sheet]) -> Iterator[tuple[Sheet, str]]:
    """Each sheet with a name for what is made from it: its stem, or a longer one if that is taken."""
    taken: set[str] = set()
    for sheet in sheets:
        page = "" if sheet.page is None else f"-page{sheet.page}"
        for name in _candidates(sheet.path, page):
            if name.casefold() not in taken:
                break
        taken.add(name.casefold())
        yield sheet, name


def _candidates(path: Path, page: str) -> Iterator[str]:
    yield path.stem + page
    yield path.name + page
    number = 2
    while True:
        yield f"{path.name}{page}-{number}"
        number += 1
