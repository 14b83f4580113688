"""What a pruning processor did, read from the inputs that it returned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pixelprune.plan.keep import IMAGE_KEPT, KeepMask, merge_size


@dataclass(frozen=True)
class Kept:
    """What was kept of one image.

    Attributes:
        total: N, visual tokens without pruning.
        kept: K, visual tokens that are left.
    """

    total: int
    kept: int

    @property
    def retain_ratio(self) -> float:
        """K / N."""
        return self.kept / self.total


def kept(inputs: Any) -> list[Kept]:
    """What was kept of each image of `inputs`, in prompt order: for a log line or a metric.

    Args:
        inputs: what an enabled processor returned; it holds `image_grid_thw` and `image_kept`
            unless there were no images.

    Raises:
        ValueError: there are images, but `image_kept` is missing or of another length.

    Example:
        >>> import torch
        >>> mask = torch.tensor([True, True, False, False])
        >>> kept({"image_grid_thw": torch.tensor([[1, 4, 4]]), "image_kept": mask})
        [Kept(total=4, kept=2)]
    """
    grids, mask = inputs.get("image_grid_thw"), inputs.get(IMAGE_KEPT)
    if grids is None:
        return []
    if mask is None:
        raise ValueError("inputs hold image_grid_thw but no image_kept: they are not from a processor that prunes")
    grids, mask = torch.as_tensor(grids), torch.as_tensor(mask)
    try:
        keep = KeepMask.of_grids(mask, grids, merge_size(grids, len(mask)))
    except ValueError:
        raise ValueError(f"image_kept has {len(mask)} entries, which does not fit image_grid_thw") from None
    return [Kept(total, count) for total, count in zip(keep.totals, keep.counts, strict=True)]
