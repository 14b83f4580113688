"""What a keep mask means for sequences of patches and tokens: the layer between selection and adapters.

Everything here is integer arithmetic on indices, in torch, and knows no model. Shapes: S tokens in each of the
rows of a batch; other letters as everywhere (N blocks, K kept, m patches along a side of a block; an item has T slices
of R × C blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pixelprune.plan.keep import KeepMask


def block_patches(
    shapes: Sequence[tuple[int, int, int]], merge: int, patch_order: str, device: torch.device | None = None
) -> Tensor:
    """Where the patches of each block stand in a processor's sequence of patches.

    Args:
        shapes: (T, R, C) of each item: slices, rows and columns of blocks.
        merge: m.
        patch_order: "block" or "row", as in `pixelprune.selection.select_patches`.
        device: of the result.

    Returns:
        Long (N, m²): one row per block, blocks in the order of a `KeepMask`.

    Example:
        >>> block_patches([(1, 1, 2)], 2, "row").tolist()
        [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    assert patch_order in ("block", "row"), patch_order
    sequences, start = [], 0
    for slices, rows, columns in shapes:
        count = slices * rows * columns * merge**2
        index = torch.arange(start, start + count, device=device)
        if patch_order == "row":
            index = index.view(slices * rows, merge, columns, merge).transpose(1, 2)  # (T·R, C, m, m)
        sequences.append(index.reshape(-1, merge * merge))
        start += count
    return torch.cat(sequences)


@dataclass(frozen=True, eq=False)
class KeptPatches:
    """The patches of kept blocks.

    Attributes:
        keep: the mask.
        index: long (K·m²,), their places in the full sequence, in the order in which an encoder
            takes them.
        merge: m.
    """

    keep: KeepMask
    index: Tensor
    merge: int

    @property
    def patches(self) -> int:
        """Patches of all items, kept or not: N·m²."""
        return len(self.keep.mask) * self.merge**2

    @property
    def rank(self) -> Tensor:
        """Long (N·m²,), the place of each patch among `index`; −1 where it is dropped."""
        rank = torch.full((self.patches,), -1, device=self.index.device)
        rank[self.index] = torch.arange(len(self.index), device=self.index.device)
        return rank

    @property
    def from_processor(self) -> Tensor | None:
        """Long (K·m²,): the encoder's input row i is row `from_processor[i]` of what the processor sent.

        None if both orders are the same, as they are for block-ordered processors.
        """
        present = torch.zeros(self.patches, dtype=torch.long, device=self.index.device)
        present[self.index] = 1
        rows = (present.cumsum(0) - 1)[self.index]
        return None if bool((rows[1:] > rows[:-1]).all()) else rows


def keep_patches(keep: KeepMask, merge: int, patch_order: str, regrouped: bool = False) -> KeptPatches:
    """The patches that a keep mask leaves.

    Args:
        keep: the mask.
        merge: m.
        patch_order: of the processor, "block" or "row".
        regrouped: whether the encoder cuts blocks out of m rows of m·K patches itself and so wants
            the rows of all blocks of an item, line by line; else block after block.

    Example:
        >>> keep_patches(KeepMask(torch.tensor([False, True]), ((1, 1, 2),)), 2, "row").index.tolist()
        [2, 3, 6, 7]
    """
    chosen = block_patches(keep.shapes, merge, patch_order, keep.mask.device)[keep.mask]  # (K, m²)
    if regrouped:
        parts = torch.split(chosen, keep.counts)
        lines = [part.view(-1, merge, merge).transpose(0, 1).reshape(-1) for part in parts]  # (m, K, m) each
        return KeptPatches(keep, torch.cat(lines), merge)
    return KeptPatches(keep, chosen.reshape(-1), merge)


def cumulative_lengths(lengths: Tensor) -> Tensor:
    """Where sequences of `lengths` (n,) begin and the last one ends: int32 (n + 1,)."""
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def keep_windows(window_index: Tensor, window_starts: Tensor, patches: KeptPatches) -> tuple[Tensor, Tensor]:
    """Attention windows over the kept units: each keeps its members, empty ones vanish.

    Args:
        window_index: long (units,), the order in which units (blocks or patches) are put so that
            windows are contiguous.
        window_starts: int32 (windows + 1,), cumulative lengths of windows, counted in patches.
        patches: what is kept.

    Returns:
        The same two for kept units, numbered in sequence order.
    """
    unit = patches.patches // len(window_index)
    mask = patches.keep.mask
    rank = patches.rank if unit == 1 else torch.where(mask, mask.long().cumsum(0) - 1, -1)
    renumbered = rank.to(window_index.device)[window_index]  # (units,), −1 where dropped
    stays = renumbered >= 0
    start = torch.arange(len(window_index), device=window_index.device) * unit
    window = torch.bucketize(start, window_starts[1:].to(start), right=True)
    lengths = torch.bincount(window[stays]) * unit
    return renumbered[stays], cumulative_lengths(lengths[lengths > 0])


def unpruned_places(is_image: Tensor, is_token: Tensor, keep: KeepMask) -> tuple[Tensor, Tensor]:
    """Where each token would stand in its row if no block had been dropped, without padding.

    Args:
        is_image: bool (batch, S), the placeholders of kept blocks; in reading order they are those
            of item 0, item 1, … of the batch.
        is_token: bool (batch, S), False at padding.
        keep: the mask of all items of the batch, on the CPU.

    Returns:
        Long (batch, S), places counted from 0 in each row (0 at padding), and long (batch,), the
        lengths of the rows in full.

    Example: "a", three of four blocks of an image (the last one is dropped), "b".
        >>> image = torch.tensor([[False, True, True, True, False]])
        >>> keep = KeepMask(torch.tensor([True, True, True, False]), ((1, 1, 4),))
        >>> places, lengths = unpruned_places(image, torch.ones_like(image), keep)
        >>> places.tolist(), lengths.tolist()
        ([[0, 1, 2, 3, 5]], [6])
    """
    kept = torch.tensor(keep.counts, dtype=torch.long)  # (items,)
    within = [part.nonzero()[:, 0] for part in keep.parts]  # (K,) each: places in the unpruned item
    rank = [torch.arange(count) for count in keep.counts]
    shift = torch.zeros(is_image.shape, dtype=torch.long)  # (batch, S)
    if keep.shapes:
        shift[is_image] = torch.cat(within) - torch.cat(rank)
    # What an item lacks moves all that follows it in its row. It stands at the item's last kept token: there is one.
    missing = torch.zeros(is_image.shape, dtype=torch.long)  # (batch, S)
    row, column = is_image.nonzero(as_tuple=True)
    last = kept.cumsum(0) - 1
    missing[row[last], column[last]] = torch.tensor(keep.totals, dtype=torch.long) - kept
    before = missing.cumsum(1) - missing
    places = (is_token.long().cumsum(1) - 1 + before + shift).where(is_token, torch.tensor(0))
    return places, is_token.sum(1) + missing.sum(1)
