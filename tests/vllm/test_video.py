"""A video beside images: it passes unpruned, and all positions are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.engines import Pictures, Transformers, difference, limit, run
from tests.support.small_models import SMALL

VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_a_video_between_pruned_images(family: str, checkpoint: Any, pictures: Pictures, tmp_path: Path) -> None:
    # Frames of one colour but for a corner: an image like that would be pruned.
    frames = np.full((4, 128, 160, 3), 230, np.uint8)
    frames[:, :40, :40] = np.asarray(Image.open(pictures.paths["photo"]))[:40, :40]
    frames[2:] //= 2
    np.save(tmp_path / "video.npy", frames)
    image = SMALL[family].image
    requests = []
    for options in (None, {"threshold": 0.0}, {"threshold": 0.05}):
        request = pictures.request(image, ["page", "crop"], options)
        request["prompt"] = request["prompt"].replace(image, image + VIDEO, 1)
        requests.append({**request, "video": str(tmp_path / "video.npy")})
    job = {
        "model": str(checkpoint(family)),
        # On the device, vLLM normalizes videos as it does images, unlike this checkpoint.
        "engine": {"limit_mm_per_prompt": {"image": 4, "video": 1}, "mm_device_do_normalize": False},
        "requests": requests,
        "rounds": [[0], [1], [2], [0, 1, 2]],
    }
    *alone, together = run(tmp_path, job)["rounds"]
    transformers = Transformers(checkpoint(family))
    lengths, far = [], []
    for request, [one], batched in zip(requests, alone, together, strict=True):
        expected = transformers.answer(request, one["ids"])
        assert one["ids"] == expected["ids"] == batched["ids"]
        far.append(max(difference(one, expected), difference(one, batched)))
        lengths.append(len(one["prompt_ids"]))
    assert max(far[1:]) < limit(far[0])
    assert lengths[2] <= lengths[1] < lengths[0]
