"""`pixelprune stats`: what pruning would save on many images, without a model."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pixelprune.cli import EXIT_INPUT, EXIT_INTERRUPTED
from pixelprune.cli import _common as common
from pixelprune.cli._measuring import Result, Task, count_inputs, jobs, results
from pixelprune.cli._sheets import Problem
from pixelprune.cli._stats_tables import print_tables
from pixelprune.images import sizes
from pixelprune.images.modes import check_transparency
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.errors import OptionError
from pixelprune.stats.advice import advice
from pixelprune.stats.costs import Geometry, model_types, read_geometry
from pixelprune.stats.tally import Tally


def stats(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH",
            help="Images, PDFs, folders, or JSON Lines files of OpenAI-style requests, whose images are data or paths.",
            show_default=False,
        ),
    ],
    model: common.Model = "qwen3-vl",
    thresholds: Annotated[
        str, typer.Option(metavar="LIST", help="Values of τ to compare, with commas between them.")
    ] = "0,0.02,0.05",
    metric: common.Metric = PruneConfig.metric,
    predictor: common.Predictor = PruneConfig.predictor,
    max_tokens: common.MaxTokens = PruneConfig.max_tokens,
    max_threshold: common.MaxThreshold = PruneConfig.max_threshold,
    restore: common.Restore = PruneConfig.restore,
    min_tokens: common.MinTokens = PruneConfig.min_tokens,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The config.json of a model, or its folder: adds operations of encoder and language model, and the "
            f"size of the KV cache. Read are: {', '.join(model_types())}.",
        ),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON Lines file to write: a line for each image, as soon as it is measured."
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, metavar="COUNT", help="Processes that read and measure images.")] = 1,
    dpi: common.Dpi = 144,
    transparency: common.Transparency = "white",
    as_json: common.AsJson = False,
) -> None:
    """Measure what pruning would save on your files: tokens by category, and what a model would compute.

    A category is a folder next below a path; a file counts under its folder, a request under its file. Memory does not
    grow with the number of images.
    """
    try:
        sizes.preset(model)
        check_transparency(transparency)
        without_budget = PruneConfig(0.0, metric, predictor, None, max_threshold, restore, min_tokens)
        configs = _configs(thresholds, without_budget, max_tokens)
        source = context.get_parameter_source("max_threshold")
        common.check_bound(configs[-1], given=source is not None and source.name != "DEFAULT")
        geometry = _geometry(config, model)
        _check_rows(rows, paths)
    except ValueError as error:
        common.refuse(error)
    task = Task(model, dpi, transparency, configs, geometry)
    with ExitStack() as stack:
        file = _opened(rows, stack)
        common.prepare_kernels()
        run = _Run(task, file, as_json)
        stopped = stack.enter_context(_stopping())
        items = stack.enter_context(closing(results(jobs(paths), task, workers)))
        run.all(items, paths, stopped)
    run.finish()
    if stopped:
        raise typer.Exit(EXIT_INTERRUPTED)
    if run.errors:
        raise typer.Exit(EXIT_INPUT)


def _configs(thresholds: str, config: PruneConfig, max_tokens: int | None) -> list[PruneConfig]:
    """A config for each threshold, ascending."""
    try:
        values = sorted({float(text) for text in thresholds.split(",")})
    except ValueError:
        hint = "write for example 0,0.02"
        raise OptionError("thresholds", f"must be numbers with commas between them, got {thresholds!r}", hint) from None
    try:
        return [replace(config, threshold=value, max_tokens=max_tokens) for value in values]
    except OptionError as error:
        name = "thresholds" if error.option == "threshold" else error.option
        raise OptionError(name, error.problem, error.hint) from None


def _geometry(config: Path | None, model: str) -> Geometry | None:
    if config is None:
        return None
    geometry, block = read_geometry(config), sizes.preset(model).block
    if geometry.encoder.block != block:
        raise OptionError(
            "config",
            f"must have blocks as large as those of {model} ({block} pixels), got {geometry.encoder.block}",
            "name the model that it belongs to with --model",
        )
    return geometry


def _check_rows(rows: Path | None, paths: list[str]) -> None:
    if rows is not None and rows.resolve() in {Path(path).resolve() for path in paths if path}:
        raise OptionError("rows", f"must not be one of the files that are read, got {rows}", "name another file")


def _opened(rows: Path | None, stack: ExitStack) -> TextIO | None:
    if rows is None:
        return None
    try:
        return stack.enter_context(rows.open("w", encoding="utf-8", buffering=1))
    except OSError as error:
        common.refuse(OptionError("rows", f"must be a file that can be written, got {common.describe(error)}"))


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """A list that an interrupt fills, so that no row is cut in half; a second interrupt ends everything."""
    stopped: list[int] = []

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stopped.append(number)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class _Run:
    """The run of one command: sums, and where rows go."""

    task: Task
    rows: TextIO | None
    as_json: bool
    tallies: dict[str, Tally] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def all(self, items: Iterator[Result | Problem], paths: list[str], stopped: list[int]) -> None:
        """Measure everything until `stopped` is filled."""
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        progress = Progress(*columns, console=common.err, transient=True)
        terminal = common.err.is_terminal
        separator = self._begin()
        with progress if terminal else nullcontext():
            bar = progress.add_task("Measuring", total=count_inputs(paths) if terminal else None)
            for item in items:
                if isinstance(item, Problem):
                    self._note(item)
                else:
                    separator = self._add(item, separator)
                    progress.update(bar, completed=item.job.done)
                if stopped:
                    break

    def _note(self, problem: Problem) -> None:
        (common.print_error if problem.is_error else common.print_warning)(problem.text)
        (self.errors if problem.is_error else self.skipped).append(problem.text)

    def _add(self, result: Result, separator: str) -> str:
        for line in result.warnings:
            common.print_warning(line)
        if result.row is None:
            self._note(Problem(result.error))
            return separator
        row = result.row
        self.tallies.setdefault(row["category"], Tally(len(self.task.configs))).add(row)
        text = json.dumps(row)
        if self.rows:
            self.rows.write(text + "\n")
        if self.as_json:
            typer.echo(f"{separator}\n    {text}", nl=False)
        return ","

    def _begin(self) -> str:
        """Start the JSON object: its rows are written as they come."""
        if self.as_json:
            head = {
                "model": self.task.model,
                "configs": [config.to_dict() for config in self.task.configs],
                "geometry": asdict(self.task.geometry) if self.task.geometry else None,
            }
            typer.echo(json.dumps(head, indent=2)[:-2] + ',\n  "images": [', nl=False)
        return ""

    def finish(self) -> None:
        """Print the sums."""
        total = Tally(len(self.task.configs))
        for tally in self.tallies.values():
            total.merge(tally)
        categories = {name: tally.to_dict() for name, tally in sorted(self.tallies.items())}
        sums = total.to_dict()
        text = advice(sums, categories, self.task.configs)
        if self.as_json:
            rest = {"categories": categories, "total": sums, "advice": text}
            rest |= {"errors": self.errors, "skipped": self.skipped}
            typer.echo("\n  ],\n" + json.dumps(rest, indent=2)[2:])
        elif total.images:
            print_tables(sums, categories, self.task, text)
