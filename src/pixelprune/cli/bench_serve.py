"""`pixelprune bench serve`: a stock vLLM server against one that prunes."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from pixelprune.cli import EXIT_BROKEN, EXIT_INPUT
from pixelprune.cli import _common as common
from pixelprune.cli._tables import print_result
from pixelprune.images.errors import ImageError
from pixelprune.images.files import load_image
from pixelprune.selection._blocks import Image
from pixelprune.selection.config import PruneConfig

# Text, not Path: typer would refuse the whole command for one path that it cannot read.
Images = Annotated[
    list[str] | None,
    typer.Option(metavar="PATH", help="An image to measure, repeatable. Default: the samples and a photograph."),
]
Rounds = Annotated[int, typer.Option(min=1, help="Timed rounds; medians are shown.")]


def bench_serve(
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- OPTIONS", help="Options of `vllm serve` for both servers.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name or folder of a model. Default: random weights as wide as Qwen3-VL-2B, with two layers in the "
            "encoder and two in the language model.",
        ),
    ] = None,
    image: Images = None,
    threshold: common.Threshold = PruneConfig.threshold,
    restore: common.Restore = PruneConfig.restore,
    requests: Annotated[int, typer.Option(min=1, help="Requests per image and round, two at a time.")] = 4,
    rounds: Rounds = 3,
    one_after_another: Annotated[
        bool,
        typer.Option("--one-after-another", help="Run one server after the other, if two do not fit in memory."),
    ] = False,
    as_json: common.AsJson = False,
) -> None:
    """Send the same images to a stock vLLM server and to one that prunes.

    Takes minutes on a CPU. Exit code 1 if the second server does not prune.
    Both run at the same time and get requests in turn, each with 45 % of the device's memory.
    For less memory, add -- --gpu-memory-utilization 0.2.
    """
    common.check_served_model(model)
    if not find_spec("vllm"):
        common.print_error("this needs vLLM in the same environment: pip install vllm")
        raise typer.Exit(EXIT_INPUT)
    arguments = options or []
    if arguments and not arguments[0].startswith("-"):
        common.print_error(f"options of vLLM must follow -- and begin with a dash, got {arguments[0]!r}")
        raise typer.Exit(EXIT_INPUT)
    try:
        config = PruneConfig(threshold=threshold, restore=restore)
    except ValueError as error:
        common.refuse(error)
    pictures = load_named(image) if image else None
    # What servers print is shown only if one fails.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from pixelprune.bench import serve
    from pixelprune.bench._servers import ServerError

    measuring: dict[str, Any] = {"requests": requests, "rounds": rounds, "one_after_another": one_after_another}
    try:
        with _terminable(), common.err.status("Preparing…") as status, _model(model, arguments) as (folder, extra):
            measured = serve.bench_serve(
                folder,
                pictures or serve.default_pictures(),
                extra,
                config=config,
                on_progress=status.update,
                **measuring,
            )
    except serve.NotPrunedError as error:
        common.print_error(str(error))
        raise typer.Exit(EXIT_BROKEN) from None
    except (ServerError, ValueError) as error:
        common.print_error(str(error))
        raise typer.Exit(EXIT_INPUT) from None
    about = {"model": model, "options": arguments, "threshold": threshold, "restore": restore, **measuring}
    result = {"machine": measured["machine"], **about, "pictures": measured["pictures"]}
    print_result(result, serve.table, as_json)


def load_named(paths: list[str]) -> dict[str, Image]:
    """Images by path, or by file name if there is only one; ends the command if one cannot be read."""
    try:
        return {path if len(paths) > 1 else Path(path).name: load_image(path) for path in paths}
    except ImageError as error:
        common.refuse(error)


@contextmanager
def _model(name: str | None, arguments: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The model to serve, and the options to serve it with."""
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
    """Handle SIGTERM like Ctrl-C, so that no server outlives this process."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
