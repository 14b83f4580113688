"""Whether an object prunes, and a processor that keeps everything for a while."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from PIL import Image

from pixelprune import PruneConfig
from pixelprune.transformers import disable, enable, is_enabled, keeping_all
from pixelprune.transformers.processing import pruning_each
from tests.support.checkpoints import model_and_processor


def test_is_enabled() -> None:
    peft = pytest.importorskip("peft", reason="a model under adapters")
    model, processor = model_and_processor("qwen3_vl")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"]))
    parts = (wrapped, model, model.base_model, processor, processor.image_processor)
    assert not any(map(is_enabled, parts))
    enable(model, processor)
    assert all(map(is_enabled, parts))
    disable(wrapped, processor)
    assert not any(map(is_enabled, parts))
    assert not is_enabled(
        peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), peft.LoraConfig(target_modules=["0"]))
    )


def test_keeping_all() -> None:
    """One processor keeps every block for a while; others, and calls that ask for pruning, go on pruning."""
    processor, other = (enable(processor=model_and_processor("qwen3_vl")[1]) for _ in range(2))
    image, text = Image.new("RGB", (128, 96)), [processor.image_token]
    pruned = processor(text=text, images=image, return_tensors="pt")
    with keeping_all(processor):
        unpruned = processor(text=text, images=image, return_tensors="pt")
        assert not (other(text=text, images=image, return_tensors="pt")["image_map"] >= 0).all()
        asked = processor(text=text, images=image, return_tensors="pt", pixelprune=True)
    stock = disable(processor=copy.deepcopy(processor))(text=text, images=image, return_tensors="pt")
    assert bool((unpruned.pop("image_map") >= 0).all())
    assert unpruned.keys() == stock.keys()
    assert all(torch.equal(unpruned[name], stock[name]) for name in stock)
    for again in (asked, processor(text=text, images=image, return_tensors="pt")):
        assert torch.equal(again["image_map"], pruned["image_map"])
        assert not (again["image_map"] >= 0).all()
    with keeping_all(processor), keeping_all(other):
        nested = [one(text=text, images=image, return_tensors="pt")["image_map"] for one in (processor, other)]
    assert all(bool((values >= 0).all()) for values in nested)
    with (
        pytest.raises(ValueError, match=r"processor must be enabled .* got a \w+Processor that is not"),
        keeping_all(disable(processor=other)),
    ):
        pass


def test_each_image_in_its_way() -> None:
    """Images of one call, each with options for it alone, are what calls with these options make of them."""
    processor, other = (enable(processor=model_and_processor("qwen3_vl")[1]) for _ in range(2))
    images = [Image.new("RGB", (24, 8 * rows)) for rows in (2, 3, 4)]
    configs = [PruneConfig(restore=0.5), None, PruneConfig()]

    def made(one: Any, some: list[Image.Image], **options: Any) -> Any:
        return one(text=[one.image_token * len(some)], images=some, return_tensors="pt", do_resize=False, **options)

    alone = [
        made(processor, [image], pixelprune=False if config is None else config)
        for image, config in zip(images, configs, strict=True)
    ]
    assert [int((one["image_map"] >= 0).sum()) for one in alone] == [4, 9, 1]
    with pruning_each(processor, configs):
        together, elsewhere = made(processor, images), made(other, images)
        asked = made(processor, images, pixelprune={"restore": 1})
        with keeping_all(processor):
            everything = made(processor, images)
        with pytest.raises(ValueError, match=r"config must have one entry per image, 2, got 3"):
            made(processor, images[:2])
    for name in ("pixel_values", "image_map"):
        assert torch.equal(together[name], torch.cat([one[name] for one in alone])), name
    assert int((together["input_ids"] == processor.image_token_id).sum()) == 14
    assert int((elsewhere["image_map"] >= 0).sum()) == 3
    assert bool((asked["image_map"] == 0).sum() == 27)
    assert torch.equal(everything["pixel_values"], made(processor, images, pixelprune=False)["pixel_values"])
    assert int((made(processor, images)["image_map"] >= 0).sum()) == 3
