"""Where a benchmark with a model runs, and the sides of the images it takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pixelprune.selection.errors import OptionError


def check(sides: Sequence[int], device: str) -> None:
    """Raise a ValueError for a side or a device that is not usable."""
    for side in sides:
        if side < 256 or side % 32:
            raise OptionError("side", f"must be a multiple of 32 and at least 256, got {side}")
    if device not in ("cpu", "cuda"):
        raise OptionError("device", f"must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise OptionError("device", "is cuda, but torch finds no GPU here", "use cpu")


def gpu(device: str) -> dict[str, str]:
    """What a GPU adds to the description of the machine."""
    return {"device": torch.cuda.get_device_name()} if device == "cuda" else {}
