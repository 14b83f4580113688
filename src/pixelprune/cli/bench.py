"""`pixelprune bench`: measurements that anyone can repeat."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from pixelprune.bench import select as selecting
from pixelprune.bench._timing import machine
from pixelprune.cli import EXIT_INPUT
from pixelprune.cli import _common as common
from pixelprune.cli.bench_serve import bench_serve
from pixelprune.images.files import ImageError, load_image
from pixelprune.images.samples import SAMPLES, sample_path

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
            "machine": machine(),
            "milliseconds": {str(side): selecting.bench_select(page, side, rounds) for side in selecting.SIDES},
            "threads": selecting.bench_threads(page),
            "startup_milliseconds": selecting.bench_startup(),
        }
    if as_json:
        common.print_json(result)
    else:
        _print(result)


Picture = Annotated[
    Path | None, typer.Option(metavar="PATH", help="The page to resize and process; default: the sample page.")
]


@app.command("processor")
def bench_processor(
    image: Picture = None,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds at the largest size; the median counts.")] = 9,
    as_json: common.AsJson = False,
) -> None:
    """Time the image processor of Qwen3-VL, stock against pruned: a page, a screen, a photograph."""
    page = _page(image)
    from pixelprune.bench.processor import bench_processor, processor_pictures

    pictures = processor_pictures(page, load_image(sample_path("screen")))
    with common.err.status("Measuring…"):
        result = {"machine": _machine(), "pictures": bench_processor(pictures, rounds=rounds)}
    if as_json:
        common.print_json(result)
        return
    rows = [
        [
            f"{name} {side}²",
            f"{case['stock_ms']:.1f}",
            f"{case['pruned_ms']:.1f}",
            f"{case['stock_ms'] / case['pruned_ms']:.2f} ×",
            f"{case['stock_bytes'] / 1e6:.0f}",
            f"{case['pruned_bytes'] / 1e6:.0f}",
            f"{case['retain_ratio']:.3f}",
        ]
        for name, sides in result["pictures"].items()
        for side, case in sides.items()
    ]
    headings = ("stock ms", "pruned ms", "faster", "stock MB", "pruned MB", "retained")
    title = f"Image processor of Qwen3-VL, τ = 0, median, one thread; {_where(result)}"
    common.print_table(title, [("", "left"), *((name, "right") for name in headings)], rows, [])


@app.command("prefill")
def bench_prefill(
    image: Picture = None,
    depth: Annotated[int, typer.Option(min=1, help="Layers of the encoder, and of the language model.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; the median counts.")] = 3,
    as_json: common.AsJson = False,
) -> None:
    """Time encoder and prefill of a random model as wide as Qwen3-VL-2B, all tokens against kept ones.

    Minutes on a CPU. The last column is the speed-up that counted floating-point operations allow.
    """
    page = _page(image)
    from pixelprune.bench.prefill import bench_prefill

    with common.err.status("Measuring…"):
        sides = bench_prefill(page, depth=depth, rounds=rounds)
        result = {"machine": _machine(), "depth": depth, "sides": sides}
    if as_json:
        common.print_json(result)
        return
    rows = [
        [
            f"{side}², {case['tokens']:,} → {case['kept']:,} tokens",
            part,
            f"{case[part]['full']:.2f}",
            f"{case[part]['pruned']:.2f}",
            f"{case[part]['speed_up']:.2f} ×",
            f"{case[part]['flops']:.2f} ×",
        ]
        for side, case in sides.items()
        for part in ("vision", "language")
    ]
    title = f"Widths of Qwen3-VL-2B, {depth} layers instead of 24 and 28, τ = 0, median s; {_where(result)}"
    headings = ("full", "pruned", "faster", "by operations")
    common.print_table(title, [("", "left"), ("part", "left"), *((n, "right") for n in headings)], rows, [])


@app.command("train")
def bench_train(
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="A picture to resize and train on, repeatable. Default: the samples."),
    ] = None,
    side: Annotated[
        list[int] | None,
        typer.Option(metavar="PIXELS", help="Multiples of 32 from 256 on, repeatable. Default: 512 and 1024."),
    ] = None,
    depth: Annotated[int, typer.Option(min=1, help="Layers of the encoder, and of the language model.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds; the median counts.")] = 3,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, in float32, or cuda, in bfloat16.")] = "cpu",
    as_json: common.AsJson = False,
) -> None:
    """Time and memory of a training step of a random model as wide as Qwen3-VL-2B, all tokens against kept ones.

    Minutes on a CPU. The last columns are the speed-up that counted floating-point operations allow, and how far the
    measured one is from it. A photograph is measured too, of which nothing can be dropped.
    """
    _check_extra()
    paths = image or [sample_path(name) for name in SAMPLES]
    names = [str(path) if image and len(paths) > 1 else path.name if image else path.stem for path in paths]
    try:
        pictures = {name: load_image(path) for name, path in zip(names, paths, strict=True)}
    except ImageError as error:
        common.refuse(error)
    common.prepare_kernels()
    from pixelprune.bench import train as adapter

    asked: dict[str, Any] = {"depth": depth, "rounds": rounds, "device": device}
    try:
        with common.err.status("Measuring…") as status:
            measured = adapter.bench_train(pictures, side or adapter.SIDES, tell=status.update, **asked)
    except ValueError as error:
        common.refuse(error)
    result = {"machine": {**_machine(), **adapter.gpu(device)}, **asked, "pictures": measured}
    if as_json:
        common.print_json(result)
        return
    rows = []
    for name, sides in measured.items():
        for length, case in sides.items():
            labels = (f"{name} {length}²", f"{case['tokens']:,} → {case['kept']:,} tokens", "")
            for label, part in zip(labels, ("forward", "backward", "step"), strict=True):
                times = case[part]
                cells = [f"{times['full']:.2f} s", f"{times['pruned']:.2f} s", f"{times['speed_up']:.2f} ×"]
                apart = f"{round(100 * (times['speed_up'] / times['flops'] - 1)):+d} %"
                rows.append([label, part, *cells, f"{times['flops']:.2f} ×", apart])
            memory = case["memory"]
            sizes = [f"{memory[key] / 1e9:.2f} GB" for key in ("full", "pruned")]
            rows.append(["", "memory", *sizes, f"{memory['saving']:.2f} ×", "", ""])
    title = f"Widths of Qwen3-VL-2B, {depth} layers instead of 24 and 28, τ = 0, medians; {_where(result)}"
    headings = ("full", "pruned", "full / pruned", "by operations", "apart")
    common.print_table(title, [("", "left"), ("part", "left"), *((n, "right") for n in headings)], rows, [])


app.command("serve")(bench_serve)


def _check_extra() -> None:
    if not all(find_spec(name) for name in ("torch", "torchvision", "transformers")):
        common.print_error("this needs torch, torchvision and transformers: pip install 'pixelprune[transformers]'")
        raise typer.Exit(EXIT_INPUT)


def _page(image: Path | None) -> Any:
    _check_extra()
    try:
        page = load_image(image or sample_path("page"))
    except ImageError as error:
        common.refuse(error)
    common.prepare_kernels()
    return page


def _machine() -> dict[str, Any]:
    import torch
    import transformers

    return {**machine(), "torch": torch.__version__, "transformers": transformers.__version__}


def _where(result: dict[str, Any]) -> str:
    where = result["machine"]
    return f"{where['cpu']}, {where['date']}"


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
