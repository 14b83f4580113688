"""What is covered: the architectures that can be pruned, and the versions of vLLM that were tested."""

from packaging.specifiers import SpecifierSet

# The versions of vLLM that the suite ran with. vLLM caches what it finds out about a class under the text of its
# module, so a change of this range must change the first line of each module of `models` too.
TESTED = SpecifierSet(">=0.31,<0.34", prereleases=True)

# From an architecture, as checkpoints name it, to a module of `pixelprune.vllm.models`; its class has the stock name.
ARCHITECTURES = {
    "Qwen3VLForConditionalGeneration": "qwen3_vl",
    "Qwen3VLMoeForConditionalGeneration": "qwen3_vl_moe",
    "Qwen3_5ForConditionalGeneration": "qwen3_5",
    "Qwen3_5MoeForConditionalGeneration": "qwen3_5",
    "Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl",
    "Qwen2VLForConditionalGeneration": "qwen2_vl",
    "Exaone4_5_ForConditionalGeneration": "exaone4_5",
    "Glm4vForConditionalGeneration": "glm4_1v",
    "Glm4vMoeForConditionalGeneration": "glm4_1v",
    "GlmOcrForConditionalGeneration": "glm_ocr",
    "Ernie4_5_VLMoeForConditionalGeneration": "ernie45_vl",
    "DotsOCRForCausalLM": "dots_ocr",
    "PaddleOCRVLForConditionalGeneration": "paddleocr_vl",
}
