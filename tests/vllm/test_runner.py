"""Model Runner V2, the one that GPUs run: vLLM's build for CPUs takes it too, if Triton's kernels are interpreted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from pixelprune.images.samples import sample_path
from tests.support.engines import Pictures, Transformers, difference, limit, run
from tests.support.small_models import SMALL

pytest.importorskip("triton", reason="Model Runner V2 has kernels in Triton")

FAMILY = "qwen3_vl"


def test_same_tokens_and_logits_as_transformers(checkpoint: Any, tmp_path: Path) -> None:
    page = Image.open(sample_path("page")).convert("RGB")
    parts = {"top": page.crop((300, 300, 460, 428)), "margin": page.crop((0, 0, 96, 128))}
    for name, part in parts.items():
        part.save(tmp_path / f"{name}.png")
    pictures = Pictures({name: tmp_path / f"{name}.png" for name in parts})
    requests = [pictures.request(SMALL[FAMILY].image, list(parts), options) for options in (None, {"threshold": 0.05})]
    ready = {"hf_overrides": {"pixelprune": False}}
    job = {"model": str(checkpoint(FAMILY)), "engine": ready, "requests": requests, "rounds": [[0, 1]], "max_tokens": 2}
    result = run(tmp_path, job, "engine_v2.py", TRITON_INTERPRET="1", VLLM_USE_V2_MODEL_RUNNER="1")
    assert "Using V2 Model Runner" in result["log"]
    assert "pixelprune was checked" in result["log"]

    transformers, far = Transformers(checkpoint(FAMILY)), []
    (answers,) = result["rounds"]
    for spec, answer in zip(requests, answers, strict=True):
        expected = transformers.answer(spec, answer["ids"])
        assert answer["ids"] == expected["ids"]
        far.append(difference(answer, expected))
    full, pruned = (len(answer["prompt_ids"]) for answer in answers)
    assert pruned < full - 10
    assert far[1] < limit(far[0])
