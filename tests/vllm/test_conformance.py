"""Every architecture, on the real engine, against transformers on the same checkpoint."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pixelprune.vllm import ARCHITECTURES
from tests.support.checkpoints import processor_of
from tests.support.engines import (
    ASKED,
    Pictures,
    Transformers,
    check_copies,
    difference,
    limit,
    record,
    run,
    skip_if_amx_is_hidden,
)
from tests.support.small_models import SMALL, for_vllm

IMAGES = (["page"], ["page", "crop"], ["photo"], ["photo", "screen", "crop"])


@pytest.mark.parametrize("family", SMALL)
def test_same_tokens_and_logits_as_transformers(
    family: str, checkpoint: Any, pictures: Pictures, tmp_path: Path, record_property: Any
) -> None:
    small, folder = SMALL[family], checkpoint(family)
    skip_if_amx_is_hidden(small.dtype)
    requests = pictures.requests(small.image, IMAGES)
    each, together = [[i] for i in range(len(requests))], [list(range(len(requests)))]
    job = {
        "model": str(for_vllm(folder)),
        "engine": {"dtype": small.dtype, **ASKED, **small.engine},
        "requests": requests,
        "rounds": each + together,
        "probe": "class",
    }
    result = run(tmp_path, job, VLLM_ALLOW_INSECURE_SERIALIZATION="1")
    assert result["probe"] == [[f"pixelprune.vllm.models.{ARCHITECTURES[small.architecture]}", small.architecture]]
    assert "pixelprune was checked" in result["log"] or not ASKED

    transformers = Transformers(folder)
    alone = [answers[0] for answers in result["rounds"][: len(requests)]]
    check_copies(alone)
    full = [a for a, spec in zip(alone, requests, strict=True) if "options" not in spec]
    # In bfloat16, experts are chosen by a hair now and then, which tells nothing.
    share = 1.0 if small.dtype == "float32" else 0.9
    farthest, in_batches = {"full": 0.0, "pruned": 0.0}, {"full": 0.0, "pruned": 0.0}
    for spec, one, batched in zip(requests, alone, result["rounds"][-1], strict=True):
        expected = transformers.answer(spec, one["ids"])
        kind = "pruned" if "options" in spec else "full"
        farthest[kind] = max(farthest[kind], difference(one, expected, share))
        if kind == "pruned":
            fewer = len(one["prompt_ids"]) < max(len(a["prompt_ids"]) for a in full)
            assert fewer or spec["options"]["pixelprune"] == {"restore": 1}
        if small.dtype == "float32":
            assert one["ids"] == expected["ids"] == batched["ids"]
            in_batches[kind] = max(in_batches[kind], difference(batched, one))
    record(record_property, small, "pixelprune.transformers", farthest)
    if small.dtype == "float32":
        assert farthest["pruned"] < limit(farthest["full"])
        assert in_batches["pruned"] < limit(in_batches["full"])
    else:
        assert farthest["pruned"] < 1.5 * farthest["full"], "pruning adds to the noise that is there without it"


def test_glm_4_6v(checkpoint: Any, pictures: Pictures, tmp_path: Path) -> None:
    """Its checkpoints name the architecture of GLM-4.5V, and bring another processor."""
    folder = tmp_path / "glm46v"
    shutil.copytree(checkpoint("glm4v_moe"), folder)
    size = {"shortest_edge": 64 * 64, "longest_edge": 2048**2}
    processor_of("glm46v", patch_size=14, size=size).save_pretrained(folder)
    small = SMALL["glm4v_moe"]
    requests = [pictures.request(small.image, ["page", "crop"], options) for options in (None, True)]
    engine = {"dtype": small.dtype, **ASKED, **small.engine}
    job = {"model": str(folder), "engine": engine, "requests": requests, "rounds": [[0], [1]]}
    full, pruned = (one for (one,) in run(tmp_path, job)["rounds"])
    transformers = Transformers(folder)
    assert type(transformers.processor).__name__ == "Glm46VProcessor"
    expected = [transformers.answer(spec, one["ids"]) for spec, one in zip(requests, (full, pruned), strict=True)]
    assert [full["ids"], pruned["ids"]] == [one["ids"] for one in expected]
    assert len(pruned["prompt_ids"]) < len(full["prompt_ids"])
    assert difference(pruned, expected[1]) < limit(difference(full, expected[0]))
