"""Kept patches through a stock vision encoder, with what it computes for the true grid."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.logger import init_logger
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.model_executor.models.utils import scatter_output_slices
from vllm.model_executor.models.vision import run_dp_sharded_mrope_vision_model
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.worker.encoder_cudagraph_defs import EncoderCudaGraphReplayBuffers, EncoderItemSpec

from pixelprune.plan.keep import KeepMask
from pixelprune.plan.token_map import IMAGE_MAP, TokenMap
from pixelprune.plan.tokens import KeptPatches, keep_patches
from pixelprune.vllm.contract import Contract
from pixelprune.vllm.options import announcement
from pixelprune.vllm.probes import patches_of

_log = init_logger("vllm.pixelprune")


class TowerMixin(Contract):
    """For a stock model class whose vision encoder takes `encoder_metadata`; comes before it in the bases.

    Attributes:
        row_keys: what of the metadata has one row per patch.
    """

    row_keys: tuple[str, ...] = ("pos_embeds", "rotary_pos_emb_cos", "rotary_pos_emb_sin")

    def __init__(self: Any, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        # Logged by the model: where this line appears, pruning is in force.
        line = announcement(vllm_config.model_config, type(self).__name__)
        self._to_check = vllm_config.model_config if line else None
        if line:
            _log.info_once(line, scope="global")

    def train(self: Any, mode: bool = True) -> Any:
        """The stock one; vLLM ends loading with `eval()`, and then what was requested is checked."""
        model = super().train(mode)  # type: ignore[misc]
        if not mode and self._to_check is not None:
            config, self._to_check = self._to_check, None
            import_module("pixelprune.vllm.startup").check(self, config)
        return model

    def _tower(self: Any) -> Any:
        return self.visual

    def _parse_and_validate_image_input(self: Any, **kwargs: Any) -> Any:
        maps = kwargs.pop(IMAGE_MAP, None)
        parsed = super()._parse_and_validate_image_input(**kwargs)  # type: ignore[misc]
        if parsed is not None and maps is not None:
            setattr(parsed, IMAGE_MAP, list(maps))
        return parsed

    def _process_image_input(self: Any, image_input: Any) -> tuple[Tensor, ...]:
        maps = image_input.get(IMAGE_MAP)
        if maps is None:
            return super()._process_image_input(image_input)  # type: ignore[misc, no-any-return]
        pixels, tokens = image_input["pixel_values"], self._token_map(maps, image_input["image_grid_thw"])
        keep = tokens.encoded
        if self.use_data_parallel:
            merge = self._tower().spatial_merge_size
            sharded = [_KeptGrid(one, merge) for one in keep.each()]
            features = run_dp_sharded_mrope_vision_model(_Tower(self), pixels, sharded, rope_type="rope_3d")
        else:
            features = self._encode(pixels, keep).split(keep.counts)
        return tuple(tokens.with_copies(features))

    def _in_attention(self: Any, mask: Tensor, grid: Tensor) -> Tensor:
        """Which patches of one image are kept, bool (n,), in the order in which attention gets them.

        Args:
            mask: (N,), its kept blocks.
            grid: (3,), frames, rows and columns of patches.
        """
        return patches_of(mask, grid, "block")

    def _token_map(self: Any, maps: Sequence[Tensor], grids: Any) -> TokenMap:
        """From what travels with images: maps (N,) of each, and their grids (images, 3)."""
        return TokenMap.of_grids(list(maps), grids, self._tower().spatial_merge_size)

    def _encode(self: Any, pixels: Tensor, keep: KeepMask) -> Tensor:
        """Features (K, …) of the kept blocks of all images."""
        return self._tower()(pixels, None, encoder_metadata=self._metadata(keep))  # type: ignore[no-any-return]

    def _metadata(self: Any, keep: KeepMask, *, max_batch_size: int | None = None) -> dict[str, Any]:
        """What the encoder would compute from the grids, for kept patches.

        Image by image: the scheduler counts kept tokens, so a batch can hold more images than would fit in full.
        """
        rows = [self._rows(self._kept_patches(one)) for one in keep.each()]
        metadata: dict[str, Any] = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
        unit = self._tower().spatial_merge_size ** 2
        lengths = [count * unit for count in keep.counts]
        return {**metadata, **self._lengths(cumulative_lengths(lengths, max_batch_size))}

    def _kept_patches(self: Any, keep: KeepMask) -> KeptPatches:
        return keep_patches(keep, self._tower().spatial_merge_size, "block")

    def _rows(self: Any, patches: KeptPatches) -> dict[str, Tensor]:
        """The metadata of one image that has one row per patch, for kept patches."""
        tower = self._tower()
        full = tower.prepare_encoder_metadata(patches.keep.grids(patches.merge))
        index = async_tensor_h2d(patches.index, device=tower.device)
        return {key: full[key].index_select(0, index) for key in self.row_keys if key in full}

    def _lengths(self: Any, cumulative: Any) -> dict[str, Any]:
        """What attention needs to know about where images begin, from int32 (images + 1,)."""
        tower = self._tower()
        return {
            "sequence_lengths": MMEncoderAttention.maybe_compute_seq_lens(tower.attn_backend, cumulative, tower.device),
            "max_seqlen": longest(tower, cumulative),
            "cu_seqlens": starts(tower, cumulative),
        }


class PlainLengthsMixin(Contract):
    """For encoders that pass plain lengths to attention on every machine; comes before `TowerMixin`."""

    def _lengths(self: Any, cumulative: Any) -> dict[str, Any]:
        tower, begins = self._tower(), torch.from_numpy(cumulative)
        return {
            "cu_seqlens": async_tensor_h2d(begins, device=tower.device),
            "max_seqlen": tower.compute_attn_mask_seqlen(begins),
        }


class GraphMixin(Contract):
    """The same in CUDA graphs of the encoder: stock graphs are captured, and pruned images replay the smaller ones."""

    def _tokens_of(self: Any, mm_kwargs: dict[str, Any] | None) -> TokenMap | None:
        """The map of the images of a batch; None if nothing is dropped from any."""
        maps = (mm_kwargs or {}).get(IMAGE_MAP)
        return None if maps is None else self._token_map(maps, self._get_grid_thw_by_modality(mm_kwargs))

    def get_encoder_cudagraph_item_specs(self: Any, mm_kwargs: dict[str, Any]) -> Any:
        tokens = self._tokens_of(mm_kwargs)
        if tokens is None:
            return super().get_encoder_cudagraph_item_specs(mm_kwargs)  # type: ignore[misc]
        unit = self._tower().spatial_merge_size ** 2
        # A graph computes kept blocks; copies are made of what comes out of it.
        return [
            EncoderItemSpec(input_size=kept * unit, output_tokens=count, path_output_tokens={"default": kept})
            for kept, count in zip(tokens.encoded.counts, tokens.present.counts, strict=True)
        ]

    def select_encoder_cudagraph_items(self: Any, mm_kwargs: dict[str, Any], indices: list[int]) -> Any:
        tokens = self._tokens_of(mm_kwargs)
        if tokens is None:
            return super().select_encoder_cudagraph_items(mm_kwargs, indices)  # type: ignore[misc]
        pixels, grids = mm_kwargs["pixel_values"], self._get_grid_thw_by_modality(mm_kwargs)
        unit = self._tower().spatial_merge_size ** 2
        parts = pixels.split([count * unit for count in tokens.encoded.counts])
        return {
            "pixel_values": torch.cat([parts[i] for i in indices]) if indices else pixels[:0],
            "image_grid_thw": [grids[i] for i in indices],
            IMAGE_MAP: [mm_kwargs[IMAGE_MAP][i] for i in indices],
        }

    def prepare_encoder_cudagraph_replay_buffers(
        self: Any, mm_kwargs: dict[str, Any], max_batch_size: int, max_frames_per_batch: int, path: str = "default"
    ) -> Any:
        tokens = self._tokens_of(mm_kwargs)
        if tokens is None:
            return super().prepare_encoder_cudagraph_replay_buffers(  # type: ignore[misc]
                mm_kwargs, max_batch_size, max_frames_per_batch, path
            )
        metadata = self._metadata(tokens.encoded, max_batch_size=max_batch_size)
        return EncoderCudaGraphReplayBuffers(values={**metadata, "pixel_values": mm_kwargs["pixel_values"]})

    def encoder_eager_forward(self: Any, mm_kwargs: dict[str, Any], path: str = "default") -> Tensor:
        tokens = self._tokens_of(mm_kwargs)
        if tokens is None:
            return super().encoder_eager_forward(mm_kwargs, path)  # type: ignore[misc, no-any-return]
        return self._as_graph(mm_kwargs["pixel_values"], tokens.encoded)  # type: ignore[no-any-return]

    def postprocess_encoder_output(
        self: Any,
        outputs: dict[str, Tensor],
        indices: list[int],
        per_item_out_tokens: list[int],
        dest: Any,
        clone: bool = False,
        batch_mm_kwargs: dict[str, Any] | None = None,
    ) -> None:
        tokens = self._tokens_of(batch_mm_kwargs)
        if tokens is None:
            super().postprocess_encoder_output(  # type: ignore[misc]
                outputs, indices, per_item_out_tokens, dest, clone, batch_mm_kwargs
            )
            return
        keep = tokens.encoded
        features = tokens.with_copies(self._of_graph(outputs["default"], keep).split(keep.counts))
        scatter_output_slices(torch.cat(features), indices, per_item_out_tokens, dest, clone)

    def _as_graph(self: Any, pixels: Tensor, keep: KeepMask) -> Tensor:
        """What a graph would compute, without one."""
        return self._encode(pixels, keep)  # type: ignore[no-any-return]

    def _of_graph(self: Any, output: Tensor, keep: KeepMask) -> Tensor:
        """Features (K, …) of kept blocks from what a graph computed, which has rows of nothing at its end."""
        return output[: sum(keep.counts)]


class _KeptGrid(list[int]):
    """A grid with as many patches as are kept, which vLLM shards by, and which blocks of its image those are."""

    def __init__(self, keep: KeepMask, merge: int) -> None:
        super().__init__([1, merge, merge * sum(keep.counts)])
        self.keep = keep


class _Tower:
    """The parts of a vision encoder that vLLM's sharding uses."""

    def __init__(self, model: Any) -> None:
        tower = model._tower()
        self._model, self.parameters = model, tower.parameters
        self.spatial_merge_size, self.out_hidden_size = tower.spatial_merge_size, tower.out_hidden_size

    def __call__(self, pixels: Tensor, grids: list[_KeptGrid]) -> Tensor:
        masks = [grid.keep for grid in grids]
        keep = KeepMask(torch.cat([one.mask for one in masks]), tuple(shape for one in masks for shape in one.shapes))
        encoded: Tensor = self._model._encode(pixels, keep)
        return encoded


def cumulative_lengths(lengths: Sequence[int], sequences: int | None = None) -> Any:
    """Where sequences begin, numpy int32, with empty ones at the end up to `sequences` of them.

    Example:
        >>> cumulative_lengths([8, 4], 3).tolist()
        [0, 8, 12, 12]
    """
    padding = [0] * max(0, (sequences or 0) - len(lengths))
    return np.cumsum([0, *lengths, *padding], dtype=np.int32)


def longest(tower: Any, cumulative: Any) -> Tensor:
    """The longest sequence in the form that attention takes, on the CPU."""
    return torch.tensor(MMEncoderAttention.compute_max_seqlen(tower.attn_backend, cumulative), dtype=torch.int32)


def starts(tower: Any, cumulative: Any) -> Any:
    """Where sequences begin, as the attention of this machine wants it."""
    padded = {}
    if hasattr(tower, "fp8_padded_hidden_size"):
        padded["fp8_padded_hidden_size"] = tower.fp8_padded_hidden_size
    return MMEncoderAttention.maybe_recompute_cu_seqlens(
        tower.attn_backend, cumulative, tower.hidden_size, tower.tp_size, tower.device, **padded
    )
