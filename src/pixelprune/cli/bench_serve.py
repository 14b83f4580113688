"""`pixelprune bench serve`: a stock server of vLLM against one that prunes."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixelprune.cli import EXIT_BROKEN, EXIT_INPUT
from pixelprune.cli import _common as common
from pixelprune.images.files import ImageError, load_image
from pixelprune.selection.config import PruneConfig

if TYPE_CHECKING:
    from pixelprune.selection._blocks import Image


def bench_serve(
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- OPTIONS", help="Options of `vllm serve` for both servers.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A model, by name or folder. Default: random weights as wide as Qwen3-VL-2B, two layers in its "
            "encoder and two in its language model.",
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="A picture to ask about, repeatable. Default: the samples and a synthetic photograph."
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(help="How far blocks may differ that count as the same, in [0, 1].")] = 0,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each picture in each round, two at a time.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, in which the servers take turns; medians count.")] = 3,
    one_after_another: Annotated[
        bool,
        typer.Option("--one-after-another", help="Run one server after the other, where memory does not hold two."),
    ] = False,
    as_json: common.AsJson = False,
) -> None:
    """Put the same pictures to a stock server of vLLM and to one that prunes.

    Minutes on a CPU. Both run at once and take turns, each with 45 % of the memory of the device; to give them less,
    add -- --gpu-memory-utilization 0.2. Exit code 1 if the second one does not prune.
    """
    if not find_spec("vllm"):
        common.print_error("this needs vLLM in the environment of pixelprune: pip install vllm")
        raise typer.Exit(EXIT_INPUT)
    arguments = options or []
    if arguments and not arguments[0].startswith("-"):
        common.print_error(f"options of vLLM stand behind --, and begin with a dash; got {arguments[0]!r}")
        raise typer.Exit(EXIT_INPUT)
    try:
        config = PruneConfig(threshold=threshold)
        pictures = _pictures(image or [])
    except (ImageError, ValueError) as error:
        common.refuse(error)
    # Nobody reads what servers say unless one fails.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from pixelprune.bench._servers import ServerError
    from pixelprune.bench.serve import NotPrunedError, bench_serve

    asked: dict[str, Any] = {"requests": requests, "rounds": rounds, "one_after_another": one_after_another}
    try:
        with _terminable(), common.err.status("Preparing…") as status, _model(model, arguments) as (folder, extra):
            measured = bench_serve(folder, pictures, extra, config=config, tell=status.update, **asked)
    except NotPrunedError as error:
        common.print_error(str(error))
        raise typer.Exit(EXIT_BROKEN) from None
    except (ServerError, ValueError) as error:
        common.print_error(str(error))
        raise typer.Exit(EXIT_INPUT) from None
    about = {"model": model, "options": arguments, "threshold": threshold, **asked}
    result = {"machine": measured["machine"], **about, "pictures": measured["pictures"]}
    if as_json:
        common.print_json(result)
    else:
        _print(result)


@contextmanager
def _model(name: str | None, arguments: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The model to serve, and the options that it is served with."""
    if name is not None:
        yield name, arguments
        return
    from pixelprune._processes import run_in_subprocess
    from pixelprune.bench.serve import STANDIN_OPTIONS
    from pixelprune.standins import save_standin

    with tempfile.TemporaryDirectory() as folder:
        run_in_subprocess(save_standin, Path(folder))
        yield folder, [*STANDIN_OPTIONS, *arguments]


@contextmanager
def _terminable() -> Iterator[None]:
    """Let a signal to end go the way of Ctrl-C, so that no server outlives this process."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _pictures(paths: list[str]) -> dict[str, Image]:
    if paths:
        return {path if len(paths) > 1 else Path(path).name: load_image(path) for path in paths}
    from pixelprune.bench.serve import default_pictures

    return default_pictures()


_ROWS = (
    ("requests_per_second", "requests a second", 1, "{:.2f}"),
    ("first_token_ms", "ms to the first token", 1, "{:,.0f}"),
    ("prompt_tokens", "prompt tokens", 1, "{:,}"),
    ("bytes", "MB between processes", 1e6, "{:.2f}"),
)


def _print(result: dict[str, Any]) -> None:
    rows = []
    for name, case in result["pictures"].items():
        for key, label, unit, form in _ROWS:
            stock, pruned = case["stock"][key], case["pruned"][key]
            cells = [form.format(value / unit if unit != 1 else value) for value in (stock, pruned)]
            title = f"{name}, {case['size'][0]} × {case['size'][1]}"
            rows.append([title if key == _ROWS[0][0] else "", label, *cells, f"{pruned / stock:.2f} ×"])
    machine = result["machine"]
    device = machine["cpu"] if machine["device"] in ("", "cpu") else machine["device"]
    served = result["model"] or "random weights, widths of Qwen3-VL-2B, 2 + 2 layers"
    title = f"vLLM {machine['vllm']}, {served}, τ = {result['threshold']:g}, medians; {device}, {machine['date']}"
    columns = [("", "left"), ("", "left"), *((name, "right") for name in ("stock", "pruned", "pruned / stock"))]
    common.print_table(title, columns, rows, [])
