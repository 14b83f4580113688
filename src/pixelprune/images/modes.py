"""From a Pillow image of any mode to the uint8 RGB array that a model sees."""

from __future__ import annotations

from typing import Any

import numpy as np
import PIL.Image

from pixelprune.selection._blocks import Image

# What the samples of Pillow's deep modes may be meant to span; all others have 16 bits.
_FULL_SCALES = {"I": (255, 65535), "F": (1, 255, 65535)}


def to_rgb(image: PIL.Image.Image) -> Image:
    """A Pillow image of any mode as uint8 (H, W, 3)."""
    if image.mode.startswith("I") or image.mode == "F":
        gray = _to_8_bits(np.asarray(image), _FULL_SCALES.get(image.mode, (65535,)))
        return np.repeat(gray[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _to_8_bits(values: np.ndarray[Any, Any], full_scales: tuple[int, ...]) -> Image:
    """Scale samples to 8 bits; the first of `full_scales` that holds all finite ones counts."""
    largest = values.max(initial=0, where=np.isfinite(values))
    full_scale = next((scale for scale in full_scales if largest <= scale), full_scales[-1])
    values = np.where(np.isnan(values), 0, values)
    gray: Image = np.rint(values.clip(0, full_scale) * (255 / full_scale)).astype(np.uint8)
    return gray
