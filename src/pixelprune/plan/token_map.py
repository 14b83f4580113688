"""The token map of a prompt's images: made once at the edge of an adapter, and carried through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pixelprune.plan.keep import KeepMask, joined, shapes_of

# The name under which a token map travels among a model's inputs: int32 (N,), all images in prompt order.
IMAGE_MAP = "image_map"


@dataclass(frozen=True, eq=False)
class TokenMap:
    """For each block of each item (an image), whose feature its token gets.

    Attributes:
        values: int32 (N,), the blocks of all items in prompt order. Within an item, the index of the block whose
            feature stands there, counted from the item's first block: its own index if the encoder computes it, that of
            another one if it is a copy, −1 if no token is there.
        shapes: (T, R, C) of each item: slices in time, rows and columns of blocks. T is 1 for an image.

    Example: two blocks of an image of 2 x 2 are encoded, and one is a copy of the first.
        >>> tokens = TokenMap(torch.tensor([0, 0, -1, 3]), ((1, 2, 2),))
        >>> tokens.encoded.counts, tokens.present.counts, tokens.everything
        ([2], [3], False)
    """

    values: Tensor
    shapes: tuple[tuple[int, int, int], ...]

    @classmethod
    def of_grids(
        cls, values: Tensor | Sequence[Tensor], grid_thw: Tensor | Sequence[Sequence[int]], merge: int
    ) -> TokenMap:
        """A map (N,), or those of each item, with grids (n, 3) of frames, rows and columns of patches; `merge` is m.

        Raises:
            ValueError: a grid has no patches, its sides are not multiples of m, or the map does not fit the grids.
        """
        return cls(values if isinstance(values, Tensor) else joined(values), shapes_of(grid_thw, merge))

    @classmethod
    def of_everything(cls, shapes: tuple[tuple[int, int, int], ...]) -> TokenMap:
        """The map of items from which nothing is dropped.

        Example:
            >>> TokenMap.of_everything(((1, 1, 2), (1, 1, 3))).values.tolist()
            [0, 1, 0, 1, 2]
        """
        own = [torch.arange(slices * rows * columns, dtype=torch.int32) for slices, rows, columns in shapes]
        return cls(joined(own), shapes)

    def __post_init__(self) -> None:
        if self.values.shape != (sum(self.totals),):
            raise ValueError(f"values must have shape {(sum(self.totals),)}, got {tuple(self.values.shape)}")

    @property
    def totals(self) -> list[int]:
        """N of each item, its blocks: its visual tokens without pruning."""
        return [slices * rows * columns for slices, rows, columns in self.shapes]

    @cached_property
    def parts(self) -> tuple[Tensor, ...]:
        """The map of each item, int32 (N,)."""
        return torch.split(self.values, self.totals)

    @cached_property
    def encoded(self) -> KeepMask:
        """The blocks that the encoder computes: the kept ones."""
        return KeepMask(joined([encoded(part) for part in self.parts]), self.shapes)

    @cached_property
    def present(self) -> KeepMask:
        """The blocks that have a token in the language model: kept ones and copies."""
        return KeepMask(self.values >= 0, self.shapes)

    @property
    def everything(self) -> bool:
        """Whether no block is dropped."""
        return self.encoded.everything

    @cached_property
    def gathers(self) -> list[Tensor | None]:
        """For each item, which features of its kept blocks its tokens get, long (L,); None if it has no copies."""
        gathers: list[Tensor | None] = []
        for values, kept, present in zip(self.parts, self.encoded.parts, self.present.parts, strict=True):
            if torch.equal(kept, present):
                gathers.append(None)
            else:
                gathers.append((kept.cumsum(0) - 1)[values[present].long()])
        return gathers

    def with_copies(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features (L, …) of the tokens of each item, from those of its kept blocks (K, …).

        Example:
            >>> tokens = TokenMap(torch.tensor([0, 0, -1, 3]), ((1, 2, 2),))
            >>> tokens.with_copies([torch.tensor([[0.5], [2.5]])])[0].flatten().tolist()
            [0.5, 0.5, 2.5]
        """
        return [
            # Nobody has to wait until the device is done with the features.
            part if gather is None else part[gather.to(part.device, non_blocking=True)]
            for part, gather in zip(features, self.gathers, strict=True)
        ]

    def problem(self) -> str | None:
        """What is wrong with the values, in words; None if nothing is.

        Example:
            >>> TokenMap(torch.tensor([0, 2, -1, 3]), ((1, 2, 2),)).problem()
            'it has block 2 of image 0 at block 1, but block 2 is not one that the encoder computes'
        """
        for image, (values, kept) in enumerate(zip(self.parts, self.encoded.parts, strict=True)):
            if bool(((values < -1) | (values >= len(values))).any()):
                return f"its values for image {image} must be from -1 to {len(values) - 1}"
            wrong = (values >= 0) & ~kept[values.long().clamp(min=0)]
            if bool(wrong.any()):
                place = int(wrong.nonzero()[0])
                block = int(values[place])
                return (
                    f"it has block {block} of image {image} at block {place}, but block {block} is not one that the "
                    "encoder computes"
                )
            if not bool(kept.any()):
                return f"it must keep at least one block of each image, and keeps none of image {image}"
        return None

    def only(self, items: Sequence[int]) -> TokenMap:
        """The map of some items, by their places."""
        return TokenMap(joined([self.parts[i] for i in items]), tuple(self.shapes[i] for i in items))

    def to(self, device: torch.device) -> TokenMap:
        """The map on `device`."""
        return self if self.values.device == device else TokenMap(self.values.to(device), self.shapes)

    def each(self) -> list[TokenMap]:
        """The map of each item alone."""
        return [TokenMap(part, (shape,)) for part, shape in zip(self.parts, self.shapes, strict=True)]


def encoded(values: Tensor) -> Tensor:
    """Which blocks of one item the encoder computes, bool (N,), from its map (N,).

    Example:
        >>> encoded(torch.tensor([0, 0, -1, 3])).tolist()
        [True, False, False, True]
    """
    return values == torch.arange(len(values), device=values.device)
