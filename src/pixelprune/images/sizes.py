"""What size an image has when a model sees it: one short entry per model family.

The bounds are those of the image processor files published with the checkpoints, which for most
families differ from the defaults of the processor classes in transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from pixelprune.selection._registry import Registry
from pixelprune.selection.errors import check_name

MAX_ASPECT_RATIO = 200

Size = tuple[int, int]


def _as_it_is(height: int, width: int, block: int) -> Size:
    return height, width


def _scaled_to_a_block(height: int, width: int, block: int) -> Size:
    """GLM: an image narrower than a block is scaled up until no side is."""
    if min(height, width) >= block:
        return height, width
    scale = max(block / height, block / width)
    return int(height * scale), int(width * scale)


def _grown_to_a_block(height: int, width: int, block: int) -> Size:
    """PaddleOCR: the same with rounding, first for the height, then for the width."""
    if height < block:
        height, width = block, round(width * block / height)
    if width < block:
        height, width = round(height * block / width), block
    return height, width


@dataclass(frozen=True)
class ModelPreset:
    """How a family's image processor sizes and cuts an image.

    Attributes:
        name: as in `fit_image(image, name)` and `pixelprune show --model name`.
        patch: P, side of a patch in pixels.
        merge: m, patches merged along each side into one visual token.
        min_pixels, max_pixels: bounds on H·W after resizing.
        enlarge: what happens to a side shorter than a block before anything else.

    Raises:
        ValueError: the name is empty, or a number is out of range.
    """

    name: str
    patch: int
    merge: int
    min_pixels: int
    max_pixels: int
    enlarge: Callable[[int, int, int], Size] = _as_it_is

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.patch < 1 or self.merge < 1:
            raise ValueError(f"patch and merge must be at least 1, got {self.patch} and {self.merge}")
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"min_pixels must be above 0 and at most max_pixels, got {self.min_pixels} and {self.max_pixels}"
            )

    @property
    def block(self) -> int:
        """B = m·P, side of a block in pixels."""
        return self.merge * self.patch

    def fit_size(self, height: int, width: int) -> Size:
        """(H, W) that the processor resizes an image of `height` × `width` to.

        Both are multiples of B, their product is within the bounds where the shape allows it, and
        the aspect ratio is kept as far as rounding permits.

        Raises:
            ValueError: a side is 0, or one is more than 200 times the other.

        Example:
            >>> preset("qwen3-vl").fit_size(1684, 1191)
            (1696, 1184)
        """
        block = self.block
        if min(height, width) < 1:
            raise ValueError(f"image must have sides of at least 1 pixel, got {height} x {width}")
        height, width = self.enlarge(height, width, block)
        ratio = max(height, width) / min(height, width)
        if ratio > MAX_ASPECT_RATIO:
            raise ValueError(
                f"image must have an aspect ratio of at most {MAX_ASPECT_RATIO}:1, got {ratio:.0f}:1; "
                f"{self.name} accepts no more than that, so crop or split it"
            )
        near = round(height / block) * block, round(width / block) * block
        if near[0] * near[1] > self.max_pixels:
            scale = math.sqrt(height * width / self.max_pixels)
            return _whole_blocks(height / scale, block), _whole_blocks(width / scale, block)
        if near[0] * near[1] < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            return math.ceil(height * scale / block) * block, math.ceil(width * scale / block) * block
        return near


def _whole_blocks(side: float, block: int) -> int:
    return max(block, math.floor(side / block) * block)


# GLM counts an image as two frames, so its bounds on an image are half the published numbers.
_registry = Registry(
    "preset",
    option="model",
    where="pixelprune.images.sizes",
    built_in=(
        ModelPreset("qwen2-vl", 14, 2, 56 * 56, 28 * 28 * 16384),
        ModelPreset("qwen2.5-vl", 14, 2, 56 * 56, 28 * 28 * 16384),
        ModelPreset("qwen3-vl", 16, 2, 256 * 256, 4096 * 4096),
        ModelPreset("qwen3.5", 16, 2, 256 * 256, 4096 * 4096),
        ModelPreset("glm-4v", 14, 2, 112 * 112 // 2, 28 * 28 * 6144, _scaled_to_a_block),
        ModelPreset("glm-ocr", 14, 2, 112 * 112 // 2, 28 * 28 * 6144, _scaled_to_a_block),
        ModelPreset("paddleocr-vl", 14, 2, 147_384, 28 * 28 * 3600, _grown_to_a_block),
    ),
)


def names() -> list[str]:
    """The names of all presets, built-in ones first."""
    return _registry.names()


def get(name: str) -> ModelPreset:
    """The preset called `name`.

    Raises:
        OptionError: there is no preset of this name; the text lists the known ones.
    """
    return _registry.get(name)


def preset(model: str | ModelPreset) -> ModelPreset:
    """The preset called `model`; your own `ModelPreset` is returned as it is.

    Raises:
        OptionError: there is no preset of this name; the text lists the known ones.

    Example:
        >>> preset("qwen2.5-vl").block
        28
    """
    return model if isinstance(model, ModelPreset) else get(model)


def register(preset: ModelPreset) -> None:
    """Add a preset; its name then works wherever a preset is named.

    Raises:
        ValueError: the name is taken.

    Example:
        >>> from dataclasses import replace
        >>> register(replace(preset("qwen3-vl"), name="small", max_pixels=1024 * 1024))
        >>> preset("small").fit_size(4000, 3000)
        (1152, 864)
        >>> unregister("small")
    """
    _registry.register(preset)


def unregister(name: str) -> None:
    """Remove a preset that was added with `register`.

    Raises:
        ValueError: `name` is unknown or built in.
    """
    _registry.unregister(name)
