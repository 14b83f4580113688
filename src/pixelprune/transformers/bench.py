"""What pruning saves in a model of transformers: processor time and bytes, encoder and prefill time."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import PIL.Image
import torch
import transformers
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from pixelprune._engine import Image
from pixelprune.bench import SIDES, photograph
from pixelprune.config import PruneConfig
from pixelprune.transformers import families
from pixelprune.transformers.encoding import encode_images
from pixelprune.transformers.positions import mrope_positions
from pixelprune.transformers.processing import pruned_image_processor_class
from pixelprune.transformers.standin import image_processor


def bench_processor(pictures: dict[str, Image], sides: tuple[int, ...] = SIDES, rounds: int = 9) -> dict[str, Any]:
    """Stock image processor of Qwen3-VL against the pruned one, by picture and side, on one thread.

    Args:
        pictures: uint8 (H, W, 3), by name; each is resized to side × side pixels.
        sides: in pixels, multiples of 32.
        rounds: timed rounds at the largest side, more at smaller ones; both take turns in each, and
            one round before them is thrown away.

    Returns:
        By picture and side: median milliseconds ``stock_ms`` and ``pruned_ms``, ``stock_bytes`` and
        ``pruned_bytes`` of `pixel_values`, and ``retain_ratio``.
    """
    stock = image_processor()
    pruned = copy.deepcopy(stock)
    pruned.__class__ = pruned_image_processor_class(pruned, PruneConfig())
    result: dict[str, Any] = {}
    with one_thread():
        for name, picture in pictures.items():
            for side in sides:
                image = PIL.Image.fromarray(picture).resize((side, side), PIL.Image.Resampling.BICUBIC)
                result.setdefault(name, {})[str(side)] = _compare(stock, pruned, image, rounds * max(sides) // side)
    return result


def processor_pictures(page: Image, screen: Image) -> dict[str, Image]:
    """The three kinds that the benchmark speaks of."""
    return {"page": page, "screen": screen, "photograph": photograph(max(SIDES))}


@contextmanager
def one_thread() -> Any:
    """Pin torch to one thread: a second one makes timings jump and ratios no truer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def prefill_model(vision_depth: int, text_depth: int) -> Any:
    """A model with random weights and the widths of Qwen3-VL-2B, but for depth and vocabulary."""
    config = transformers.Qwen3VLConfig(
        text_config={
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": text_depth,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 1024,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "depth": vision_depth,
            "num_heads": 16,
            "out_hidden_size": 2048,
            "patch_size": 16,
            "deepstack_visual_indexes": [vision_depth - 1],
        },
        image_token_id=_IMAGE,
        vision_start_token_id=_START,
        vision_end_token_id=_END,
    )
    torch.manual_seed(0)
    model: Any = transformers.Qwen3VLForConditionalGeneration(config)
    return model.eval()


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
    model, family = prefill_model(depth, depth), families.family("qwen3_vl")
    processor = image_processor()
    processor.__class__ = pruned_image_processor_class(processor, PruneConfig())
    result = {}
    for side in sides:
        picture = PIL.Image.fromarray(page).resize((side, side), PIL.Image.Resampling.BICUBIC)
        full = processor([picture], return_tensors="pt", pixelprune=False)
        result[str(side)] = _prefill(model, family, full, processor([picture], return_tensors="pt"), rounds)
    return result


_IMAGE, _START, _END, _TEXT = 1000, 1001, 1002, 32


def _prefill(model: Any, family: Any, full: Any, pruned: Any, rounds: int) -> dict[str, Any]:
    grid, kept = pruned["image_grid_thw"], pruned["image_kept"]
    total = len(kept)

    def prompt(count: int) -> dict[str, Tensor]:
        text = torch.arange(_TEXT)
        ids = torch.cat([text, torch.tensor([_START]), torch.full((count,), _IMAGE), torch.tensor([_END]), text])[None]
        return {"input_ids": ids, "mm_token_type_ids": (ids == _IMAGE).int()}

    def encode_all() -> Any:
        return model.base_model.get_image_features(full["pixel_values"], grid, return_dict=True)

    def encode_kept() -> Any:
        return encode_images(model, family, pruned["pixel_values"], grid, kept, None)

    def read_all() -> None:
        model(**prompt(total), image_grid_thw=grid, mm_encoder_outputs={"image": features["full"]}, logits_to_keep=1)

    def read_kept() -> None:
        inputs = prompt(int(kept.sum()))
        asked = {**inputs, "image_grid_thw": grid}
        positions, _ = mrope_positions(model, asked, _IMAGE, inputs["input_ids"] == _IMAGE, kept, [total])
        model(**inputs, position_ids=positions, mm_encoder_outputs={"image": features["pruned"]}, logits_to_keep=1)

    with torch.no_grad():
        features = {"full": encode_all(), "pruned": encode_kept()}
        parts = {"vision": (encode_all, encode_kept), "language": (read_all, read_kept)}
        contenders = {(part, i): run for part, runs in parts.items() for i, run in enumerate(runs)}
        times = in_turns(contenders, rounds)
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


def counted_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in `run`, backward ones included."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        run()
    return int(counter.get_total_flops())


def _attention(query: Any, key: Any, value: Any, dropout: float = 0, causal: bool = False, **rest: Any) -> int:
    every: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return every // 2 if causal else every


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, output: Any, sums: Any, dropout: float, causal: bool, **rest: Any
) -> int:
    every: int = sdpa_backward_flop_count(gradient, query, key, value)  # type: ignore[no-untyped-call]
    return every // 2 if causal else every


# The counter of torch 2.14 knows attention on GPUs only. The kernel leaves out the half that a causal mask hides.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def _compare(stock: Any, pruned: Any, image: PIL.Image.Image, rounds: int) -> dict[str, float]:
    outputs = {name: run([image], return_tensors="pt") for name, run in (("stock", stock), ("pruned", pruned))}
    sizes = {name: output["pixel_values"].nbytes for name, output in outputs.items()}
    retained = float(outputs["pruned"]["image_kept"].float().mean())
    del outputs
    times = in_turns(
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


def in_turns(
    contenders: dict[Any, Callable[[], object]], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[Any, float]:
    """Median seconds of each contender; they take turns within a round, and `before` runs ahead of each, untimed."""
    times: dict[Any, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, run in contenders.items():
            before()
            start = time.perf_counter()
            run()
            if number:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}
