"""What a pruning processor did, read from the inputs that it returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pixelprune.plan.keep import merge_size
from pixelprune.plan.token_map import IMAGE_MAP, TokenMap


@dataclass(frozen=True)
class Kept:
    """What was kept of one image.

    Attributes:
        total: N, visual tokens without pruning.
        kept: K, blocks that the encoder computes.
        tokens: L, visual tokens that the language model gets: kept blocks and copies.
    """

    total: int
    kept: int
    tokens: int

    @property
    def retain_ratio(self) -> float:
        """K / N."""
        return self.kept / self.total


def kept(inputs: Any) -> list[Kept]:
    """What was kept of each image of `inputs`, in prompt order: for a log line or a metric.

    Args:
        inputs: what an enabled processor returned; it holds `image_grid_thw` and `image_map`
            unless there were no images.

    Raises:
        ValueError: there are images, but `image_map` is missing or of another length.

    Example:
        >>> import torch
        >>> values = torch.tensor([0, 1, -1, 0], dtype=torch.int32)
        >>> kept({"image_grid_thw": torch.tensor([[1, 4, 4]]), "image_map": values})
        [Kept(total=4, kept=2, tokens=3)]
    """
    grids, values = inputs.get("image_grid_thw"), inputs.get(IMAGE_MAP)
    if grids is None:
        return []
    if values is None:
        raise ValueError("inputs hold image_grid_thw but no image_map: they are not from a processor that prunes")
    grids, values = torch.as_tensor(grids), torch.as_tensor(values)
    try:
        tokens = TokenMap.of_grids(values, grids, merge_size(grids, len(values)))
    except ValueError:
        raise ValueError(f"image_map has {len(values)} entries, which does not fit image_grid_thw") from None
    counted = zip(tokens.totals, tokens.encoded.counts, tokens.present.counts, strict=True)
    return [Kept(*counts) for counts in counted]
