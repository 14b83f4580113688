"""The untrained model and its processor, and the folder that both are saved in.

Everything is a stock class of transformers: the folder loads with `AutoModelForImageTextToText` and `AutoProcessor`,
and nothing of this package is needed to use it.
"""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tiny_model.tasks import BINS, BLOCK, DIGITS, PATCH

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
UNKNOWN = "<|unknown|>"
WORDS = (
    *SPECIAL,
    UNKNOWN,
    "user",
    "assistant",
    "read",
    "find",
    *DIGITS,
    *ascii_uppercase,
    *(f"x{i}" for i in range(BINS)),
    *(f"y{i}" for i in range(BINS)),
)
WORD_IDS = {word: number for number, word in enumerate(WORDS)}
LARGEST = 32 * BLOCK  # pixels a side up to which no image is resized

# Each turn ends in a new line, as in Qwen's own template; the tokenizer splits at white space and drops it.
TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for part in message.content %}
{{- part.text }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>' }}
{%- endgeneration %}
{{- '\\n' }}
{%- else %}
{%- if message.content is string %}
{{- message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type == 'image' or 'image' in part or 'image_url' in part %}
{{- '<|vision_start|><|image_pad|><|vision_end|>' }}
{%- elif part.type == 'video' or 'video' in part %}
{{- '<|vision_start|><|video_pad|><|vision_end|>' }}
{%- else %}
{{- part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def make_tokenizer() -> Any:
    """A tokenizer of whole words: one token a word, white space only separates."""
    core = Tokenizer(models.WordLevel(WORD_IDS, unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=core,
        unk_token=UNKNOWN,
        pad_token=SPECIAL[0],
        eos_token="<|im_end|>",
        additional_special_tokens=[word for word in SPECIAL[1:] if word != "<|im_end|>"],
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def make_processor() -> Any:
    """A stock processor with that tokenizer; images of the tasks pass it at their own size."""
    geometry: dict[str, Any] = {"patch_size": PATCH, "merge_size": BLOCK // PATCH, "temporal_patch_size": 2}
    look: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor: Any = Qwen3VLProcessor
    return processor(
        image_processor=Qwen2VLImageProcessor(
            size={"shortest_edge": BLOCK**2, "longest_edge": LARGEST**2}, **geometry, **look
        ),
        tokenizer=make_tokenizer(),
        video_processor=Qwen3VLVideoProcessor(**geometry, **look, cap_pixels_per_frame=False),
        chat_template=TEMPLATE,
    )


def make_config() -> Any:
    """A Qwen3-VL with every part of the large ones: deepstack, interleaved M-RoPE, a resampled position grid."""
    text = {
        "vocab_size": len(WORDS),
        "hidden_size": 96,
        "intermediate_size": 240,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 100.0,  # prompts are short: all frequencies turn noticeably within one image
            "mrope_section": [6, 5, 5],
            "mrope_interleaved": True,
        },
        "pad_token_id": WORD_IDS["<|endoftext|>"],
        "eos_token_id": WORD_IDS["<|im_end|>"],
    }
    vision = {
        "depth": 3,
        "hidden_size": 80,
        "intermediate_size": 160,
        "num_heads": 2,
        "patch_size": PATCH,
        "spatial_merge_size": BLOCK // PATCH,
        "temporal_patch_size": 2,
        "out_hidden_size": 96,
        "num_position_embeddings": 8**2,
        "deepstack_visual_indexes": [0],
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=WORD_IDS["<|image_pad|>"],
        video_token_id=WORD_IDS["<|video_pad|>"],
        vision_start_token_id=WORD_IDS["<|vision_start|>"],
        vision_end_token_id=WORD_IDS["<|vision_end|>"],
        tie_word_embeddings=False,
    )


def make_model(seed: int) -> Any:
    """A model with random weights in float32, scaled so that a small network learns at once."""
    torch.manual_seed(seed)
    config = make_config()
    config._attn_implementation = "sdpa"
    model: Any = Qwen3VLForConditionalGeneration(config)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            # Variance is kept from layer to layer; branches that are added to the residual stream start at half.
            branch = name.endswith(("o_proj", "down_proj", "attn.proj", "mlp.linear_fc2"))
            scale = 0.2 if name == "lm_head" else 0.5 if branch else 1.0
            nn.init.normal_(module.weight, std=scale * module.in_features**-0.5)
    visual = model.model.visual
    nn.init.normal_(visual.pos_embed.weight, std=0.1)
    nn.init.normal_(visual.patch_embed.proj.weight, std=0.04)
    nn.init.normal_(model.get_input_embeddings().weight, std=0.5)
    generation: Any = GenerationConfig
    ends = {"eos_token_id": WORD_IDS["<|im_end|>"], "pad_token_id": WORD_IDS["<|endoftext|>"]}
    model.generation_config = generation(do_sample=False, **ends)
    return model


def save(model: Any, folder: str | Path) -> None:
    """Write model and processor into one folder, as transformers and vLLM expect it."""
    model.save_pretrained(folder)
    make_processor().save_pretrained(folder)
