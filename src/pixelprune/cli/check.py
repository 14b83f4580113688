"""`pixelprune check`: whether an adapter is in force in this environment."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import typer
from rich.table import Table

from pixelprune.cli import EXIT_BROKEN, EXIT_INPUT
from pixelprune.cli import _common as common

app = typer.Typer(no_args_is_help=True, help="Check whether pruning is in force in this environment.")


@app.callback()
def _check() -> None:
    pass


@app.command("vllm")
def check_vllm(as_json: common.AsJson = False) -> None:
    """Look for the plugin as vLLM does, then run a small random model through its engine (about a minute).

    Run this in the environment of the server. The exit code is 1 if pruning would not be in force there.
    """
    if not find_spec("vllm"):
        common.print_error("vLLM is not installed in this environment; run this where the server runs")
        raise typer.Exit(EXIT_INPUT)
    from pixelprune._processes import run_in_subprocess
    from pixelprune.vllm.check import check

    with common.err.status("Checking, and running a small model…"):
        findings = run_in_subprocess(check)
    good = all(finding.good for finding in findings)
    if as_json:
        common.print_json({"in_force": good, "findings": [asdict(finding) for finding in findings]})
    else:
        _print(findings)
        sentence = f"Pruning is in force when it is requested: vllm serve MODEL {_OPTION}"
        common.out.print(f"\n{common.printable(sentence)}" if good else "\n[bold red]Pruning is not in force.[/]")
    if not good:
        raise typer.Exit(EXIT_BROKEN)


_OPTION = """--hf-overrides '{"pixelprune": {"threshold": 0.0}}'"""


def _print(findings: list[Any]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = "[green]✓[/]" if finding.good else "[bold red]✗[/]"
        table.add_row(mark, f"[bold]{finding.name}[/]", common.printable(finding.text))
    common.out.print(table)
