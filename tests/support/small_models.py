"""Small random checkpoints that vLLM loads on a CPU, one for each architecture that is covered.

Heads are as wide as the kernels of vLLM want them, which the tiny models of the transformers suite are not.
"""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from tests.support import dots, ernie
from tests.support.checkpoints import KITS, model_and_processor
from tests.support.tiny_models import ALL, GLM_IDS, VISION_IDS

_TEXT = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 4096,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_VISION = {
    "depth": 4,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_heads": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 128,
}
_MROPE = {"rope_type": "default", "rope_theta": 1e4}
_QWEN2_ROPE = {**_MROPE, "mrope_section": [4, 6, 6]}
_QWEN3_ROPE = {**_MROPE, "mrope_section": [8, 4, 4], "mrope_interleaved": True}
_QWEN3_VISION = {**_VISION, "patch_size": 16, "num_position_embeddings": 576, "deepstack_visual_indexes": [0, 1, 2]}
_EXPERTS = {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2}
_QWEN3_5 = {
    "rope_parameters": {**_MROPE, "mrope_section": [2, 1, 1], "mrope_interleaved": True, "partial_rotary_factor": 0.25},
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
_QWEN3_5_VISION = {name: value for name, value in _QWEN3_VISION.items() if name != "deepstack_visual_indexes"}
# vLLM has linear attention for CPUs in this type only, and no prefix caching for it.
_BF16: dict[str, Any] = {"dtype": "bfloat16", "engine": {"enable_prefix_caching": False}}
_GLM_ROPE = {**_MROPE, "mrope_section": [2, 3, 3], "partial_rotary_factor": 0.5}
_GLM_VISION = {**_VISION, "patch_size": 14, "image_size": 336}


@dataclass(frozen=True)
class Small:
    """One architecture.

    Attributes:
        architecture: as checkpoints name it.
        family: its name among the families of `pixelprune.transformers`.
        text, vision: what sets its configs apart.
        image: what stands for an image in a prompt.
        dtype: in which vLLM runs it on a CPU.
        engine: options of the engine.
        transposed: whether vLLM reads weights of experts as they are published, transposed, while transformers writes
            them as it computes with them.
    """

    architecture: str
    family: str
    text: dict[str, Any]
    vision: dict[str, Any]
    image: str = "<|vision_start|><|image_pad|><|vision_end|>"
    dtype: str = "float32"
    engine: dict[str, Any] = field(default_factory=dict)
    transposed: bool = False


_GLM_IMAGE = "<|image_start|><|image_pad|><|image_end|>"

SMALL = {
    small.family: small
    for small in (
        Small("Qwen3VLForConditionalGeneration", "qwen3_vl", {"rope_parameters": _QWEN3_ROPE}, _QWEN3_VISION),
        Small(
            "Qwen3VLMoeForConditionalGeneration",
            "qwen3_vl_moe",
            {"rope_parameters": _QWEN3_ROPE, **_EXPERTS, "norm_topk_prob": True},
            _QWEN3_VISION,
            transposed=True,
        ),
        Small(
            "Qwen2_5_VLForConditionalGeneration",
            "qwen2_5_vl",
            {"rope_parameters": _QWEN2_ROPE},
            {**_VISION, "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [2]},
        ),
        Small(
            "Qwen2VLForConditionalGeneration",
            "qwen2_vl",
            {"rope_parameters": _QWEN2_ROPE},
            {"depth": 4, "embed_dim": 128, "hidden_size": 128, "num_heads": 4, "mlp_ratio": 2, "patch_size": 14},
        ),
        Small(
            "Exaone4_5_ForConditionalGeneration",
            "exaone4_5",
            {
                "model_type": "exaone4",
                "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
                "sliding_window": 4096,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
            {**_VISION, "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [2], "num_key_value_heads": 2},
            # Before vLLM 0.33, stock code would not normalize at all.
            engine={"mm_device_do_normalize": False},
        ),
        Small("Qwen3_5ForConditionalGeneration", "qwen3_5", _QWEN3_5, _QWEN3_5_VISION, **_BF16),
        Small(
            "Qwen3_5MoeForConditionalGeneration",
            "qwen3_5_moe",
            {**_QWEN3_5, **_EXPERTS, "shared_expert_intermediate_size": 64},
            _QWEN3_5_VISION,
            **_BF16,
        ),
        Small(
            "Glm4vForConditionalGeneration",
            "glm4v",
            {"rope_parameters": _GLM_ROPE, "attention_bias": True},
            _GLM_VISION,
            _GLM_IMAGE,
        ),
        Small(
            "Glm4vMoeForConditionalGeneration",
            "glm4v_moe",
            {
                "rope_parameters": _GLM_ROPE,
                "attention_bias": True,
                **_EXPERTS,
                "n_routed_experts": 4,
                "n_shared_experts": 1,
                "n_group": 1,
                "topk_group": 1,
                "first_k_dense_replace": 1,
                "use_qk_norm": False,
            },
            _GLM_VISION,
            _GLM_IMAGE,
        ),
        Small(
            "GlmOcrForConditionalGeneration",
            "glm_ocr",
            {"rope_parameters": _GLM_ROPE, "intermediate_size": 384},
            _GLM_VISION,
            _GLM_IMAGE,
        ),
    )
}


# Those for which there is no model in transformers that reads the same checkpoint and can be pruned in the same way.
APART = {
    small.family: small
    for small in (
        Small(
            "Ernie4_5_VLMoeForConditionalGeneration",
            "ernie4_5_vl_moe",
            {
                "rope_parameters": {**_MROPE, "mrope_section": [6, 6, 4]},
                "rms_norm_eps": 1e-6,  # vLLM takes it for the vision encoder too
                "moe_intermediate_size": [64, 64],
                "moe_k": 2,
                "moe_num_experts": 4,
                "moe_num_shared_experts": 1,
                "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            },
            {
                "depth": 4,
                "hidden_size": 128,
                "intermediate_size": 256,
                "num_heads": 4,
                "patch_size": 14,
                "spatial_merge_size": 2,
            },
            f"<|image_start|>{ernie.PLACEHOLDER}<|image_end|>",
            # vLLM's kernel for CPUs takes an argument that this model's rotation does not.
            engine={"trust_remote_code": True, "compilation_config": {"custom_ops": ["-rotary_embedding"]}},
        ),
        Small("DotsOCRForCausalLM", "dots_ocr", {}, dots.VISION, "<|imgpad|>", engine={"trust_remote_code": True}),
        Small(
            "PaddleOCRVLForConditionalGeneration",
            "paddleocr_vl",
            {"rope_parameters": _QWEN2_ROPE},
            {
                "hidden_size": 128,
                "intermediate_size": 256,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "patch_size": 14,
                "image_size": 336,
                "spatial_merge_size": 2,
            },
        ),
    )
}


def save(family: str, folder: Path) -> None:
    """Write the checkpoint of an architecture: config, weights, processor, tokenizer."""
    small = {**SMALL, **APART}[family]
    if family == "dots_ocr":
        dots.save({**_TEXT, **small.text}, folder)
        return
    ids = GLM_IDS if "glm" in family or "ernie" in family else VISION_IDS
    options = {"text_config": {**_TEXT, **small.text}, "vision_config": small.vision, **ids}
    tiny = dataclasses.replace(ALL[family], options=lambda: options)
    kit = next(name for name in (family, *_LIKE.get(family, ())) if name in KITS)
    model, processor = model_and_processor(
        kit, tiny=tiny, patch_size=small.vision["patch_size"], size={"shortest_edge": 64 * 64, "longest_edge": 2048**2}
    )
    if "glm" in family:
        # Its encoder blows up rounding: unpruned, too, two implementations would be 1e-4 apart.
        for name, weight in model.named_parameters():
            if "visual" in name and weight.dim() > 1:
                weight.data.mul_(0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if family == "ernie4_5_vl_moe":
        ernie.publish(folder)
    if small.transposed:
        shutil.copytree(folder, folder / "published")
        weights = load_file(folder / "model.safetensors")
        turned = {name: weight.mT.contiguous() for name, weight in weights.items() if ".experts." in name}
        save_file({**weights, **turned}, folder / "published" / "model.safetensors", metadata={"format": "pt"})


def for_vllm(folder: Path) -> Path:
    """Where vLLM finds the checkpoint that transformers finds in `folder`."""
    return folder / "published" if (folder / "published").exists() else folder


# Families that have the processor of another one.
_LIKE = {
    "qwen3_vl_moe": ("qwen3_vl",),
    "qwen3_5": ("qwen3_vl",),
    "qwen3_5_moe": ("qwen3_vl",),
    "glm_ocr": ("glm4v",),
    "glm4v_moe": ("glm4v",),
}
