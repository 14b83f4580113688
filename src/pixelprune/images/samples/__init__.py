"""Images to try things on: a page and a screen, drawn by scripts/make_samples.py, and a synthetic photograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

from pixelprune.selection._blocks import Image

SAMPLES = ("page", "screen")


def sample_path(name: str) -> Path:
    """Path of a sample image, "page" or "screen".

    Raises:
        ValueError: there is no such sample.
    """
    if name not in SAMPLES:
        raise ValueError(f"name must be one of {', '.join(SAMPLES)}, got {name!r}")
    return Path(__file__).parent / f"{name}.png"


def photograph(side: int, seed: int = 0) -> Image:
    """An image with the smooth shades and the grain of a photograph, uint8 (side, side, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 216, (side // 64, side // 64, 3), np.uint8)
    shades = PIL.Image.fromarray(coarse).resize((side, side), PIL.Image.Resampling.BICUBIC)
    grain = rng.normal(0, 3, (side, side, 1)).astype(np.float32)
    return (np.asarray(shades) + grain).clip(0, 255).astype(np.uint8)
