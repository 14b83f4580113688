"""The fast batches of the training from scratch are what processor and chat template make, and train towards it."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from PIL import Image

from tiny_model.batches import IGNORED, collate
from tiny_model.checkpoint import make_model, make_processor
from tiny_model.heads import OneFrame
from tiny_model.tasks import BIN, TASKS, Sample, held_out, sample


def conversation(item: Sample, order: list[int]) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = []
    for place, field in enumerate(order):
        question, answer = item.turns[field]
        image = [] if place else [{"type": "image", "image": Image.fromarray(item.image)}]
        turns.append({"role": "user", "content": [*image, {"type": "text", "text": question}]})
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return turns


@pytest.mark.usefixtures("float64")
def test_batches_are_those_of_the_processor() -> None:
    model, rng = make_model(0).eval(), Random(3)
    samples = [sample(rng, TASKS[number % 2]) for number in range(4)]
    batch = collate(samples, Random(0), model.model.visual.num_grid_per_side)
    rng = Random(0)
    orders = [rng.sample(range(len(item.turns)), len(item.turns)) for item in samples]
    expected = make_processor().apply_chat_template(
        [conversation(item, order) for item, order in zip(samples, orders, strict=True)],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        assert torch.equal(expected[name], batch.inputs[name]), name
    assert torch.equal(expected.pop("assistant_masks").bool(), batch.targets != IGNORED)
    mask = expected["attention_mask"].bool()
    with torch.no_grad():
        logits = model(**expected).logits[mask]
        model.model.visual.patch_embed = OneFrame(model.model.visual.patch_embed)
        torch.testing.assert_close(model(**batch.inputs).logits[mask], logits, atol=1e-9, rtol=1e-9)


def test_answers_to_finding_lie_on_the_button() -> None:
    """Counted by hand from the box, and clicked; held-out samples are the same each time."""
    for item in held_out("find", 50):
        left, top, right, bottom = item.boxes[item.asked]
        assert item.answer == f"x{(left + right) // 2 // BIN} y{(top + bottom) // 2 // BIN}"
        assert item.clicks(item.answer)
        assert not item.clicks("x0 y")
    first, again = held_out("read", 3), held_out("read", 3)
    assert all((a.image == b.image).all() and a.turns == b.turns for a, b in zip(first, again, strict=True))
