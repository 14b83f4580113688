"""A processor that stands in for one from a checkpoint, for measurements with random weights: no hub needed."""

from __future__ import annotations

from typing import Any

import transformers

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


def standin_processor(model: Any) -> Any:
    """The stock processor of Qwen3-VL with a tokenizer of one token a byte; the model's config learns its ids."""
    tokenizer = _tokenizer()
    for name, token in _SPECIAL.items():
        setattr(model.config, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    processor: Any = transformers.Qwen3VLProcessor
    return processor(
        image_processor=image_processor(),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen3VLVideoProcessor(),
        chat_template=_TEMPLATE,
    )


def image_processor() -> Any:
    """The image processor of Qwen3-VL."""
    return transformers.Qwen2VLImageProcessor(
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 256 * 256, "longest_edge": 4096 * 4096},
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
