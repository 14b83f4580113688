"""Help of the commands: one description per option, whichever command shows it."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from pixelprune.cli.app import app
from pixelprune.selection.config import option_help, option_rows

ALL = [row.name for row in option_rows()]


def help_of(*command: str) -> str:
    """What a command prints about its options, without frames and line breaks."""
    done = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "120", "TERMINAL_WIDTH": "120"})
    assert done.exit_code == 0, done.output
    return " ".join(re.sub("[│╭╮╰╯─]", " ", done.stdout).split())


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["show"], ALL),
        (["stats"], [name for name in ALL if name != "threshold"]),
        (["verify"], ["threshold"]),
        (["bench", "serve"], ["threshold"]),
        (["train", "sft"], ALL),
        (["train", "distill"], ALL),
    ],
    ids=lambda value: " ".join(value),
)
def test_options_of_pruning_are_described_once(command: list[str], options: list[str]) -> None:
    shown = help_of(*command)
    for name in options:
        assert f"--{name.replace('_', '-')} " in shown
        assert option_help(name) in shown


@pytest.mark.parametrize(
    "command", [[], ["show"], ["stats"], ["verify"], ["check", "vllm"], ["train", "sft"], ["train", "distill"]]
)
def test_options_have_dashes(command: list[str]) -> None:
    assert not re.findall(r"--\w*_\w*", help_of(*command))


def test_the_command_that_is_documented_is_distill() -> None:
    shown = help_of("train")
    assert "distill" in shown
    assert not re.search(r"\bdistil\b", shown)
    assert help_of("train", "distil").replace("train distil ", "train distill ") == help_of("train", "distill")


def test_help_among_other_options() -> None:
    done = CliRunner().invoke(app, ["train", "sft", "--learning-rate", "1e-4", "-h"])
    assert done.exit_code == 0
    assert "--output-dir" in done.stdout
