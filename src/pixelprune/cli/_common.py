"""What the commands share: options, files, and how results and errors are put on the screen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import PIL.Image
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pixelprune import models, predictors
from pixelprune._engine import Image
from pixelprune.images import ImageError, fit_image, is_pdf, load_image, page_count
from pixelprune.metrics import METRICS

EXIT_BROKEN = 1
EXIT_INPUT = 2
EXIT_INTERRUPTED = 130

out = Console()
err = Console(stderr=True)

Paths = Annotated[
    list[Path], typer.Argument(metavar="PATH", help="Images, PDFs, or folders of them.", show_default=False)
]
Model = Annotated[str, typer.Option(help=f"Whose image size and block size to use: {', '.join(models.names())}.")]
Metric = Annotated[str, typer.Option(help=f"How the distance of two blocks is measured: {', '.join(METRICS)}.")]
Predictor = Annotated[
    str, typer.Option(help=f"The rule that predicts a block from earlier ones: {', '.join(predictors.names())}.")
]
Dpi = Annotated[int, typer.Option(min=1, help="Resolution at which PDF pages are rendered.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@dataclass(frozen=True)
class Sheet:
    """One image to work on: a file, or one page of a PDF."""

    path: Path
    page: int | None = None

    @property
    def label(self) -> str:
        """How to name it to a person."""
        return str(self.path) if self.page is None else f"{self.path} page {self.page}"

    @property
    def stem(self) -> str:
        """How to begin the name of a file made from it."""
        return self.path.stem if self.page is None else f"{self.path.stem}-page{self.page}"

    def load(self, model: str, dpi: int) -> tuple[tuple[int, int], Image]:
        """Its (height, width) as a file, and the image that `model` would see.

        Raises:
            ImageError: it cannot be read, or the model cannot take it.
        """
        image = load_image(self.path, page=self.page or 1, dpi=dpi)
        try:
            return (image.shape[0], image.shape[1]), fit_image(image, model)
        except ImageError:
            raise
        except ValueError as error:
            raise ImageError(f"{self.path}: {error}") from None


def sheets(paths: list[Path]) -> tuple[list[Sheet], list[str]]:
    """All images that `paths` stand for, and a line for each path that stands for none."""
    found: list[Sheet] = []
    errors: list[str] = []
    for path in paths:
        files = _files(path)
        if not files:
            errors.append(f"{path}: no image in this folder")
        for file in files:
            try:
                pdf = file.is_file() and is_pdf(file)
                found.extend([Sheet(file, page + 1) for page in range(page_count(file))] if pdf else [Sheet(file)])
            except ImageError as error:
                errors.append(str(error))
    return found, errors


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    suffixes = {*PIL.Image.registered_extensions(), ".pdf"}
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())


def print_error(line: str) -> None:
    """One line on the error stream, whatever characters it holds."""
    err.print(f"[bold red]error[/] {escape(' '.join(line.split()))}", soft_wrap=True, highlight=False)


def refuse(line: object) -> NoReturn:
    """Print one line and stop: the command line itself cannot be carried out."""
    print_error(str(line))
    raise typer.Exit(EXIT_INPUT)


def print_json(value: Any) -> None:
    """JSON on the output stream, and nothing else there."""
    typer.echo(json.dumps(value, indent=2))


def new_table(title: str, *columns: tuple[str, dict[str, Any]]) -> Table:
    """An empty table in the house style."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for name, options in columns:
        table.add_column(name, **options)
    return table


def print_table(table: Table) -> None:
    """A table on the output stream; in a file or a pipe it gets all the width that it needs."""
    if out.is_terminal:
        out.print(table)
    else:
        Console(width=200).print(table)


def prepare_kernels() -> None:
    """Load the compiled code, so that no image is charged for it."""
    from pixelprune import _native

    with err.status("Compiling the kernels, once on this machine…"):
        _native.scan_function()


def numbered(sheets: list[Sheet]) -> Iterator[tuple[Sheet, str]]:
    """Each sheet with a name for its output file that no other one has."""
    taken: set[str] = set()
    for sheet in sheets:
        name, copy = sheet.stem, 1
        while name.casefold() in taken:
            copy += 1
            name = f"{sheet.stem}-{copy}"
        taken.add(name.casefold())
        yield sheet, name
