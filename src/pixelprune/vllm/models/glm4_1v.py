"""GLM-4.1V, GLM-4.5V and GLM-4.6V, for vLLM 0.31 to 0.33."""

from vllm.model_executor.models import glm4_1v as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from pixelprune.vllm.positions import MRopeMixin
from pixelprune.vllm.processing import PruningProcessor
from pixelprune.vllm.towers import GraphMixin, TowerMixin


class Glm4vMultiModalProcessor(PruningProcessor, stock.Glm4vMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    Glm4vMultiModalProcessor, info=stock.Glm4vProcessingInfo, dummy_inputs=stock.Glm4vDummyInputsBuilder
)
class Glm4vForConditionalGeneration(MRopeMixin, GraphMixin, TowerMixin, stock.Glm4vForConditionalGeneration):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    Glm4vMultiModalProcessor, info=stock.Glm4vProcessingInfo, dummy_inputs=stock.Glm4vDummyInputsBuilder
)
class Glm4vMoeForConditionalGeneration(MRopeMixin, GraphMixin, TowerMixin, stock.Glm4vMoeForConditionalGeneration):
    pass
