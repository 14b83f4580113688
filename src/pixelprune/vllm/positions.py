"""Language-model positions of kept tokens: those of the unpruned prompt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding

from pixelprune.plan.tokens import unpruned_places
from pixelprune.vllm.options import KEY, engine_options

# The field of an image that holds its keep mask: bool (N,), on the CPU. Images that are not pruned have none.
KEPT = "image_kept"

# vLLM's own factor for models whose positions run ahead of the tokens.
_FACTOR = 4


class MRopeMixin:
    """In front of a stock model class whose positions have three axes."""

    def __init__(self: Any, *, vllm_config: Any, prefix: str = "") -> None:
        model_config = vllm_config.model_config
        options = engine_options(model_config)
        if options is not None:
            # vLLM's key for compiled code, which holds the length of the table, has to know; it looks at this config.
            setattr(model_config.hf_config, KEY, options)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        if options is not None:
            for module in self.modules():
                if isinstance(module, MRotaryEmbedding):
                    grow_table(module, _FACTOR * model_config.max_model_len)

    def get_mrope_input_positions(self: Any, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Positions (3, S) of the tokens that are there, and what decoding adds to their count."""
        stock = super().get_mrope_input_positions  # type: ignore[misc]
        pruned = sorted((f for f in mm_features if f.data is not None and KEPT in f.data), key=_offset)
        if not pruned:
            return stock(input_tokens, mm_features)  # type: ignore[no-any-return]
        masks = [feature.data[KEPT].data for feature in pruned]
        tokens = torch.tensor(input_tokens)
        is_image = torch.zeros(1, len(tokens), dtype=torch.bool)
        for feature in pruned:
            is_image[0, _offset(feature) : _offset(feature) + feature.mm_position.length] = True
        places, lengths = unpruned_places(
            is_image, torch.ones_like(is_image), torch.cat(masks), [len(mask) for mask in masks]
        )
        # Only placeholders are missing, and one is like another.
        full = torch.full((int(lengths[0]),), input_tokens[_offset(pruned[0])])
        full[places[0]] = tokens
        features = [_unpruned(feature, places[0]) for feature in mm_features]
        positions, delta = stock(full.tolist(), features)
        return positions[:, places[0]], delta + len(full) - len(tokens)


def _offset(feature: Any) -> int:
    return int(feature.mm_position.offset)


def _unpruned(feature: Any, places: Tensor) -> Any:
    """`feature` where it would stand in the unpruned prompt."""
    start, position = int(places[_offset(feature)]), feature.mm_position
    if feature.data is None or KEPT not in feature.data:
        return replace(feature, mm_position=replace(position, offset=start))
    mask = feature.data[KEPT].data
    start -= int(mask.nonzero()[0])
    return replace(feature, mm_position=replace(position, offset=start, length=len(mask)))


def grow_table(rotary: Any, rows: int) -> None:
    """Let positions up to `rows` be looked up; those that could be before keep their values."""
    old = rotary.cos_sin_cache
    if len(old) >= rows:
        return
    scaled = rotary.scaling_factor is not None
    frequencies = rotary._compute_inv_freq(rotary.scaling_factor if scaled else rotary.base)
    angles = torch.outer(torch.arange(rows, dtype=torch.float32, device=frequencies.device), frequencies)
    table = torch.cat([angles.cos(), angles.sin()], dim=-1) * rotary.mscale
    rotary.cos_sin_cache = table.to(dtype=old.dtype, device=old.device)
    if getattr(rotary, "cos_sin_cache_bf16", None) is not None:
        rotary.cos_sin_cache_bf16 = rotary.cos_sin_cache.to(torch.bfloat16)


def table_rows(model_config: Any, stock_factor: int, grown: bool) -> int:
    """How many positions the language model can look up.

    Args:
        model_config: vLLM's.
        stock_factor: rows by `max_position_embeddings` in the stock class.
        grown: whether the engine was started with pruning on, or ready for it.
    """
    text = model_config.hf_text_config
    rope = getattr(text, "rope_parameters", None) or {}
    positions: int = text.max_position_embeddings
    if rope.get("rope_type") == "yarn":
        positions = int(rope["original_max_position_embeddings"] * rope["factor"])
    rows = positions * stock_factor
    return max(rows, _FACTOR * model_config.max_model_len) if grown else rows


def furthest_ahead(images: Iterable[tuple[int, int]]) -> int:
    """How far positions can run ahead of the count of tokens.

    An image moves positions on by the longer side of its grid, however few of its blocks are kept.

    Args:
        images: (longer side in blocks, kept blocks) of each image of a prompt, in order.

    Example: a flat page of 40 x 30 blocks, then one of which all is kept.
        >>> furthest_ahead([(40, 1), (40, 1200)])
        39
    """
    return max(accumulate((side - kept for side, kept in images), initial=0))
