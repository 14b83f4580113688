"""Which blocks of an image to keep: `select` and the `Selection` that it returns."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelprune.selection import predictors
from pixelprune.selection._blocks import Cell, Image, Source, block_at, channels, with_contiguous_rows
from pixelprune.selection._engine import find_sources
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.copies import count_copies, spread
from pixelprune.selection.metrics import METRICS, gray_levels, on_unit_scale, totals


@dataclass(frozen=True, eq=False, repr=False)
class Selection:
    """Which blocks of one image are kept, and how the others are rebuilt.

    Attributes:
        keep: bool (R, C), True where the block is kept.
        source: int32 (R, C), row-major index of the kept block that rebuilds each block; a kept
            block is its own source.
        block: B, side of a block in pixels.
        threshold: τ in force, in [0, 1]; with a budget it can be above the configured one.
        budget_met: whether at most `max_tokens` blocks are kept; True if there is no budget.
        copies: how many of the dropped blocks come back after the encoder, as copies of features.

    Example:
        >>> import numpy as np
        >>> select(np.zeros((64, 96), np.uint8))
        <Selection: 1 of 6 blocks kept, grid (2, 3), threshold 0>
        >>> select(np.zeros((64, 96), np.uint8), PruneConfig(min_tokens=3))
        <Selection: 1 of 6 blocks kept, 2 copies, grid (2, 3), threshold 0>
    """

    keep: npt.NDArray[np.bool_]
    source: Source
    block: int
    threshold: float
    budget_met: bool = True
    copies: int = 0

    def __repr__(self) -> str:
        copies = f", {self.copies} copies" if self.copies else ""
        kept = f"{self.kept} of {self.total} blocks kept{copies}"
        return f"<Selection: {kept}, grid {self.grid}, threshold {self.threshold:g}>"

    @property
    def grid(self) -> tuple[int, int]:
        """(R, C), rows and columns of blocks."""
        rows, columns = self.keep.shape
        return rows, columns

    @property
    def total(self) -> int:
        """N = R·C, the blocks of the image: the visual tokens without pruning."""
        return self.keep.size

    @property
    def kept(self) -> int:
        """K, the kept blocks: what the encoder computes."""
        return int(np.count_nonzero(self.keep))

    @property
    def tokens(self) -> int:
        """L, kept blocks and copies: the visual tokens that the language model gets."""
        return self.kept + self.copies

    @property
    def retain_ratio(self) -> float:
        """K / N."""
        return self.kept / self.total

    @property
    def indices(self) -> npt.NDArray[np.intp]:
        """Row-major indices of the kept blocks, ascending, (K,)."""
        return np.flatnonzero(self.keep)

    @property
    def restored(self) -> npt.NDArray[np.bool_]:
        """Bool (R, C), True at the dropped blocks that come back: `copies` of them, evenly spaced."""
        return spread(self.keep, self.copies)

    @property
    def token_map(self) -> npt.NDArray[np.int32]:
        """Int32 (R, C), the row-major index of the kept block whose feature stands at each block; −1 where no token is.

        Example:
            >>> import numpy as np
            >>> select(np.zeros((64, 96), np.uint8), PruneConfig(min_tokens=3)).token_map
            array([[ 0, -1,  0],
                   [-1,  0, -1]], dtype=int32)
        """
        return np.where(self.keep | self.restored, self.source, np.int32(-1))


def select(image: Image, config: PruneConfig = PruneConfig(), *, block: int = 32) -> Selection:
    """Find the blocks that a decoder could not rebuild from the others, and keep those.

    Each B × B block is predicted from blocks scanned before it, and dropped if it is within
    τ = `config.threshold` of what the prediction is rebuilt as (the paper's Pred-2D rule, or
    another one of `pixelprune.predictors`). At τ = 0 only equal pixels match. The image is
    compared as it lies in memory, in integers; besides the image, memory is needed for (R, C) arrays only,
    unless its rows are not contiguous (a flipped or transposed view is copied first).

    Args:
        image: uint8 (H, W, 3) or (H, W), sides multiples of `block`: what the model would see,
            after its own resize.
        config: what may be dropped; by default τ = 0.
        block: B in pixels, patch side times merge size: 32 for Qwen3-VL, 28 for Qwen2.5-VL.

    Returns:
        The selection, its arrays of shape (R, C) = (H / block, W / block).

    Raises:
        ValueError: the image, `config` or `block` is not as described.

    The call releases the GIL while it compares, so threads run in parallel.

    Example:
        >>> import numpy as np
        >>> page = np.full((64, 96, 3), 255, np.uint8)
        >>> page[40:50, 40:50] = 0
        >>> selection = select(page)
        >>> selection.keep.astype(int)
        array([[1, 0, 0],
               [0, 1, 1]])
        >>> selection.source
        array([[0, 0, 0],
               [0, 4, 5]], dtype=int32)
        >>> selection.kept, selection.total, selection.retain_ratio
        (3, 6, 0.5)
    """
    check_config(config)
    image, block = check_image(image, block)
    return _select(image, (block, block), config, block)


def select_patches(
    patches: Image,
    grid: tuple[int, int],
    config: PruneConfig = PruneConfig(),
    *,
    patch: int,
    merge: int,
    patch_order: str = "block",
) -> Selection:
    """The same as `select`, for an image that a model's processor has already cut into patches.

    Which values of a patch belong to which pixel does not matter, and values may occur more than
    once (T equal frames) as long as each occurs equally often: distances stay what they are.

    Args:
        patches: uint8 (h·w, D), each patch flattened.
        grid: (h, w), rows and columns of patches, multiples of `merge`.
        config: what may be dropped; by default τ = 0.
        patch: P, side of a patch in pixels.
        merge: m, patches along a side of a block.
        patch_order: "block" if the m × m patches of a block follow each other, block after block, as
            Qwen-style processors put them; "row" if patches go row by row through the image.

    Returns:
        The selection, its arrays of shape (R, C) = (h / m, w / m).

    Raises:
        ValueError: an argument is not as described.

    Example:
        >>> import numpy as np
        >>> image = np.full((64, 96, 3), 255, np.uint8)
        >>> image[40:50, 40:50] = 0
        >>> cut = image.reshape(2, 2, 16, 3, 2, 16, 3).transpose(0, 3, 1, 4, 6, 2, 5)  # R, C, m, m, channel, P, P
        >>> by_patches = select_patches(cut.reshape(24, 768), (4, 6), patch=16, merge=2)
        >>> bool((by_patches.keep == select(image).keep).all())
        True
    """
    check_config(config)
    height, width = _check_patches(patches, grid, patch, merge, patch_order)
    lines = merge if patch_order == "row" else 1
    # A block is `lines` stretches of bytes: the array is an image whose blocks are not square.
    cells = np.ascontiguousarray(patches).reshape(height // merge * lines, -1)
    return _select(cells, (lines, cells.shape[1] * merge // width), config, merge * patch)


def largest_error(image: Image, selection: Selection, metric: str = "max") -> float:
    """The largest distance between a block and what rebuilds it, on the [0, 1] scale.

    Computed in plain numpy, independently of the code that selected. For a selection made by `select`
    in the same metric it is at most `selection.threshold` (Proposition 2).

    Args:
        image: uint8 (H, W, 3) or (H, W), the image that was selected from.
        selection: its selection.
        metric: "max", "mae" or "rmse".

    Raises:
        ValueError: the selection belongs to an image of another size, or the metric is not known.

    Example:
        >>> import numpy as np
        >>> image = np.repeat(np.array([10, 13], np.uint8), 32)[None].repeat(32, axis=0)
        >>> round(255 * largest_error(image, select(image, PruneConfig(threshold=5 / 255))))
        3
    """
    check_size(image, selection)
    source = selection.source.ravel()
    worst = 0
    for n in np.flatnonzero(~selection.keep):
        x = block_at(image, int(n), (selection.block, selection.block))
        y = block_at(image, int(source[n]), (selection.block, selection.block))
        worst = max(worst, int(totals(x, y, metric, tuple(range(x.ndim)))))
    return on_unit_scale(worst, metric, selection.block**2 * channels(image))


def check_size(image: Image, selection: Selection) -> None:
    """Raise a ValueError unless `selection` is one of an image of this size."""
    height, width = (side * selection.block for side in selection.grid)
    if image.shape[:2] != (height, width):
        raise ValueError(f"image must be {height} x {width}, as its selection says, got {image.shape[:2]}")


def _select(image: Image, cell: Cell, config: PruneConfig, block: int) -> Selection:
    selection = _select_at(config.threshold, image, cell, config, block)
    if config.max_tokens is None or selection.kept <= config.max_tokens:
        return selection
    for threshold in _ladder(config):
        selection = _select_at(threshold, image, cell, config, block)
        if selection.kept <= config.max_tokens:
            return selection
    return replace(selection, budget_met=False)


def _select_at(threshold: float, image: Image, cell: Cell, config: PruneConfig, block: int) -> Selection:
    predictor = predictors.get(config.predictor)
    source = find_sources(image, cell, predictor, threshold, config.metric)
    keep = source.ravel() == np.arange(source.size, dtype=np.int32)
    copies = count_copies(int(np.count_nonzero(keep)), keep.size, config)
    return Selection(keep.reshape(source.shape), source, block, threshold, copies=copies)


def _ladder(config: PruneConfig) -> Iterator[float]:
    """The thresholds that a budget tries, ascending: above `threshold`, up to `max_threshold`.

    Each is tried in turn since the count need not fall steadily: a larger τ also changes what is
    predicted from what, so bisection could miss the smallest τ that meets the budget.
    """
    per_level = METRICS[config.metric].steps
    first = math.floor(gray_levels(config.threshold) * per_level) + 1
    last = math.floor(gray_levels(config.max_threshold) * per_level)
    for step in range(first, last + 1):
        yield min(step / (255 * per_level), config.max_threshold)
    if config.max_threshold > max(config.threshold, last / (255 * per_level)):
        yield config.max_threshold


def check_config(config: Any) -> None:
    """Raise a ValueError unless `config` is a PruneConfig."""
    if not isinstance(config, PruneConfig):
        raise ValueError(
            f"config must be a PruneConfig, got {config!r}; "
            "write PruneConfig(threshold=...), or PruneConfig.from_dict(...) for a dict"
        )


def _check_patches(patches: Any, grid: Any, patch: Any, merge: Any, patch_order: str) -> tuple[int, int]:
    """`grid`; a ValueError unless `patches` is the patches of such a grid."""
    if patch_order not in ("block", "row"):
        raise ValueError(f"patch_order must be 'block' or 'row', got {patch_order!r}")
    for name, value in (("patch", patch), ("merge", merge)):
        if not _is_whole(value) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    if not isinstance(grid, tuple | list) or len(grid) != 2 or not all(map(_is_whole, grid)):
        raise ValueError(f"grid must be (h, w), rows and columns of patches, got {grid!r}")
    height, width = grid
    if height < 1 or width < 1 or height % merge or width % merge:
        raise ValueError(f"grid must have sides that are multiples of merge ({merge}) and not 0, got {grid!r}")
    if not isinstance(patches, np.ndarray) or patches.dtype != np.uint8:
        kind = patches.dtype if isinstance(patches, np.ndarray) else type(patches).__name__
        raise ValueError(f"patches must be a uint8 array, got {kind}; take them before they are normalized")
    if patches.ndim != 2 or len(patches) != height * width or not patches.shape[1]:
        raise ValueError(f"patches must have shape (h·w, D) = ({height * width}, D), got {patches.shape}")
    if patches.shape[1] % patch**2:
        raise ValueError(f"patch must fit patches: D = {patches.shape[1]} is not a multiple of {patch}²")
    return height, width


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def check_image(image: Any, block: Any) -> tuple[Image, int]:
    """Both ready for the engine; a ValueError unless `image` can be cut into blocks as it is."""
    if not _is_whole(block) or block < 1:
        raise ValueError(f"block must be a whole number of pixels of at least 1, got {block!r}")
    block = int(block)
    if not isinstance(image, np.ndarray):
        raise ValueError(
            f"image must be a numpy array, got {type(image).__name__}; "
            "pixelprune.load_image reads one from a file, pixelprune.fit_image makes one from a Pillow image"
        )
    if image.dtype != np.uint8:
        raise ValueError(
            f"image must be uint8, got {image.dtype}; scale it to 0..255 and convert it, then resize it with "
            "pixelprune.fit_image"
        )
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(
            f"image must have shape (H, W, 3) or (H, W), got {image.shape}; "
            "move channels last, one image at a time; pixelprune.fit_image removes an alpha channel"
        )
    height, width = image.shape[:2]
    if not height or not width or height % block or width % block:
        raise ValueError(
            f"image must have sides that are multiples of block ({block}) and not 0, got {height} x {width} (H x W); "
            "pixelprune.fit_image brings it to such a size, and pixelprune.preset(model).block is the block to pass"
        )
    return with_contiguous_rows(np.asarray(image)), block
