"""Fixtures: real pixels from the shipped samples and, where it lies beside the project, the corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pixelprune import fit_image, load_image
from pixelprune.samples import SAMPLES, sample_path

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with corpus and golden masks."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"the corpus and the golden masks are not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session", params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> np.ndarray:
    """A shipped sample at the size Qwen3-VL sees, uint8 (H, W, 3)."""
    return fit_image(load_image(sample_path(request.param)), "qwen3-vl")


@pytest.fixture(scope="session")
def page() -> np.ndarray:
    """The shipped page at the size Qwen3-VL sees, uint8 (H, W, 3)."""
    return fit_image(load_image(sample_path("page")), "qwen3-vl")
