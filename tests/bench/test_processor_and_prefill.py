"""The benchmarks measure what they say: small sizes, one round, and the commands around them."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from pixelprune import PruneConfig, fit_image, load_image, select
from pixelprune.bench import prefill, processor
from pixelprune.cli.app import app
from pixelprune.images.samples import photograph, sample_path


@pytest.fixture(scope="module")
def page() -> np.ndarray:
    return fit_image(load_image(sample_path("page")), "qwen3-vl")[:512, :512]


def test_processor(page: np.ndarray) -> None:
    threads = torch.get_num_threads()
    result = processor.bench_processor({"page": page, "photograph": photograph(512)}, sides=(512,), rounds=1)
    assert torch.get_num_threads() == threads
    selection = select(page)
    case = result["page"]["512"]
    assert case["retain_ratio"] == pytest.approx(selection.retain_ratio)
    assert case["stock_bytes"] == 2 * page.size * 4  # two frames, float32
    assert case["pruned_bytes"] == selection.kept * 32 * 32 * 3 * 2 * 4
    assert result["photograph"]["512"]["pruned_bytes"] == result["photograph"]["512"]["stock_bytes"]
    assert min(case["stock_ms"], case["pruned_ms"]) > 0


def test_prefill(page: np.ndarray) -> None:
    case = prefill.bench_prefill(page, sides=(512,), depth=1, rounds=1)["512"]
    selection = select(page)
    assert (case["tokens"], case["kept"]) == (256, selection.kept)
    # Layers work on every token, so operations shrink about as tokens do; text tokens stay.
    assert 1 < case["vision"]["flops"] < 2 * 256 / selection.kept
    for restore, part in zip(prefill.RESTORE, case["language"], strict=True):
        expected = select(page, PruneConfig(restore=restore))
        assert (part["restore"], part["tokens"]) == (restore, expected.tokens)
        assert 1 <= part["flops"] < 2 * 256 / expected.tokens
        assert part["speed_up"] == pytest.approx(part["full"] / part["pruned"])
    assert case["language"][-1]["flops"] == 1
    assert case["language"][0]["flops"] > case["language"][1]["flops"]


@pytest.mark.parametrize("name", ["processor", "prefill"])
def test_commands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = {"processor": processor, "prefill": prefill}[name]
    function = getattr(module, f"bench_{name}")
    small: dict[str, Any] = {"sides": (256,)} if name == "processor" else {}
    monkeypatch.setattr(module, f"bench_{name}", functools.partial(function, **small))
    options = ["--rounds", "1", *(["--depth", "1", "--side", "256"] if name == "prefill" else [])]
    table = CliRunner().invoke(app, ["bench", name, *options])
    assert table.exit_code == 0
    assert "256²" in table.output
    assert "×" in table.output
    result = json.loads(CliRunner().invoke(app, ["bench", name, *options, "--json"]).output)
    assert result["machine"]["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--side", "100"], "--side must be a multiple of 32 and at least 256, got 100"),
        (["--device", "tpu"], "--device must be cpu or cuda, got 'tpu'"),
    ],
)
def test_prefill_with_wrong_options(options: list[str], text: str) -> None:
    result = CliRunner().invoke(app, ["bench", "prefill", *options])
    assert result.exit_code == 2
    assert text in result.output


def test_command_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelprune._extras.find_spec", lambda name: None if name == "torch" else object())
    result = CliRunner().invoke(app, ["bench", "processor"])
    assert result.exit_code == 2
    assert "pip install '.[transformers]' in a checkout" in result.output


def test_command_with_a_broken_page(tmp_path: Any) -> None:
    (tmp_path / "page.png").write_bytes(b"no image")
    result = CliRunner().invoke(app, ["bench", "prefill", "--image", str(tmp_path / "page.png")])
    assert result.exit_code == 2
    assert "page.png" in result.output
