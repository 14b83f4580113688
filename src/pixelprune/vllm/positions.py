"""Language-model positions of tokens: those of the unpruned prompt."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding

from pixelprune.plan.keep import merge_size
from pixelprune.plan.token_map import IMAGE_MAP, TokenMap
from pixelprune.plan.tokens import unpruned_places
from pixelprune.vllm.contract import Contract
from pixelprune.vllm.options import publish

# vLLM's own factor for models whose positions run ahead of the tokens.
_FACTOR = 4


class MRopeMixin(Contract):
    """For a stock model class whose positions have three axes; comes before it in the bases."""

    def __init__(self: Any, *, vllm_config: Any, prefix: str = "") -> None:
        model_config = vllm_config.model_config
        # Compiled code holds the length of the table, so vLLM's key for it has to know.
        asked = publish(model_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        if asked:
            for module in self.modules():
                if isinstance(module, MRotaryEmbedding):
                    grow_table(module, _FACTOR * model_config.max_model_len)

    def get_mrope_input_positions(self: Any, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Positions (3, S) of the tokens of the pruned prompt, and what decoding adds to their count."""
        stock = super().get_mrope_input_positions  # type: ignore[misc]
        pruned = sorted((f for f in mm_features if _map(f) is not None), key=_offset)
        if not pruned:
            return stock(input_tokens, mm_features)  # type: ignore[no-any-return]
        present = _token_map(pruned).present
        tokens = torch.tensor(input_tokens)  # (S,)
        is_image = torch.zeros(1, len(tokens), dtype=torch.bool)
        for feature in pruned:
            is_image[0, _offset(feature) : _offset(feature) + feature.mm_position.length] = True
        places, lengths = unpruned_places(is_image, torch.ones_like(is_image), present)  # (1, S), (1,)
        # Only placeholders are missing, and those of all images have the same id.
        full = torch.full((int(lengths[0]),), input_tokens[_offset(pruned[0])])  # (unpruned S,)
        full[places[0]] = tokens
        features = [_unpruned(feature, places[0]) for feature in mm_features]
        positions, delta = stock(full.tolist(), features)
        return positions[:, places[0]], delta + len(full) - len(tokens)


def _offset(feature: Any) -> int:
    return int(feature.mm_position.offset)


def _map(feature: Any) -> Tensor | None:
    """The token map of an image, int32 (N,); None if it is not pruned."""
    return None if feature.data is None or IMAGE_MAP not in feature.data else feature.data[IMAGE_MAP].data


def _token_map(pruned: list[Any]) -> TokenMap:
    values = torch.cat([feature.data[IMAGE_MAP].data for feature in pruned])
    grids = torch.stack([feature.data["image_grid_thw"].data.flatten() for feature in pruned])  # (images, 3)
    return TokenMap.of_grids(values, grids, merge_size(grids, len(values)))


def _unpruned(feature: Any, places: Tensor) -> Any:
    """`feature` where it would stand in the unpruned prompt."""
    start, position = int(places[_offset(feature)]), feature.mm_position
    values = _map(feature)
    if values is None:
        return replace(feature, mm_position=replace(position, offset=start))
    start -= int((values >= 0).nonzero()[0])  # the first block of an image may have no token
    return replace(feature, mm_position=replace(position, offset=start, length=len(values)))


def grow_table(rotary: Any, rows: int) -> None:
    """Extend the table to `rows` positions; those it has keep their values."""
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
        stock_factor: rows per `max_position_embeddings` in the stock class.
        grown: whether the engine was started with pruning switched on, or ready for it.
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

    An image advances positions by the longer side of its grid, however few tokens it has.

    Args:
        images: (longer side in blocks, tokens) of each image of a prompt, in order.

    Example: a flat page of 40 x 30 blocks, then one that is kept whole.
        >>> furthest_ahead([(40, 1), (40, 1200)])
        39
    """
    return max(accumulate((side - tokens for side, tokens in images), initial=0))
