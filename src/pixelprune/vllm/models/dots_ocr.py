"""dots.ocr, for vLLM 0.31 to 0.33."""

from typing import Any

from torch import Tensor
from vllm.model_executor.models import dots_ocr as stock
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import async_tensor_h2d

from pixelprune.plan.keep import KeepMask
from pixelprune.plan.tokens import KeptPatches
from pixelprune.vllm.models import qwen2_vl
from pixelprune.vllm.towers import PlainLengthsMixin, TowerMixin


class Qwen2VLMultiModalProcessor(qwen2_vl.Qwen2VLMultiModalProcessor):
    rope_factor = None


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2VLMultiModalProcessor, info=stock.DotsOCRProcessingInfo, dummy_inputs=stock.DotsOCRDummyInputsBuilder
)
class DotsOCRForCausalLM(PlainLengthsMixin, TowerMixin, stock.DotsOCRForCausalLM):
    def _tower(self) -> Any:
        return self.vision_tower

    def _rows(self, patches: KeptPatches) -> dict[str, Tensor]:
        angles = self.vision_tower.rot_pos_emb(patches.keep.grids(patches.merge))
        return {"rotary_pos_emb": angles[async_tensor_h2d(patches.index, device=angles.device)]}

    def _encode(self, pixels: Tensor, keep: KeepMask) -> Tensor:
        """The parts of the stock encoder, one after the other, since its `forward` takes only complete grids."""
        tower, metadata = self.vision_tower, self._metadata(keep)
        hidden = tower.patch_embed(pixels.to(tower.dtype))
        for block in tower.blocks:
            hidden = block(hidden, **metadata)
        if tower.post_trunk_norm is not None:
            hidden = tower.post_trunk_norm(hidden)
        features: Tensor = tower.merger(hidden)[:, : self.config.hidden_size]
        return features
