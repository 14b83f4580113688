"""What an engine never does on a CPU, by hand: python protocol.py JOB RESULT.

The vision encoder is driven as vLLM's CUDA graphs drive it, with the real buffers but without a graph, and memory is
profiled. JOB names `model` and `images`; RESULT has differences of features and what the profiling saw.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor


def replay(model: Any, batch: dict[str, Any], lengths: list[int]) -> Tensor | None:
    """Features by way of the buffers of a graph that was captured for about as many tokens; None if none is wanted."""
    from vllm.v1.worker.encoder_cudagraph import EncoderCudaGraphManager

    total, items = sum(lengths), len(lengths) + 1
    budget = -(-total // items) * items
    if any(spec.get_path_output_tokens("default") > 2**20 for spec in model.get_encoder_cudagraph_item_specs(batch)):
        return None
    captured = model.prepare_encoder_cudagraph_capture_inputs(budget, items, items, torch.device("cpu"), torch.float32)
    buffers = dict(captured.values)
    values = model.prepare_encoder_cudagraph_replay_buffers(batch, items, items).values
    config = model.get_encoder_cudagraph_config()
    for key in config.buffer_keys:
        source, buffer = values.get(key), buffers.get(key)
        if source is None or buffer is None:
            continue
        if source.ndim == 0:
            buffer.copy_(source)
        else:
            assert source.shape[0] <= buffer.shape[0], f"{key} does not fit"
            config.padding_logics.get(key, EncoderCudaGraphManager._copy_padded_buffer)(buffer, source)
    # Attention on a CPU takes no rows behind the last sequence, which a graph would keep.
    patches = total * model.visual.spatial_merge_size**2
    for key, buffer in buffers.items():
        if isinstance(buffer, Tensor) and buffer.ndim and len(buffer) > patches and not key.startswith("cu_"):
            buffers[key] = buffer[:patches]
    return model.encoder_cudagraph_forward(buffers)


def by_hand(model: Any, processor: Any, job: dict[str, Any], options: Any) -> dict[str, Any]:
    from vllm.multimodal.utils import group_and_batch_mm_kwargs

    images = [Image.open(path).convert("RGB") for path in job["images"]]
    items = processor.info.parse_mm_data({"image": images})
    made = processor(job["prompt"], items, hf_processor_mm_kwargs={"pixelprune": options})
    pairs = [("image", item) for item in made["mm_kwargs"]["image"]]
    ((_, _, batch),) = list(group_and_batch_mm_kwargs(pairs, device="cpu"))
    features = model.embed_multimodal(**batch)
    chosen = [2, 0]
    selected = model.select_encoder_cudagraph_items(batch, chosen)
    expected = torch.cat([features[i] for i in chosen])
    specs = model.get_encoder_cudagraph_item_specs(batch)
    patches, unit = [spec.input_size for spec in specs], model.visual.spatial_merge_size**2
    assert sum(patches) == len(batch["pixel_values"])

    def scattered(output: Tensor) -> Tensor:
        """What vLLM stores of the output of a graph, or of what stands for it."""
        into: dict[int, Tensor] = {}
        counts = [spec.output_tokens for spec in specs]
        model.postprocess_encoder_output({"default": output}, chosen, counts, into, True, selected)
        return torch.cat([into[i] for i in chosen])

    eager = scattered(model.encoder_eager_forward(selected))
    replayed = replay(model, selected, [patches[i] // unit for i in chosen])
    none = model.select_encoder_cudagraph_items(batch, [])
    return {
        "tokens": [len(part) for part in features],
        "patches": patches,
        "eager": float((eager - expected).abs().max()),
        "replayed": None if replayed is None else float((scattered(replayed) - expected).abs().max()),
        "none": len(none["pixel_values"]),
        "none_specs": model.get_encoder_cudagraph_item_specs(none),
    }


def profiled(llm: Any, processor: Any) -> dict[str, Any]:
    runner = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner
    seen: list[int] = []
    hook = runner.model.visual.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    runner.profile_run()
    hook.remove()
    dummy = processor.get_dummy_mm_inputs({"image": 2})
    return {"patches": seen, "dummy": [place.length for place in dummy["mm_placeholders"]["image"]]}


def main(job: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM
    from vllm.config import set_current_vllm_config
    from vllm.multimodal import MULTIMODAL_REGISTRY

    llm = LLM(
        job["model"],
        dtype="float32",
        enforce_eager=True,
        max_model_len=2048,
        limit_mm_per_prompt={"image": 4, "video": 0},
        mm_processor_kwargs={"size": {"shortest_edge": 64 * 64, "longest_edge": 512 * 512}},
        hf_overrides={"pixelprune": True} if job["asked"] else {},
    )
    model = llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner.model
    processor = MULTIMODAL_REGISTRY.create_processor(llm.llm_engine.model_config)
    with torch.inference_mode(), set_current_vllm_config(llm.llm_engine.vllm_config):
        return {
            "pruned": by_hand(model, processor, job, True),
            "copied": by_hand(model, processor, job, {"restore": 0.4}),
            "full": by_hand(model, processor, job, False),
            "profile": profiled(llm, processor),
        }


if __name__ == "__main__":
    result = main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
