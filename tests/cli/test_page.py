"""docs/cli.md describes the commands and options that there are, and their defaults."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pixelprune.cli import EXIT_BROKEN, EXIT_INPUT, EXIT_INTERRUPTED
from pixelprune.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (pixelprune [\w -]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that help shows, with the words that call it."""
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from commands(inner, f"{path} {name}")
    if not getattr(command, "commands", {}):
        yield path, command


COMMANDS = dict(commands(typer.main.get_command(app), "pixelprune"))


def test_every_command_has_a_section() -> None:
    assert sorted(SECTIONS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", SECTIONS)
def test_options_are_those_of_the_help(name: str) -> None:
    """Run `python scripts/make_figures.py commands` after a change to an option."""
    if name.startswith("pixelprune train"):
        pytest.importorskip("trl", reason="the defaults of training options are read from TRL's")
    table = runpy.run_path(str(ROOT / "scripts" / "make_figures.py"))["command_table"](name)
    assert f"<!-- {name} -->\n{table}\n<!-- /{name} -->" in SECTIONS[name]
    options = [option for option in COMMANDS[name].params if option.param_type_name == "option"]
    assert len(table.splitlines()) == 2 + len(options)


def test_every_command_is_in_the_overview() -> None:
    overview = PAGE.split("\n## ")[0]
    assert sorted(re.findall(r"\(#(pixelprune-[\w-]+)\)", overview)) == sorted(
        name.replace(" ", "-") for name in SECTIONS
    )


def test_exit_codes() -> None:
    (section,) = re.findall(r"^## Exit codes\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert codes == {0, EXIT_BROKEN, EXIT_INPUT, EXIT_INTERRUPTED}
