"""The vision encoder as a GPU would drive it, and what memory is profiled with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.engines import Pictures, limit, run
from tests.support.small_models import SMALL, for_vllm


@pytest.mark.parametrize(
    ("family", "graphs"), [("qwen3_vl", True), ("qwen2_vl", True), ("glm4v", True), ("qwen2_5_vl", False)]
)
def test_graphs_replay_and_profiles_are_full(
    family: str, graphs: bool, checkpoint: Any, pictures: Pictures, tmp_path: Path
) -> None:
    names = ["page", "screen", "crop"]
    job = {
        "model": str(for_vllm(checkpoint(family))),
        "asked": True,
        **{key: value for key, value in pictures.request(SMALL[family].image, names).items() if key != "options"},
    }
    found = run(tmp_path, job, "protocol.py")
    full, pruned, copied = found["full"], found["pruned"], found["copied"]
    for one in (pruned, copied):
        assert one["none"] == full["none"] == 0
        assert one["none_specs"] == full["none_specs"] == []
        assert one["eager"] < limit(full["eager"])
        if graphs:
            assert one["replayed"] < limit(full["replayed"])
        else:
            assert full["replayed"] is not None
            assert one["replayed"] is None
    counts = zip(pruned["tokens"], copied["tokens"], full["tokens"], strict=True)
    assert all(fewest < some < most for fewest, some, most in counts)
    assert copied["patches"] == pruned["patches"]  # a graph computes kept blocks, with copies and without
    # Images to profile with are of one colour: pruned, they would be one block.
    assert min(found["profile"]["dummy"]) > 100
    assert max(found["profile"]["patches"]) > 400
