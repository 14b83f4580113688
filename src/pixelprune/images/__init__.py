"""Files to uint8 arrays to pictures: `load_image`, `fit_image`, the sizes that models see, overlays, samples."""

from pixelprune.images.errors import ImageError
from pixelprune.images.files import fit_image, load_image
from pixelprune.images.sizes import ModelPreset, preset

__all__ = ["ImageError", "ModelPreset", "fit_image", "load_image", "preset"]
