"""Where tokens stand in the language model: where they stood before pruning."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from pixelprune.plan.keep import KeepMask
from pixelprune.plan.tokens import unpruned_places


def mrope_positions(
    model: Any, inputs: dict[str, Any], image_token: int, is_image: Tensor, present: KeepMask
) -> tuple[Tensor, Tensor]:
    """Positions of tokens from the model's own rope index, asked about the unpruned prompt.

    Args:
        model: the model, of any head.
        inputs: the arguments of `forward`; `input_ids` (batch, S) and, if there is one,
            `attention_mask` (batch, S).
        image_token: id of the placeholder.
        is_image: bool (batch, S), the placeholders of images.
        present: the mask of the blocks of all images that have a token.

    Returns:
        `position_ids` (3, batch, S), 0 at padding, and what is to be added to the count of tokens
        to get the next position, (batch, 1). Three rows and not four: a fourth with gaps would be
        taken for several packed sequences.
    """
    ids, mask = inputs["input_ids"].cpu(), inputs.get("attention_mask")
    is_token = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.cpu().bool()
    places, lengths = unpruned_places(is_image.cpu(), is_token, present.to(ids.device))  # (batch, S), (batch,)
    columns = torch.arange(int(lengths.max()))
    full_mask = (columns < lengths[:, None]).long()  # (batch, unpruned S)
    full_ids = torch.full_like(full_mask, image_token)
    row = torch.arange(len(ids))[:, None].expand_as(ids)
    full_ids[row[is_token], places[is_token]] = ids[is_token]
    full: dict[str, Any] = {"input_ids": full_ids, "attention_mask": full_mask}
    if (types := inputs.get("mm_token_type_ids")) is None:
        types = (ids == image_token).long() + 2 * (ids == getattr(model.config, "video_token_id", None))
    full_types = full_mask.clone()  # blocks without a token are image tokens, of type 1
    full_types[row[is_token], places[is_token]] = types.cpu().long()[is_token]
    full["mm_token_type_ids"] = full_types
    positions, _ = _rope_index(model, inputs, full)  # (3, batch, unpruned S)
    at_tokens = positions[:, row, places].where(is_token, torch.tensor(0, dtype=positions.dtype))  # (3, batch, S)
    last = positions.where(full_mask.bool(), torch.tensor(0, dtype=positions.dtype)).amax((0, 2))
    deltas = last.long() + 1 - is_token.sum(1)
    return at_tokens.to(inputs["input_ids"].device), deltas[:, None].to(inputs["input_ids"].device)


def _rope_index(model: Any, inputs: dict[str, Any], full: dict[str, Any]) -> tuple[Tensor, Tensor]:
    rope_index = (model if hasattr(model, "get_rope_index") else model.base_model).get_rope_index
    named = {**inputs, **full}
    # The omni models name these differently in `forward` and in `get_rope_index`.
    named["second_per_grids"] = inputs.get("video_second_per_grid")
    named["audio_seqlens"] = inputs.get("audio_feature_lengths")
    if inputs.get("feature_attention_mask") is not None:
        named["audio_seqlens"] = inputs["feature_attention_mask"].sum(-1)
    named["use_audio_in_video"] = inputs.get("use_audio_in_video") or False
    wanted = {name: named[name] for name in inspect.signature(rope_index).parameters if name in named}
    found: tuple[Tensor, Tensor] = rope_index(
        **{name: value.cpu() if isinstance(value, Tensor) else value for name, value in wanted.items()}
    )
    return found
