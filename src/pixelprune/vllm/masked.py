"""A stock model of transformers in which dropped blocks can be hidden: what a pruned prompt must lead to.

It computes all blocks of all images, in the stock order and with the stock positions, and keeps attention from looking
at the dropped ones. So it shares nothing with the code that prunes. Slow; for self-tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AttentionInterface, AutoModelForImageTextToText

_NAME = "pixelprune_masked"


class MaskedModel:
    """The checkpoint in a folder, in float32, of an architecture like Qwen3-VL."""

    def __init__(self, folder: Path) -> None:
        AttentionInterface.register(_NAME, self._attend)
        loader: Any = AutoModelForImageTextToText
        self._model = loader.from_pretrained(folder, attn_implementation=_NAME, dtype=torch.float32).eval()
        self._seen: dict[bool, Tensor] = {}  # by whether attention is causal, as it is in the language model

    @torch.inference_mode()
    def logprobs(self, inputs: Any, keep: Tensor) -> Tensor:
        """Of each token of the pruned prompt but the first, float32 (L − 1,).

        Args:
            inputs: of the stock processor, for one prompt with one image.
            keep: bool (N,), the blocks that are not hidden.
        """
        ids = inputs["input_ids"][0]
        tokens = torch.ones(len(ids), dtype=torch.bool)
        tokens[ids == self._model.config.image_token_id] = keep
        unit = self._model.config.vision_config.spatial_merge_size**2
        self._seen = {True: tokens, False: keep.repeat_interleave(unit)}
        scores = self._model(**inputs, use_cache=False).logits[0, tokens].log_softmax(-1)
        said: Tensor = scores[:-1].gather(1, ids[tokens][1:, None])[:, 0]
        return said

    def _attend(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        scaling: float,
        **options: Any,
    ) -> tuple[Tensor, None]:
        causal = options.get("is_causal", module.is_causal)
        seen = self._seen[causal][None, :].expand(query.shape[2], -1)
        if causal:
            seen = seen.tril()
        result = F.scaled_dot_product_attention(
            query, key, value, attn_mask=seen, scale=scaling, enable_gqa=query.shape[1] != key.shape[1]
        )
        return result.transpose(1, 2).contiguous(), None
