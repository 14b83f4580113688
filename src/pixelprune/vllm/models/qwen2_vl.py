"""Qwen2-VL, for vLLM 0.31 to 0.33."""

from vllm.model_executor.models import qwen2_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from pixelprune.vllm.positions import MRopeMixin
from pixelprune.vllm.processing import PruningProcessor
from pixelprune.vllm.towers import GraphMixin, PlainLengthsMixin, TowerMixin


class Qwen2VLMultiModalProcessor(PruningProcessor, stock.Qwen2VLMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2VLMultiModalProcessor, info=stock.Qwen2VLProcessingInfo, dummy_inputs=stock.Qwen2VLDummyInputsBuilder
)
class Qwen2VLForConditionalGeneration(
    MRopeMixin, GraphMixin, PlainLengthsMixin, TowerMixin, stock.Qwen2VLForConditionalGeneration
):
    pass
