"""GLM-OCR, for vLLM 0.31 to 0.33."""

from torch import Tensor
from vllm.model_executor.models import glm4_1v, glm_ocr
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import async_tensor_h2d

from pixelprune.plan.keep import KeepMask
from pixelprune.plan.tokens import KeptPatches
from pixelprune.vllm.models.glm4_1v import Glm4vMultiModalProcessor
from pixelprune.vllm.positions import MRopeMixin
from pixelprune.vllm.seams import normalized
from pixelprune.vllm.towers import GraphMixin, PlainLengthsMixin, TowerMixin


@MULTIMODAL_REGISTRY.register_processor(
    Glm4vMultiModalProcessor, info=glm4_1v.Glm4vProcessingInfo, dummy_inputs=glm4_1v.Glm4vDummyInputsBuilder
)
class GlmOcrForConditionalGeneration(
    MRopeMixin, GraphMixin, PlainLengthsMixin, TowerMixin, glm_ocr.GlmOcrForConditionalGeneration
):
    def _rows(self, patches: KeptPatches) -> dict[str, Tensor]:
        cos, sin, _ = self.visual.rot_pos_emb(patches.keep.grids(patches.merge))
        index = async_tensor_h2d(patches.index, device=cos.device)
        return {"rotary_pos_emb_cos": cos[index], "rotary_pos_emb_sin": sin[index]}

    def _encode(self, pixels: Tensor, keep: KeepMask) -> Tensor:
        """The parts of the stock encoder, one after the other, since its `forward` ignores the metadata it is given."""
        tower, merge = self.visual, self.visual.spatial_merge_size
        metadata = self._metadata(keep)
        hidden = tower.patch_embed(normalized(tower, pixels)).unsqueeze(1)
        for block in tower.blocks:
            hidden = block(hidden, **metadata)
        hidden = tower.post_layernorm(hidden)
        squares = hidden.view(-1, merge, merge, hidden.shape[-1]).permute(0, 3, 1, 2)
        features: Tensor = tower.merger(tower.downsample(squares).view(-1, tower.out_hidden_size))
        return features
