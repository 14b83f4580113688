"""What a keep mask means for sequences of patches and tokens: the layer between selection and adapters.

Everything here is integer arithmetic on indices, in torch, and knows no model. Shapes: n images of
h × w patches each, S tokens in each of the rows of a batch; other letters as everywhere (N blocks,
K kept, m patches along a side of a block).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def block_patches(grid_thw: Tensor, merge: int, order: str) -> Tensor:
    """Where the patches of each block stand in the processor's sequence of patches.

    Args:
        grid_thw: (n, 3), frames and rows and columns of patches of each image; one frame each.
        merge: m.
        order: "block" or "raster", as in `pixelprune.selection.select_patches`.

    Returns:
        Long (N, m²): one row a block, blocks row-major within an image, images one after another.

    Example:
        >>> block_patches(torch.tensor([[1, 2, 4]]), 2, "raster").tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    sequences, start = [], 0
    for frames, height, width in grid_thw.tolist():
        count = frames * height * width
        index = torch.arange(start, start + count, device=grid_thw.device)
        if order == "raster":
            index = index.view(height // merge, merge, width // merge, merge).transpose(1, 2)
        sequences.append(index.reshape(-1, merge * merge))
        start += count
    return torch.cat(sequences)


def blocks_per_image(grid_thw: Tensor, merge: int) -> list[int]:
    """N of each image."""
    counts: list[int] = (grid_thw.prod(-1) // merge**2).tolist()
    return counts


@dataclass(frozen=True)
class KeptPatches:
    """The patches of kept blocks.

    Attributes:
        index: long (K·m²,), their places in the full sequence, in the order in which an encoder
            takes them.
        blocks: kept blocks of each image.
        kept: bool (N,), the mask itself.
        total: patches of all images, kept or not.
    """

    index: Tensor
    blocks: list[int]
    kept: Tensor
    total: int

    @property
    def rank(self) -> Tensor:
        """Long (total,), the place of each patch among `index`; −1 where it is dropped."""
        rank = torch.full((self.total,), -1, device=self.index.device)
        rank[self.index] = torch.arange(len(self.index), device=self.index.device)
        return rank

    @property
    def from_processor(self) -> Tensor | None:
        """Long (K·m²,), which row of the kept patches in the processor's order goes where.

        None if both orders are the same, as they are for block-ordered processors.
        """
        present = torch.zeros(self.total, dtype=torch.long, device=self.index.device)
        present[self.index] = 1
        rows = (present.cumsum(0) - 1)[self.index]
        return None if bool((rows[1:] > rows[:-1]).all()) else rows


def keep_patches(grid_thw: Tensor, kept: Tensor, merge: int, order: str, regrouped: bool = False) -> KeptPatches:
    """The patches that a keep mask leaves.

    Args:
        grid_thw: (n, 3).
        kept: bool (N,), all images, row-major each.
        merge: m.
        order: of the processor's sequence, "block" or "raster".
        regrouped: whether the encoder cuts blocks out of an m × (m·K) raster itself and so wants
            the rows of all blocks of an image, line by line; else block after block.

    Example:
        >>> patches = keep_patches(torch.tensor([[1, 2, 4]]), torch.tensor([False, True]), 2, "raster")
        >>> patches.index.tolist(), patches.blocks
        ([2, 3, 6, 7], [1])
    """
    blocks = [int(part.sum()) for part in torch.split(kept, blocks_per_image(grid_thw, merge))]
    chosen = block_patches(grid_thw, merge, order)[kept]
    if regrouped:
        lines = [part.view(-1, merge, merge).transpose(0, 1).reshape(-1) for part in torch.split(chosen, blocks)]
        index = torch.cat(lines)
    else:
        index = chosen.reshape(-1)
    return KeptPatches(index, blocks, kept, int(grid_thw.prod(-1).sum()))


def bounds(lengths: Tensor) -> Tensor:
    """Cumulative sequence lengths, int32 (n + 1,), from lengths (n,)."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def keep_windows(window_index: Tensor, window_bounds: Tensor, patches: KeptPatches) -> tuple[Tensor, Tensor]:
    """Attention windows over the kept units: each keeps its members, empty ones vanish.

    Args:
        window_index: long (units,), the order in which units (blocks or patches) are put so that
            windows are contiguous.
        window_bounds: int32 (windows + 1,), where windows begin, counted in patches.
        patches: what is kept.

    Returns:
        The same two for kept units, which are numbered anew in sequence order.
    """
    unit = patches.total // len(window_index)
    rank = patches.rank if unit == 1 else torch.where(patches.kept, patches.kept.long().cumsum(0) - 1, -1)
    renumbered = rank[window_index]
    stays = renumbered >= 0
    start = torch.arange(len(window_index), device=window_index.device) * unit
    window = torch.bucketize(start, window_bounds[1:].to(start), right=True)
    lengths = torch.bincount(window[stays]) * unit
    return renumbered[stays], bounds(lengths[lengths > 0])


def unpruned_places(is_image: Tensor, is_token: Tensor, kept: Tensor, totals: list[int]) -> tuple[Tensor, Tensor]:
    """Where each token would stand in its row if no block had been dropped, without padding.

    Args:
        is_image: bool (batch, S), the placeholders of kept blocks; in reading order they are those
            of image 0, image 1, … of the batch.
        is_token: bool (batch, S), False at padding.
        kept: bool (N,) of all images of the batch.
        totals: N of each image.

    Returns:
        Long (batch, S), places counted from 0 in each row (0 at padding), and long (batch,), the
        lengths of the rows in full.

    Example: "a", three of four blocks of an image (the last one is dropped), "b".
        >>> image = torch.tensor([[False, True, True, True, False]])
        >>> kept = torch.tensor([True, True, True, False])
        >>> places, lengths = unpruned_places(image, torch.ones_like(image), kept, [4])
        >>> places.tolist(), lengths.tolist()
        ([[0, 1, 2, 3, 5]], [6])
    """
    within = torch.cat([torch.arange(total) for total in totals]) if totals else torch.empty(0, dtype=torch.long)
    per_image = [part.nonzero()[:, 0] for part in torch.split(kept, totals)]
    rank = torch.cat([torch.arange(len(part)) for part in per_image]) if totals else within
    shift = torch.zeros(is_image.shape, dtype=torch.long)
    shift[is_image] = within[kept] - rank
    # What an image lacks moves all that follows it in its row.
    missing = torch.zeros(is_image.shape, dtype=torch.long)
    ends = torch.tensor([len(part) for part in per_image], dtype=torch.long).cumsum(0) - 1
    lacks = torch.tensor([total - len(part) for total, part in zip(totals, per_image, strict=True)], dtype=torch.long)
    row, column = is_image.nonzero(as_tuple=True)
    missing[row[ends], column[ends]] = lacks
    behind = missing.cumsum(1) - missing
    places = (is_token.long().cumsum(1) - 1 + behind + shift).where(is_token, torch.tensor(0))
    return places, is_token.sum(1) + missing.sum(1)
