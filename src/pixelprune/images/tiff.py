"""Directories of a TIFF: which of them are pages, and corrections where Pillow takes what they say wrongly."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pixelprune.images.errors import ImageError

NEW_KIND, KIND, BITS, PHOTOMETRIC, FILL_ORDER, SAMPLES, PLANAR, SAMPLE_FORMAT = 254, 255, 258, 262, 266, 277, 284, 339
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
SIGNED, FLOATING = 2, 3
TOGETHER, SEPARATE = 1, 2

_SHORT, _LONG = 3, 4
_THUMBNAIL_OR_MASK = 0b101
_OLD_THUMBNAIL = 2


@dataclass
class Tiff:
    """A TIFF that Pillow can open.

    Attributes:
        file: its bytes, corrected.
        frames: the directories that are pages: neither thumbnails nor masks.
        inverted: the directories that say black is zero, where the file says that white is.
    """

    file: BinaryIO
    frames: list[int] = field(default_factory=lambda: [0])
    inverted: set[int] = field(default_factory=set)


def opened(path: Path) -> Tiff:
    """Open a TIFF for Pillow.

    Pillow knows white-is-zero for few kinds of deep samples. It also takes a picture of one sample per
    pixel apart that is marked as separate planes, where the mark means nothing.

    Raises:
        ImageError: it is a big-endian BigTIFF, which Pillow takes for damaged.
    """
    patches: dict[int, bytes] = {}
    tiff = Tiff(path.open("rb"))
    if tiff.file.read(4) == b"MM\0+":
        tiff.file.close()
        raise ImageError("a big-endian BigTIFF is not supported; convert it to PNG first")
    with suppress(Exception):  # what is damaged is said when its page is read
        for frame, directory in enumerate(_directories(tiff.file)):
            if frame and not _is_auxiliary(directory):
                tiff.frames.append(frame)
            if _number(directory, SAMPLES, 1) != 1:
                continue
            if _number(directory, PLANAR, TOGETHER) == SEPARATE:
                patches.update(directory[PLANAR].replaced(TOGETHER))
            if _number(directory, PHOTOMETRIC, BLACK_IS_ZERO) == WHITE_IS_ZERO and _number(directory, BITS, 1) > 8:
                patches.update(directory[PHOTOMETRIC].replaced(BLACK_IS_ZERO))
                tiff.inverted.add(frame)
    tiff.file.seek(0)
    if patches:
        tiff.file = io.BufferedReader(_Patched(tiff.file, patches))
    return tiff


def described(path: Path) -> str:
    """What is in the first directory, in words; empty if it cannot be read."""
    with suppress(Exception), path.open("rb") as file:
        directory = next(_directories(file))
        samples, bits = _number(directory, SAMPLES, 1), _number(directory, BITS, 1)
        name = {SIGNED: "signed ", FLOATING: "floating point "}.get(_number(directory, SAMPLE_FORMAT, 1), "")
        order = "big" if _byte_order(file) == ">" else "little"
        return f"{order}-endian TIFF with {samples} {name}{bits}-bit sample{'' if samples == 1 else 's'} per pixel"
    return ""


class _Entry(NamedTuple):
    """A field of a directory: the byte order, where its value stands, its type, how many there are, and the first."""

    order: str
    position: int
    type: int
    value: int

    def replaced(self, value: int) -> dict[int, bytes]:
        """The bytes to write, and where."""
        return {self.position: struct.pack(self.order + ("H" if self.type == _SHORT else "I"), value)}


_Directory = dict[int, _Entry]


def _number(directory: _Directory, tag: int, default: int) -> int:
    return directory[tag].value if tag in directory else default


def _is_auxiliary(directory: _Directory) -> bool:
    """Whether a directory holds a thumbnail or a mask of another one."""
    return bool(_number(directory, NEW_KIND, 0) & _THUMBNAIL_OR_MASK) or _number(directory, KIND, 0) == _OLD_THUMBNAIL


def _byte_order(file: BinaryIO) -> str:
    file.seek(0)
    return "<" if file.read(2) == b"II" else ">"


def _directories(file: BinaryIO) -> Iterator[_Directory]:
    """All directories, as far as they can be followed; Pillow would stop at the first one that it cannot decode."""
    order = _byte_order(file)
    big = struct.unpack(order + "H", file.read(2)) == (43,)
    count, entry, pointer = (order + code for code in (("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")))

    def at(position: int, code: str) -> tuple[int, ...]:
        file.seek(position)
        return struct.unpack(code, file.read(struct.calcsize(code)))

    (offset,) = at(8 if big else 4, pointer)
    done: set[int] = set()
    while offset and offset not in done:
        done.add(offset)
        position = offset + struct.calcsize(count)
        directory: _Directory = {}
        for _ in range(at(offset, count)[0]):
            tag, kind, number, _ = at(position, entry)
            value = position + struct.calcsize(entry) - struct.calcsize(pointer)
            position += struct.calcsize(entry)
            if kind in (_SHORT, _LONG):
                code = order + ("H" if kind == _SHORT else "I")
                if number * struct.calcsize(code) > struct.calcsize(pointer):
                    (value,) = at(value, pointer)
                directory[tag] = _Entry(order, value, kind, at(value, code)[0])
        (offset,) = at(position, pointer)
        yield directory


class _Patched(io.RawIOBase):
    """A file with some bytes replaced, without a copy of the rest."""

    def __init__(self, file: BinaryIO, patches: dict[int, bytes]) -> None:
        self._file, self._patches = file, patches

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        start = self._file.tell()
        data = bytearray(self._file.read(len(buffer)))
        for position, replacement in self._patches.items():
            for at, byte in enumerate(replacement, position - start):
                if 0 <= at < len(data):
                    data[at] = byte
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
