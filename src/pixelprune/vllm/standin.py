"""A checkpoint that stands in for a real one where only time counts: true widths, few layers, random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

DEPTH = 2

# What it wants of vLLM: few and short requests, no minutes of compiling.
OPTIONS = ["--enforce-eager", "--max-model-len", "4096", "--kv-cache-memory-bytes", str(2**29)]

_END = "<|im_end|>"
_SPECIAL = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


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
    from transformers import Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

    from pixelprune.transformers.bench import prefill_model

    tokenizer = _tokenizer()
    model = model or prefill_model(DEPTH, DEPTH)
    for name, token in _SPECIAL.items():
        setattr(model.config, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    model.config.text_config.max_position_embeddings = 8192
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    sizes = {"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096}
    image_processor = Qwen2VLImageProcessor(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3, size=sizes)
    processor: Any = Qwen3VLProcessor
    processor(
        image_processor=image_processor,
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=_TEMPLATE,
    ).save_pretrained(folder)


def _tokenizer() -> Any:
    """One token a byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = {**_SPECIAL, "start_token": "<|im_start|>"}
    tokenizer: Any = PreTrainedTokenizerFast
    return tokenizer(tokenizer_object=core, pad_token=_END, eos_token=_END, extra_special_tokens=special)
