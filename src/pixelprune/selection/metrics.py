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

n is the number of samples in a block, B·B·channels. To add a metric, add an entry to `METRICS`, its
code to `_codes` and its loop to `_kernels`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from pixelprune.selection._codes import MAE, MAX, RMSE
from pixelprune.selection.errors import not_one_of

Samples = npt.NDArray[np.uint8]
Axes = tuple[int, ...]


@dataclass(frozen=True)
class Metric:
    """How the distance between two blocks is measured: a row of the table above.

    Attributes:
        name: as in `PruneConfig(metric=...)`.
        code: its number in the compiled kernels.
        steps: thresholds per gray level that a token budget tries. 1 where thresholds between two
            gray levels select the same blocks.
        total: (|Δ|, axes) to integer totals, reduced over `axes`; |Δ| is uint8.
        limit: (255 τ, n) to the exact upper bound on a total.
        distance: (total, n) to the distance on the [0, 1] scale.
    """

    name: str
    code: int
    steps: int
    total: Callable[[Samples, Axes], Any]
    limit: Callable[[Fraction, int], Fraction]
    distance: Callable[[int, int], float]


METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "max",
            MAX,
            steps=1,
            total=lambda delta, axes: delta.max(axis=axes),
            limit=lambda level, n: level,
            distance=lambda total, n: total / 255,
        ),
        Metric(
            "mae",
            MAE,
            steps=4,
            total=lambda delta, axes: delta.sum(axis=axes, dtype=np.int64),
            limit=lambda level, n: level * n,
            distance=lambda total, n: total / (255 * n),
        ),
        Metric(
            "rmse",
            RMSE,
            steps=4,
            total=lambda delta, axes: np.square(delta, dtype=np.int64).sum(axis=axes),
            limit=lambda level, n: level * level * n,
            distance=lambda total, n: math.sqrt(total / n) / 255,
        ),
    )
}


def names() -> list[str]:
    """The names of all metrics."""
    return list(METRICS)


def get(name: str) -> Metric:
    """The metric called `name`.

    Raises:
        OptionError: there is no such metric; the text lists the known names.
    """
    try:
        return METRICS[name]
    except (KeyError, TypeError):
        raise not_one_of("metric", name, METRICS) from None


@lru_cache
def limit(threshold: float, metric: str, samples: int) -> int:
    """The largest integer total at which a block of `samples` samples still matches.

    Example:
        >>> limit(5 / 255, "max", 3072)
        5
        >>> limit(5 / 255, "rmse", 3072) == 5 * 5 * 3072
        True
    """
    return math.floor(get(metric).limit(gray_levels(threshold), samples))


def gray_levels(threshold: float) -> Fraction:
    """255 τ, as the simple fraction that a threshold such as 5 / 255 or 0.02 was meant to be.

    As a float, 5 / 255 may lie slightly below; blocks at exactly that distance must match.
    """
    level = 255 * Fraction(threshold)
    meant = level.limit_denominator(10**6)
    return meant if abs(meant - level) <= level / 10**12 else level


def totals(x: Samples, y: Samples, metric: str, axes: Axes) -> Any:
    """Integer totals of |x − y| in `metric`, reduced over `axes`, as an array or a scalar.

    `x`, `y`: uint8, same shape.
    """
    return get(metric).total(np.maximum(x, y) - np.minimum(x, y), axes)


def on_unit_scale(total: int, metric: str, samples: int) -> float:
    """The distance on the [0, 1] scale that belongs to an integer total."""
    return get(metric).distance(total, samples)
