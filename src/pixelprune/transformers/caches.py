"""What a cache holds, noted on the cache, so that the next turn is checked and continues at the right position.

Stock code keeps the position of the next token on the model, where another prompt replaces it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

_NOTE = "_pixelprune_note"


@dataclass(frozen=True)
class _Note:
    """A conversation up to the end of a cache or beyond.

    Attributes:
        ids: its tokens (batch, S), or None where they are not known.
        prompt: tokens of all prompts so far; a cache cut shorter than this has no position to continue from.
        deltas: what is added to a count of tokens after the prompt to get a position, or None.
    """

    ids: Tensor | None
    prompt: int
    deltas: Tensor | None


def is_whole(ids: Tensor, mask: Tensor | None) -> bool:
    """Whether generate() takes `ids` as the entire conversation, and not only as what follows a cache."""
    return mask is None or mask.shape[1] == ids.shape[1]


def length(cache: Any) -> int:
    """Tokens that a cache holds; 0 for None."""
    return 0 if cache is None else int(cache.get_seq_length())


def deltas_behind(model: Any, cache: Any) -> Tensor | None:
    """`rope_deltas` at the end of `cache`: those noted on it, or else those of the model's last prompt."""
    note = getattr(cache, _NOTE, None)
    if note is not None and length(cache) >= note.prompt:
        return note.deltas  # type: ignore[no-any-return]
    return getattr(model.base_model, "rope_deltas", None)


def restore(model: Any, cache: Any) -> None:
    """Let stock code continue from the end of `cache`."""
    if getattr(cache, _NOTE, None) is not None and hasattr(model.base_model, "rope_deltas"):
        model.base_model.rope_deltas = deltas_behind(model, cache)


def check_prompt(inputs: dict[str, Any]) -> None:
    """Raise a ValueError if a prompt with images does not continue its cache."""
    cache, ids = inputs.get("past_key_values"), inputs.get("input_ids")
    cached = length(cache)
    if not cached or ids is None or not is_whole(ids, inputs.get("attention_mask")):
        return
    before = getattr(getattr(cache, _NOTE, None), "ids", None)
    fits = ids.shape[1] > cached
    if fits and before is not None and before.shape[1] >= cached and len(before) == len(ids):
        fits = torch.equal(ids[:, :cached], before[:, :cached].to(ids.device))
    if not fits:
        raise ValueError(
            f"input_ids do not begin with the {cached} tokens that past_key_values hold; pass the whole conversation "
            "with its images, or only its new part with an attention_mask over the cache and the new tokens"
        )


def note(result: Any, inputs: dict[str, Any], deltas: Tensor | None) -> None:
    """Note on the cache of a finished generate() what it holds."""
    cache, given = getattr(result, "past_key_values", None), inputs.get("input_ids")
    if not isinstance(cache, Cache) or given is None:
        return
    ids, prompt, mask = result.sequences, given.shape[1], inputs.get("attention_mask")
    if length(inputs.get("past_key_values")) and not is_whole(given, mask):
        before = inputs["attention_mask"].shape[1] - given.shape[1]
        known: Tensor | None = getattr(getattr(cache, _NOTE, None), "ids", None)
        complete = known is not None and len(known) == len(ids) and known.shape[1] >= before
        ids = torch.cat([known[:, :before], ids], 1) if known is not None and complete else None
        prompt = before + given.shape[1]
    setattr(cache, _NOTE, _Note(ids, prompt, deltas))
