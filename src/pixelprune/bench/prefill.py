"""How long encoder and prefill take, all tokens against the kept ones."""

from __future__ import annotations

from typing import Any

import PIL.Image
import torch
from torch import Tensor

from pixelprune.bench._flops import counted_flops
from pixelprune.bench._timing import median_seconds, square
from pixelprune.selection._blocks import Image
from pixelprune.selection.config import PruneConfig
from pixelprune.standins import IMAGE, VISION_END, VISION_START, image_processor, wide_model
from pixelprune.transformers import families
from pixelprune.transformers.encoding import encode_images
from pixelprune.transformers.positions import mrope_positions
from pixelprune.transformers.processing import pruned_image_processor_class

# Tokens of text in front of the image, and behind it.
_TEXT = 32


def bench_prefill(
    page: Image, sides: tuple[int, ...] = (512, 1024, 1536), depth: int = 2, rounds: int = 3
) -> dict[str, Any]:
    """Vision encoder and prefill of the language model, all tokens against the kept ones.

    Widths are those of Qwen3-VL-2B. Encoder and language model have `depth` layers each instead of
    24 and 28, so that a CPU can run them; layers are alike, so ratios hold for any depth but for
    what is done once.

    Args:
        page: uint8 (H, W, 3), resized to side × side pixels.
        sides: in pixels, multiples of 32.
        depth: layers.
        rounds: timed rounds, in which all take turns.

    Returns:
        By side: ``retain_ratio``, ``tokens`` and ``kept``, and for ``vision`` and ``language`` the
        median seconds ``full`` and ``pruned``, their quotient ``speed_up``, and ``flops``, the
        quotient of the floating-point operations that were counted in both.
    """
    model, family = wide_model(depth, depth), families.get("qwen3_vl")
    processor = image_processor()
    processor.__class__ = pruned_image_processor_class(processor, PruneConfig())
    result = {}
    for side in sides:
        picture = PIL.Image.fromarray(square(page, side))
        full = processor([picture], return_tensors="pt", pixelprune=False)
        result[str(side)] = _prefill(model, family, full, processor([picture], return_tensors="pt"), rounds)
    return result


def _prefill(model: Any, family: Any, full: Any, pruned: Any, rounds: int) -> dict[str, Any]:
    grid, kept = pruned["image_grid_thw"], pruned["image_kept"]
    total = len(kept)

    def prompt(count: int) -> dict[str, Tensor]:
        words = range(_TEXT)
        ids = torch.tensor([[*words, VISION_START, *[IMAGE] * count, VISION_END, *words]])
        return {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE).int()}

    def encode_all() -> Any:
        return model.base_model.get_image_features(full["pixel_values"], grid, return_dict=True)

    def encode_kept() -> Any:
        return encode_images(model, family, pruned["pixel_values"], grid, kept, None)

    def read_all() -> None:
        model(**prompt(total), image_grid_thw=grid, mm_encoder_outputs={"image": features["full"]}, logits_to_keep=1)

    def read_kept() -> None:
        inputs = prompt(int(kept.sum()))
        asked = {**inputs, "image_grid_thw": grid}
        positions, _ = mrope_positions(model, asked, IMAGE, inputs["input_ids"] == IMAGE, kept, [total])
        model(**inputs, position_ids=positions, mm_encoder_outputs={"image": features["pruned"]}, logits_to_keep=1)

    with torch.no_grad():
        features = {"full": encode_all(), "pruned": encode_kept()}
        parts = {"vision": (encode_all, encode_kept), "language": (read_all, read_kept)}
        contenders = {(part, i): run for part, runs in parts.items() for i, run in enumerate(runs)}
        times = median_seconds(contenders, rounds)
        flops = {key: counted_flops(run) for key, run in contenders.items()}
    result: dict[str, Any] = {"tokens": total, "kept": int(kept.sum()), "retain_ratio": float(kept.float().mean())}
    for part in parts:
        result[part] = {
            "full": times[part, 0],
            "pruned": times[part, 1],
            "speed_up": times[part, 0] / times[part, 1],
            "flops": flops[part, 0] / flops[part, 1],
        }
    return result
