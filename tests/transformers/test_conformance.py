"""Every family: pruned logits are those of the full model that does not see what was dropped."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

from tests.support.cases import case
from tests.support.prompts import MIXED, ROWS
from tests.support.rounding import difference, limit

WITH_VIDEO = [[5, 6, (8, 12), 7, (4, 4, 8), 8, 9], [10, (2, 8, 4), 11, (4, 8), 12, 13], [4, 5, 6]]


@pytest.mark.parametrize(("rows", "side"), [(ROWS, "left"), (ROWS, "right"), (MIXED, "left"), (MIXED, "right")])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_pruned_logits(family_name: str, attention: str, rows: list, side: str) -> None:
    this = case(family_name, attention)
    full, pruned = this.prompts(rows, side=side)
    right = this.right(full, pruned)
    assert difference(this.got(pruned), right) < this.limit(full)
    # It matters what was dropped: a wrong mask or position could not pass.
    assert difference(this.plain(full), right) > 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_few_and_many_blocks(family_name: str, share: float) -> None:
    this = case(family_name)
    full, pruned = this.prompts([[5, 6, (12, 16), 7, (2, 2), 8, (2, 14), 9]], share, seed=11)
    assert difference(this.got(pruned), this.right(full, pruned)) < this.limit(full)


def test_image_and_video(family_name: str) -> None:
    this = case(family_name)
    if not this.tiny.videos:
        pytest.skip("the stock model does not take an image and a video in one prompt as laid out here")
    full, pruned = this.prompts(WITH_VIDEO)
    right = this.right(full, pruned)
    assert difference(this.got(pruned), right) < this.limit(full)
    assert difference(this.plain(full), right) > 1


def test_video_alone_is_stock(family_name: str) -> None:
    this = case(family_name)
    if not this.tiny.videos:
        pytest.skip("the stock model does not take a video as laid out here")
    full, pruned = this.prompts([[5, (4, 4, 8), 6, 7]])
    assert torch.equal(this.got(pruned), this.plain(full))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_nothing_dropped_is_stock(family_name: str, attention: str) -> None:
    this = case(family_name, attention)
    full, pruned = this.prompts(ROWS, share=1.0)
    assert bool(pruned.inputs["image_kept"].all())
    got, plain = this.got(pruned), this.plain(full)
    assert torch.equal(got, plain)
    pruned.inputs.pop("attention_mask")
    full.inputs.pop("attention_mask")
    with torch.no_grad():
        assert torch.equal(this.pruned(**this.inputs(pruned)).logits, this.stock(**this.inputs(full)).logits)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_model_without_its_head(family_name: str, share: float) -> None:
    """Trainers that fuse head and loss call `base_model`, not `forward`."""
    this = case(family_name)
    if this.pruned.base_model is this.pruned:
        pytest.skip("in this version of transformers there is no model below its head")
    full, pruned = this.prompts(ROWS, share, side="right")
    inputs = this.inputs(pruned)
    with torch.no_grad():
        got = this.pruned.base_model(**inputs, use_cache=False).last_hidden_state
        # A copy: what transformers hooks in to record states stays there, and cannot be pickled by other tests.
        recorded = copy.deepcopy(this.pruned)(**inputs, use_cache=False, output_hidden_states=True)
    right = recorded.hidden_states[-1]
    mask = pruned.inputs["attention_mask"].bool()
    with torch.no_grad():
        rounding = limit(
            this.stock,
            this.nudged,
            lambda model: model.base_model(**this.inputs(full), use_cache=False).last_hidden_state[full.selected],
        )
    assert difference(got[mask], right[mask]) < rounding


def test_one_prompt_without_attention_mask(family_name: str) -> None:
    """No mask and no cache: positions with gaps must not be taken for packed sequences."""
    this = case(family_name)
    full, pruned = this.prompts(ROWS[:1])
    with torch.no_grad():
        inputs = this.inputs(pruned)
        inputs.pop("attention_mask")
        logits = this.pruned(**inputs, use_cache=False).logits[0]
    assert difference(logits, this.right(full, pruned)) < this.limit(full)


def test_float64(family_name: str) -> None:
    """In double precision the difference is rounding: nothing is approximated."""
    errors = _double_precision()
    assert family_name in errors, errors
    assert errors[family_name] < 1e-9


@cache
def _double_precision() -> dict:
    command = [sys.executable, "-m", "tests.support.double_precision"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout.splitlines()[-1])
