"""`pixelprune show`: what would be kept of an image, in numbers and as a picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pixelprune.cli import EXIT_INPUT, EXIT_INTERRUPTED
from pixelprune.cli import _common as common
from pixelprune.cli._sheets import PICTURE_SUFFIX, Reader, Sheet, find_sheets, longest_name, with_names
from pixelprune.images import sizes
from pixelprune.images.errors import ImageError
from pixelprune.images.modes import check_transparency
from pixelprune.images.overlay import overlay
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.errors import OptionError
from pixelprune.selection.select import largest_error, select

Row = dict[str, Any]


def show(
    context: typer.Context,
    paths: common.Paths,
    model: common.Model = "qwen3-vl",
    threshold: common.Threshold = PruneConfig.threshold,
    metric: common.Metric = PruneConfig.metric,
    predictor: common.Predictor = PruneConfig.predictor,
    max_tokens: common.MaxTokens = PruneConfig.max_tokens,
    max_threshold: common.MaxThreshold = PruneConfig.max_threshold,
    restore: common.Restore = PruneConfig.restore,
    min_tokens: common.MinTokens = PruneConfig.min_tokens,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help=f"Folder for the pictures, NAME{PICTURE_SUFFIX}.")
    ] = Path("overlays"),
    grid: Annotated[bool, typer.Option("--grid", help="Draw the edges of all blocks.")] = False,
    dpi: common.Dpi = 144,
    transparency: common.Transparency = "white",
    as_json: common.AsJson = False,
) -> None:
    """Show which blocks of your images are kept, and how many visual tokens that saves.

    Writes one picture per image: kept blocks in color, dropped blocks grayed out, and blue where a copy comes back.
    For an animation, only the first frame is shown; for a PDF or a TIFF, every page.
    The milliseconds are the time of the selection alone.
    """
    try:
        sizes.preset(model)
        check_transparency(transparency)
        config = PruneConfig(threshold, metric, predictor, max_tokens, max_threshold, restore, min_tokens)
        source = context.get_parameter_source("max_threshold")
        common.check_bound(config, given=source is not None and source.name != "DEFAULT")
    except ValueError as error:
        common.refuse(error)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        common.refuse(OptionError("output", f"must be a folder that can be written to, got {common.describe(error)}"))
    common.prepare_kernels()
    found = find_sheets(paths)
    sheets = found.sheets
    interrupted = False
    with Reader(model, dpi, transparency) as reader, common.err.status("") as status:
        inputs = {sheet.path.resolve() for sheet in sheets}
        batch = _Batch(reader, sizes.preset(model).block, config, grid, output, [], found.errors, inputs)
        for number, (sheet, name) in enumerate(with_names(sheets, longest_name(output)), 1):
            status.update(f"{common.printable(sheet.label)}  ({number} of {len(sheets)})")
            try:
                batch.add(sheet, name)
            except KeyboardInterrupt:
                interrupted = True
                break
    if as_json:
        found_as_json = {"images": batch.rows, "errors": found.errors, "skipped": found.skipped}
        common.print_json({"config": config.to_dict(), "model": model, **found_as_json})
    elif batch.rows:
        _print(batch, model)
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if found.errors:
        raise typer.Exit(EXIT_INPUT)


@dataclass
class _Batch:
    """The run of one command: what to do with each image, and what came of it."""

    reader: Reader
    block: int
    config: PruneConfig
    grid: bool
    output: Path
    rows: list[Row]
    errors: list[str]
    inputs: set[Path]

    def add(self, sheet: Sheet, name: str) -> None:
        """Select from one image and draw it; a failure becomes one line on the error stream."""
        try:
            size, image = self.reader.read(sheet)
        except ImageError as error:
            self._fail(str(error))
            return
        start = time.perf_counter()
        selection = select(image, self.config, block=self.block)
        milliseconds = 1e3 * (time.perf_counter() - start)
        picture = self.output / f"{name}{PICTURE_SUFFIX}"
        drawn = True
        try:
            if picture.resolve() in self.inputs:
                raise OSError("not written, because it is one of the input images")
            overlay(image, selection, grid=self.grid).save(picture)
        except OSError as error:
            drawn = False
            self._fail(f"{picture}: {error.strerror or error}")
        row = {
            "image": str(sheet.path),
            "page": sheet.page,
            "width": size[1],
            "height": size[0],
            "model_width": image.shape[1],
            "model_height": image.shape[0],
            "tokens": selection.total,
            "kept": selection.kept,
            "copies": selection.copies,
            "language_tokens": selection.tokens,
            "retain_ratio": selection.retain_ratio,
            "threshold": selection.threshold,
            "budget_met": selection.budget_met,
            "largest_error": largest_error(image, selection, self.config.metric),
            "milliseconds": milliseconds,
            "overlay": str(picture) if drawn else None,
        }
        self.rows.append(row)

    def _fail(self, line: str) -> None:
        common.print_error(line)
        self.errors.append(line)


# Columns in the order of the table: heading, cell, and the terminal width from which it is shown.
_COLUMNS: tuple[tuple[str, Callable[[Row], str], int], ...] = (
    ("size", lambda row: f"{row['width']} × {row['height']}", 110),
    ("model size", lambda row: f"{row['model_width']} × {row['model_height']}", 104),
    ("tokens", lambda row: f"{row['tokens']:,}", 0),
    ("kept", lambda row: f"{row['kept']:,}" if row["budget_met"] else f"[red]{row['kept']:,} ![/]", 0),
    ("with copies", lambda row: f"{row['language_tokens']:,}", 0),
    ("retain ratio", lambda row: f"[bold]{row['retain_ratio']:.3f}[/]", 0),
    ("τ", lambda row: f"{row['threshold']:.4g}", 70),
    ("largest error", lambda row: f"{row['largest_error']:.4g}", 92),
    ("ms", lambda row: f"{row['milliseconds']:.2f}", 110),
)


def _print(batch: _Batch, model: str) -> None:
    rows, config = batch.rows, batch.config
    copies = config.restore > 0 or config.min_tokens is not None
    columns = [
        (name, cell)
        for name, cell, least in _COLUMNS
        if common.out.width >= least and (copies or name != "with copies")
    ]
    lines = []
    for row in rows:
        label = row["image"] if row["page"] is None else f"{row['image']} page {row['page']}"
        lines.append([common.printable(label), *(cell(row) for _, cell in columns)])
    footer = []
    if len(rows) > 1:
        tokens, kept = sum(row["tokens"] for row in rows), sum(row["kept"] for row in rows)
        totals = {
            "tokens": f"{tokens:,}",
            "kept": f"{kept:,}",
            "with copies": f"{sum(row['language_tokens'] for row in rows):,}",
            "retain ratio": f"[bold]{kept / tokens:.3f}[/]",
        }
        footer = [f"{len(rows)} images", *(totals.get(name, "") for name, _ in columns)]
    title = f"What {model} would see, {config.predictor}, {config.metric}"
    common.print_table(title, [("image", "left"), *((name, "right") for name, _ in columns)], lines, footer)
    over = sum(not row["budget_met"] for row in rows)
    if over:
        common.out.print(
            f"[red]{over} of {len(rows)}[/] (marked !) could not meet --max-tokens {config.max_tokens} "
            f"with τ up to {config.max_threshold:g}; raise --max-threshold"
            + (", or try --metric rmse." if config.metric == "max" else "."),
            soft_wrap=True,
        )
    for row in rows:
        plain = Path(row["image"]).stem + PICTURE_SUFFIX
        if row["overlay"] and row["page"] is None and Path(row["overlay"]).name != plain:
            line = f"{common.printable(row['image'])} is shown in {common.printable(row['overlay'])}"
            common.out.print(line, soft_wrap=True)
    common.out.print(f"Pictures: {common.printable(str(batch.output))}/NAME{PICTURE_SUFFIX}", soft_wrap=True)
