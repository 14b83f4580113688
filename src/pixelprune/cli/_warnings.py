"""What libraries warn about while a file is read, as lines that name the file."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import PIL.Image

from pixelprune.cli import _common as common

# These report through `logging` too; both write to the error stream unless somebody listens.
_LIBRARIES = ("PIL", "pypdfium2")


class _Collector(logging.Handler):
    def __init__(self, texts: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._texts = texts

    def emit(self, record: logging.LogRecord) -> None:
        self._texts.append(record.getMessage())


@contextmanager
def about(label: str, warn: Callable[[str], None] = common.print_warning) -> Iterator[None]:
    """Print each distinct warning of the libraries that read files as one line that begins with `label`."""
    texts: list[str] = []
    handler = _Collector(texts)
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        # Large images are what this is for; what is too large is an error.
        texts += [str(w.message) for w in caught if not issubclass(w.category, PIL.Image.DecompressionBombWarning)]
        for text in dict.fromkeys(" ".join(text.split()) for text in texts):
            warn(f"{label}: {text}")
