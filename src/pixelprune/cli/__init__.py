"""The `pixelprune` command."""

from __future__ import annotations

import os
import sys

EXIT_BROKEN = 1
EXIT_INPUT = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Entry point of the console script: whatever goes wrong is one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal or a pipe that cannot show τ shows "?" instead.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        from pixelprune.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except OSError as error:
        print(f"error: {error.strerror or error}", file=sys.stderr)  # noqa: T201, rich may be what failed
        # Python would flush the broken stream once more on its way out.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_INPUT)
