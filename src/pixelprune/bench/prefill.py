"""How long encoder and prefill take, all tokens against the kept ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from pixelprune.bench._devices import check
from pixelprune.bench._flops import counted_flops, speed_up
from pixelprune.bench._tables import Table, duration, measured_on, numbers, texts
from pixelprune.bench._timing import median_seconds, square
from pixelprune.plan.keep import KeepMask
from pixelprune.selection._blocks import Image
from pixelprune.standins import IMAGE, VISION_END, VISION_START, standin_processor, wide_model
from pixelprune.transformers import enable, families
from pixelprune.transformers.encoding import encode_images
from pixelprune.transformers.positions import mrope_positions

# Tokens of text in front of the image, and behind it.
_TEXT = 32
_FIGURES = numbers("full", "pruned", "speed-up", "by FLOPs")


SIDES = (512, 1024, 1536)


def bench_prefill(
    page: Image, sides: Sequence[int] = SIDES, depth: int = 2, rounds: int = 3, device: str = "cpu"
) -> dict[str, Any]:
    """Vision encoder and prefill of the language model, all tokens against the kept ones.

    Widths are those of Qwen3-VL-2B. Encoder and language model have `depth` layers each instead of
    24 and 28, so that a CPU can run them. All layers are the same, so ratios hold for any depth,
    except for the work that is done once.

    Args:
        page: uint8 (H, W, 3), resized to side × side pixels.
        sides: in pixels, multiples of 32.
        depth: layers.
        rounds: timed rounds, in which both take turns.
        device: "cpu" (float32) or "cuda" (bfloat16).

    Raises:
        ValueError: a side or the device is not usable.

    Returns:
        By side: ``tokens``, ``kept`` and ``retain_ratio``, and for ``vision`` and ``language`` the
        median seconds ``full`` and ``pruned``, their quotient ``speed_up``, and ``flops``, the
        quotient of the floating-point operations counted in both.
    """
    check(sides, device)
    model, family = wide_model(depth, depth), families.get("qwen3_vl")
    model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    processor = enable(processor=standin_processor()).image_processor
    result = {}
    for side in sides:
        picture = PIL.Image.fromarray(square(page, side))
        full, pruned = (processor([picture], return_tensors="pt", pixelprune=asked) for asked in (False, None))
        result[str(side)] = _prefill(model, family, full.to(device), pruned.to(device), rounds)
    return result


def _prefill(model: Any, family: Any, full: Any, pruned: Any, rounds: int) -> dict[str, Any]:
    grid = pruned["image_grid_thw"]
    keep = KeepMask.of_grids(pruned["image_kept"], grid, merge=2)
    (total,), (kept,) = keep.totals, keep.counts

    def prompt(count: int) -> dict[str, Tensor]:
        words = range(_TEXT)
        ids = torch.tensor([[*words, VISION_START, *[IMAGE] * count, VISION_END, *words]], device=grid.device)
        return {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE).int()}

    def encode_all() -> Any:
        return model.base_model.get_image_features(full["pixel_values"], grid, return_dict=True)

    def encode_kept() -> Any:
        return encode_images(model, family, pruned["pixel_values"], grid, keep, None)

    def read_all() -> None:
        model(**prompt(total), image_grid_thw=grid, mm_encoder_outputs={"image": features["full"]}, logits_to_keep=1)

    def read_kept() -> None:
        inputs = prompt(kept)
        asked = {**inputs, "image_grid_thw": grid}
        positions, _ = mrope_positions(model, asked, IMAGE, inputs["input_ids"] == IMAGE, keep)
        model(**inputs, position_ids=positions, mm_encoder_outputs={"image": features["pruned"]}, logits_to_keep=1)

    with torch.no_grad():
        features = {"full": encode_all(), "pruned": encode_kept()}
        parts = {"vision": (encode_all, encode_kept), "language": (read_all, read_kept)}
        compared = {part: _compared(runs, rounds) for part, runs in parts.items()}
    return {"tokens": total, "kept": kept, "retain_ratio": kept / total, **compared}


def _compared(runs: tuple[Callable[[], object], Callable[[], object]], rounds: int) -> dict[str, float]:
    """What all tokens took (the first run) against the kept ones (the second)."""
    times = median_seconds({n: partial(_to_the_end, run) for n, run in enumerate(runs)}, rounds)
    return speed_up((times[0], times[1]), (counted_flops(runs[0]), counted_flops(runs[1])))


def _to_the_end(run: Callable[[], object]) -> None:
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def table(result: Mapping[str, Any]) -> Table:
    """The table of a result of `pixelprune bench prefill`."""
    rows = [
        (
            f"{side}²",
            f"{case['tokens']:,}",
            f"{case['kept']:,}",
            label,
            duration(case[part]["full"]),
            duration(case[part]["pruned"]),
            f"{case[part]['speed_up']:.2f} ×",
            f"{case[part]['flops']:.2f} ×",
        )
        for side, case in result["sides"].items()
        for part, label in (("vision", "vision encoder"), ("language", "language model"))
    ]
    return Table(
        f"Encoder and prefill, widths of Qwen3-VL-2B, {result['depth']} + {result['depth']} layers, τ = 0, medians",
        (*texts("page"), *numbers("visual tokens", "kept"), *texts("part"), *_FIGURES),
        tuple(rows),
        (measured_on(result["machine"]),),
    )
