"""How long an image processor takes, stock against pruned, and how many bytes it passes to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import PIL.Image

from pixelprune.bench._tables import Table, measured_on, numbers, texts
from pixelprune.bench._timing import median_seconds, one_thread, square
from pixelprune.bench.select import SIDES
from pixelprune.images.samples import photograph
from pixelprune.selection._blocks import Image
from pixelprune.standins import standin_processor
from pixelprune.transformers import enable, kept


def bench_processor(pictures: dict[str, Image], sides: tuple[int, ...] = SIDES, rounds: int = 9) -> dict[str, Any]:
    """Stock image processor of Qwen3-VL against the pruned one, by picture and side, on one thread.

    Args:
        pictures: uint8 (H, W, 3), by name; each is resized to side × side pixels.
        sides: in pixels, multiples of 32.
        rounds: timed rounds at the largest side, more at smaller ones; both take turns in each round,
            and one round of warm-up is thrown away.

    Returns:
        By picture and side: median milliseconds ``stock_ms`` and ``pruned_ms``, ``stock_bytes`` and
        ``pruned_bytes`` of `pixel_values`, and ``retain_ratio``.
    """
    stock = standin_processor().image_processor
    pruned = enable(processor=standin_processor()).image_processor
    result: dict[str, Any] = {}
    with one_thread():
        for name, picture in pictures.items():
            for side in sides:
                image = PIL.Image.fromarray(square(picture, side))
                result.setdefault(name, {})[str(side)] = _compare(stock, pruned, image, rounds * max(sides) // side)
    return result


def processor_pictures(page: Image, screen: Image) -> dict[str, Image]:
    """The three kinds of images that are measured."""
    return {"page": page, "screen": screen, "photograph": photograph(max(SIDES))}


def _compare(stock: Any, pruned: Any, image: PIL.Image.Image, rounds: int) -> dict[str, float]:
    outputs = {name: run([image], return_tensors="pt") for name, run in (("stock", stock), ("pruned", pruned))}
    sizes = {name: output["pixel_values"].nbytes for name, output in outputs.items()}
    (counts,) = kept(outputs["pruned"])
    retained = counts.retain_ratio
    del outputs
    times = median_seconds(
        {
            "stock": lambda: stock([image], return_tensors="pt"),
            "pruned": lambda: pruned([image], return_tensors="pt"),
        },
        rounds,
    )
    return {
        **{f"{name}_ms": 1e3 * value for name, value in times.items()},
        **{f"{name}_bytes": size for name, size in sizes.items()},
        "retain_ratio": retained,
    }


def table(result: Mapping[str, Any]) -> Table:
    """The table of a result of `pixelprune bench processor`."""
    rows = [
        (
            f"{name}, {side}²",
            f"{case['stock_ms']:.1f} ms",
            f"{case['pruned_ms']:.1f} ms",
            f"{case['stock_ms'] / case['pruned_ms']:.2f} ×",
            f"{case['stock_bytes'] / 1e6:.0f} MB",
            f"{case['pruned_bytes'] / 1e6:.0f} MB",
            f"{case['retain_ratio']:.3f}",
        )
        for name, sides in result["pictures"].items()
        for side, case in sides.items()
    ]
    headings = ("stock", "pruned", "speed-up", "pixel_values, stock", "pixel_values, pruned", "retain ratio")
    return Table(
        "Image processor of Qwen3-VL, τ = 0, one thread, medians",
        texts("image") + numbers(*headings),
        tuple(rows),
        (measured_on(result["machine"]),),
    )
