"""Positions that run ahead of the tokens: many flat images in a short context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.engines import Pictures, Transformers, difference, run
from tests.support.small_models import SMALL

IMAGE = SMALL["qwen3_vl"].image


@pytest.fixture
def flat(tmp_path: Path) -> Pictures:
    """Images of one colour, 64 blocks wide: one token each, and 64 positions."""
    paths = {}
    for number in range(12):
        paths[str(number)] = tmp_path / f"{number}.png"
        Image.new("RGB", (2048, 64), (20 * number, 90, 200)).save(paths[str(number)])
    return Pictures(paths)


@pytest.mark.parametrize("where", ["hf_overrides", "mm_processor_kwargs", None])
def test_many_flat_images_in_a_short_context(
    where: str | None, flat: Pictures, checkpoint: Any, tmp_path: Path
) -> None:
    counts = (1, 2, 8, 10, 12, 1)
    requests = [flat.request(IMAGE, [str(n) for n in range(count)], True) for count in counts]
    requests.append({"prompt": "just text", "images": []})
    engine: dict[str, Any] = {"max_model_len": 192}
    engine["hf_overrides"] = {"text_config": {"max_position_embeddings": 192}}
    if where:
        engine[where] = {**engine.get(where, {}), "pixelprune": False}
    job = {
        "model": str(checkpoint("qwen3_vl")),
        "engine": engine,
        "requests": requests,
        # Each twice: the second time, images come from vLLM's cache.
        "rounds": [[i] for i in range(len(requests)) for _ in range(2)],
    }
    rounds = [answers[0] for answers in run(tmp_path, job)["rounds"]]
    transformers = Transformers(checkpoint("qwen3_vl"))
    ends = []
    for i, request in enumerate(requests):
        first, second = rounds[2 * i : 2 * i + 2]
        ends.append("error" in first)
        assert first == {**second, **({"cached": first["cached"]} if "cached" in first else {})}
        if "error" in first:
            assert "have so few tokens that positions run" in first["error"]
            assert ("--hf-overrides" in first["error"]) is (where is None)
        else:
            expected = transformers.answer(request, first["ids"])
            assert first["ids"] == expected["ids"]
            assert difference(first, expected) < 1e-4
    # 63 positions ahead by image; the context has room for 192, the table for that or for four times as many.
    assert ends == ([False, False, False, True, True, False, False] if where else [True] * 6 + [False])
