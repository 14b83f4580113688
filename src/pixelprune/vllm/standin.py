"""A checkpoint that stands in for a real one where only time counts: true widths, few layers, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DEPTH = 2

# What it wants of vLLM: few and short requests, no minutes of compiling.
OPTIONS = ["--enforce-eager", "--max-model-len", "4096", "--kv-cache-memory-bytes", str(2**29)]


def small_model() -> Any:
    """A model with random weights that answers at once, with heads as wide as vLLM's kernels want them."""
    import torch
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 128,
            "vocab_size": 1024,
            "rope_parameters": rope,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 256,
            "depth": 2,
            "num_heads": 2,
            "out_hidden_size": 128,
            "patch_size": 16,
            "deepstack_visual_indexes": [1],
        },
    )
    torch.manual_seed(0)
    model: Any = Qwen3VLForConditionalGeneration
    return model(config).eval()


def save_standin(folder: Path, model: Any = None) -> None:
    """Write a checkpoint that vLLM can serve.

    Args:
        folder: where to.
        model: of Qwen3-VL, with random weights; default: one as wide as Qwen3-VL-2B, with two layers in its encoder and
            two in its language model.
    """
    import torch

    from pixelprune.transformers.bench import prefill_model
    from pixelprune.transformers.standin import standin_processor

    model = model or prefill_model(DEPTH, DEPTH)
    processor = standin_processor(model)
    model.config.text_config.max_position_embeddings = 8192
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
