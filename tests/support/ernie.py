"""A small checkpoint of ERNIE-4.5-VL as it is published: vLLM reads no other.

Its config and processor are remote code, of which only what vLLM asks for is here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

# Before and after vLLM has seen it.
PLACEHOLDER, TOKEN = "<|image@placeholder|>", "<|IMAGE_PLACEHOLDER|>"

_CONFIG = """
from transformers import PretrainedConfig


class VisionConfig(PretrainedConfig):
    model_type = "small_ernie_vision"


class Config(PretrainedConfig):
    model_type = "small_ernie"
    sub_configs = {"vision_config": VisionConfig}

    def __init__(self, vision_config=None, **kwargs):
        self.vision_config = VisionConfig(**(vision_config or {}))
        super().__init__(**kwargs)
"""

_PROCESSOR = """
from transformers import AutoTokenizer, BatchFeature, Ernie4_5_VLMoeImageProcessor, ProcessorMixin

LEAST, MOST = 64 * 64, 2048**2


class ImageProcessor(Ernie4_5_VLMoeImageProcessor):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.size = dict(min_pixels=LEAST, max_pixels=MOST)

    def preprocess(self, images, **kwargs):
        return super().preprocess(images, size=dict(shortest_edge=LEAST, longest_edge=MOST), **kwargs)


class Processor(ProcessorMixin):
    spatial_conv_size = temporal_conv_size = 2

    def __init__(self, image_processor, tokenizer):
        self.image_processor, self.tokenizer = image_processor, tokenizer

    @classmethod
    def from_pretrained(cls, folder, **kwargs):
        return cls(ImageProcessor(), AutoTokenizer.from_pretrained(folder, trust_remote_code=True))

    def __call__(self, text=None, images=None, videos=None, return_tensors=None, **kwargs):
        cut = self.image_processor.preprocess(
            images, do_rescale=False, do_normalize=False, return_tensors="pt"
        )
        return BatchFeature({"images": cut["pixel_values"], "grid_thw": cut["image_grid_thw"]})
"""


def publish(folder: Path) -> None:
    """Write what `folder` holds for transformers, once more, for vLLM, into a folder within."""
    config = _read(folder / "config.json")
    names = _read(folder / "tokenizer_config.json")
    names["image_token"] = TOKEN
    _write(folder / "tokenizer_config.json", names)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config["image_token_id"] = tokenizer.image_token_id
    _write(folder / "config.json", config)
    published = folder / "published"
    published.mkdir()
    tokenizer.save_pretrained(published)
    weights = load_file(folder / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith("e_score_correction_bias"):
            weight.zero_()  # vLLM leaves it out on CPUs
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    renamed = {name.replace("model.vision_model.", "vision_model."): weight for name, weight in weights.items()}
    save_file(renamed, published / "model.safetensors", metadata={"format": "pt"})
    text, vision = config["text_config"], config["vision_config"]
    experts, last = text["moe_num_experts"], text["num_hidden_layers"] - 1
    described = {
        **{name: value for name, value in text.items() if name != "mlp_layer_types"},
        "architectures": config["architectures"],
        "model_type": "small_ernie",
        "auto_map": {"AutoConfig": "configuration.Config", "AutoProcessor": "processing.Processor"},
        "dtype": config["dtype"],
        "tie_word_embeddings": config["tie_word_embeddings"],
        "freq_allocation": text["rope_parameters"]["mrope_section"][2],
        "moe_num_experts": [experts, experts],
        "moe_layer_start_index": [1, 1],
        "moe_layer_end_index": [last, last],
        "im_patch_id": config["image_token_id"],
        "image_start_token_id": config["image_start_token_id"],
        "image_end_token_id": config["image_end_token_id"],
        "pixel_hidden_size": vision["hidden_size"],
        "spatial_conv_size": vision["spatial_merge_size"],
        "temporal_conv_size": vision["temporal_merge_size"],
        "use_temporal_conv": True,
        "vision_config": {
            **vision,
            "embed_dim": vision["hidden_size"],
            "mlp_ratio": vision["intermediate_size"] / vision["hidden_size"],
        },
    }
    _write(published / "config.json", described)
    _write(published / "processor_config.json", {"auto_map": {"AutoProcessor": "processing.Processor"}})
    (published / "configuration.py").write_text(_CONFIG, encoding="utf-8")
    (published / "processing.py").write_text(_PROCESSOR, encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
