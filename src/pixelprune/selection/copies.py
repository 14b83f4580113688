"""Which dropped blocks come back after the encoder, as copies of the features of the blocks that rebuild them.

They carry no pixels and no block is predicted from one, so what a decoder rebuilds does not depend on them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pixelprune.selection.config import PruneConfig


def count_copies(kept: int, total: int, config: PruneConfig) -> int:
    """How many of the `total - kept` dropped blocks of an image come back.

    The share `restore` of them, or as many as `min_tokens` needs if that is more; never more than `max_tokens` leaves
    room for.

    Example: a page of 100 blocks that keeps 20.
        >>> count_copies(20, 100, PruneConfig(restore=0.25)), count_copies(20, 100, PruneConfig(min_tokens=64))
        (20, 44)
        >>> count_copies(20, 100, PruneConfig(restore=1, max_tokens=50))
        30
    """
    dropped = total - kept
    wanted = max(int(config.restore * dropped + 0.5), (config.min_tokens or 0) - kept)
    room = dropped if config.max_tokens is None else max(0, config.max_tokens - kept)
    return min(wanted, dropped, room)


def spread(keep: npt.NDArray[np.bool_], count: int) -> npt.NDArray[np.bool_]:
    """`count` of the dropped blocks, evenly spaced: bool (R, C), True at each of them.

    Every second row is walked backwards. So copies of one row stand between those of the row above it, where all rows
    walked alike would line them up in columns.

    Args:
        keep: bool (R, C), the kept blocks.
        count: at most as many as there are dropped blocks.

    Example:
        >>> spread(np.zeros((2, 8), np.bool_), 4).astype(int)
        array([[0, 0, 1, 0, 0, 0, 1, 0],
               [0, 1, 0, 0, 0, 1, 0, 0]])
    """
    walk = np.arange(keep.size).reshape(keep.shape)
    walk[1::2] = walk[1::2, ::-1].copy()
    places = walk.ravel()
    dropped = places[~keep.ravel()[places]]  # in the order of the walk
    assert 0 <= count <= len(dropped)
    chosen = np.zeros(keep.size, np.bool_)
    # The middles of `count` stretches of equal length, in integers.
    chosen[dropped[(2 * np.arange(count) + 1) * len(dropped) // max(1, 2 * count)]] = True
    return chosen.reshape(keep.shape)
