"""Files that are written completely or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a new file, then put it at `path` in one step; if it fails, nothing changes."""
    # A file in a temporary folder gets ordinary permissions; a temporary file does not.
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".pixelprune-") as folder:
            part = Path(folder) / path.name
            with part.open("wb") as file:
                write(file)
            os.replace(part, path)
    except OSError as error:
        # The caller knows `path`, not the name of the part.
        raise type(error)(error.errno, error.strerror or str(error), str(path)) from None
