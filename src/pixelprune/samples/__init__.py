"""Two images to try things on, drawn by scripts/make_samples.py: a document page and a screen."""

from __future__ import annotations

from pathlib import Path

SAMPLES = ("page", "screen")


def sample_path(name: str) -> Path:
    """Path of a sample image, "page" or "screen".

    Raises:
        ValueError: there is no such sample.
    """
    if name not in SAMPLES:
        raise ValueError(f"name must be one of {', '.join(SAMPLES)}, got {name!r}")
    return Path(__file__).parent / f"{name}.png"
