"""What can be wrong with a file, as one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import PIL.Image

# Pillow refuses more with an error; pages of a PDF are held to the same bound.
MAX_PIXELS = 2 * 89_478_485


class ImageError(ValueError):
    """A file that cannot be shown to a model; the text is one line that says why."""


@contextmanager
def one_line(path: Path | str, problem: str = "") -> Iterator[None]:
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
        text = by_system or _described(error)
        reason = problem or " ".join(text.split())
        raise ImageError(f"{path}: {reason}") from None


# Two letters at least, so that C:/a.png is a path; of two slashes, `Path` leaves one.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/|data:", re.IGNORECASE)


def is_address(text: str) -> bool:
    """Whether a text is a URL, and no file has this name.

    Example:
        >>> is_address("https://example.com/page.png"), is_address("pages/page.png")
        (True, False)
    """
    if not _ADDRESS.match(text):
        return False
    with suppress(OSError):  # such as a name that is too long
        return not Path(text).exists()
    return True


def refuse_address(text: str) -> None:
    """Raise an ImageError for a URL: none is fetched."""
    if not is_address(text):
        return
    scheme = text.partition(":")[0].lower()
    if scheme == "data":
        raise ImageError(f"{text[:40]}…: data in an address is not read; save it as a file and pass the path")
    if scheme == "file":
        raise ImageError(f"{text}: an address, not a path; leave out file://")
    raise ImageError(f"{text}: addresses are not fetched; download the file and pass its path")


def _described(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, KeyError):  # such as the number of a compression
        return f"not supported: it holds a value that Pillow does not know ({text})"
    if text.lower().startswith(("unsupported", "unimplemented", "unknown", "cannot load")):
        return f"not supported: {text}"
    return f"damaged image: {text}"


def refuse_single_pixel(size: tuple[int, int]) -> None:
    """Raise an ImageError for an image of one pixel."""
    if size == (1, 1):
        raise ImageError("a single pixel leaves nothing to predict or to prune")
