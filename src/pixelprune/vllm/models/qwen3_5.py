"""Qwen3.5, dense and with experts, for vLLM 0.31 to 0.33."""

from vllm.model_executor.models import qwen3_5 as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from pixelprune.vllm.models.qwen3_vl import Qwen3VLMultiModalProcessor
from pixelprune.vllm.positions import MRopeMixin
from pixelprune.vllm.towers import GraphMixin, TowerMixin


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLMultiModalProcessor, info=stock.Qwen3_5ProcessingInfo, dummy_inputs=stock.Qwen3VLDummyInputsBuilder
)
class Qwen3_5ForConditionalGeneration(MRopeMixin, GraphMixin, TowerMixin, stock.Qwen3_5ForConditionalGeneration):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLMultiModalProcessor, info=stock.Qwen3_5MoeProcessingInfo, dummy_inputs=stock.Qwen3VLDummyInputsBuilder
)
class Qwen3_5MoeForConditionalGeneration(MRopeMixin, GraphMixin, TowerMixin, stock.Qwen3_5MoeForConditionalGeneration):
    pass
