"""EXAONE-4.5, whose encoder is that of Qwen2.5-VL with fewer heads of keys, for vLLM 0.31 to 0.33."""

from vllm.model_executor.models import exaone4_5 as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from pixelprune.vllm.models import qwen2_vl
from pixelprune.vllm.models.qwen2_5_vl import WindowsMixin, check_sharding
from pixelprune.vllm.seams import check_normalization


class Exaone4_5_MultiModalProcessor(qwen2_vl.Qwen2VLMultiModalProcessor):
    rope_factor = None

    def _check_engine(self) -> None:
        super()._check_engine()
        check_sharding(self)
        check_normalization(self.info.ctx.get_mm_config(), stock.EXAONE4_5_VisionTransformer)


@MULTIMODAL_REGISTRY.register_processor(
    Exaone4_5_MultiModalProcessor, info=stock.Exaone4_5_ProcessingInfo, dummy_inputs=stock.Exaone4_5_DummyInputsBuilder
)
class Exaone4_5_ForConditionalGeneration(WindowsMixin, stock.Exaone4_5_ForConditionalGeneration):
    pass
