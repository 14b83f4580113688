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
from pixelprune.plan.token_map import IMAGE_MAP, TokenMap
from pixelprune.selection._blocks import Image
from pixelprune.standins import IMAGE, VISION_END, VISION_START, standin_processor, wide_model
from pixelprune.transformers import enable, families
from pixelprune.transformers.encoding import encode_images
from pixelprune.transformers.positions import mrope_positions

# Shares of dropped blocks that come back: what the language model reads depends on them, what the encoder computes does
# not.
RESTORE = (0.0, 0.25, 1.0)
# Tokens of text in front of the image, and behind it.
_TEXT = 32
_FIGURES = numbers("full", "pruned", "speed-up", "by FLOPs")


SIDES = (1024, 2048)


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
        By side: ``tokens``, ``kept`` and ``retain_ratio``; for ``vision`` the median seconds ``full`` and ``pruned``,
        their quotient ``speed_up``, and ``flops``, the quotient of the floating-point operations counted in both; and
        ``language``, a list of the same with ``restore`` and the ``tokens`` that are read, for some shares.
    """
    check(sides, device)
    model, family = wide_model(depth, depth), families.get("qwen3_vl")
    model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    processor = enable(processor=standin_processor()).image_processor
    result = {}
    for side in sides:
        picture = PIL.Image.fromarray(square(page, side))
        full = processor([picture], return_tensors="pt", pixelprune=False).to(device)
        pruned = {
            restore: processor([picture], return_tensors="pt", pixelprune={"restore": restore}).to(device)
            for restore in RESTORE
        }
        result[str(side)] = _prefill(model, family, full, pruned, rounds)
    return result


def _prefill(model: Any, family: Any, full: Any, pruned: Mapping[float, Any], rounds: int) -> dict[str, Any]:
    grid = full["image_grid_thw"]
    all_tokens = TokenMap.of_grids(full[IMAGE_MAP], grid, merge=2)
    maps = {restore: TokenMap.of_grids(given[IMAGE_MAP], grid, merge=2) for restore, given in pruned.items()}

    def encode_all() -> Any:
        return model.base_model.get_image_features(full["pixel_values"], grid, return_dict=True)

    def encode_kept(restore: float) -> Any:
        return encode_images(model, family, pruned[restore]["pixel_values"], grid, maps[restore], None)

    def read(tokens: TokenMap, features: Any) -> None:
        inputs = _prompt(tokens, grid)
        if not tokens.everything:
            is_image = inputs["input_ids"] == IMAGE
            inputs["position_ids"], _ = mrope_positions(model, inputs, IMAGE, is_image, tokens.present)
            del inputs["image_grid_thw"]
        model(**inputs, mm_encoder_outputs={"image": features}, logits_to_keep=1)

    with torch.no_grad():
        vision = _compared((encode_all, partial(encode_kept, RESTORE[0])), rounds)
        whole, language = encode_all(), []
        for restore, tokens in maps.items():
            runs = (partial(read, all_tokens, whole), partial(read, tokens, encode_kept(restore)))
            count = sum(tokens.present.counts)
            language.append({"restore": restore, "tokens": count, **_compared(runs, rounds)})
    (total,), (kept,) = all_tokens.totals, maps[RESTORE[0]].encoded.counts
    return {"tokens": total, "kept": kept, "retain_ratio": kept / total, "vision": vision, "language": language}


def _prompt(tokens: TokenMap, grid: Tensor) -> dict[str, Tensor]:
    words = range(_TEXT)
    images = [IMAGE] * sum(tokens.present.counts)
    ids = torch.tensor([[*words, VISION_START, *images, VISION_END, *words]], device=grid.device)
    return {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE).int(), "image_grid_thw": grid}


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
    rows = []
    for side, case in result["sides"].items():
        rows.append(_row(side, case, "vision encoder", case["kept"], case["vision"]))
        for part in case["language"]:
            rows.append(_row(side, case, f"language model, restore {part['restore']:g}", part["tokens"], part))
    return Table(
        f"Encoder and prefill, widths of Qwen3-VL-2B, {result['depth']} + {result['depth']} layers, τ = 0, medians",
        (*texts("page"), *numbers("visual tokens"), *texts("part"), *numbers("it gets"), *_FIGURES),
        tuple(rows),
        (measured_on(result["machine"]),),
    )


def _row(side: str, case: Mapping[str, Any], label: str, tokens: int, part: Mapping[str, float]) -> tuple[str, ...]:
    return (
        f"{side}²",
        f"{case['tokens']:,}",
        label,
        f"{tokens:,}",
        duration(part["full"]),
        duration(part["pruned"]),
        f"{part['speed_up']:.2f} ×",
        f"{part['flops']:.2f} ×",
    )
