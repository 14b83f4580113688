"""The images in files of requests: JSON Lines, as clients of an OpenAI-compatible server write them."""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelprune.cli import _common as common
from pixelprune.cli._sheets import Problem
from pixelprune.images.errors import ImageError, is_address, refuse_address

SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Attachment:
    """An image of a request.

    Attributes:
        path: the file of requests.
        line, number: the line of the request, and which of its images this is, both counted from 1.
        url: data, or where the image is.
        offset: how far into the file the line ends, 0 to 1.
    """

    path: Path
    line: int
    number: int
    url: str
    offset: float

    @property
    def label(self) -> str:
        """What to call it in messages."""
        return f"{self.path} line {self.line} image {self.number}"

    @contextmanager
    def as_file(self) -> Iterator[Path]:
        """A file that holds the image; what is in the request itself is written to a temporary one.

        Raises:
            ImageError: it is neither data nor a file of this machine.
        """
        if self.url[:5].lower() != "data:":
            # A path is relative to the file that it stands in.
            url = self.url[7:] if self.url.lower().startswith("file:///") else self.url
            if is_address(url):
                refuse_address(url)
            yield self.path.parent / url
            return
        with tempfile.NamedTemporaryFile(prefix="pixelprune-") as file:
            file.write(_decoded(self.url))
            file.flush()
            yield Path(file.name)


def attachments(path: Path) -> Iterator[Attachment | Problem]:
    """The images of all requests in a file, one line in memory at a time; a bad line is a Problem."""
    found = False
    try:
        with path.open("rb") as file:
            size = max(1, path.stat().st_size)
            for line, text in enumerate(file, 1):
                try:
                    urls = _urls(text) if text.strip() else []
                except ValueError as error:
                    found = True
                    yield Problem(f"{path} line {line}: {error}")
                    continue
                for number, url in enumerate(urls, 1):
                    found = True
                    yield Attachment(path, line, number, url, min(1.0, file.tell() / size))
    except OSError as error:
        yield Problem(common.describe(error))
        return
    if not found:
        yield Problem(f"{path}: no image in these requests; a part of type image_url holds one")


def _urls(text: bytes) -> list[str]:
    """The images of one request, in order.

    Raises:
        ValueError: it is not one.
    """
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    if isinstance(request, dict) and isinstance(request.get("body"), dict):
        request = request["body"]  # a line of a batch
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
        raise ValueError("not a request: it must be an object with a list of 'messages'")
    contents = (message.get("content") for message in request["messages"] if isinstance(message, dict))
    parts = (part for content in contents if isinstance(content, list) for part in content)
    return [_url(part) for part in parts if isinstance(part, dict) and part.get("type") == "image_url"]


def _url(part: dict[str, Any]) -> str:
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str) or not url:
        raise ValueError(f"image_url must hold a url, got {str(image)[:40]!r}")
    return url


def _decoded(url: str) -> bytes:
    header, comma, data = url.partition(",")
    if not comma or not header.lower().endswith(";base64"):
        raise ImageError(f"data of an image must be base64, got {header[:40]!r}")
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:  # data that is not ASCII is one, too
        count = f"{len(data):,} character{' that is' if len(data) == 1 else 's that are'}"
        raise ImageError(f"data of an image must be base64, got {count} not") from None
