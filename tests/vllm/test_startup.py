"""The check at start-up: passes on every architecture, and finds each way in which the plugin can be broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pixelprune.vllm.startup import Distances, judge
from tests.support import broken
from tests.support.engines import environment, skip_if_amx_is_hidden
from tests.support.small_models import APART, SMALL, for_vllm

# Where that process finds `tests`, and what this one was started with.
ROOTS = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]

# What the check says about each break.
SAID = {
    "black_pixels": "with every block kept, the encoder's features are",
    "front_end": "sent",  # pixels that are not those sent otherwise, or not those of the stock processor
    "worker": "with every block kept, the encoder's features are",
    "places": "the encoder gets wrong positions or lengths",
    "one_sequence": "with every block kept, the encoder's features are",
    "one_axis": "the language model gets positions that are not those of the unpruned prompt",
    "shifted": "the language model gets positions that are not those of the unpruned prompt",
    "no_hash": "the same image has the same hash with and without pruning",
    "no_engine_hash": "the same image has the same hash with and without pruning",
    "stock_encoder": "it ends in",
    "other_blocks": "a block is dropped at a threshold of 0 that no kept block equals",
    "other_sources": "a copy is of a block that is not kept, or does not equal it at a threshold of 0",
    "wrong_copies": "copies are not those of the blocks that rebuild them",
    "wrong_rows": "features of copies and kept blocks together are",
    "unpruned": "no block of an image with a flat ground is dropped",
}
# Breaks that change nothing: positions have one axis, images are encoded one by one.
WITHOUT_EFFECT = {
    "dots_ocr": {"one_axis", "shifted"},
    "exaone4_5": {"one_axis", "shifted"},
    "paddleocr_vl": {"one_sequence"},
}


def run(family: str, folder: Path, what: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, broken.__file__, family, str(for_vllm(folder)), what]
    variables = environment(VLLM_ALLOW_INSECURE_SERIALIZATION="1", PYTHONPATH=os.pathsep.join(ROOTS))
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=1800, check=False)


@pytest.mark.parametrize("family", [*SMALL, *APART])
def test_every_break_is_found(family: str, checkpoint: Any, tmp_path: Path) -> None:
    skip_if_amx_is_hidden({**SMALL, **APART}[family].dtype)
    done = run(family, checkpoint(family), str(tmp_path / "said.json"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "pixelprune was checked: with every block kept, features are" in done.stdout + done.stderr
    said = json.loads((tmp_path / "said.json").read_text(encoding="utf-8"))
    # Pixels are normalized in one of two places.
    without_effect = WITHOUT_EFFECT.get(family, set()) | {"front_end" if said.pop("normalizes") else "worker"}
    assert said.pop("nothing") is None
    assert set(said) == set(SAID)
    silent = {name for name, text in said.items() if text is None}
    assert silent == without_effect
    for name in set(said) - silent:
        assert SAID[name] in said[name], name
        assert "start without the option pixelprune, and report this line" in said[name]


@pytest.mark.parametrize("name", ["worker", "no_hash", "stock_encoder", "shifted"])
def test_a_broken_plugin_does_not_start(name: str, checkpoint: Any) -> None:
    done = run("qwen3_vl", checkpoint("qwen3_vl"), name)
    assert done.returncode != 0
    assert "pixelprune was requested, but Qwen3VLForConditionalGeneration fails the check at start-up: " in done.stderr
    assert SAID[name] in done.stderr


def test_what_distances_mean() -> None:
    good = {"all_kept": 0.0, "rounding": 1e-3, "pruned": 3e-3, "floor": 1e-4}
    assert judge(Distances(**good)) is None
    assert "with every block kept" in str(judge(Distances(**{**good, "all_kept": 5e-3})))
    assert "with every block kept" in str(judge(Distances(**{**good, "all_kept": float("nan")})))
    assert "wrong positions or lengths" in str(judge(Distances(**{**good, "pruned": 5e-3})))
    assert "wrong positions or lengths" in str(judge(Distances(**{**good, "pruned": float("inf")})))
    assert "features of 2 copies are not those" in str(judge(Distances(**good, unequal=2)))
    assert "copies and kept blocks together" in str(judge(Distances(**good, copied=5e-3)))
    assert judge(Distances(**good, copied=3e-3)) is None
    # Where rounding hides all, or nothing could be hidden, features of pruned images are not judged.
    assert judge(Distances(**{**good, "rounding": 0.2, "pruned": 1.0})) is None
    assert judge(Distances(**{**good, "pruned": None})) is None
