"""The self-test of `pixelprune check vllm`: what it says about engines that do not prune, or not rightly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pixelprune.vllm import check
from pixelprune.vllm.selftest import Found, verdict
from tests.support.engines import environment
from tests.support.small_models import for_vllm

GOOD = Found(("pixelprune.vllm.models.qwen3_vl", "Qwen3VL"), 192, 100, 92, (0.01, 0.01), 64, True)


def test_a_model_that_is_named(checkpoint: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    options = {"dtype": "float32", "max_model_len": 2048}
    found = check.self_test(str(for_vllm(checkpoint("glm_ocr"))), options)
    assert found.good, found.text
    assert found.text.startswith("GlmOcrForConditionalGeneration passed the check at start-up; a page went through the")
    assert "188 of 252 visual tokens" in found.text


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
    assert "which is not a class of pixelprune" in problem(loaded=("vllm.model_executor.models.qwen3_vl", "Qwen3VL"))
    assert "a different answer" in problem(same=False)
    assert problem(logprobs=(0.3, 0.3)).startswith("without pruning, too")
    assert problem(logprobs=(0.3, 0.01)).startswith("without pruning, too")


@pytest.mark.parametrize("value", [0.05, float("inf"), float("nan")])
def test_log_probabilities_that_are_far_off_or_not_numbers_are_a_problem(value: float) -> None:
    assert "of a model in which dropped blocks are hidden" in problem(logprobs=(0.01, value))
