"""Both propositions of the paper, checked on one image: for every predictor, metric and τ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pixelprune.selection import predictors
from pixelprune.selection._blocks import Image
from pixelprune.selection.codec import decode, encode
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.metrics import METRICS


@dataclass(frozen=True)
class Check:
    """One proposition on one image.

    Attributes:
        proposition: 1 (equal at τ = 0) or 2 (every block within τ).
        config: the config that encoded.
        largest_error: the largest distance of any block to the decoded one, on the [0, 1] scale.
        holds: whether the proposition does.
    """

    proposition: int
    config: PruneConfig
    largest_error: float
    holds: bool


def configs(threshold: float) -> list[PruneConfig]:
    """What `verify_image` encodes with: each predictor at τ = 0, and in each metric at `threshold`."""
    exact = [PruneConfig(predictor=name) for name in predictors.names()]
    bounded = [
        PruneConfig(threshold=threshold, metric=metric, predictor=name)
        for name in predictors.names()
        for metric in METRICS
    ]
    return exact + bounded


def verify_image(image: Image, threshold: float = 0.02, *, block: int = 32) -> Iterator[Check]:
    """Encode and decode `image` in every way, and compare each block with its original.

    The comparison is the definition in float64, and shares no code with the selection.

    Args:
        image: uint8 (H, W, 3) or (H, W), sides multiples of `block`.
        threshold: τ for Proposition 2.

    Raises:
        ValueError: as `pixelprune.select`.

    Example:
        >>> import numpy as np
        >>> noise = np.random.default_rng(0).integers(0, 9, (64, 96, 3), np.uint8)
        >>> all(check.holds for check in verify_image(noise))
        True
    """
    for config in configs(threshold):
        decoded = decode(encode(image, config, block=block))
        worst = _largest_distance(image, decoded, block, config.metric)
        exact = config.threshold == 0
        # Floats may come out slightly above a distance that is exactly τ.
        holds = np.array_equal(decoded, image) if exact else worst <= config.threshold * (1 + 1e-9)
        yield Check(1 if exact else 2, config, worst, holds)


def _largest_distance(image: Image, decoded: Image, block: int, metric: str) -> float:
    """The largest distance of any block, by the definition, in floats and without the kernels."""
    worst = 0.0
    for row in range(0, image.shape[0], block):
        delta = np.abs(image[row : row + block] / 255 - decoded[row : row + block] / 255)
        for column in range(0, image.shape[1], block):
            cell = delta[:, column : column + block]
            if metric == "max":
                distance = cell.max()
            elif metric == "mae":
                distance = cell.mean()
            else:
                distance = np.sqrt(np.mean(cell**2))
            worst = max(worst, float(distance))
    return worst
