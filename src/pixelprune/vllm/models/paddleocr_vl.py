"""PaddleOCR-VL, whose patches go row by row, for vLLM 0.31 to 0.33."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.models import paddleocr_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import async_tensor_h2d

from pixelprune.plan.keep import KeepMask
from pixelprune.plan.token_map import IMAGE_MAP, TokenMap, encoded
from pixelprune.plan.tokens import keep_patches
from pixelprune.vllm.positions import MRopeMixin
from pixelprune.vllm.probes import patches_of
from pixelprune.vllm.processing import PruningProcessor
from pixelprune.vllm.seams import as_declared
from pixelprune.vllm.towers import TowerMixin


class PaddleOCRVLMultiModalProcessor(PruningProcessor, stock.PaddleOCRVLMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    PaddleOCRVLMultiModalProcessor,
    info=stock.PaddleOCRVLProcessingInfo,
    dummy_inputs=stock.PaddleOCRVLDummyInputsBuilder,
)
class PaddleOCRVLForConditionalGeneration(MRopeMixin, TowerMixin, stock.PaddleOCRVLForConditionalGeneration):
    use_data_parallel = False

    def _parse_and_validate_image_input(self, **kwargs: Any) -> Any:
        if kwargs.get(IMAGE_MAP) is not None:
            sizes = self._sizes([int(encoded(values).sum()) for values in kwargs[IMAGE_MAP]])
            kwargs["pixel_values"] = as_declared(kwargs["pixel_values"], sizes, stock.PaddleOCRImagePixelInputs)
        return super()._parse_and_validate_image_input(**kwargs)

    def _sizes(self, counts: Sequence[int]) -> list[int]:
        merge: int = self.config.vision_config.spatial_merge_size
        return [count * merge**2 for count in counts]

    def _in_attention(self, mask: Tensor, grid: Tensor) -> Tensor:
        return patches_of(mask, grid, "row")

    def _token_map(self, maps: Any, grids: Any) -> TokenMap:
        return TokenMap.of_grids(list(maps), grids, self.config.vision_config.spatial_merge_size)

    def _encode(self, pixels: Any, keep: KeepMask) -> Tensor:
        """Image by image: the scheduler counts kept tokens, so a batch can hold more images than would fit in full."""
        if isinstance(pixels, Tensor):
            pixels = torch.split(pixels, self._sizes(keep.counts))
        return torch.cat([self._encode_one(*one) for one in zip(pixels, keep.each(), strict=True)])

    def _encode_one(self, pixels: Tensor, keep: KeepMask) -> Tensor:
        """The parts of the stock encoder, one after the other, with patches block by block."""
        tower, merge = self.visual.vision_model, self.config.vision_config.spatial_merge_size
        ((_, height, width),) = grids = keep.grids(merge)
        kept = keep_patches(keep, merge, "row")
        index = async_tensor_h2d(kept.index, device=self.visual.device)
        hidden = tower.embeddings.patch_embedding(pixels.to(self.visual.dtype)).flatten(1)
        if (rows := kept.from_processor) is not None:
            hidden = hidden[async_tensor_h2d(rows, device=hidden.device)]
        hidden = hidden + tower.embeddings.interpolate_pos_encoding(hidden, height, width, True)[0][index]
        hidden = tower.encoder(
            inputs_embeds=hidden[None],
            cu_seqlens=torch.tensor([0, len(hidden)], dtype=torch.int32),
            image_grid_thw=[tuple(grid) for grid in grids],
            height_position_ids=index // width,
            width_position_ids=index % width,
        )
        hidden = tower.post_layernorm(hidden)[0]
        # To the projector, it is an image that is one block wide.
        features: Tensor = self.mlp_AR([hidden], [(1, len(hidden) // merge, merge)])[0]
        return features
