"""`pixelprune bench`: measurements that anyone can repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pixelprune._extras import install, missing
from pixelprune.bench import select as selection
from pixelprune.bench._timing import machine
from pixelprune.cli import EXIT_INPUT
from pixelprune.cli import _common as common
from pixelprune.cli._tables import print_result
from pixelprune.cli.bench_serve import Images, Rounds, bench_serve, load_named
from pixelprune.images.samples import SAMPLES, sample_path

app = typer.Typer(
    no_args_is_help=True,
    help="Measure what a selection costs, and what pruning saves in an image processor, a prefill, a training step "
    "and a vLLM server.",
)

Page = Annotated[Path | None, typer.Option(metavar="PATH", help="The page to measure; default: the sample page.")]
Sides = Annotated[
    list[int] | None,
    typer.Option("--side", metavar="PIXELS", help="Multiples of 32, at least 256, repeatable; default: a few."),
]
Device = Annotated[str, typer.Option(metavar="NAME", help="cpu (float32) or cuda (bfloat16).")]
Depth = Annotated[int, typer.Option(min=1, help="Layers in the encoder, and in the language model.")]


@app.callback()
def _bench() -> None:
    pass


@app.command("select")
def bench_select(
    image: Page = None,
    rounds: Annotated[int, typer.Option(min=3, help="Timed rounds; medians are shown.")] = 21,
    as_json: common.AsJson = False,
) -> None:
    """Time a selection against copying the image and, if torch is installed, against float torch code."""
    page = _page(image)
    with common.err.status("Measuring…"):
        result = {
            "machine": machine(),
            "milliseconds": {str(side): selection.bench_select(page, side, rounds) for side in selection.SIDES},
            "threads": selection.bench_threads(page),
            "startup_milliseconds": selection.bench_startup(),
        }
    print_result(result, selection.table, as_json)


@app.command("processor")
def bench_processor(image: Page = None, rounds: Rounds = 9, as_json: common.AsJson = False) -> None:
    """Time the image processor of Qwen3-VL, stock against pruned, on a page, a screen and a photograph."""
    _require_torch()
    page = _page(image)
    from pixelprune.bench import processor

    pictures = processor.processor_pictures(page, _page(sample_path("screen")))
    with common.err.status("Measuring…"):
        result = {"machine": _machine(), "pictures": processor.bench_processor(pictures, rounds=rounds)}
    print_result(result, processor.table, as_json)


@app.command("prefill")
def bench_prefill(
    image: Page = None,
    side: Sides = None,
    depth: Depth = 2,
    rounds: Rounds = 3,
    device: Device = "cpu",
    as_json: common.AsJson = False,
) -> None:
    """Time the encoder and the prefill of a random model as wide as Qwen3-VL-2B, all tokens against the kept ones.

    Takes minutes on a CPU. The last column is the speed-up expected from FLOPs alone.
    """
    _require_torch()
    page = _page(image)
    from pixelprune.bench import prefill

    try:
        with common.err.status("Measuring…"):
            sides = prefill.bench_prefill(page, side or prefill.SIDES, depth, rounds, device)
    except ValueError as error:
        common.refuse(error)
    print_result({"machine": _machine(device), "depth": depth, "sides": sides}, prefill.table, as_json)


@app.command("train")
def bench_train(
    image: Images = None,
    side: Sides = None,
    depth: Depth = 2,
    rounds: Rounds = 3,
    device: Device = "cpu",
    as_json: common.AsJson = False,
) -> None:
    """Measure time and memory of a training step of a random model as wide as Qwen3-VL-2B, all tokens against kept.

    Takes minutes on a CPU. A photograph is added, from which nothing can be dropped.
    The last columns are the speed-up expected from FLOPs alone, and the deviation from it.
    """
    _require_torch()
    pictures = load_named(image) if image else {name: _page(sample_path(name)) for name in SAMPLES}
    common.prepare_kernels()
    from pixelprune.bench import train

    options: dict[str, Any] = {"depth": depth, "rounds": rounds, "device": device}
    try:
        with common.err.status("Measuring…") as status:
            measured = train.bench_train(pictures, side or train.SIDES, on_progress=status.update, **options)
    except ValueError as error:
        common.refuse(error)
    print_result({"machine": _machine(device), **options, "pictures": measured}, train.table, as_json)


app.command("serve")(bench_serve)


def _require_torch() -> None:
    if absent := missing("torch", "torchvision", "transformers"):
        common.print_error(f"this needs {', '.join(absent)}: {install('transformers')}")
        raise typer.Exit(EXIT_INPUT)


def _page(path: Path | None) -> Any:
    (image,) = load_named([str(path or sample_path("page"))]).values()
    common.prepare_kernels()
    return image


def _machine(device: str = "cpu") -> dict[str, Any]:
    from pixelprune.bench._devices import gpu

    return {**machine("torch", "transformers"), **gpu(device)}
