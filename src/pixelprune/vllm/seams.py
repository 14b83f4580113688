"""Where the supported versions of vLLM differ.

The code that imports this is written for the newest of them. What an older version lacks is found by looking for it,
not by the number of the version. Each seam names the versions that need it; delete it when they are no longer
supported.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from inspect import signature
from typing import Any, get_type_hints

from torch import Tensor
from vllm.multimodal.processing import BaseMultiModalProcessor


class ProcessorSeam:
    """For a stock `…MultiModalProcessor`; comes before it in the bases."""

    # vLLM 0.31: the processor does not make the keys of images in the caches, the inputs of a request do.
    if not hasattr(BaseMultiModalProcessor, "_get_mm_hashes"):

        def _get_mm_hashes(self: Any, inputs: Any) -> Any:
            return inputs.get_mm_hashes(self.info.model_id, self.info.ctx.get_mm_config().mm_hasher_algorithm)

        def _cached_apply_hf_processor(self: Any, inputs: Any, timing_ctx: Any) -> Any:
            asking_us = copy.copy(inputs)
            asking_us.get_mm_hashes = lambda *_args, **_options: self._get_mm_hashes(inputs)
            return super()._cached_apply_hf_processor(asking_us, timing_ctx)  # type: ignore[misc]


def normalized(tower: Any, pixels: Tensor) -> Tensor:
    """Pixels as the first layer of GLM's vision encoder takes them."""
    pixels = pixels.to(tower.device)
    # vLLM 0.31: the worker does not normalize; the front end has done it.
    if not hasattr(tower, "input_norm"):
        return pixels.to(tower.dtype)
    return tower.input_norm(pixels, tower.dtype)  # type: ignore[no-any-return]


def as_declared(pixels: Any, sizes: Sequence[int], inputs: type) -> Any:
    """Patches of all images in the form that the stock `inputs` of PaddleOCR-VL check.

    Args:
        pixels: (patches, …) of all images.
        sizes: patches of each image.
        inputs: the class that declares them.
    """
    (shape,) = get_type_hints(inputs, include_extras=True)["pixel_values"].__metadata__
    # vLLM 0.31, 0.32: the patches of each image come separately.
    return pixels.split(list(sizes)) if shape.dims[0] == "bn" else pixels


def check_normalization(multimodal_config: Any, encoder: type) -> None:
    """Raise a ValueError if nobody normalizes the pixels of a model, pruned or not.

    Args:
        multimodal_config: vLLM's.
        encoder: the class of its vision encoder.
    """
    # vLLM 0.31, 0.32: the front end sends bytes to EXAONE-4.5, whose encoder takes them as they are.
    if multimodal_config.mm_device_do_normalize and "input_norm" not in signature(encoder).parameters:
        raise ValueError(
            "pixelprune was requested, but this version of vLLM does not normalize the images of this model, pruned or "
            "not; start the server with --no-mm-device-do-normalize, or install vLLM 0.33"
        )
