"""One image: what differs in it, what is kept of it at each setting, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelprune.selection._blocks import Image, in_blocks
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.select import Selection, select
from pixelprune.stats.costs import Costs, Geometry

Row = dict[str, Any]


def count_distinct(image: Image, block: int) -> int:
    """How many blocks of an image differ from each other, wherever they stand.

    Args:
        image: uint8 (H, W, 3) or (H, W), sides multiples of `block`.
        block: B.

    Example:
        >>> image = np.zeros((64, 96), np.uint8)
        >>> image[0, 0] = image[0, 64] = 7
        >>> count_distinct(image, 32)
        2
    """
    rows = in_blocks(image, block)
    # A set compares the bytes wherever hashes are equal.
    return len({rows[row, column].tobytes() for row, column in np.ndindex(rows.shape[:2])})


def window_squares(keep: npt.NDArray[np.bool_], window: int) -> int:
    """Sum over the windows of an image of the square of the blocks kept in each; 0 without windows.

    Args:
        keep: bool (R, C).
        window: side of a window in blocks; those at the right and lower edges may be smaller. 0: none.

    Example:
        >>> window_squares(np.ones((2, 3), bool), 2)
        20
    """
    if not window:
        return 0
    rows, columns = (np.arange(0, side, window) for side in keep.shape)
    counts = np.add.reduceat(np.add.reduceat(keep.astype(np.int64), rows, axis=0), columns, axis=1)
    return int((counts**2).sum())


def measure(image: Image, configs: Sequence[PruneConfig], block: int, geometry: Geometry | None = None) -> Row:
    """Count what is in an image and what each of `configs` keeps of it.

    Args:
        image: uint8 (H, W, 3), what the model would see.
        configs: settings to compare.
        block: B.
        geometry: of the model whose costs to add.

    Returns:
        ``tokens`` (N), ``distinct`` blocks, ``blank`` (whether they are all equal), ``full`` (costs without pruning,
        if there is a geometry), and ``settings``, in the order of `configs`: ``threshold`` in force, ``kept`` (K),
        ``retain_ratio``, ``language_tokens`` (L), ``budget_met``, and costs.

    Example:
        >>> row = measure(np.zeros((64, 96, 3), np.uint8), [PruneConfig(min_tokens=2)], 32)
        >>> row["tokens"], row["distinct"], row["settings"][0]["kept"], row["settings"][0]["language_tokens"]
        (6, 1, 1, 2)
    """
    selections = [select(image, config, block=block) for config in configs]
    total, distinct = selections[0].total, count_distinct(image, block)
    row: Row = {"tokens": total, "distinct": distinct, "blank": distinct == 1}
    if geometry:
        everything = np.ones(selections[0].grid, bool)
        row["full"] = asdict(geometry.costs(total, total, window_squares(everything, geometry.encoder.window)))
    row["settings"] = [_setting(selection, geometry) for selection in selections]
    return row


def _setting(selection: Selection, geometry: Geometry | None) -> Row:
    row: Row = {
        "threshold": selection.threshold,
        "kept": selection.kept,
        "retain_ratio": selection.retain_ratio,
        "language_tokens": selection.tokens,
        "budget_met": selection.budget_met,
    }
    return row | (asdict(_costs(selection, geometry)) if geometry else {})


def _costs(selection: Selection, geometry: Geometry) -> Costs:
    windows = window_squares(selection.keep, geometry.encoder.window)
    return geometry.costs(selection.kept, selection.tokens, windows)
