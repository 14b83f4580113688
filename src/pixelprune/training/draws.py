"""How each row is pruned, where training mixes rows that are pruned in different ways."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

# A column of a data set: τ of the row, or None if all blocks of its images are kept. Rows without it are pruned as
# their processor was configured.
ROW_THRESHOLD = "pixelprune_threshold"


def drawn_thresholds(
    rows: Iterable[Any], unpruned_share: float, thresholds: Sequence[float], seed: int
) -> list[float | None]:
    """τ of each row, None for those that are not pruned.

    A draw depends on the seed and on the name of its row, not on the rows before it or on the epoch. So a row has the
    length that was measured before the first step, whoever makes a batch of it, and in a run that resumes.

    Args:
        rows: a name of each row, such as its number.
        unpruned_share: how likely a row is not pruned.
        thresholds: what τ is drawn from, each as likely.
        seed: of the draws.

    Example:
        >>> drawn_thresholds([1, 2, 3, 4], 0.3, [0.0, 0.02], seed=1)
        [0.02, 0.02, None, 0.02]
        >>> drawn_thresholds([4, 3], 0.3, [0.0, 0.02], seed=1)
        [0.02, None]
    """
    drawn: list[float | None] = []
    for row in rows:
        # Two draws each: which rows are pruned does not depend on the thresholds.
        random = Random(f"{seed} {row}")
        unpruned, threshold = random.random() < unpruned_share, random.choice(thresholds)
        drawn.append(None if unpruned else threshold)
    return drawn
