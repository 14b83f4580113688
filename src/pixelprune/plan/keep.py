"""A mask over the blocks of a prompt's images: which are kept, or which have a token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KeepMask:
    """Which blocks of each item (an image) are kept. All else in this layer asks about one such mask.

    Attributes:
        mask: bool (N,), the blocks of all items in prompt order; within an item slice by slice, each row-major.
        shapes: (T, R, C) of each item: slices in time, rows and columns of blocks. T is 1 for an image.

    Example:
        >>> keep = KeepMask(torch.tensor([True, False, True, True]), ((1, 1, 2), (1, 2, 1)))
        >>> keep.totals, keep.counts, keep.everything
        ([2, 2], [1, 2], False)
    """

    mask: Tensor
    shapes: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        if self.mask.shape != (sum(self.totals),):
            raise ValueError(f"mask must have shape {(sum(self.totals),)}, got {tuple(self.mask.shape)}")

    @classmethod
    def of_grids(
        cls, mask: Tensor | Sequence[Tensor], grid_thw: Tensor | Sequence[Sequence[int]], merge: int
    ) -> KeepMask:
        """A mask (N,), or those of each item, with grids (n, 3) of frames, rows and columns of patches; `merge` is m.

        Raises:
            ValueError: a grid has no patches, its sides are not multiples of m, or the mask does not fit the grids.
        """
        return cls(mask if isinstance(mask, Tensor) else joined(mask), shapes_of(grid_thw, merge))

    @property
    def totals(self) -> list[int]:
        """N of each item, its blocks: its visual tokens without pruning."""
        return [slices * rows * columns for slices, rows, columns in self.shapes]

    @cached_property
    def parts(self) -> tuple[Tensor, ...]:
        """The mask of each item, bool (N,)."""
        return torch.split(self.mask, self.totals)

    @cached_property
    def counts(self) -> list[int]:
        """K of each item, its kept blocks: its visual tokens with pruning."""
        return [int(part.sum()) for part in self.parts]

    @property
    def everything(self) -> bool:
        """Whether no block is dropped."""
        return bool(self.mask.all())

    def only(self, items: Sequence[int]) -> KeepMask:
        """The mask of some items, by their places."""
        return KeepMask(joined([self.parts[i] for i in items]), tuple(self.shapes[i] for i in items))

    def to(self, device: torch.device) -> KeepMask:
        """The mask on `device`."""
        return self if self.mask.device == device else KeepMask(self.mask.to(device), self.shapes)

    def each(self) -> list[KeepMask]:
        """The mask of each item alone."""
        return [KeepMask(part, (shape,)) for part, shape in zip(self.parts, self.shapes, strict=True)]

    def grids(self, merge: int) -> list[list[int]]:
        """Frames, rows and columns of patches of each item: its `grid_thw`; `merge` is m."""
        return [[slices, rows * merge, columns * merge] for slices, rows, columns in self.shapes]

    def rows(self, merge: int, patch_order: str) -> Tensor:
        """Where the patches of kept blocks stand in a processor's sequence of patches.

        Args:
            merge: m, patches along a side of a block.
            patch_order: "block" or "row", as in `pixelprune.selection.select_patches`.

        Returns:
            Long (K·m²,), ascending.

        Example:
            >>> KeepMask(torch.tensor([False, True]), ((1, 1, 2),)).rows(2, "row").tolist()
            [2, 3, 6, 7]
        """
        assert patch_order in ("block", "row"), patch_order
        if patch_order == "block":
            return self.mask.repeat_interleave(merge**2).nonzero()[:, 0]
        by_patch = [
            part.view(shape).repeat_interleave(merge, 1).repeat_interleave(merge, 2).flatten()  # (T·R·m·C·m,)
            for part, shape in zip(self.parts, self.shapes, strict=True)
        ]
        return joined(by_patch).nonzero()[:, 0]


def joined(parts: Sequence[Tensor]) -> Tensor:
    """What each item has, in one; vLLM asks about no image at all, too."""
    return torch.cat(list(parts)) if len(parts) else torch.empty(0, dtype=torch.bool)


def shapes_of(grid_thw: Tensor | Sequence[Sequence[int]], merge: int) -> tuple[tuple[int, int, int], ...]:
    """(T, R, C) of each item, from grids (n, 3) of frames, rows and columns of patches; `merge` is m.

    Raises:
        ValueError: a grid has no patches, or its sides are not multiples of m.
    """
    sizes = grid_thw.tolist() if isinstance(grid_thw, Tensor) else grid_thw
    if any(min(size) < 1 or any(side % merge for side in size[1:]) for size in sizes):
        raise ValueError(
            f"grid_thw must have frames and sides of at least 1, and sides that are multiples of {merge}, "
            f"got {[list(size) for size in sizes]}"
        )
    return tuple((frames, height // merge, width // merge) for frames, height, width in sizes)


def merge_size(grid_thw: Tensor, blocks: int) -> int:
    """m, from grids (n, 3) in patches and the number of their blocks.

    Raises:
        ValueError: there is none that fits.

    Example:
        >>> merge_size(torch.tensor([[1, 4, 6]]), 6)
        2
    """
    patches = grid_thw.prod(-1)
    merge = math.isqrt(int(patches.sum()) // max(1, blocks))
    if merge < 1 or int(patches.sum()) != blocks * merge**2 or bool((grid_thw[:, 1:] % merge).any()):
        raise ValueError(f"{blocks} blocks do not fit grids of {patches.tolist()} patches")
    return merge
