"""`pixelprune verify`: both propositions of the paper, on the user's own files."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pixelprune.cli import EXIT_BROKEN, EXIT_INPUT, EXIT_INTERRUPTED
from pixelprune.cli import _common as common
from pixelprune.cli._sheets import Reader, Sheet, find_sheets
from pixelprune.images import sizes
from pixelprune.images.errors import ImageError
from pixelprune.selection.config import PruneConfig, option_help
from pixelprune.selection.errors import OptionError
from pixelprune.selection.verify import Check, configs, verify_image


def verify(
    paths: common.Paths,
    model: common.Model = "qwen3-vl",
    threshold: Annotated[
        float, typer.Option(help=f"{option_help('threshold')} Used for Proposition 2; must be above 0.")
    ] = 0.02,
    dpi: common.Dpi = 144,
    as_json: common.AsJson = False,
) -> None:
    """Prove on your own files that nothing is lost, with every predictor and metric.

    Proposition 1: at τ = 0, the image is rebuilt bit for bit from the kept blocks.
    Proposition 2: at any other τ, every block is rebuilt within τ.
    """
    try:
        block = sizes.preset(model).block
        plan = configs(PruneConfig(threshold=threshold).threshold)
        if not threshold:
            raise OptionError("threshold", "must be above 0 here, got 0", "Proposition 1 is always checked at 0")
    except ValueError as error:
        common.refuse(error)
    common.prepare_kernels()
    found = find_sheets(paths)
    sheets, errors = found.sheets, found.errors
    results: list[tuple[Sheet, Check]] = []
    interrupted = False
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    progress = Progress(*columns, console=common.err, transient=True)
    # In a log, a status line would leave an empty line.
    with Reader(model, dpi) as reader, progress if common.err.is_terminal else nullcontext():
        task = progress.add_task("Verifying", total=len(sheets) * len(plan))
        try:
            for sheet in sheets:
                progress.update(task, description=common.printable(sheet.path.name))
                try:
                    _, image = reader.read(sheet)
                    for check in verify_image(image, threshold, block=block):
                        results.append((sheet, check))
                        progress.advance(task)
                except (ImageError, OSError) as error:
                    common.print_error(str(error))
                    errors.append(str(error))
                    progress.advance(task, len(plan))
        except KeyboardInterrupt:
            interrupted = True
    broken = [(sheet, check) for sheet, check in results if not check.holds]
    if as_json:
        common.print_json({**_as_json(results), "errors": errors, "skipped": found.skipped})
    elif results:
        _print(results, plan)
    for sheet, check in broken:
        common.print_error(
            f"{sheet.label}: proposition {check.proposition} does not hold with {check.config.to_json()}"
        )
    if broken:
        raise typer.Exit(EXIT_BROKEN)
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if errors:
        raise typer.Exit(EXIT_INPUT)


def _as_json(results: list[tuple[Sheet, Check]]) -> dict[str, Any]:
    checks = [
        {
            "image": str(sheet.path),
            "page": sheet.page,
            "proposition": check.proposition,
            "config": check.config.to_dict(),
            "largest_error": check.largest_error,
            "holds": check.holds,
        }
        for sheet, check in results
    ]
    return {"holds": bool(results) and all(check.holds for _, check in results), "checks": checks}


def _print(results: list[tuple[Sheet, Check]], plan: list[PruneConfig]) -> None:
    rows = []
    for config in plan:
        checks = [check for _, check in results if check.config == config]
        if not checks:
            continue
        holding = sum(check.holds for check in checks)
        color = "green" if holding == len(checks) else "red"
        rows.append(
            [
                f"{checks[0].proposition}: {'equal' if checks[0].proposition == 1 else 'within τ'}",
                config.predictor,
                config.metric if config.threshold else "",
                f"{config.threshold:g}",
                f"{max(check.largest_error for check in checks):.4g}",
                f"[{color}]{holding} of {len(checks)}[/]",
            ]
        )
    images = len({sheet for sheet, _ in results})
    title = f"{len(results)} checks on {images} image{'' if images == 1 else 's'}"
    left = [(name, "left") for name in ("proposition", "predictor", "metric")]
    common.print_table(title, [*left, *((name, "right") for name in ("τ", "largest error", "holds"))], rows, [])
