"""`pixelprune check`: whether an adapter is in force in this environment."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from typing import Annotated, Any

import typer
from rich.table import Table

from pixelprune.cli import EXIT_BROKEN, EXIT_INPUT
from pixelprune.cli import _common as common

app = typer.Typer(no_args_is_help=True, help="Check whether pruning is in force in this environment.")


@app.callback()
def _check() -> None:
    pass


Model = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Model to run, a name or a folder; default: a small one with random weights."),
]
Engine = Annotated[
    str,
    typer.Option(metavar="JSON", help="Options of vLLM's LLM for that model, such as '{\"tensor_parallel_size\": 2}'."),
]


@app.command("vllm")
def check_vllm(model: Model = None, engine: Engine = "{}", as_json: common.AsJson = False) -> None:
    """Look for the plugin as vLLM does, then run a model through its engine (about a minute for the small one).

    Run this in the environment of the server. The exit code is 1 if pruning would not be in force there.
    """
    options = _options(engine)
    common.check_served_model(model)
    if not find_spec("vllm"):
        common.print_error("vLLM is not installed in this environment; run this where the server runs")
        raise typer.Exit(EXIT_INPUT)
    from pixelprune._processes import run_in_subprocess
    from pixelprune.vllm.check import check

    with common.err.status(f"Checking, and running {model or 'a small model'}…"):
        findings = run_in_subprocess(check, model, options)
    good = all(finding.good for finding in findings)
    if as_json:
        common.print_json({"in_force": good, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
        sentence = f"Pruning is in force when it is requested: vllm serve {model or 'MODEL'} {_OPTION}"
        common.out.print(f"\n{common.printable(sentence)}" if good else "\n[bold red]Pruning is not in force.[/]")
    if not good:
        raise typer.Exit(EXIT_BROKEN)


def _options(engine: str) -> dict[str, Any]:
    try:
        options = json.loads(engine)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        common.print_error(f"--engine must be a JSON object, got {engine!r}")
        raise typer.Exit(EXIT_INPUT)
    return options


_OPTION = """--hf-overrides '{"pixelprune": {"threshold": 0.0}}'"""


def _print(findings: list[Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = "[green]✓[/]" if finding.good else "[bold red]✗[/]"
        table.add_row(mark, f"[bold]{finding.name}[/]", common.printable(finding.text))
    common.out.print(table)
