"""Every family: pruned logits are those of the full model that does not see what was dropped."""

from __future__ import annotations

import copy
import inspect
import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.cases import case
from tests.support.prompts import MIXED, ROWS
from tests.support.rounding import difference, limit

WITH_VIDEO = [[5, 6, (8, 12), 7, (4, 4, 8), 8, 9], [10, (2, 8, 4), 11, (4, 8), 12, 13], [4, 5, 6]]


@pytest.mark.parametrize(("rows", "side"), [(ROWS, "left"), (ROWS, "right"), (MIXED, "left"), (MIXED, "right")])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_pruned_logits(family_name: str, attention: str, rows: list, side: str) -> None:
    model_case = case(family_name, attention)
    full, pruned = model_case.prompts(rows, side=side)
    model_case.check(model_case.actual(pruned), full, pruned)
    # It matters what was dropped: a wrong mask or position could not pass.
    assert difference(model_case.unpruned(full), model_case.expected(full, pruned)) > 1


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_few_and_many_blocks(family_name: str, share: float) -> None:
    model_case = case(family_name)
    full, pruned = model_case.prompts([[5, 6, (12, 16), 7, (2, 2), 8, (2, 14), 9]], share, seed=11)
    model_case.check(model_case.actual(pruned), full, pruned)


@pytest.mark.parametrize(("restore", "side"), [(0.25, "left"), (0.5, "right"), (1.0, "left")])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_copies(family_name: str, attention: str, restore: float, side: str) -> None:
    """Dropped blocks with a token have the feature of a kept one, at their own place."""
    model_case = case(family_name, attention)
    full, pruned = model_case.prompts(ROWS, side=side, restore=restore)
    model_case.check(model_case.actual(pruned), full, pruned)
    without = model_case.prompts(ROWS, side=side)[1]
    assert len(pruned.inputs["pixel_values"]) == len(without.inputs["pixel_values"])
    if restore == 1:
        assert bool(full.selected.eq(full.inputs["attention_mask"].bool()).all())
        assert difference(model_case.unpruned(full), model_case.actual(pruned)) > 1


def test_image_and_video(family_name: str) -> None:
    model_case = case(family_name)
    if not model_case.tiny.videos:
        pytest.skip("the stock model does not take an image and a video in one prompt as laid out here")
    full, pruned = model_case.prompts(WITH_VIDEO, restore=0.3)
    model_case.check(model_case.actual(pruned), full, pruned)
    assert difference(model_case.unpruned(full), model_case.expected(full, pruned)) > 1


def test_video_alone_is_stock(family_name: str) -> None:
    model_case = case(family_name)
    if not model_case.tiny.videos:
        pytest.skip("the stock model does not take a video as laid out here")
    full, pruned = model_case.prompts([[5, (4, 4, 8), 6, 7]])
    assert torch.equal(model_case.actual(pruned), model_case.unpruned(full))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_nothing_dropped_is_stock(family_name: str, attention: str) -> None:
    model_case = case(family_name, attention)
    full, pruned = model_case.prompts(ROWS, share=1.0)
    assert torch.cat(pruned.keep).all()
    actual, unpruned = model_case.actual(pruned), model_case.unpruned(full)
    assert torch.equal(actual, unpruned)
    pruned.inputs.pop("attention_mask")
    full.inputs.pop("attention_mask")
    with torch.no_grad():
        assert torch.equal(
            model_case.pruned(**model_case.inputs(pruned)).logits, model_case.stock(**model_case.inputs(full)).logits
        )


@pytest.mark.parametrize("way", ["inputs_embeds", "mm_encoder_outputs", "inputs_embeds without pixels"])
def test_nothing_dropped_is_stock_for_vectors_too(family_name: str, way: str) -> None:
    """The text as embeddings, and images as features that were computed before: stock code takes both."""
    model_case = case(family_name)
    full, pruned = model_case.prompts(ROWS[:1], share=1.0)
    inputs, stock_inputs = model_case.inputs(pruned), model_case.inputs(full)
    # Ids say where images are; without them stock code compares embeddings, or finds no positions.
    if way.startswith("inputs_embeds"):
        embeddings = model_case.stock.get_input_embeddings()(inputs.pop("input_ids")).detach()
        stock_inputs.pop("input_ids")
        changes = {"inputs_embeds": embeddings}
        if "without" in way:
            changes["pixel_values"] = None
    else:
        names = inspect.signature(model_case.stock.base_model.get_image_features).parameters
        given = {name: value for name, value in stock_inputs.items() if name in names}
        with torch.no_grad():
            features = model_case.stock.base_model.get_image_features(**given, return_dict=True)
        changes = {"pixel_values": None, "mm_encoder_outputs": {"image": features}}
    given, stock_given = (
        {name: value for name, value in {**before, **changes}.items() if value is not None}
        for before in (inputs, stock_inputs)
    )
    for model in (model_case.stock, model_case.pruned):
        if hasattr(model.base_model, "rope_deltas"):
            # Older versions place embeddings without ids by what the call before left here.
            model.base_model.rope_deltas = None
    with torch.no_grad():
        expected = model_case.stock(**stock_given, use_cache=False).logits
        assert torch.equal(model_case.pruned(**given, use_cache=False).logits, expected)
    assert _said(model_case.pruned, given) == _said(model_case.stock, stock_given)


def _said(model: Any, inputs: dict[str, Any]) -> Any:
    """What generate says, or why it refuses: some stock models do not take embeddings there."""
    try:
        return model.generate(**inputs, max_new_tokens=3, do_sample=False).tolist()
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_model_without_its_head(family_name: str, share: float) -> None:
    """Trainers that fuse head and loss call `base_model`, not `forward`."""
    model_case = case(family_name)
    if model_case.pruned.base_model is model_case.pruned:
        pytest.skip("in this version of transformers there is no model below its head")
    full, pruned = model_case.prompts(ROWS, share, side="right")
    inputs = model_case.inputs(pruned)
    with torch.no_grad():
        actual = model_case.pruned.base_model(**inputs, use_cache=False).last_hidden_state
        # A copy: what transformers hooks in to record states stays there, and cannot be pickled by other tests.
        recorded = copy.deepcopy(model_case.pruned)(**inputs, use_cache=False, output_hidden_states=True)
    expected = recorded.hidden_states[-1]
    mask = pruned.inputs["attention_mask"].bool()
    with torch.no_grad():
        rounding = limit(
            model_case.stock,
            model_case.nudged,
            lambda model: model.base_model(**model_case.inputs(full), use_cache=False).last_hidden_state[full.selected],
        )
    assert difference(actual[mask], expected[mask]) < rounding


def test_one_prompt_without_attention_mask(family_name: str) -> None:
    """No mask and no cache: positions with gaps must not be taken for packed sequences."""
    model_case = case(family_name)
    full, pruned = model_case.prompts(ROWS[:1])
    with torch.no_grad():
        inputs = model_case.inputs(pruned)
        inputs.pop("attention_mask")
        logits = model_case.pruned(**inputs, use_cache=False).logits[0]
    model_case.check(logits, full, pruned)


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
