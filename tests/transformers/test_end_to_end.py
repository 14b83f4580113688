"""From a picture to logits: real processors and real pixels, against the stock processor and the masked model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import pixelprune
from pixelprune.images.samples import sample_path
from pixelprune.transformers import families, kept
from tests.support import oracle
from tests.support.checkpoints import KITS, enabled_or_skip, model_and_processor
from tests.support.prompts import Prompt, encoded, known
from tests.support.rounding import difference, limit, nudged, settled
from tests.support.tiny_models import ALL

NAMES = list(KITS)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    page = Image.open(sample_path("page")).convert("RGB")
    screen = Image.open(sample_path("screen")).convert("RGB")
    return [page.resize((100, 132)), screen.resize((130, 75)), page.crop((300, 300, 420, 400))]


def stock_prompt(inputs: Any, image_token: int, image_map: torch.Tensor, merge: int) -> Prompt:
    """What the stock processor made, as the oracle takes it."""
    is_image = inputs["input_ids"] == image_token
    selected = inputs["attention_mask"].bool()
    selected[is_image] = image_map >= 0
    counts = (inputs["image_grid_thw"].prod(-1) // merge**2).tolist()
    keep = encoded(image_map, inputs["image_grid_thw"], merge)
    return Prompt(dict(inputs), list(keep.split(counts)), selected, list(image_map.split(counts)))


@pytest.mark.parametrize("name", NAMES)
def test_from_picture_to_logits(name: str, pictures: list) -> None:
    stock, stock_processor, model, processor = enabled_or_skip(name)
    token = processor.image_token
    start, end = ("<|vision_start|>", "<|vision_end|>") if "omni" in name else ("", "")
    text = [f"read {start}{token}{end} and {start}{token}{end} now", f"say {start}{token}{end} what", "the quick fox"]
    batches = [pictures[:2], pictures[2:], []]

    def run(of: Any) -> Any:
        return of(text=text, images=batches, padding=True, return_tensors="pt")

    inputs, stock_inputs = run(processor), run(stock_processor)
    assert all(0 < image.retain_ratio < 1 for image in kept(inputs)[:2])
    family, tiny = families.get(name), ALL[name]
    merge = processor.image_processor.merge_size
    image_token = processor.tokenizer.convert_tokens_to_ids(token)
    full = stock_prompt(stock_inputs, image_token, inputs["image_map"], merge)
    with torch.no_grad():
        mask = inputs["attention_mask"].bool()
        logits = model(**inputs, use_cache=False).logits[mask]
        where = (family.tower, family.patch_order, dataclasses.replace(tiny, merge=merge))

        def unpruned(model: Any) -> Any:
            return model(**known(stock, full.inputs), use_cache=False).logits[full.selected]

        def without_dropped_blocks(model: Any) -> Any:
            if tiny.plain:
                return oracle.masked_logits(model, *where, full)
            return oracle.short_logits(model, *where, full, Prompt(dict(inputs), full.keep))

        expected, rounding = without_dropped_blocks(stock), limit(stock, nudged(stock), unpruned)
        stays = settled(stock, without_dropped_blocks, rounding)
    assert difference(logits[stays], expected[stays]) < rounding


def test_as_the_readme_says(tmp_path: Path, pictures: list) -> None:
    """A checkpoint on disk, the Auto classes, a chat, two added lines."""
    folder = str(tmp_path)
    for part in model_and_processor("qwen3_vl"):
        part.save_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    messages = [
        {"role": "user", "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": "read"}]}
    ]

    def chat() -> Any:
        return processor.apply_chat_template(
            messages, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )

    before = chat()
    assert pixelprune.transformers.enable(model, processor, pixelprune.PruneConfig(threshold=0.0)) == (model, processor)
    inputs = chat().to(model.device)
    assert inputs["input_ids"].shape[1] < before["input_ids"].shape[1]
    saved = before["input_ids"].shape[1] - inputs["input_ids"].shape[1]
    (image,) = pixelprune.transformers.kept(inputs)
    assert image.total - image.kept == saved
    answer = model.generate(**inputs, max_new_tokens=8)
    assert answer.shape[1] > inputs["input_ids"].shape[1]
    pixelprune.transformers.disable(model, processor)
    after = chat()
    assert set(after) == set(before)
    assert torch.equal(after["pixel_values"], before["pixel_values"])
    model.generate(**after, max_new_tokens=2)
