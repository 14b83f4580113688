"""`pixelprune show`: what would be kept of an image, in figures and as a picture."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from pixelprune import models
from pixelprune.cli import _common as common
from pixelprune.config import PruneConfig
from pixelprune.images import ImageError
from pixelprune.overlay import overlay
from pixelprune.selection import largest_error, select


def show(
    paths: common.Paths,
    model: common.Model = "qwen3-vl",
    threshold: Annotated[
        float, typer.Option(help="τ, the largest error, in [0, 1] of full scale; 0 drops equal pixels only.")
    ] = PruneConfig.threshold,
    metric: common.Metric = PruneConfig.metric,
    predictor: common.Predictor = PruneConfig.predictor,
    max_tokens: Annotated[
        int | None, typer.Option(help="Keep at most this many: raises τ as far as needed, up to --max-threshold.")
    ] = None,
    max_threshold: Annotated[
        float, typer.Option(help="The largest τ that --max-tokens may lead to.")
    ] = PruneConfig.max_threshold,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the pictures go.")] = Path(
        "overlays"
    ),
    grid: Annotated[bool, typer.Option("--grid", help="Draw the edges of all blocks.")] = False,
    dpi: common.Dpi = 144,
    as_json: common.AsJson = False,
) -> None:
    """Show which blocks of your images are kept, and how many visual tokens that saves.

    Writes one picture per image: kept blocks in colour, dropped ones greyed out.
    """
    try:
        models.preset(model)
        config = PruneConfig(threshold, metric, predictor, max_tokens, max_threshold)
        output.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        common.refuse(error)
    common.prepare_kernels()
    sheets, errors = common.sheets(paths)
    rows: list[dict[str, Any]] = []
    interrupted = False
    for line in errors:
        common.print_error(line)
    with common.err.status("") as status:
        for sheet, name in common.numbered(sheets):
            status.update(f"{escape(sheet.label)}  ({len(rows) + 1} of {len(sheets)})")
            try:
                rows.append(_row(sheet, model, config, dpi, grid, output / f"{name}.png"))
            except (ImageError, OSError) as error:
                common.print_error(str(error))
                errors.append(str(error))
            except KeyboardInterrupt:
                interrupted = True
                break
    if as_json:
        common.print_json({"config": config.to_dict(), "model": model, "images": rows, "errors": errors})
    elif rows:
        _print(rows, model, config, output)
    if interrupted:
        raise typer.Exit(common.EXIT_INTERRUPTED)
    if errors:
        raise typer.Exit(common.EXIT_INPUT)


def _row(sheet: common.Sheet, model: str, config: PruneConfig, dpi: int, grid: bool, picture: Path) -> dict[str, Any]:
    size, image = sheet.load(model, dpi)
    start = time.perf_counter()
    selection = select(image, config, block=models.preset(model).block)
    milliseconds = 1e3 * (time.perf_counter() - start)
    overlay(image, selection, grid=grid).save(picture)
    return {
        "image": str(sheet.path),
        "page": sheet.page,
        "width": size[1],
        "height": size[0],
        "model_width": image.shape[1],
        "model_height": image.shape[0],
        "tokens": selection.total,
        "kept": selection.kept,
        "retain_ratio": selection.retain_ratio,
        "threshold": selection.threshold,
        "budget_met": selection.budget_met,
        "largest_error": largest_error(image, selection, config.metric),
        "milliseconds": milliseconds,
        "overlay": str(picture),
    }


def _print(rows: list[dict[str, Any]], model: str, config: PruneConfig, output: Path) -> None:
    right: dict[str, Any] = {"justify": "right", "no_wrap": True}
    table = common.new_table(
        f"What {model} would see, {config.predictor}, {config.metric}",
        ("image", {"overflow": "fold"}),
        ("size", right),
        ("model size", right),
        ("tokens", right),
        ("kept", right),
        ("retain ratio", right),
        ("τ", right),
        ("largest error", right),
        ("ms", right),
    )
    for row in rows:
        label = row["image"] if row["page"] is None else f"{row['image']} page {row['page']}"
        table.add_row(
            escape(label),
            f"{row['width']} × {row['height']}",
            f"{row['model_width']} × {row['model_height']}",
            f"{row['tokens']:,}",
            f"{row['kept']:,}" if row["budget_met"] else f"[red]{row['kept']:,}[/]",
            f"[bold]{row['retain_ratio']:.3f}[/]",
            f"{row['threshold']:.4g}",
            f"{row['largest_error']:.4g}",
            f"{row['milliseconds']:.2f}",
        )
    if len(rows) > 1:
        tokens, kept = sum(row["tokens"] for row in rows), sum(row["kept"] for row in rows)
        table.add_section()
        total = f"{len(rows)} images"
        table.add_row(total, "", "", f"{tokens:,}", f"{kept:,}", f"[bold]{kept / tokens:.3f}[/]", "", "", "")
    common.print_table(table)
    over = [row for row in rows if not row["budget_met"]]
    if over:
        common.out.print(
            f"[red]{len(over)} over the budget[/] of {config.max_tokens:,} tokens at the largest τ allowed, "
            f"{config.max_threshold:g}; raise --max-threshold to go further.",
            soft_wrap=True,
        )
    common.out.print(f"Pictures in {escape(str(output))}", soft_wrap=True, highlight=False)
