"""Distances between blocks, in exact integer arithmetic.

A distance on the [0, 1] scale is a ratio of integers, so "distance ≤ τ" can be decided without
rounding: sum up integers over the block, and compare with one integer limit.

==========  =======================  ==========================  ==============
metric      distance, [0, 1] scale   integer total of a block    limit for τ
==========  =======================  ==========================  ==============
``max``     max |Δ| / 255            max |Δ|                     255 τ
``mae``     mean |Δ| / 255           Σ |Δ|                       255 τ n
``rmse``    √(mean Δ²) / 255         Σ Δ²                        (255 τ)² n
==========  =======================  ==========================  ==============

n is the number of samples in a block, B·B·channels.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

METRICS = ("max", "mae", "rmse")


@lru_cache
def limit(threshold: float, metric: str, samples: int) -> int:
    """The largest integer total at which a block of `samples` samples still matches.

    Example:
        >>> limit(5 / 255, "max", 3072)
        5
        >>> limit(5 / 255, "rmse", 3072) == 5 * 5 * 3072
        True
    """
    level = grey_levels(threshold)
    if metric == "max":
        return math.floor(level)
    if metric == "mae":
        return math.floor(level * samples)
    return math.floor(level * level * samples)


def grey_levels(threshold: float) -> Fraction:
    """255 τ, as the simple fraction that a threshold such as 5 / 255 or 0.02 was meant to be.

    As a float, 5 / 255 may lie a hair below; blocks at exactly that distance must match.
    """
    level = 255 * Fraction(threshold)
    meant = level.limit_denominator(10**6)
    return meant if abs(meant - level) <= level / 10**12 else level


def totals(x: npt.NDArray[np.uint8], y: npt.NDArray[np.uint8], metric: str, axes: tuple[int, ...]) -> Any:
    """Integer totals of |x − y| in `metric`, reduced over `axes`, as an array or a scalar.

    `x`, `y`: uint8, same shape.
    """
    difference = np.maximum(x, y) - np.minimum(x, y)
    if metric == "max":
        return difference.max(axis=axes)
    if metric == "mae":
        return difference.sum(axis=axes, dtype=np.int64)
    return np.square(difference, dtype=np.int64).sum(axis=axes)


def on_unit_scale(total: int, metric: str, samples: int) -> float:
    """The distance on the [0, 1] scale that belongs to an integer total."""
    if metric == "max":
        return total / 255
    if metric == "mae":
        return total / (255 * samples)
    return math.sqrt(total / samples) / 255
