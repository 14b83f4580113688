"""ERNIE-4.5-VL, for vLLM 0.31 to 0.33."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import ernie45_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY

from pixelprune.plan.keep import KeepMask
from pixelprune.vllm.positions import MRopeMixin
from pixelprune.vllm.processing import PruningProcessor
from pixelprune.vllm.towers import GraphMixin, PlainLengthsMixin, TowerMixin


class Ernie4_5VLMultiModalProcessor(PruningProcessor, stock.Ernie4_5VLMultiModalProcessor):
    gives_bytes = True

    def _pixel_values_norm(self, pixel_values: Tensor, mm_kwargs: Mapping[str, object]) -> Tensor:
        return pixel_values  # not before they are pruned

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        output = super()._apply_hf_processor_main(mm_items, hf_kwargs)
        _, rest = self._split(hf_kwargs)
        for name in ("pixel_values", "pixel_values_videos"):
            if name in output:
                output[name] = super()._pixel_values_norm(output[name], rest)
        return output


@MULTIMODAL_REGISTRY.register_processor(
    Ernie4_5VLMultiModalProcessor,
    info=stock.Ernie4_5_VLProcessingInfo,
    dummy_inputs=stock.Ernie4_5_VLDummyInputsBuilder,
)
class Ernie4_5_VLMoeForConditionalGeneration(
    MRopeMixin, GraphMixin, PlainLengthsMixin, TowerMixin, stock.Ernie4_5_VLMoeForConditionalGeneration
):
    row_keys = ("rotary_pos_emb",)
    use_data_parallel = False

    def _tower(self) -> Any:
        return self.vision_model

    def _encode(self, pixels: Tensor, keep: KeepMask) -> Tensor:
        return self._of_graph(super()._encode(pixels, keep), keep)

    def _as_graph(self, pixels: Tensor, keep: KeepMask) -> Tensor:
        features: Tensor = super()._encode(pixels, keep)
        return features

    def _of_graph(self, output: Tensor, keep: KeepMask) -> Tensor:
        """Graphs end before the resampler, which reads from grids only how many patches there are."""
        merge = self.vision_model.spatial_merge_size
        strips = torch.tensor([[1, merge, merge * count] for count in keep.counts])
        features: Tensor = self.resampler_model(output[: sum(keep.counts) * merge**2], strips)
        return features

    def _get_grid_thw_by_modality(self, mm_kwargs: dict[str, Any]) -> list[list[int]]:
        grids = mm_kwargs["image_grid_thw"]
        return grids if isinstance(grids, list) else grids.tolist()
