"""The self-test of `pixelprune check vllm`: what it says about plugins that are broken on purpose."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pixelprune.vllm import check
from pixelprune.vllm.selftest import Found, verdict
from tests.support import broken
from tests.support.engines import environment

GOOD = Found(("pixelprune.vllm.models.qwen3_vl", "Qwen3VL"), 192, 100, 92, 0, 0, (0.01, 0.01), (0.01, 0.01), 64, True)


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the self-test says about each break, in one engine."""
    folder = tmp_path_factory.mktemp("broken")
    command = [sys.executable, broken.__file__, str(folder / "result.json")]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=1800, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(Path(folder / "result.json").read_text(encoding="utf-8"))


def test_it_is_content_with_a_plugin_that_is_not_broken(verdicts: Any) -> None:
    assert "problem" not in verdicts["nothing"], verdicts["nothing"]
    assert verdicts["nothing"]["kept"] == 149
    assert verdicts["nothing"]["total"] == 192


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("black_pixels", "with every block kept, the encoder's features are"),
        ("no_normalization", "pixels of kept blocks, normalized or not, are not those sent without pruning"),
        ("packed_metadata", "the encoder gets wrong positions or lengths"),
        ("one_axis", "the language model gets wrong positions"),
        ("another_class", "which is not a class of pixelprune"),
    ],
)
def test_it_says_what_is_broken(name: str, text: str, verdicts: Any) -> None:
    assert text in verdicts[name].get("problem", ""), verdicts[name]


def test_every_break_is_looked_for(verdicts: Any) -> None:
    assert set(verdicts) == set(broken.BREAKS)


def test_a_stock_engine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment(VLLM_PLUGINS="").items():
        monkeypatch.setenv(name, value)
    found = check.self_test()
    assert not found.good
    assert found.text.startswith("the engine does not prune: 43 of the 192 blocks of a page should be dropped, 0 were")


def problem(**changes: Any) -> str:
    return str(verdict(replace(GOOD, **changes)).get("problem", ""))


def test_what_is_found_and_what_it_means() -> None:
    assert "problem" not in verdict(GOOD)
    assert verdict(GOOD)["kept"] == 100
    assert "does not prune" in problem(fewer=0)
    assert "prunes wrongly" in problem(fewer=50)
    assert "a different answer" in problem(same=False)
    assert problem(features=(0.3, 0.3)).startswith("without pruning, too")
    assert problem(logprobs=(0.3, 0.3)).startswith("without pruning, too")


@pytest.mark.parametrize("value", [0.05, float("inf"), float("nan")])
def test_features_that_are_far_off_or_not_numbers_are_a_problem(value: float) -> None:
    assert problem(all_kept=value)
    assert problem(features=(0.01, value))
    assert problem(logprobs=(0.01, value))
