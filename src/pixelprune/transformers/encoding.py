"""Kept patches through a model's own vision encoder, with what it would compute for the true grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.exporters.utils import precompute_export_inputs

from pixelprune.plan.token_map import TokenMap
from pixelprune.plan.tokens import KeptPatches, cumulative_lengths, keep_patches, keep_windows
from pixelprune.transformers.families import Family

# What towers ask for: one row per patch; lengths; windows; places of patches in other orders.
_PER_PATCH = {"position_ids", "interp_indices", "interp_weights", "frame_index"}
_LENGTHS = {"cu_seqlens", "max_seqlen"}
_WINDOWS = {"window_index", "cu_window_seqlens", "max_window_seqlen"}
_GATHERS = {"temporal_merge_index", "pixel_shuffle_index"}
_KNOWN = _PER_PATCH | _LENGTHS | _WINDOWS | _GATHERS


def encode_images(
    model: Any, family: Family, pixel_values: Tensor, grid_thw: Tensor, tokens: TokenMap, merge_sizes: Tensor | None
) -> Any:
    """Features of the tokens of images, as the stock `forward` and `generate` take them.

    Args:
        model: the model, of any head.
        family: its entry.
        pixel_values: kept patches in the processor's order, (K·m², …).
        grid_thw: (n, 3), true grids.
        tokens: the map of the images.
        merge_sizes: (n,) where the model takes it as an input, else None.

    Returns:
        The output of `get_image_features`, one feature per token: a new object at each call, since beam search
        expands it in place.
    """
    base, keep = model.base_model, tokens.encoded
    merge = family.merge_size(model, merge_sizes)
    patches = keep_patches(keep, merge, family.patch_order, family.regrouped)
    lengths = torch.tensor(keep.counts, device=grid_thw.device)  # (images,)
    # Blocks in a row: to the tower, an image of one row of blocks.
    ones = torch.ones_like(lengths)
    grids = torch.stack([ones, ones * merge, lengths * merge], dim=1)
    if family.sizes_first:
        # These towers look up sizes by image and lengths by frame: first images without frames, then
        # frames without a size.
        grids = torch.cat([grid_thw * grid_thw.new_tensor([0, 1, 1]), grids])
    per_image = {} if merge_sizes is None else {"image_merge_sizes": merge_sizes.new_full((len(grids),), merge)}
    tower_inputs = _tower_inputs(base, family, grid_thw, merge_sizes, patches)
    rows = patches.from_processor
    pixel_values = pixel_values if rows is None else pixel_values[rows.to(pixel_values.device)]
    output = base.get_image_features(pixel_values, grids, **per_image, **tower_inputs, return_dict=True)
    return _with_copies(_without_empty_images(output), tokens)


def _tower_inputs(
    base: Any, family: Family, grid_thw: Tensor, merge_sizes: Tensor | None, patches: KeptPatches
) -> dict[str, Any]:
    """What the tower would compute from the true grid, cut down to the kept patches."""
    full = _precomputed(getattr(base, family.tower), grid_thw, merge_sizes)
    if family.transposed_table:
        turned = _precomputed(getattr(base, family.tower), grid_thw[:, [0, 2, 1]], merge_sizes)
        full |= {name: turned[name] for name in ("interp_indices", "interp_weights")}
    cut: dict[str, Any] = {name: full[name][patches.index] for name in _PER_PATCH & full.keys()}
    lengths = torch.tensor(patches.keep.counts, device=grid_thw.device) * patches.merge**2  # (images,), in patches
    cut["cu_seqlens"] = cumulative_lengths(lengths)
    if "max_seqlen" in full:
        cut["max_seqlen"] = int(lengths.max())
    if "window_index" in full:
        cut["window_index"], starts = keep_windows(full["window_index"], full["cu_window_seqlens"], patches)
        cut["cu_window_seqlens"] = starts
        if "max_window_seqlen" in full:
            cut["max_window_seqlen"] = int(starts.diff().max())
    for name in _GATHERS & full.keys():
        if isinstance(full[name], tuple):
            cut[name] = _scattered(full[name], patches)
            continue
        by_block = full[name].view(len(patches.keep.mask), -1)[patches.keep.mask]  # (K, m²)
        cut[name] = patches.rank[by_block].view(-1, *full[name].shape[1:])
    return cut


def _scattered(full: tuple[Tensor, Tensor, int], patches: KeptPatches) -> tuple[Tensor, Tensor, int]:
    """Where each patch is added among those of all blocks, and with which weight, for the kept ones alone."""
    places, weights, blocks = full
    keep = patches.keep.mask
    assert blocks == len(keep)
    ranks = keep.cumsum(0) - 1  # of each kept block
    places, weights = places[patches.index], weights[patches.index]
    size = patches.merge**2
    return ranks[places // size] * size + places % size, weights, sum(patches.keep.counts)


def _precomputed(tower: Any, grid_thw: Tensor, merge_sizes: Tensor | None) -> dict[str, Any]:
    values: dict[str, Any] = {"grid_thw": grid_thw}
    if merge_sizes is not None:
        values["merge_sizes"] = merge_sizes
    given = set(values)
    precompute_export_inputs(tower, values)
    computed = {name: value for name, value in values.items() if name not in given and value is not None}
    if unknown := computed.keys() - _KNOWN:
        raise RuntimeError(
            f"{type(tower).__name__} asks for {', '.join(sorted(unknown))}, which this version of pixelprune cannot "
            "prune; use an older transformers, or pass pixelprune=False to the processor"
        )
    return computed


def _without_empty_images(output: Any) -> Any:
    output.pooler_output = tuple(part for part in output.pooler_output if len(part))
    if getattr(output, "deepstack_features", None):
        output.deepstack_features = [[part for part in layer if len(part)] for layer in output.deepstack_features]
    return output


def _with_copies(output: Any, tokens: TokenMap) -> Any:
    output.pooler_output = tuple(tokens.with_copies(output.pooler_output))
    if getattr(output, "deepstack_features", None):
        output.deepstack_features = [tokens.with_copies(layer) for layer in output.deepstack_features]
    return output
