"""What the commands share: options, and how results and errors are put on the screen."""

from __future__ import annotations

import json
import re
import sys
from contextlib import nullcontext
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pixelprune.cli import EXIT_INPUT
from pixelprune.images import sizes
from pixelprune.selection import predictors
from pixelprune.selection.metrics import METRICS

# A file or a pipe gets all the width that a table needs.
_width = None if sys.stdout.isatty() else 200
out = Console(width=_width, emoji=False, highlight=False)
err = Console(stderr=True, emoji=False, highlight=False)

# Text, not Path: typer would refuse the whole command for one path that it cannot read.
Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Images, PDFs, or folders, which are searched with all subfolders (hidden files are passed over).",
        show_default=False,
    ),
]
Model = Annotated[str, typer.Option(help=f"Whose image size and block size to use: {', '.join(sizes.names())}.")]
Metric = Annotated[str, typer.Option(help=f"How the distance of two blocks is measured: {', '.join(METRICS)}.")]
Predictor = Annotated[
    str, typer.Option(help=f"The rule that predicts a block from earlier ones: {', '.join(predictors.names())}.")
]
Dpi = Annotated[int, typer.Option(min=1, help="Resolution at which PDF pages are rendered.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


_ARGUMENTS = r"(?<![\w-])(max_tokens|max_threshold|threshold|metric|predictor|model)\b"


def printable(text: str) -> str:
    """`text` on one line, with control characters spelt out and markup made harmless."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def print_error(line: str) -> None:
    """One line on the error stream, whatever characters it holds."""
    err.print(f"[bold red]error:[/] {printable(line)}", soft_wrap=True)


def refuse(error: Exception) -> NoReturn:
    """Print one line and stop: the command line itself cannot be carried out."""
    print_error(as_typed(describe(error)))
    raise typer.Exit(EXIT_INPUT)


def as_typed(line: str) -> str:
    """A sentence of the library, which speaks of its arguments and to people who write Python, about options."""
    line = line.replace(", or None for no budget", "").partition("; add your own")[0]
    return re.sub(_ARGUMENTS, lambda name: "--" + name[0].replace("_", "-"), line)


def describe(error: Exception) -> str:
    """What a person should read of an error."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def print_json(value: Any) -> None:
    """JSON on the output stream, and nothing else there."""
    typer.echo(json.dumps(value, indent=2))


def print_table(title: str, columns: list[tuple[str, str]], rows: list[list[str]], footer: list[str]) -> None:
    """Print a table: `columns` are headings and alignments, `footer` a last row of totals or empty."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for name, justify in columns:
        if justify == "right":
            table.add_column(name, justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    if footer:
        table.add_section()
        table.add_row(*footer)
    out.print(table)


def prepare_kernels() -> None:
    """Load the compiled code, so that no image is charged for it."""
    from pixelprune.selection import _native

    waiting = nullcontext() if _native.is_stored() else err.status("Compiling the kernels, once on this machine…")
    with waiting:
        _native.scan_function()
