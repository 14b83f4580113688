"""Every family on a GPU: the same kept blocks, logits and answers as on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from pixelprune.images.samples import sample_path
from pixelprune.transformers import kept
from tests.support.checkpoints import KITS, enabled_or_skip
from tests.support.rounding import MARGIN, difference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")


def inputs_of(name: str, processor: Any, **options: Any) -> Any:
    page = Image.open(sample_path("page")).convert("RGB")
    pictures = [page.resize((100, 132)), page.crop((300, 300, 420, 400))]
    start, end = ("<|vision_start|>", "<|vision_end|>") if "omni" in name else ("", "")
    image = f"{start}{processor.image_token}{end}"
    text = [f"read {image} and {image} now", "the quick fox"]
    return processor(text=text, images=[pictures, []], padding=True, return_tensors="pt", **options)


@pytest.mark.parametrize("name", KITS)
@torch.no_grad()
def test_same_as_on_the_cpu(name: str) -> None:
    stock, _, model, processor = enabled_or_skip(name)
    full, inputs = inputs_of(name, processor, pixelprune=False), inputs_of(name, processor)
    assert 0 < kept(inputs)[0].retain_ratio < 1
    here = [stock(**full, use_cache=False).logits, model(**inputs, use_cache=False).logits]
    answer = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    stock.cuda()
    model.cuda()
    full, inputs = full.to("cuda"), inputs.to("cuda")
    there = [stock(**full, use_cache=False).logits.cpu(), model(**inputs, use_cache=False).logits.cpu()]
    rounding = [difference(a, b) for a, b in zip(here, there, strict=True)]
    # A logit of 1 has steps of 2^-23.
    assert rounding[1] <= MARGIN * max(rounding[0], 2**-23)
    assert model.generate(**inputs, max_new_tokens=4, do_sample=False).shape == answer.shape


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen2_5_vl", "glm4v"])
def test_training_step(name: str) -> None:
    """Gradients of a pruned batch are as near to those on the CPU as those of an unpruned one."""
    _, _, model, processor = enabled_or_skip(name)
    apart = []
    for options in ({"pixelprune": False}, {}):
        gradients = []
        for device in ("cpu", "cuda"):
            inputs = inputs_of(name, processor, **options).to(device)
            model.to(device).zero_grad()
            model(**inputs, labels=inputs["input_ids"]).loss.backward()
            gradients.append(torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]))
        apart.append(float((gradients[0] - gradients[1]).norm() / gradients[0].norm()))
    assert 0 < apart[1] <= MARGIN * apart[0]
