"""Sizes and pixels against the image processors of transformers themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest

from pixelprune import fit_image, load_image
from pixelprune.images import sizes
from pixelprune.images.samples import sample_path

transformers = pytest.importorskip("transformers", reason="the image processors to compare with are in transformers")


# Patch side, merge size, and the bounds as the processor files of the checkpoints give them.
PUBLISHED = {
    "qwen2-vl": (14, 2, 3136, 12845056),
    "qwen2.5-vl": (14, 2, 3136, 12845056),
    "qwen3-vl": (16, 2, 65536, 16777216),
    "qwen3.5": (16, 2, 65536, 16777216),
    "glm-4v": (14, 2, 12544, 9633792),
    "glm-ocr": (14, 2, 12544, 9633792),
    "paddleocr-vl": (14, 2, 147384, 2822400),
}


def processor(name: str) -> Any:
    """The image processor of a family, set up as its published files set it up."""
    patch, merge, shortest, longest = PUBLISHED[name]
    if name.startswith("glm"):
        from transformers.models.glm4v.image_processing_glm4v import Glm4vImageProcessor
        from transformers.models.glm46v.image_processing_glm46v import Glm46VImageProcessor

        kind = Glm4vImageProcessor if name == "glm-4v" else Glm46VImageProcessor
    elif name.startswith("paddle"):
        from transformers.models.paddleocr_vl.image_processing_paddleocr_vl import PaddleOCRVLImageProcessor

        kind = PaddleOCRVLImageProcessor
    else:
        from transformers import Qwen2VLImageProcessor

        kind = Qwen2VLImageProcessor
    return kind(patch_size=patch, merge_size=merge, size={"shortest_edge": shortest, "longest_edge": longest})


def size_by_processor(name: str, image: PIL.Image.Image) -> tuple[int, int]:
    done = processor(name)(images=[image], return_tensors="pt")
    _, rows, columns = done["image_grid_thw"][0].tolist()
    return rows * PUBLISHED[name][0], columns * PUBLISHED[name][0]


def _sizes() -> list[tuple[int, int]]:
    rng = np.random.default_rng(0)
    drawn = np.exp(rng.uniform(np.log(2), np.log(6000), (400, 2))).astype(int)
    near = [(32 * n + d, 28 * n - d) for n in range(2, 40, 7) for d in (0, 1, 14, 16, 15)]
    return [(int(h), int(w)) for h, w in [*drawn, *near] if max(h, w) / min(h, w) <= 200]


@pytest.mark.parametrize("name", sizes.names())
def test_sizes_equal_the_processors_own(name: str) -> None:
    preset = sizes.preset(name)
    module = __import__(processor(name).__module__, fromlist=["smart_resize"])
    for height, width in _sizes():
        patch, merge, shortest, longest = PUBLISHED[name]
        bounds = {"factor": patch * merge, "min_pixels": shortest, "max_pixels": longest}
        if name.startswith("glm"):
            expected = module.smart_resize(2, height, width, **bounds)
        else:
            expected = module.smart_resize(height, width, **bounds)
        assert preset.fit_size(height, width) == tuple(expected), (height, width)


@pytest.mark.parametrize("name", sizes.names())
@pytest.mark.parametrize("size", [(1191, 1684), (300, 40), (13, 500), (2400, 1800)])
def test_a_processor_gives_the_same_grid_and_nearly_the_same_pixels(name: str, size: tuple[int, int]) -> None:
    image = PIL.Image.open(sample_path("page")).resize(size)
    fitted = fit_image(image, name)
    assert fitted.shape[:2] == size_by_processor(name, image)
    preset, made = sizes.preset(name), processor(name)
    patches = made(images=[image], return_tensors="pt", do_rescale=False, do_normalize=False)["pixel_values"]
    theirs = patches.reshape(len(patches), 3, -1, preset.patch, preset.patch)[:, :, 0].to(int).numpy()
    rows, columns = (side // preset.patch for side in fitted.shape[:2])
    ours = fitted.reshape(rows, preset.patch, columns, preset.patch, 3).transpose(0, 2, 4, 1, 3).astype(int)
    if not name.startswith("paddle"):  # which keeps its patches row by row
        merge = preset.merge
        ours = ours.reshape(rows // merge, merge, columns // merge, merge, *ours.shape[2:]).swapaxes(1, 2)
    difference = np.abs(ours.reshape(theirs.shape) - theirs)
    # torchvision and Pillow round differently; at some sizes a few samples near edges differ more.
    assert difference.mean() < 0.2
    assert (difference > 1).mean() < 0.01


def test_published_bounds_of_the_qwen_line() -> None:
    assert (sizes.preset("qwen3-vl").block, sizes.preset("qwen2.5-vl").block) == (32, 28)
    assert sizes.preset("qwen3-vl").fit_size(20000, 20000) == (4096, 4096)
    assert sizes.preset("qwen3.5").fit_size(10, 10) == (256, 256)


@pytest.mark.parametrize("name", sizes.names())
def test_extreme_shapes_are_refused_as_the_processors_do(name: str) -> None:
    preset = sizes.preset(name)
    with pytest.raises(
        ValueError, match=r"image must have an aspect ratio of at most 200:1, got 201:1; .* crop or split"
    ):
        preset.fit_size(201 * 40, 40)
    assert min(preset.fit_size(200 * 40, 40)) >= preset.block


def test_presets_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="name must be a non-empty string, got ''"):
        replace(sizes.preset("qwen3-vl"), name="")
    with pytest.raises(ValueError, match="patch and merge must be at least 1, got 0 and 2"):
        replace(sizes.preset("qwen3-vl"), patch=0)
    with pytest.raises(ValueError, match="min_pixels must be above 0 and at most max_pixels, got 65536 and 9"):
        replace(sizes.preset("qwen3-vl"), max_pixels=9)
    with pytest.raises(ValueError, match="image must have sides of at least 1 pixel, got 0 x 5"):
        sizes.preset("glm-4v").fit_size(0, 5)


def test_a_preset_of_ones_own() -> None:
    small = replace(sizes.preset("qwen3-vl"), name="mine", max_pixels=512 * 512)
    height, width, _ = fit_image(load_image(sample_path("page")), small).shape
    assert height * width <= 512 * 512
    assert height % 32 == width % 32 == 0
    sizes.register(small)
    try:
        assert (
            fit_image(load_image(sample_path("page")), "mine") == fit_image(load_image(sample_path("page")), small)
        ).all()
    finally:
        sizes.unregister("mine")


@pytest.mark.parametrize("model", ["gpt", None, 3, []])
def test_unknown_models(model: object) -> None:
    with pytest.raises(ValueError, match=r"model must be one of 'qwen2-vl', .*'paddleocr-vl', got"):
        sizes.preset(model)  # type: ignore[arg-type]
