"""One engine is as good as another: batches, caches, chunks and processes change no token and no logit."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoTokenizer

import pixelprune
from tests.support.engines import Pictures, Transformers, difference, limit, run
from tests.support.small_models import SMALL

IMAGE = SMALL["qwen3_vl"].image
NO_CACHES: dict[str, Any] = {"enable_prefix_caching": False, "mm_processor_cache_gb": 0}
# Off but for requests that switch it on, with room for positions that run ahead.
EXACT = {"threshold": 0.0}
READY = {"hf_overrides": {"pixelprune": False}}

# How each engine differs from one that gets a request at a time and keeps nothing. `variables` are vLLM's own.
ENGINES: dict[str, dict[str, Any]] = {
    "batched": {"engine": {"enable_prefix_caching": False}},
    "prefix": {"engine": {"enable_prefix_caching": True, "block_size": 32}},
    "chunked": {"engine": {"enable_prefix_caching": False, "max_num_batched_tokens": 40, "max_num_seqs": 4}},
    "chunked, prefix": {
        "engine": {"enable_prefix_caching": True, "block_size": 32, "max_num_batched_tokens": 40, "max_num_seqs": 4}
    },
    "compiled": {"engine": {"enable_prefix_caching": False, "enforce_eager": False}},
    "own process": {"engine": {"enable_prefix_caching": False}, "processes": True},
    "own process, no cache": {"engine": NO_CACHES, "processes": True},
    "own process, shared memory": {
        "engine": {"enable_prefix_caching": False, "mm_processor_cache_type": "shm"},
        "processes": True,
    },
    "tensor parallel": {"engine": {"tensor_parallel_size": 2}, "processes": True},
    "tensor parallel, sharded encoder": {
        "engine": {"tensor_parallel_size": 2, "mm_encoder_tp_mode": "data"},
        "processes": True,
    },
    "options of the processor": {
        "engine": {"mm_processor_kwargs": {"pixelprune": {"threshold": 0.05}}, "max_model_len": 2048}
    },
    "options of the config": {"engine": {"hf_overrides": {"pixelprune": {"threshold": 0.05}}}},
    "normalized pixels": {"engine": {"mm_device_do_normalize": False}},
    "async scheduling": {"engine": {"enable_prefix_caching": False, "async_scheduling": True}, "processes": True},
    "n-gram speculation": {
        "engine": {
            "enable_prefix_caching": False,
            "speculative_config": {
                "method": "ngram",
                "num_speculative_tokens": 3,
                "prompt_lookup_max": 3,
                "prompt_lookup_min": 1,
            },
        }
    },
}


def all_requests(pictures: Pictures) -> list[dict[str, Any]]:
    """Pruned and not, an image in several guises, and none."""
    ask = pictures.request
    again = ask(IMAGE, ["page"], {"threshold": 0.05}, text="and what is the date")
    return [
        ask(IMAGE, ["page"], EXACT),
        ask(IMAGE, ["page"], False),
        ask(IMAGE, ["page"], {"threshold": 0.05}),
        again,
        ask(IMAGE, ["page"], EXACT),
        ask(IMAGE, ["crop", "crop"], EXACT),
        ask(IMAGE, ["photo", "screen", "page"], {"threshold": 0.05}),
        ask(IMAGE, ["flat", "photo"], {"threshold": 0.02, "metric": "rmse"}),
        ask(IMAGE, ["screen"], {**EXACT, "max_tokens": 100}),
        ask(IMAGE, [], text="just text"),
        ask(IMAGE, ["page"], {**EXACT, "restore": 0.3}),
        ask(IMAGE, ["flat", "screen"], {"threshold": 0.05, "min_tokens": 50}),
        ask(IMAGE, ["page", "flat"], {**EXACT, "restore": 1}),
    ]


# Of these requests.
UNPRUNED = (1, 9)


@pytest.fixture(scope="module")
def alone(checkpoint: Any, pictures: Pictures, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    requests = all_requests(pictures)
    job = {
        "model": str(checkpoint("qwen3_vl")),
        "engine": {**READY, **NO_CACHES},
        "requests": requests,
        "rounds": [[i] for i in range(len(requests))],
    }
    answers = run(tmp_path_factory.mktemp("alone"), job)["rounds"]
    return list(itertools.chain(*answers))


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_gives_the_same(
    name: str, alone: list[dict[str, Any]], checkpoint: Any, pictures: Pictures, tmp_path: Path
) -> None:
    how = ENGINES[name]
    requests = all_requests(pictures)
    if name.startswith("options"):
        # What holds for all is left out of requests, which may still switch it off.
        requests[2].pop("options")
    count = range(len(requests))
    job = {
        "model": str(checkpoint("qwen3_vl")),
        "engine": {**({} if name == "options of the processor" else READY), **how["engine"]},
        "requests": requests,
        "rounds": [[*count], [*reversed(count)], [*count], *([i] for i in count)],
        # With them, vLLM reads nothing from the prefix cache.
        "prompt_logprobs": "prefix" not in name,
    }
    result = run(tmp_path, job, VLLM_ENABLE_V1_MULTIPROCESSING=str(int(how.get("processes", False))))
    farthest = {"unpruned": 0.0, "pruned": 0.0}
    for indices, answers in zip(job["rounds"], result["rounds"], strict=True):
        for i, answer in zip(indices, answers, strict=True):
            assert answer["ids"] == alone[i]["ids"]
            kind = "unpruned" if i in UNPRUNED else "pruned"
            farthest[kind] = max(farthest[kind], difference(answer, alone[i]))
    assert farthest["pruned"] < limit(farthest["unpruned"])
    if "prefix" in name:
        assert max(answer["cached"] for answer in result["rounds"][1]) > 100


def test_lengths_are_what_the_map_says(alone: list[dict[str, Any]], checkpoint: Any, pictures: Pictures) -> None:
    placeholder = AutoTokenizer.from_pretrained(checkpoint("qwen3_vl")).convert_tokens_to_ids("<|image_pad|>")
    for spec, answer in zip(all_requests(pictures), alone, strict=True):
        config = pixelprune.selection.config.resolve(spec.get("options", {}).get("pixelprune", False), None)
        images = [pixelprune.fit_image(Image.open(path), "qwen3-vl") for path in spec["images"]]
        totals = [image.size // (3 * 32 * 32) for image in images]
        tokens = totals if config is None else [pixelprune.select(image, config).tokens for image in images]
        assert answer["prompt_ids"].count(placeholder) == sum(tokens)


def test_with_other_options_of_the_processor(checkpoint: Any, pictures: Pictures, tmp_path: Path) -> None:
    """The size of images, set next to our key."""
    folder, bound = checkpoint("qwen3_vl"), 120_000
    requests = [pictures.request(IMAGE, ["page", "screen"], options) for options in (None, False)]
    kwargs = {"max_pixels": bound, "pixelprune": {"threshold": 0.02}}
    job = {"model": str(folder), "engine": {"mm_processor_kwargs": kwargs}, "requests": requests, "rounds": [[0], [1]]}
    ((pruned,), (full,)) = run(tmp_path, job)["rounds"]
    assert len(pruned["prompt_ids"]) < len(full["prompt_ids"]) < 2 * bound / 32**2 + 50
    transformers = Transformers(folder)
    transformers.processor.image_processor.size["longest_edge"] = bound
    requests[0]["options"] = {"pixelprune": {"threshold": 0.02}}
    expected = [transformers.answer(spec, one["ids"]) for spec, one in zip(requests, (pruned, full), strict=True)]
    assert [one["ids"] for one in expected] == [pruned["ids"], full["ids"]]
    assert difference(pruned, expected[0]) < limit(difference(full, expected[1]))


def test_lora_of_the_language_model(checkpoint: Any, pictures: Pictures, tmp_path: Path) -> None:
    """The same as a model whose weights hold the adapter."""
    folder = checkpoint("qwen3_vl")
    requests = [pictures.request(IMAGE, ["page", "crop"], options) for options in (True, None)]
    transformers = Transformers(folder)
    before = [transformers.answer(spec, [5]) for spec in requests]
    save_adapter(transformers.model, tmp_path / "adapter")
    job = {
        "model": str(folder),
        "engine": {**READY, "enable_lora": True, "max_lora_rank": 8},
        "lora": str(tmp_path / "adapter"),
        "requests": requests,
        "rounds": [[0], [1]],
    }
    answers = [one for (one,) in run(tmp_path, job)["rounds"]]
    expected = [transformers.answer(spec, one["ids"]) for spec, one in zip(requests, answers, strict=True)]
    assert [one["ids"] for one in answers] == [one["ids"] for one in expected]
    assert difference(before[0], transformers.answer(requests[0], [5])) > 0.1, "the adapter does nothing"
    assert difference(answers[0], expected[0]) < limit(difference(answers[1], expected[1]))


def save_adapter(model: Any, folder: Path) -> None:
    """Write a random adapter for the attention of the language model, and add it to the weights of `model`."""
    generator, weights = torch.Generator().manual_seed(0), {}
    for name, layer in model.named_modules():
        if "language_model" in name and name.endswith(("q_proj", "v_proj")):
            down = torch.randn(8, layer.in_features, generator=generator) / 10
            up = torch.randn(layer.out_features, 8, generator=generator) / 10
            weights[f"base_model.model.{name}.lora_A.weight"] = down
            weights[f"base_model.model.{name}.lora_B.weight"] = up
            layer.weight.data += up @ down
    folder.mkdir()
    save_file(weights, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


@pytest.mark.parametrize("options", [{}, {"hf_overrides": {"pixelprune": False}}], ids=["not asked", "off"])
def test_without_being_asked_all_is_stock(
    options: dict[str, Any], checkpoint: Any, pictures: Pictures, tmp_path: Path
) -> None:
    requests = [
        pictures.request(IMAGE, ["page", "flat"]),
        pictures.request(IMAGE, ["photo"]),
        pictures.request(IMAGE, []),
    ]
    job = {
        "model": str(checkpoint("qwen3_vl")),
        "engine": {},
        "requests": requests,
        "rounds": [[0, 1, 2], [0]],
        "probe": "class",
    }
    trust = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    stock = run(tmp_path, job, VLLM_PLUGINS="", **trust)
    ours = run(tmp_path, {**job, "engine": options}, **trust)
    assert stock["probe"][0][0].startswith("vllm.")
    assert ours["probe"][0][0].startswith("pixelprune.")
    assert json.dumps(ours["rounds"]) == json.dumps(stock["rounds"])
    # A path in the log may well hold the word alone.
    ours_says = f"pixelprune {pixelprune.__version__} is off" in ours["log"]
    assert ours_says == bool(options)
    assert f"pixelprune {pixelprune.__version__} is" not in stock["log"]
