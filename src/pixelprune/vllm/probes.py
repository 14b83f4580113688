"""Two pictures through the processor of an engine, with and without pruning: what a start is checked with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from pixelprune.plan.token_map import IMAGE_MAP, encoded
from pixelprune.selection.config import PruneConfig
from pixelprune.vllm.options import KEY


@dataclass(frozen=True)
class Probe:
    """One prompt.

    Attributes:
        full: what the stock processor makes of it.
        ours: what ours makes of it when nothing is to be dropped.
        pruned: what ours makes of it at a threshold of 0.
        copied: the same, and half of the dropped blocks come back as copies.
        default: what ours makes of it without options of a request; None if the engine does not prune then.
        patch_order: of the processor's patches, "block" or "row".
    """

    full: Any
    ours: Any
    pruned: Any
    copied: Any
    default: Any
    patch_order: str

    @property
    def items(self) -> list[tuple[Any, Any, Any]]:
        """What a worker gets of each image: without pruning, with it, and with copies."""
        made = (self.full, self.pruned, self.copied)
        return list(zip(*(one["mm_kwargs"]["image"] for one in made), strict=True))


def probes(model_config: Any) -> list[Probe]:
    """Prompts with as many images as the engine allows, two at most in all; none if it takes no images."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    limit = model_config.multimodal_config.get_limit_per_prompt("image")
    pictures = [picture(352, 256, seed=0), picture(192, 288, seed=1)]
    if not limit:
        return []
    processor = MULTIMODAL_REGISTRY.create_processor(model_config)
    return [_probe(processor, part) for part in ([pictures] if limit > 1 else [[one] for one in pictures])]


def picture(width: int, height: int, seed: int) -> PIL.Image.Image:
    """Noise here and there on a flat ground."""
    generator = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 240, np.uint8)
    for y, x in generator.integers(0, (height - 48, width - 48), (4, 2)):
        pixels[y : y + 48, x : x + 48] = generator.integers(0, 256, (48, 48, 3), np.uint8)
    return PIL.Image.fromarray(pixels)


def _probe(processor: Any, images: list[PIL.Image.Image]) -> Probe:
    text = processor.dummy_inputs.get_dummy_text({"image": len(images)})
    options = {KEY: False}, {KEY: PruneConfig().to_dict()}, {KEY: PruneConfig(restore=0.5).to_dict()}
    items = processor.info.parse_mm_data({"image": images})
    ours, pruned, copied = (processor(text, items, hf_processor_mm_kwargs=given) for given in options)
    full = _stock(processor)(text, items, hf_processor_mm_kwargs={})
    default = processor(text, items, hf_processor_mm_kwargs={}) if processor._pixelprune else None
    return Probe(full, ours, pruned, copied, default, processor._pruner.layout.patch_order)


def _stock(processor: Any) -> Any:
    """A processor of the class that ours extends, for the same engine."""
    stock = next(base for base in type(processor).__mro__ if not base.__module__.startswith("pixelprune."))
    return stock(processor.info, processor.dummy_inputs)


def problem(probe: Probe) -> str | None:
    """What is wrong with what the processor makes, in words; None if nothing is."""
    sent = (made["mm_kwargs"]["image"] for made in (probe.full, probe.ours))
    if not all(_equal(*pair) for pair in zip(*sent, strict=True)):
        return "with pruning switched off, what is sent is not what the stock processor sends"
    for full, *ours in probe.items:
        for item in ours:
            if found := _wrong_item(full, item, probe.patch_order):
                return found
    for made in (probe.pruned, probe.copied):
        absent = sum(int((item[IMAGE_MAP].data < 0).sum()) for item in made["mm_kwargs"]["image"])
        fewer = len(probe.full["prompt_token_ids"]) - len(made["prompt_token_ids"])
        if fewer != absent:
            return f"{absent} blocks are dropped, but the prompt is {fewer} tokens shorter"
    if len(probe.copied["prompt_token_ids"]) == len(probe.pruned["prompt_token_ids"]):
        return "half of the dropped blocks should come back as copies, but none does"
    hashes = [made["mm_hashes"]["image"] for made in (probe.full, probe.pruned, probe.copied, probe.default) if made]
    for made in hashes[1:]:
        if not set(hashes[0]).isdisjoint(made):
            return "the same image has the same hash with and without pruning, so caches would mix them up"
    if not set(hashes[1]).isdisjoint(hashes[2]):
        return "the same image has the same hash with and without copies, so caches would mix them up"
    return None


def _wrong_item(full: Any, ours: Any, patch_order: str) -> str | None:
    """What is wrong with what is sent of one pruned image."""
    if IMAGE_MAP not in ours:
        return "no block of an image with a flat ground is dropped"
    values, given, found = ours[IMAGE_MAP].data, *(item["pixel_values"].data for item in (full, ours))
    grid = full["image_grid_thw"].data
    mask = encoded(values)
    if not _same(given[patches_of(mask, grid, patch_order)], found):
        return "pixels of kept blocks are not those that are sent without pruning"
    if not _can_be_rebuilt(given, mask, grid, patch_order):
        return "a block is dropped at a threshold of 0 that no kept block equals"
    of_block = patches_of(torch.arange(len(values)), grid, patch_order)
    for block in ((values >= 0) & ~mask).nonzero()[:, 0].tolist():
        source = int(values[block])
        if not mask[source] or not _same(given[of_block == block], given[of_block == source]):
            return "a copy is of a block that is not kept, or does not equal it at a threshold of 0"
    return None


def _can_be_rebuilt(patches: Tensor, mask: Tensor, grid: Tensor, patch_order: str) -> bool:
    """Whether every dropped block of an image equals a kept one: a look at all of them, not at the rule."""
    of_block = patches_of(torch.arange(len(mask)), grid, patch_order)
    blocks = [patches[of_block == n].contiguous().view(torch.uint8).numpy().tobytes() for n in range(len(mask))]
    kept = {block for block, stays in zip(blocks, mask.tolist(), strict=True) if stays}
    return kept.issuperset(blocks)


def _equal(first: Any, second: Any) -> bool:
    return set(first) == set(second) and all(_same(first[name].data, second[name].data) for name in first)


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return bool(first == second)


def patches_of(mask: Tensor, grid: Tensor, patch_order: str) -> Tensor:
    """From one value for each block of an image (N,), such as its keep mask, to one for each patch (n,).

    Example: two blocks of 2 x 2 patches next to each other, of which the left one is kept.
        >>> patches_of(torch.tensor([True, False]), torch.tensor([1, 2, 4]), "row").int().tolist()
        [1, 1, 0, 0, 1, 1, 0, 0]
        >>> patches_of(torch.tensor([True, False]), torch.tensor([1, 2, 4]), "block").int().tolist()
        [1, 1, 1, 1, 0, 0, 0, 0]
    """
    height, width = (int(side) for side in grid.flatten()[-2:])
    merge = round((height * width / len(mask)) ** 0.5)
    blocks = mask.view(height // merge, 1, width // merge, 1).expand(-1, merge, -1, merge)
    return (blocks if patch_order == "row" else blocks.transpose(1, 2)).flatten()
