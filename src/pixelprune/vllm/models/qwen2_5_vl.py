"""Qwen2.5-VL, whose encoder attends in windows, for vLLM 0.31 to 0.33."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.model_executor.models import qwen2_5_vl as stock
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import async_tensor_h2d

from pixelprune.plan.keep import KeepMask
from pixelprune.plan.token_map import IMAGE_MAP
from pixelprune.plan.tokens import keep_windows
from pixelprune.vllm.options import KEY, is_asked
from pixelprune.vllm.positions import MRopeMixin
from pixelprune.vllm.processing import PruningProcessor
from pixelprune.vllm.towers import GraphMixin, TowerMixin, cumulative_lengths, longest, starts


def check_sharding(processor: Any) -> None:
    """Raise a ValueError if requests would switch pruning on in an engine that is not ready for it."""
    # Only the model, when it is built, knows whether there are graphs too.
    if processor.info.ctx.get_mm_config().mm_encoder_tp_mode == "data" and not processor._is_ready:
        raise ValueError(
            "pixelprune cannot be switched on by requests to this model with --mm-encoder-tp-mode data; start the "
            f"server with --hf-overrides '{{\"{KEY}\": false}}' to make it ready"
        )


class Qwen2_5_VLMultiModalProcessor(PruningProcessor, stock.Qwen2_5_VLMultiModalProcessor):
    def _check_engine(self) -> None:
        super()._check_engine()
        check_sharding(self)


class WindowsMixin(GraphMixin, TowerMixin):
    """For a stock model class with the encoder of Qwen2.5-VL; comes before it in the bases."""

    def __init__(self: Any, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        graphs = vllm_config.compilation_config.cudagraph_mm_encoder
        if graphs and self.use_data_parallel and is_asked(vllm_config.model_config):
            raise ValueError(
                "pixelprune cannot prune this model with CUDA graphs of the encoder and --mm-encoder-tp-mode data "
                "together; leave one of them out"
            )

    def _in_attention(self: Any, mask: Tensor, grid: Tensor) -> Tensor:
        order, _ = self.visual.get_window_index_thw(*grid.tolist())
        return mask[order].repeat_interleave(self.visual.spatial_merge_unit)

    def _metadata(self: Any, keep: KeepMask, *, max_batch_size: int | None = None) -> dict[str, Any]:
        """Windows keep their places: dropped blocks leave them, and empty ones vanish."""
        tower = self.visual
        unit = tower.spatial_merge_unit
        cos, sin, order, windows = [], [], [], []
        base = 0
        for one, grid in zip(keep.each(), keep.grids(tower.spatial_merge_size), strict=True):
            # Rows of rotations come in the order of windows.
            all_cos, all_sin, window_index, window_ends, _ = tower.get_rope_by_thw(*grid)
            window_starts = torch.nn.functional.pad(window_ends[window_ends > 0], (1, 0))
            kept_index, kept_starts = keep_windows(window_index, window_starts, self._kept_patches(one))
            order.append(kept_index + base)
            windows += kept_starts.diff().tolist()
            stays = async_tensor_h2d(one.mask[window_index].nonzero()[:, 0], device=all_cos.device)
            cos.append(all_cos.view(len(one.mask), unit, -1)[stays].flatten(0, 1))  # (K·m², …)
            sin.append(all_sin.view(len(one.mask), unit, -1)[stays].flatten(0, 1))
            base += len(kept_index)
        index = torch.cat(order)
        images = cumulative_lengths([count * unit for count in keep.counts], max_batch_size)
        return {
            "rotary_pos_emb_cos": torch.cat(cos).to(tower.device),
            "rotary_pos_emb_sin": torch.cat(sin).to(tower.device),
            "window_index": async_tensor_h2d(index, device=tower.device),
            "reverse_indices": tower.invert_permutation(index).to(tower.device),
            **self._attention("full", "cu_seqlens", images),
            **self._attention("window", "cu_window_seqlens", cumulative_lengths(windows)),
        }

    def _attention(self: Any, kind: str, name: str, cumulative: Any) -> dict[str, Any]:
        tower = self.visual
        lengths = MMEncoderAttention.maybe_compute_seq_lens(tower.attn_backend, cumulative, tower.device)
        return {
            name: starts(tower, cumulative),
            f"max_seqlen_{kind}": longest(tower, cumulative),
            f"sequence_lengths_{kind}": lengths,
        }

    def get_encoder_cudagraph_item_specs(self: Any, mm_kwargs: dict[str, Any]) -> Any:
        specs = super().get_encoder_cudagraph_item_specs(mm_kwargs)
        if IMAGE_MAP not in mm_kwargs:
            return specs
        # A graph has room for the windows of a dense image, and kept blocks can be spread over more. A size that no
        # graph has makes vLLM encode these images without one.
        return [replace(spec, path_output_tokens={"default": 2**30}) for spec in specs]


@MULTIMODAL_REGISTRY.register_processor(
    Qwen2_5_VLMultiModalProcessor, info=stock.Qwen2_5_VLProcessingInfo, dummy_inputs=stock.Qwen2_5_VLDummyInputsBuilder
)
class Qwen2_5_VLForConditionalGeneration(MRopeMixin, WindowsMixin, stock.Qwen2_5_VLForConditionalGeneration):
    pass
