"""Qwen3-VL, for vLLM 0.31 to 0.33."""

from vllm.model_executor.models import qwen3_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from pixelprune.vllm.positions import MRopeMixin
from pixelprune.vllm.processing import PruningProcessor
from pixelprune.vllm.towers import GraphMixin, TowerMixin


class Qwen3VLMultiModalProcessor(PruningProcessor, stock.Qwen3VLMultiModalProcessor):
    rope_factor = 1


@MULTIMODAL_REGISTRY.register_processor(
    Qwen3VLMultiModalProcessor, info=stock.Qwen3VLProcessingInfo, dummy_inputs=stock.Qwen3VLDummyInputsBuilder
)
class Qwen3VLForConditionalGeneration(MRopeMixin, GraphMixin, TowerMixin, stock.Qwen3VLForConditionalGeneration):
    pass
