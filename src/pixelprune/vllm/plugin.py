"""What vLLM calls in each of its processes: the registry gets names of subclasses, and nothing is imported yet."""

from __future__ import annotations

import logging

from packaging.specifiers import SpecifierSet

# Under vLLM's own logger, so that its settings hold for our lines too.
_log = logging.getLogger("vllm.pixelprune")

GROUP = "vllm.general_plugins"

# The versions of vLLM that the suite ran with. vLLM remembers what it found out about a class by the text of the
# module that it came from: whoever changes this range changes the first line of each module of `models` too.
TESTED = SpecifierSet(">=0.32,<0.33", prereleases=True)

# Architecture, as checkpoints name it, to module of `pixelprune.vllm.models`; the class there has the stock name.
ARCHITECTURES = {
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_vl_moe",
    "Qwen3_5ForConditionalGeneration": "qwen3_5",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Glm4vForConditionalGeneration": "glm4_1v",
    "Glm4vMoeForConditionalGeneration": "glm4_1v",
    "GlmOcrForConditionalGeneration": "glm_ocr",
    "Ernie4_5_VLMoeForConditionalGeneration": "ernie45_vl",
    "DotsOCRForCausalLM": "dots_ocr",
    "PaddleOCRVLForConditionalGeneration": "paddleocr_vl",
}


def register() -> None:
    """Put pruning subclasses over vLLM's own entries, and a guard over those that cannot be pruned.

    The entry point of the group `vllm.general_plugins`: called in every process of vLLM, maybe more than once.
    Entries that somebody else has registered stay as they are.
    """
    import vllm
    from vllm import ModelRegistry

    from pixelprune.vllm import guard

    tested, media = TESTED.contains(vllm.__version__), guard.multimodal()
    for architecture, known in list(ModelRegistry.models.items()):
        module, name = getattr(known, "module_name", ""), getattr(known, "class_name", "")
        owner, covered = module.partition(".")[0], architecture in ARCHITECTURES
        if owner == "vllm" and covered and tested:
            ours = f"pixelprune.vllm.models.{ARCHITECTURES[architecture]}:{architecture}"
            ModelRegistry.register_model(architecture, ours)
        elif owner == "vllm" and (covered or architecture in media):
            ModelRegistry.register_model(architecture, guard.entry(architecture, module, name, vllm.__version__))
        elif owner not in ("vllm", "pixelprune") and covered:
            _log.warning(
                "pixelprune does not prune %s, which %s has registered", architecture, module or "someone else"
            )
