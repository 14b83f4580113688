"""Fixtures: real pixels from the shipped samples."""

from __future__ import annotations

import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from pixelprune import fit_image, load_image
from pixelprune.images.samples import SAMPLES, sample_path

# A busy machine is no bug of ours.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# A shell starts what it puts in the background with SIGINT ignored, and tests interrupt the processes that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", params=SAMPLES)
def sample(request: pytest.FixtureRequest) -> np.ndarray:
    """A shipped sample at the size Qwen3-VL sees, uint8 (H, W, 3)."""
    return fit_image(load_image(sample_path(request.param)), "qwen3-vl")


@pytest.fixture(scope="session")
def page() -> np.ndarray:
    """The shipped page at the size Qwen3-VL sees, uint8 (H, W, 3)."""
    return fit_image(load_image(sample_path("page")), "qwen3-vl")
