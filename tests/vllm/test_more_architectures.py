"""Architectures that are not compared with `pixelprune.transformers`: against full models that hide what is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pixelprune.vllm import ARCHITECTURES
from tests.support.engines import ASKED, Pictures, check_copies, difference, limit, record, run
from tests.support.references import REFERENCES
from tests.support.small_models import APART, for_vllm

IMAGES = (["page"], ["page", "crop"], ["photo"], ["photo", "screen", "flat"])


@pytest.mark.parametrize("family", APART)
def test_same_tokens_and_logits_as_a_full_model(
    family: str, checkpoint: Any, pictures: Pictures, tmp_path: Path, record_property: Any
) -> None:
    small, folder = APART[family], checkpoint(family)
    requests = pictures.requests(small.image, IMAGES)
    full = [i for i, spec in enumerate(requests) if "options" not in spec]
    job = {
        "model": str(for_vllm(folder)),
        "engine": {"dtype": small.dtype, **ASKED, **small.engine},
        "requests": requests,
        "rounds": [*([i] for i in range(len(requests))), list(range(len(requests)))],
        "probe": "class",
    }
    trust = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    result = run(tmp_path, job, **trust)
    assert result["probe"] == [[f"pixelprune.vllm.models.{ARCHITECTURES[small.architecture]}", small.architecture]]
    assert "pixelprune was checked" in result["log"] or not ASKED
    *alone, together = result["rounds"]
    check_copies([one for (one,) in alone])

    stock = run(tmp_path, {**job, "rounds": [[i] for i in full]}, VLLM_PLUGINS="", **trust)
    assert stock["rounds"] == [alone[i] for i in full]

    reference = REFERENCES[family](folder)
    farthest = {"full": 0.0, "pruned": 0.0}
    for i, (spec, [one], batched) in enumerate(zip(requests, alone, together, strict=True)):
        expected = reference.answer(spec, one["ids"])
        assert one["ids"] == expected["ids"] == batched["ids"]
        far = max(difference(one, expected), difference(batched, one))
        kind = "full" if i in full else "pruned"
        farthest[kind] = max(farthest[kind], far)
        if kind == "pruned":
            unpruned = alone[max(j for j in full if j < i)][0]
            fewer = len(one["prompt_ids"]) < len(unpruned["prompt_ids"])
            assert fewer or len(spec["images"]) == 1 or spec["options"]["pixelprune"] == {"restore": 1}
    record(record_property, small, "a masked full model", farthest)
    assert farthest["pruned"] < limit(farthest["full"])
