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
from typing import Any

import numpy as np
import numpy.typing as npt

METRICS = ("max", "mae", "rmse")

# k / 255 · 255 can land a hair below k in float64; blocks at exactly that distance must match.
_SLACK = 1 + 1e-12


def limit(threshold: float, metric: str, samples: int) -> int:
    """The largest integer total at which a block of `samples` samples still matches.

    Example:
        >>> limit(5 / 255, "max", 3072)
        5
        >>> limit(5 / 255, "rmse", 3072) == 5 * 5 * 3072
        True
    """
    level = 255 * threshold
    if metric == "max":
        return math.floor(level * _SLACK)
    if metric == "mae":
        return math.floor(level * samples * _SLACK)
    return math.floor(level * level * samples * _SLACK)


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
