"""What vLLM makes of transparent pixels, before any processor sees the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pixelprune import load_image

media = pytest.importorskip("vllm.multimodal.media.image", reason="compares with vLLM")
images = pytest.importorskip("vllm.multimodal.image")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "RGB"])
def test_over_white_but_for_one_color_of_rgb(mode: str, tmp_path: Path) -> None:
    """In a request, and in an image that is handed over."""
    path = tmp_path / "a.png"
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 20, 4), np.uint8), "RGBA")
    image = (noise if mode in ("RGBA", "LA") else noise.convert("RGB")).convert(mode)
    key = {"RGB": image.getpixel((3, 4)), "L": image.getpixel((3, 4)), "P": bytes(range(256))}
    image.save(path, **({"transparency": key[mode]} if mode in key else {}))
    expected = load_image(path, transparency="ignore" if mode == "RGB" else "white")
    assert (load_image(path, transparency="ignore") != load_image(path)).any()
    with PIL.Image.open(path) as opened:
        handed = images.convert_image_mode(images.normalize_image(opened), "RGB")
    for seen in (media.ImageMediaIO().load_bytes(path.read_bytes()).media, handed):
        # It pastes where we composite, which may round to a neighbor.
        assert np.abs(np.asarray(seen).astype(int) - expected).max() <= 1
