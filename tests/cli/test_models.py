"""What the commands that start vLLM say of a model that is none, before they start it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pixelprune.cli.app import app

WAY_OUT = "--model must be a folder with a config.json, as save_pretrained writes it, or a name on the Hugging Face Hub"


@pytest.mark.parametrize("command", [["check", "vllm"], ["bench", "serve"]], ids=" ".join)
def test_models_that_are_none(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"x")
    named = {
        "empty": "a folder without one",
        str(tmp_path / "empty"): "a folder without one",
        "weights.bin": "a file",
        str(tmp_path / "none"): "which does not exist",
        "./none": "which does not exist",
    }
    for name, what in named.items():
        done = CliRunner().invoke(app, [*command, "--model", name])
        assert (done.exit_code, done.stderr) == (2, f"error: {WAY_OUT}, got {name}, {what}\n")


@pytest.mark.parametrize("command", [["check", "vllm"], ["bench", "serve"]], ids=" ".join)
@pytest.mark.parametrize("file", ["a/config.json", "a/params.json", "a.gguf", None])
def test_models_that_can_be(
    file: str | None, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get as far as the packages that are missing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    Path(file or "b").write_text("{}")
    name = {None: "org/name", "a.gguf": "a.gguf"}.get(file, "a")
    for module in ("check", "bench_serve"):
        monkeypatch.setattr(f"pixelprune.cli.{module}.find_spec", lambda _name: None)
    done = CliRunner().invoke(app, [*command, "--model", name])
    assert done.exit_code == 2
    assert "vLLM" in done.stderr
    assert "--model" not in done.stderr
