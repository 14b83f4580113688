"""`pixelprune bench`: measurements that anyone can repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pixelprune import bench
from pixelprune.cli import _common as common
from pixelprune.images import ImageError, load_image
from pixelprune.samples import sample_path

app = typer.Typer(no_args_is_help=True, help="Measure, side by side in one run.")


@app.callback()
def _bench() -> None:
    pass


@app.command("select")
def bench_select(
    image: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The page to resize and select from; default: the sample page.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=3, help="Timed rounds; the median counts.")] = 21,
    as_json: common.AsJson = False,
) -> None:
    """Time a selection against copying the image, and against float torch code if torch is installed."""
    try:
        page = load_image(image or sample_path("page"))
    except ImageError as error:
        common.refuse(error)
    common.prepare_kernels()
    with common.err.status("Measuring…"):
        result = {
            "machine": bench.machine(),
            "milliseconds": {str(side): bench.bench_select(page, side, rounds) for side in bench.SIDES},
            "threads": bench.bench_threads(page),
            "startup_milliseconds": bench.bench_startup(),
        }
    if as_json:
        common.print_json(result)
    else:
        _print(result)


_LABELS = {
    "copy": "copy of the image",
    "exact": "select, τ = 0",
    "bounded": "select, τ = 0.02",
    "rmse": "select, τ = 0.02, rmse",
    "photo_exact": "select a photograph, τ = 0",
    "photo_bounded": "select a photograph, τ = 0.02",
    "photo_rmse": "select a photograph, τ = 0.02, rmse",
    "torch": "float torch, τ = 0",
    "torch_compare": "float torch, comparing alone",
}


def _print(result: dict[str, Any]) -> None:
    where, sides = result["machine"], result["milliseconds"]
    times = list(sides.values())
    with_torch = all("torch" in t for t in times)
    rows = [
        [label, *(f"{t[name]:.3f}  [dim]{t[name] / t['copy']:>7.2f} ×[/]" for t in times)]
        for name, label in _LABELS.items()
        if name in times[0]
    ]
    if with_torch:
        for name, label in (("exact", "float torch / select, τ = 0"), ("bounded", "float torch / select, τ = 0.02")):
            rows.append([label, *(f"{t['torch'] / t[name]:.0f} ×" for t in times)])
    title = f"Median ms, one thread, and × the copy; {where['cpu']}, {where['date']}"
    common.print_table(title, [("", "left"), *((f"{side}²", "right") for side in sides)], rows, [])
    threads, startup = result["threads"], result["startup_milliseconds"]
    common.out.print(
        f"\n{threads['threads']} threads: {threads['speed_up']:.2f} × the selections of one\n"
        f"import pixelprune: {startup['import']:.0f} ms; first call in a fresh process: {startup['first_call']:.0f} ms"
    )
    if not with_torch:
        common.out.print("torch is not installed, so its rows are left out.")
