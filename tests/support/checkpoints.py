"""A processor of each family with a tokenizer trained here, and a small checkpoint on disk: no hub needed."""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_models import ALL, Tiny, build, module_of

TEXT = [
    "read the total of this page and say what it is",
    "what does the screen show, and where is the button called save",
    "the quick brown fox jumps over the lazy dog 0123456789",
]

# What the processors of all families look for, by name.
_SPECIAL = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "audio_token": "<|audio_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "vision_bos_token": "<|vision_bos|>",
    "vision_eos_token": "<|vision_eos|>",
    "audio_bos_token": "<|audio_bos|>",
    "audio_eos_token": "<|audio_eos|>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "video_start_token": "<|video_start|>",
    "video_end_token": "<|video_end|>",
    "image_begin_token": "<|image_begin|>",
}
_MORE = [
    "<|image|>",
    "<|video|>",
    "<image>",
    "<video>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|IMAGE_PLACEHOLDER|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|IMAGE_PAD|>",
    "<|VIDEO_PAD|>",
    "<|VISION_START|>",
    "<|VISION_END|>",
    "<|imgpad|>",
    "<|audio_comp_pad|>",
    "<|patch|>",
    "]<]image[>[",
    "]<]video[>[",
    "]<]start of image[>[",
    "]<]end of image[>[",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }} "
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


@cache
def tokenizer(named: bool = True) -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer; if `named`, it says which token is for images, and so on."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", *_SPECIAL.values(), *_MORE]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        extra_special_tokens=_SPECIAL if named else {},
    )


@dataclass(frozen=True)
class Kit:
    """The processor classes of a family: modules below transformers.models, and class names."""

    processor: str
    images: str = "qwen2_vl.Qwen2VLImageProcessor"
    videos: str = "qwen2_vl.Qwen2VLVideoProcessor"
    audio: str = ""
    named: bool = True


KITS = {
    "qwen2_vl": Kit("qwen2_vl.Qwen2VLProcessor"),
    "qwen2_5_vl": Kit("qwen2_5_vl.Qwen2_5_VLProcessor"),
    "qwen3_vl": Kit("qwen3_vl.Qwen3VLProcessor", videos="qwen3_vl.Qwen3VLVideoProcessor"),
    "qwen2_5_omni_thinker": Kit("qwen2_5_omni.Qwen2_5OmniProcessor", audio="whisper.WhisperFeatureExtractor"),
    "qwen3_omni_moe_thinker": Kit("qwen3_omni_moe.Qwen3OmniMoeProcessor", audio="whisper.WhisperFeatureExtractor"),
    "cohere_compass": Kit(
        "cohere_compass.CohereCompassProcessor",
        "cohere_compass.CohereCompassImageProcessor",
        "cohere_compass.CohereCompassVideoProcessor",
        named=False,
    ),
    "glm4v": Kit("glm4v.Glm4vProcessor", "glm4v.Glm4vImageProcessor", "glm4v.Glm4vVideoProcessor"),
    "glm46v": Kit("glm46v.Glm46VProcessor", "glm46v.Glm46VImageProcessor", "glm46v.Glm46VVideoProcessor"),
    "glm5_next": Kit(
        "glm5_next.Glm5NextProcessor", "glm5_next.Glm5NextImageProcessor", "glm5_next.Glm5NextVideoProcessor"
    ),
    "paddleocr_vl": Kit("paddleocr_vl.PaddleOCRVLProcessor", "paddleocr_vl.PaddleOCRVLImageProcessor", videos=""),
    "ernie4_5_vl_moe": Kit(
        "ernie4_5_vl_moe.Ernie4_5_VLMoeProcessor",
        "ernie4_5_vl_moe.Ernie4_5_VLMoeImageProcessor",
        "ernie4_5_vl_moe.Ernie4_5_VLMoeVideoProcessor",
    ),
    "video_llama_3": Kit(
        "video_llama_3.VideoLlama3Processor",
        "video_llama_3.VideoLlama3ImageProcessor",
        "video_llama_3.VideoLlama3VideoProcessor",
    ),
    "exaone4_5": Kit("exaone4_5.Exaone4_5_Processor"),
    "hyperclovax_vision_v2": Kit("hyperclovax_vision_v2.HyperCLOVAXVisionV2Processor"),
    "dots3_note": Kit("dots3_note.Dots3NoteProcessor", audio="dots3_note.Dots3NoteFeatureExtractor"),
    "kimi_k25": Kit("kimi_k25.Kimi_K25Processor", "kimi_k25.Kimi_K25ImageProcessor", "kimi_k25.Kimi_K25VideoProcessor"),
    "muse_glimmer": Kit(
        "muse_glimmer.MuseGlimmerProcessor",
        "muse_glimmer.MuseGlimmerImageProcessor",
        "muse_glimmer.MuseGlimmerVideoProcessor",
    ),
    "muse_spark": Kit(
        "muse_spark.MuseSparkProcessor",
        "muse_glimmer.MuseGlimmerImageProcessor",
        "muse_glimmer.MuseGlimmerVideoProcessor",
        audio="muse_spark.MuseSparkFeatureExtractor",
    ),
    "minimax_m3_vl": Kit(
        "minimax_m3_vl.MiniMaxM3VLProcessor",
        "minimax_m3_vl.MiniMaxM3VLImageProcessor",
        "minimax_m3_vl.MiniMaxM3VLVideoProcessor",
    ),
}


# What keeps test images small, where a processor has its own way of sizing.
_SMALL = {"size": {"shortest_edge": 64 * 64, "longest_edge": 160 * 160}}
SIZES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(KITS, _SMALL),
    "kimi_k25": {},
    "muse_glimmer": {},
    "muse_spark": {},
    "glm5_next": {"max_image_tokens": 100},
    "dots3_note": {**_SMALL, "temporal_patch_size": 1},
}


def class_of(path: str) -> Any:
    folder, name = path.split(".")
    return getattr(importlib.import_module(f"transformers.models.{folder}"), name)


def processor_of(name: str, **image_options: Any) -> Any:
    """The stock processor of a family, with the defaults of its class."""
    kit = KITS[name]
    parts = {"image_processor": class_of(kit.images)(**image_options), "tokenizer": tokenizer(kit.named)}
    if kit.videos:
        # Drawing needs a font that does not come with transformers.
        drawing = {"draw_on_frames": False} if "Ernie" in kit.videos else {}
        parts["video_processor"] = class_of(kit.videos)(**drawing)
    if kit.audio:
        parts["feature_extractor"] = class_of(kit.audio)()
    return class_of(kit.processor)(**parts, chat_template=CHAT_TEMPLATE)


def model_and_processor(
    name: str, attention: str = "eager", tiny: Tiny | None = None, experts: str | None = None, **image_options: Any
) -> tuple[Any, Any]:
    """A tiny model that knows the ids of the tokenizer, and its processor."""
    tiny = tiny or ALL[name]
    options = {"patch_size": 4, **SIZES.get(name, {}), **image_options}
    processor = processor_of(name, **options)
    ids = {token: getattr(processor, f"{token}_id", None) for token in ("image_token", "video_token", "audio_token")}
    vision = ("vision_start_token_id", "vision_end_token_id", "image_start_token_id", "image_end_token_id")

    def change(config: Any) -> None:
        text = config.get_text_config()
        text.vocab_size, text.pad_token_id = len(processor.tokenizer), processor.tokenizer.pad_token_id
        for token, number in ids.items():
            for ending in ("_id", "_index"):
                if number is not None and hasattr(config, token.replace("_token", "_token" + ending)):
                    setattr(config, token + ending, number)
        for attribute in vision:
            token = processor.tokenizer.convert_tokens_to_ids(f"<|{attribute.removesuffix('_token_id')}|>")
            if hasattr(config, attribute):
                setattr(config, attribute, token)

    return build(tiny, attention, change=change, **({"experts_implementation": experts} if experts else {})), processor


def enabled_or_skip(name: str) -> tuple[Any, Any, Any, Any]:
    """A stock model and its processor, and enabled copies of both; skips what the installed transformers cannot run."""
    from pixelprune.transformers import enable  # not with every version of vLLM, which needs checkpoints too

    if module_of(ALL[name]) is None:
        pytest.skip(f"this transformers has no {name}")
    stock = model_and_processor(name)
    try:
        return *stock, *enable(*copy.deepcopy(stock), threshold=0.02)
    except (ValueError, RuntimeError) as error:
        if "upgrade transformers" in str(error) or "use an older transformers" in str(error):
            pytest.skip(f"refused with this transformers: {error}")
        raise
