"""Which files have pixels that their compression changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from pixelprune.images.errors import ImageError
from pixelprune.images.signatures import is_lossy

NOISE = np.random.default_rng(0).integers(0, 256, (40, 41, 4), np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("icc", [b"", b"x" * 5001])
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("lossless", [True, False])
def test_webp(mode: str, icc: bytes, frames: int, lossless: bool, tmp_path: Path) -> None:
    """All layouts of the container: with and without other chunks before the pixels."""
    image = PIL.Image.fromarray(NOISE).convert(mode)
    more: dict[str, Any] = {"save_all": True, "append_images": [image.rotate(90)]} if frames > 1 else {}
    image.save(tmp_path / "a.webp", lossless=lossless, icc_profile=icc, **more)
    assert is_lossy(tmp_path / "a.webp") == (not lossless)
    with PIL.Image.open(tmp_path / "a.webp") as read:
        same = (np.asarray(read.convert("RGB")) == np.asarray(image.convert("RGB"))).all()
    assert mode == "RGBA" or same == lossless


@pytest.mark.parametrize(
    ("suffix", "lossy"), [("jpg", True), ("png", False), ("bmp", False), ("tif", False), ("pdf", False), ("avif", True)]
)
def test_other_formats(suffix: str, lossy: bool, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    try:
        PIL.Image.fromarray(NOISE).convert("RGB").save(path)
    except KeyError:
        pytest.skip(f"Pillow was built without {suffix}")
    path.rename(tmp_path / "name of no kind")
    assert is_lossy(tmp_path / "name of no kind") is lossy


def test_cut_off_and_missing(tmp_path: Path) -> None:
    (tmp_path / "a.webp").write_bytes(b"RIFF\x10\0\0\0WEBPVP8X\xff\xff")
    assert not is_lossy(tmp_path / "a.webp")
    with pytest.raises(ImageError, match="no such file"):
        is_lossy(tmp_path / "none")
