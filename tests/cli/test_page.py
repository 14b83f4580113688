"""docs/cli.md describes the commands and options that there are, and their defaults."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from pixelprune.cli import EXIT_BROKEN, EXIT_INPUT, EXIT_INTERRUPTED
from pixelprune.cli.app import app

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (pixelprune [\w -]+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that help shows, with the words that call it."""
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from commands(inner, f"{path} {name}")
    if not getattr(command, "commands", {}):
        yield path, command


def shown(default: Any) -> str:
    """A default as the page has it; that of a switch, or none at all, is left empty."""
    if default is None or default is False:
        return ""
    return f"{default:g}" if isinstance(default, float) else str(default)


COMMANDS = dict(commands(typer.main.get_command(app), "pixelprune"))


def test_every_command_has_a_section() -> None:
    assert sorted(SECTIONS) == sorted(COMMANDS)


@pytest.mark.parametrize("name", SECTIONS)
def test_options_and_defaults(name: str) -> None:
    documented = {}
    for cell, default in re.findall(r"^\| (`-.*?`) \| (.*?) ?\|", SECTIONS[name], re.MULTILINE):
        documented[tuple(sorted(re.findall(r"`(-[^`]*)`", cell)))] = default.strip("`")
    options = [option for option in COMMANDS[name].params if option.param_type_name == "option"]
    actual = {tuple(sorted(option.opts)): shown(option.default) for option in options if "--help" not in option.opts}
    assert documented == actual


def test_every_command_is_in_the_overview() -> None:
    overview = PAGE.split("\n## ")[0]
    assert sorted(re.findall(r"\(#(pixelprune-[\w-]+)\)", overview)) == sorted(
        name.replace(" ", "-") for name in SECTIONS
    )


def test_exit_codes() -> None:
    (section,) = re.findall(r"^## Exit codes\n(.*?)(?=^## )", PAGE, re.MULTILINE | re.DOTALL)
    codes = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    assert codes == {0, EXIT_BROKEN, EXIT_INPUT, EXIT_INTERRUPTED}
