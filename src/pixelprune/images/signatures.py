"""What a file is by its first bytes, and which files of a folder are images."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import PIL.Image
from PIL import EpsImagePlugin

from pixelprune import _extras
from pixelprune.images.errors import ImageError, one_line

# Readers of PDF look for the header this far into a file.
HEAD_BYTES = 1024

_CONVERT = "convert it to PNG first"
_EXTRACT = "extract its frames as images first"


class Unsupported(NamedTuple):
    """A kind of file that looks like a picture and is not read, with the way out."""

    name: str
    way_out: str
    suffixes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} is not supported; {self.way_out}"


SVG = Unsupported("SVG", "it has no pixels, render it to PNG first", (".svg", ".svgz"))
JPEG_XL = Unsupported("JPEG XL", _CONVERT, (".jxl",))
HEIC = Unsupported("HEIC without pillow-heif", _extras.install("heif"), (".heic", ".heif", ".hif"))
EPS = Unsupported("EPS without Ghostscript", "install Ghostscript, or convert it to PDF first", (".eps", ".ps"))
METAFILE = Unsupported("WMF", _CONVERT, (".wmf", ".emf"))
EXR = Unsupported("OpenEXR", _CONVERT, (".exr",))
RADIANCE = Unsupported("Radiance HDR", _CONVERT, (".hdr",))
XBM = Unsupported("XBM", _CONVERT, (".xbm",))
CURSOR = Unsupported("CUR", _CONVERT, (".cur",))
DATA = Unsupported("scientific data", _CONVERT, (".h5", ".hdf", ".grib", ".bufr"))
VIDEO = Unsupported("video", _EXTRACT, (".mpg", ".mpeg", ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"))

_UNSUPPORTED = (SVG, JPEG_XL, HEIC, EPS, METAFILE, EXR, RADIANCE, XBM, CURSOR, DATA, VIDEO)

# The formats that Pillow recognizes and leaves to a handler, which it does not bring along.
STUBS = {"BUFR": DATA, "GRIB": DATA, "HDF5": DATA, "WMF": METAFILE, "EMF": METAFILE, "MPEG": VIDEO}


def head_of(path: Path) -> bytes:
    """The first bytes of a file.

    Raises:
        ImageError: the file cannot be read, or is empty.
    """
    with one_line(path):
        # Opening a pipe can block forever, and what is read from it is gone.
        if path.exists() and not path.is_file():
            raise ImageError("not a regular file, but a folder, a pipe or a device")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if not head:
            raise ImageError("the file is empty")
    return head


def is_pdf(path: Path, head: bytes) -> bool:
    """Whether a file is a PDF, whatever its name.

    Bytes may stand before the header; an image that happens to hold these letters stays an image.
    """
    start = head.find(b"%PDF-")
    if start < 0:
        return False
    if not head[:start].strip(b"\xef\xbb\xbf\0 \t\r\n"):
        return True
    try:
        with PIL.Image.open(path) as image:
            # TGA has no signature: Pillow takes much for one.
            return image.format == "TGA"
    except Exception:
        return True


def is_tiff(head: bytes) -> bool:
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def is_heif(head: bytes) -> bool:
    brands = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
    return head[4:8] == b"ftyp" and head[8:12] in brands


def is_lossy(path: Path) -> bool:
    """Whether a file is a JPEG, or a WebP, HEIC or AVIF, whose compression has changed pixels.

    A WebP is not if it is of the lossless kind. A PDF is not, whatever the pictures in it are.

    Raises:
        ImageError: the file cannot be read.
    """
    head = head_of(path)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _is_lossy_webp(path)
    return head.startswith(b"\xff\xd8\xff") or is_heif(head) or head[4:12] in (b"ftypavif", b"ftypavis")


def _is_lossy_webp(path: Path) -> bool:
    with one_line(path), path.open("rb") as file:
        file.seek(12)
        while len(header := file.read(8)) == 8:
            name, length = header[:4], int.from_bytes(header[4:], "little")
            if name == b"VP8L":
                return False
            if name == b"VP8 ":
                return True
            # Frames of an animation hold chunks themselves, after 16 bytes.
            file.seek(16 if name == b"ANMF" else length + length % 2, 1)
    return False


def unsupported(head: bytes) -> Unsupported | None:
    """The kind of a file that Pillow does not recognize, if it is one that we can name."""
    if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")):
        return JPEG_XL
    if head.startswith(b"\x76\x2f\x31\x01"):
        return EXR
    if head.startswith((b"#?RADIANCE", b"#?RGBE")):
        return RADIANCE
    if head[4:8] == b"ftyp" or head.startswith(b"\x1a\x45\xdf\xa3") or head[:4] + head[8:12] == b"RIFFAVI ":
        return VIDEO
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text):
        return SVG
    return None


def is_image_name(suffix: str) -> bool:
    """Whether files of a folder with this suffix, in lower case, are read."""
    return suffix in _read_suffixes()


def unsupported_name(suffix: str) -> Unsupported | None:
    """The kind of file that has this suffix, in lower case, if it looks like a picture and is not read."""
    if is_image_name(suffix):
        return None
    return next((kind for kind in _UNSUPPORTED if suffix in kind.suffixes), None)


@cache
def _read_suffixes() -> frozenset[str]:
    suffixes = {*PIL.Image.registered_extensions(), ".pdf"}
    for kind in _UNSUPPORTED:
        suffixes -= set(kind.suffixes)
    if find_spec("pillow_heif"):
        suffixes |= set(HEIC.suffixes)
    if EpsImagePlugin.has_ghostscript():
        suffixes |= set(EPS.suffixes)
    return frozenset(suffixes)
