"""Models with random weights, and a processor for them: what stands in for a checkpoint where no hub is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

# Ids of placeholders in a model without a tokenizer.
IMAGE, VISION_START, VISION_END = 1000, 1001, 1002

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


def wide_model(vision_depth: int, text_depth: int) -> Any:
    """A model with random weights and the widths of Qwen3-VL-2B, but for depth and vocabulary."""
    config = transformers.Qwen3VLConfig(
        text_config={
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": text_depth,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "depth": vision_depth,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 16,
            "deepstack_visual_indexes": [vision_depth - 1],
        },
        image_token_id=IMAGE,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    torch.manual_seed(0)
    model: Any = transformers.Qwen3VLForConditionalGeneration(config)
    return model.eval()


def small_model() -> Any:
    """A model with random weights that answers at once, with heads as wide as vLLM's kernels want them."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    config = transformers.Qwen3VLConfig(
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
    model: Any = transformers.Qwen3VLForConditionalGeneration(config)
    return model.eval()


def save_standin(folder: Path, model: Any = None) -> None:
    """Write a checkpoint that a server can load.

    Args:
        folder: where to.
        model: of Qwen3-VL, with random weights; default: one as wide as Qwen3-VL-2B, with two layers in its encoder and
            two in its language model.
    """
    model = model or wide_model(2, 2)
    processor = standin_processor(model)
    model.config.text_config.max_position_embeddings = 8192
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


def standin_processor(model: Any = None) -> Any:
    """The stock processor of Qwen3-VL with a tokenizer of one token per byte, whose ids the config of `model` gets."""
    tokenizer = _tokenizer()
    for name, token in _SPECIAL.items() if model is not None else ():
        setattr(model.config, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    processor: Any = transformers.Qwen3VLProcessor
    return processor(
        image_processor=transformers.Qwen2VLImageProcessor(
            patch_size=16,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            size={"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096},
        ),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(),
        chat_template=_TEMPLATE,
    )


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = {**_SPECIAL, "start_token": "<|im_start|>"}
    tokenizer: Any = transformers.PreTrainedTokenizerFast
    return tokenizer(tokenizer_object=core, pad_token=_END, eos_token=_END, extra_special_tokens=special)
