"""What the commands share: options, and how results and errors are printed."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pixelprune._checkpoints import check_checkpoint
from pixelprune.cli import EXIT_INPUT
from pixelprune.images import sizes
from pixelprune.selection.config import PruneConfig, option_help
from pixelprune.selection.errors import OptionError

# A file or a pipe gets all the width that a table needs.
_width = None if sys.stdout.isatty() else 200
out = Console(width=_width, emoji=False, highlight=False)
err = Console(stderr=True, emoji=False, highlight=False)

# Text, not Path: typer would refuse the whole command for one path that it cannot read.
Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Images, PDFs, or folders; folders are searched recursively, hidden files are skipped.",
        show_default=False,
    ),
]
Model = Annotated[
    str, typer.Option(metavar="NAME", help=f"Model whose image and block sizes to use: {', '.join(sizes.names())}.")
]
Dpi = Annotated[int, typer.Option(min=1, metavar="DPI", help="Resolution at which PDF pages are rendered.")]
Transparency = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What is seen of transparent pixels: white, as when an image or a request is handed over; or ignore, "
        "as when transformers reads a path itself, and shows the colors stored below.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

# The options of `PruneConfig`, under the names of its fields.
Threshold = Annotated[float, typer.Option(help=option_help("threshold"))]
Metric = Annotated[str, typer.Option(metavar="NAME", help=option_help("metric"))]
Predictor = Annotated[str, typer.Option(metavar="NAME", help=option_help("predictor"))]
MaxTokens = Annotated[int | None, typer.Option(metavar="COUNT", help=option_help("max_tokens"))]
MaxThreshold = Annotated[float, typer.Option(help=option_help("max_threshold"))]
Restore = Annotated[float, typer.Option(help=option_help("restore"))]
MinTokens = Annotated[int | None, typer.Option(metavar="COUNT", help=option_help("min_tokens"))]


def printable(text: str) -> str:
    """`text` on one line, with control characters spelled out and markup made harmless."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))


def print_error(line: str) -> None:
    """One line on the error stream, whatever characters it holds."""
    err.print(f"[bold red]error:[/] {printable(line)}", soft_wrap=True)


def print_warning(line: str) -> None:
    """One line on the error stream about what does not stop the command."""
    err.print(f"[bold yellow]warning:[/] {printable(line)}", soft_wrap=True)


def refuse(error: Exception) -> NoReturn:
    """Print one line and stop: the command line itself cannot be carried out."""
    print_error(describe(error))
    raise typer.Exit(EXIT_INPUT)


def describe(error: Exception) -> str:
    """What a person at a command line should read of an error."""
    if isinstance(error, OptionError):
        return error.worded(as_typed(error.option))
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def check_bound(config: PruneConfig, *, given: bool) -> None:
    """Raise an OptionError if --max-threshold is given without the budget that it limits: it would do nothing."""
    if given and config.max_tokens is None:
        raise OptionError(
            "max_threshold",
            f"must come with --max-tokens, the budget that it limits, got {config.max_threshold:g} alone",
            "set --threshold to change what is dropped",
        )


def check_served_model(name: str | None) -> None:
    """End the command if --model is nothing that vLLM could load: vLLM's words for that have no way out."""
    if name is None:
        return
    try:
        check_checkpoint("model", name, others=("params.json", ".gguf"))
    except OptionError as error:
        refuse(error)


def as_typed(option: str) -> str:
    """An option as it stands on a command line: "max_tokens" is --max-tokens."""
    return "--" + option.replace("_", "-")


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
    """Load the compiled code, so that its loading is not counted as time of an image."""
    from pixelprune.selection import _native

    waiting = nullcontext() if _native.is_stored() else err.status("Compiling the kernels…")
    with waiting:
        _native.scan_function()
