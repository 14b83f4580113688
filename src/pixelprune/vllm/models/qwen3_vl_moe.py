"""Qwen3-VL with experts, for vLLM 0.31 to 0.33."""

from vllm.model_executor.models import qwen3_vl_moe as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from pixelprune.vllm.models.qwen3_vl import Qwen3VLMultiModalProcessor
from pixelprune.vllm.positions import MRopeMixin
from pixelprune.vllm.towers import GraphMixin, TowerMixin


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLMultiModalProcessor, info=stock.Qwen3VLMoeProcessingInfo, dummy_inputs=stock.Qwen3VLDummyInputsBuilder
)
class Qwen3VLMoeForConditionalGeneration(MRopeMixin, GraphMixin, TowerMixin, stock.Qwen3VLMoeForConditionalGeneration):
    pass
