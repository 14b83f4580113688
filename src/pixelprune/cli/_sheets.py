"""From the paths of a command line to the images to work on."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Self

from pixelprune.cli import _common as common
from pixelprune.cli._warnings import about as warnings_about
from pixelprune.images import signatures
from pixelprune.images.errors import ImageError, refuse_address
from pixelprune.images.files import fit_image, load_image, missing_pages, numbered_pages
from pixelprune.images.pages import Pages, opened
from pixelprune.selection._blocks import Image


@dataclass(frozen=True)
class Sheet:
    """One image to work on: a file, or one page of it."""

    path: Path
    page: int | None = None

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return str(self.path) if self.page is None else f"{self.path} page {self.page}"


class Reader:
    """Reads sheets as `model` would see them; a file of many pages stays open until the next file."""

    def __init__(
        self,
        model: str,
        dpi: int,
        transparency: str = "white",
        warn: Callable[[str], None] = common.print_warning,
    ) -> None:
        self._model, self._dpi, self._transparency, self._warn = model, dpi, transparency, warn
        self._stack = ExitStack()
        self._path: Path | None = None
        self._pages: Pages

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(self, sheet: Sheet) -> tuple[tuple[int, int], Image]:
        """Its (height, width) as a file, and the image that the model would see.

        Raises:
            ImageError: it cannot be read, or the model cannot take it.
        """
        with warnings_about(sheet.label, self._warn):
            image = self._load(sheet)
        try:
            return (image.shape[0], image.shape[1]), fit_image(image, self._model)
        except ValueError as error:
            raise ImageError(f"{sheet.label}: {error}") from None

    def _load(self, sheet: Sheet) -> Image:
        if sheet.page is None:
            return load_image(sheet.path, dpi=self._dpi, transparency=self._transparency)
        if sheet.path != self._path:
            self._stack.close()
            self._path = None
            self._pages = self._stack.enter_context(opened(sheet.path))
            self._path = sheet.path
        return self._pages.read(sheet.page, self._dpi, self._transparency)


@dataclass
class Found:
    """What the paths of a command line stand for."""

    sheets: list[Sheet] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    """A line for each path that cannot be used."""
    skipped: list[str] = field(default_factory=list)
    """A line for each folder that holds files of other kinds."""


@dataclass(frozen=True)
class Problem:
    """A line about something that is passed over: an error, or what a folder holds besides images."""

    text: str
    is_error: bool = True


# What `show` calls its pictures; in folders they are skipped.
PICTURE_SUFFIX = ".kept.png"


def find_sheets(paths: list[str]) -> Found:
    """All images that `paths` stand for; what is not one of them is printed.

    Folders are searched recursively, by the suffixes of files; hidden files and folders, links to
    folders, and pictures that `show` made are passed over.
    """
    found = Found()
    for item in chain.from_iterable(map(sheets_of, paths)):
        if isinstance(item, Sheet):
            found.sheets.append(item)
        else:
            (found.errors if item.is_error else found.skipped).append(item.text)
    for line in found.skipped:
        common.print_warning(line)
    for line in found.errors:
        common.print_error(line)
    return found


def sheets_of(path: str) -> Iterator[Sheet | Problem]:
    """The images that one path stands for, one by one; all but the names in a folder is looked up when it is needed."""
    if not path:
        yield Problem("an empty path was given")
        return
    try:
        refuse_address(path)
    except ImageError as error:
        yield Problem(str(error))
        return
    for file in _files(Path(path)):
        if isinstance(file, Problem):
            yield file
        else:
            yield from _pages_of(file)


def count_files(path: str) -> int:
    """How many files `sheets_of` will open, without opening one."""
    return sum(isinstance(file, Path) for file in _files(Path(path))) if path else 0


def _pages_of(file: Path) -> Iterator[Sheet | Problem]:
    try:
        # What a library warns about comes again when the file is read.
        with warnings.catch_warnings(action="ignore"):
            pages = numbered_pages(file)
            missing = missing_pages(file) if pages else []
    except ImageError as error:
        yield Problem(str(error))
        return
    if pages is None:
        yield Sheet(file)
        return
    absent = {*missing}
    yield from (Sheet(file, page) for page in range(1, pages + 1) if page not in absent)
    if missing:
        yield Problem(_not_found(file, missing, pages))


def _not_found(file: Path, missing: list[int], pages: int) -> str:
    return (
        f"{file}: {len(missing):,} of {pages:,} pages cannot be found, the first is page {missing[0]}; the file is "
        "damaged, or its number of pages (/Count) is wrong, which another program corrects when it saves the file"
    )


def _files(path: Path) -> Iterator[Path | Problem]:
    """The image files below a folder, in the order of their paths; `path` itself if it is not a folder."""
    try:
        is_folder = path.is_dir()
    except OSError:  # such as a name that is too long: reading it will report that
        is_folder = False
    if not is_folder:
        yield path
        return
    others: Counter[str] = Counter()
    empty = True
    for entry in _walk(path):
        empty = empty and isinstance(entry, str)
        if isinstance(entry, str):
            others[entry] += 1
        else:
            yield entry
    if others:
        yield Problem(_skipped(path, others), is_error=False)
    if empty:
        yield Problem(f"{path}: no image in this folder")


def _walk(folder: Path) -> Iterator[Path | Problem | str]:
    """Image files below a folder, and for each other file the reason why it is skipped."""
    stack: list[Iterator[os.DirEntry[str] | Problem]] = [_listed(folder)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif isinstance(entry, Problem):
            yield entry
        elif _is_folder(entry):
            if not entry.is_symlink():
                stack.append(_listed(Path(entry.path)))
        elif not entry.name.endswith(PICTURE_SUFFIX):
            suffix = Path(entry.name).suffix.lower()
            kind = signatures.unsupported_name(suffix)
            if signatures.is_image_name(suffix):
                yield Path(entry.path)
            else:
                yield f"{kind.name} ({kind.way_out})" if kind else "not named like an image"


def _listed(folder: Path) -> Iterator[os.DirEntry[str] | Problem]:
    """What is in a folder and not hidden, by name."""
    try:
        with os.scandir(folder) as entries:
            listed = sorted(
                (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name
            )
    except OSError as error:
        yield Problem(common.describe(error))
        return
    yield from listed


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _skipped(folder: Path, reasons: Counter[str]) -> str:
    count = reasons.total()
    listed = ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items(), key=lambda item: -item[1]))
    return f"{folder}: skipped {count:,} file{'' if count == 1 else 's'}: {listed}"


def with_names(sheets: list[Sheet], longest: int = 255) -> Iterator[tuple[Sheet, str]]:
    """Each sheet with a name for what is made from it: its stem, or a longer one if that is taken.

    Args:
        longest: the bytes that a file name may have; names are cut so that PICTURE_SUFFIX fits behind them.
    """
    room = longest - len(PICTURE_SUFFIX)
    taken: set[str] = set()
    numbers: dict[str, Iterator[int]] = {}  # each name goes on counting where it stopped
    for sheet in sheets:
        page = "" if sheet.page is None else f"-page{sheet.page}"
        full = sheet.path.name
        base = _cut(full, page, room)
        counter = numbers.setdefault(base.casefold(), count(2))
        numbered = (_cut(full, f"{page}-{number}", room) for number in counter)
        candidates = chain((_cut(sheet.path.stem, page, room), base), numbered)
        name = next(name for name in candidates if name.casefold() not in taken)
        taken.add(name.casefold())
        yield sheet, name


def longest_name(folder: Path) -> int:
    """The bytes that the name of a file in `folder` may have."""
    try:
        limit = os.pathconf(folder, "PC_NAME_MAX")
    except OSError:
        limit = 0
    return limit if limit > 0 else 255


def _cut(name: str, tail: str, room: int) -> str:
    """`name` and `tail` in at most `room` bytes; whole letters are taken off the end of `name`."""
    while len(os.fsencode(name)) > room - len(tail):
        name = name[:-1]
    return name + tail
