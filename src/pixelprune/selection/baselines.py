"""Two other ways to drop as many blocks as Pred-2D does.

Both keep a given number of blocks. Neither bounds an error: they answer what the *choice* of
blocks is worth, at an equal number of visual tokens, as in the paper's study.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pixelprune.selection._blocks import Image, Source, in_blocks
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.copies import count_copies
from pixelprune.selection.metrics import limit, totals
from pixelprune.selection.select import Selection, select


def random(image: Image, config: PruneConfig = PruneConfig(), *, block: int = 32, seed: int = 0) -> Selection:
    """Keep as many blocks as `select` keeps, at random places.

    A dropped block's `source` is the kept block before it in row-major order (the first one kept,
    for blocks before that).

    Args:
        image, config, block: as for `select`.
        seed: of a private generator; the global ones are left alone.

    Raises:
        ValueError: as `select`.

    Example:
        >>> import numpy as np
        >>> page = np.full((64, 96, 3), 255, np.uint8)
        >>> page[40:50, 40:50] = 0
        >>> random(page, seed=1).kept == select(page).kept == 3
        True
    """
    selection = select(image, config, block=block)
    keep = np.zeros(selection.total, np.bool_)
    keep[np.random.default_rng(seed).permutation(selection.total)[: selection.kept]] = True
    kept = np.flatnonzero(keep)
    nearest = np.maximum(np.searchsorted(kept, np.arange(selection.total), side="right") - 1, 0)
    return replace(selection, keep=keep.reshape(selection.grid), source=_shaped(kept[nearest], selection))


def components(image: Image, config: PruneConfig = PruneConfig(), *, block: int = 32, seed: int = 0) -> Selection:
    """Keep at least one block of each 4-connected group of matching neighbors.

    Neighbours match if their pixels are within τ of each other. The first block of each group is
    kept; if `select` keeps more, the rest is drawn at random. If there were more groups than `select`
    keeps (at τ = 0 there never are), each would still keep one. A dropped block's `source` is the
    first block of its group; along a chain of matches it can be further away than τ.

    Args, Raises: as `random`.

    Example:
        >>> import numpy as np
        >>> page = np.full((64, 96, 3), 255, np.uint8)
        >>> page[:, 32:64] = 0
        >>> components(page).source
        array([[0, 1, 2],
               [0, 1, 2]], dtype=int32)
    """
    selection = select(image, config, block=block)
    first = _groups(image, config.metric, selection.threshold, block).ravel()
    keep = first == np.arange(selection.total)
    spare = np.flatnonzero(~keep)
    extra = max(0, selection.kept - int(np.count_nonzero(keep)))
    keep[np.random.default_rng(seed).permutation(spare)[:extra]] = True
    return replace(
        selection,
        keep=keep.reshape(selection.grid),
        source=_shaped(np.where(keep, np.arange(selection.total), first), selection),
        budget_met=config.max_tokens is None or int(np.count_nonzero(keep)) <= config.max_tokens,
        copies=count_copies(int(np.count_nonzero(keep)), selection.total, config),
    )


def _shaped(source: npt.NDArray[np.intp], selection: Selection) -> Source:
    return source.astype(np.int32).reshape(selection.grid)


def _groups(image: Image, metric: str, threshold: float, block: int) -> npt.NDArray[np.intp]:
    """For each block (R, C) the row-major first block of its 4-connected group."""
    blocks = in_blocks(image, block)
    largest = limit(threshold, metric, blocks[0, 0].size)
    axes = (2, 3, 4)
    left = totals(blocks[:, 1:], blocks[:, :-1], metric, axes) <= largest
    upper = totals(blocks[1:], blocks[:-1], metric, axes) <= largest
    label = np.arange(left.shape[0] * upper.shape[1]).reshape(left.shape[0], upper.shape[1])
    while True:
        before = label.copy()
        for near, far, match in (
            (label[:, 1:], label[:, :-1], left),
            (label[1:], label[:-1], upper),
        ):
            least = np.minimum(near, far)
            np.minimum(near, least, out=near, where=match)
            np.minimum(far, least, out=far, where=match)
        label = label.ravel()[label]  # jump to the label of one's label, which halves long chains
        if (label == before).all():
            return label
