"""Where versions of vLLM differ: the same from here on, in whichever one this runs."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from PIL import Image
from transformers import AutoProcessor
from vllm import ModelRegistry
from vllm.config import ModelConfig
from vllm.model_executor.models.paddleocr_vl import PaddleOCRImagePixelInputs
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.cache import MultiModalProcessorOnlyCache

from pixelprune.plan.token_map import encoded
from pixelprune.transformers import enable, kept
from pixelprune.transformers.switch import OLDEST
from pixelprune.vllm import register
from pixelprune.vllm.probes import patches_of
from pixelprune.vllm.seams import as_declared, check_normalization, normalized
from tests.support.engines import Pictures
from tests.support.small_models import SMALL, for_vllm

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "stock": ({}, {}),
    "engine": ({"pixelprune": {"threshold": 0.0}}, {}),
    "engine, other threshold": ({"pixelprune": {"threshold": 0.05}}, {}),
    "request": ({}, {"pixelprune": {"threshold": 0.02}}),
    "request, copies": ({}, {"pixelprune": {"threshold": 0.02, "restore": 0.5}}),
    "request, floor": ({}, {"pixelprune": {"threshold": 0.02, "min_tokens": 250}}),
    "request, switched off": ({"pixelprune": {"threshold": 0.02}}, {"pixelprune": False}),
}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelRegistry, "models", dict(ModelRegistry.models))
    monkeypatch.setattr("vllm.model_executor.models.registry._run_in_subprocess", lambda inspect: inspect())
    register()


@pytest.mark.usefixtures("registered")
def test_images_have_other_keys_in_caches_with_other_options(
    checkpoint: Any, pictures: Pictures, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "vllm.pixelprune")
    page, cache = Image.open(pictures.paths["page"]).convert("RGB"), None
    keys, tokens = {}, {}
    for name, (engine, request) in WAYS.items():
        config = ModelConfig(str(checkpoint("qwen3_vl")), dtype="float32", max_model_len=2048, hf_overrides=engine)
        processor = MULTIMODAL_REGISTRY.create_processor(config)
        assert type(processor).__module__ == "pixelprune.vllm.models.qwen3_vl"
        prompt, items = SMALL["qwen3_vl"].image, processor.info.parse_mm_data({"image": [page]})
        cache = cache or MultiModalProcessorOnlyCache(config)  # of all of them
        alone = processor(prompt, items, hf_processor_mm_kwargs=request)
        shared = processor(prompt, items, hf_processor_mm_kwargs=request, cache=cache)
        assert alone["mm_hashes"] == shared["mm_hashes"]
        assert alone["prompt_token_ids"] == shared["prompt_token_ids"]
        keys[name], tokens[name] = alone["mm_hashes"]["image"][0], len(alone["prompt_token_ids"])
    assert keys["stock"] == keys["request, switched off"]
    assert len(set(keys.values())) == len(WAYS) - 1
    assert len(set(tokens.values())) >= 3, "the options make a difference, so the keys have to"
    full, kept = tokens["stock"] - 2, tokens["engine"] - 2  # without start and end of the image
    assert f"{kept} of {full} visual tokens are kept (images: 1)" in caplog.messages
    kept, copies = tokens["request"] - 2, tokens["request, copies"] - tokens["request"]
    assert copies == (full - kept + 1) // 2
    line = f"{kept} of {full} visual tokens are kept, {copies} come back as copies (images: 1)"
    assert line in caplog.messages
    assert tokens["request, floor"] == 252


def test_patches_are_as_the_stock_inputs_of_paddleocr_vl_check_them() -> None:
    pixels, sizes = torch.arange(12.0 * 3 * 14 * 14).view(12, 3, 14, 14), [8, 4]
    given = as_declared(pixels, sizes, PaddleOCRImagePixelInputs)
    inputs = PaddleOCRImagePixelInputs(
        type="pixel_values", pixel_values=given, image_grid_thw=torch.tensor([[1, 4, 4], [1, 2, 4]])
    )
    parts = inputs["pixel_values"]
    assert torch.equal(parts if isinstance(parts, torch.Tensor) else torch.cat(list(parts)), pixels)


def test_pixels_are_normalized_where_the_encoder_does_so() -> None:
    tower = SimpleNamespace(device="cpu", dtype=torch.float32)
    pixels = torch.tensor([[0, 255]], dtype=torch.uint8)
    assert normalized(tower, pixels).tolist() == [[0.0, 255.0]]
    tower.input_norm = lambda given, dtype: given.to(dtype) / 255
    assert normalized(tower, pixels).tolist() == [[0.0, 1.0]]


NORMALIZING: list[dict[str, Any]] = [
    {"do_normalize": False},
    {"do_rescale": False, "do_normalize": False},
    {"image_mean": [0.1, 0.2, 0.3]},
    {"image_std": [0.4, 0.5, 0.6]},
    {"rescale_factor": 1 / 128},
]


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("where", ["request", "request, for images", "engine", "engine, for images"])
@pytest.mark.parametrize("options", NORMALIZING, ids=lambda options: ", ".join(options))
@pytest.mark.parametrize("family", ["qwen3_vl", "paddleocr_vl"])
def test_kept_pixels_are_normalized_as_asked(
    family: str, options: dict[str, Any], where: str, checkpoint: Any, pictures: Pictures
) -> None:
    """In the front end, with options that stand alone or among those for images."""
    given = {"images_kwargs": options} if "for images" in where else options
    engine, request = (given, {}) if where.startswith("engine") else ({}, given)
    config = ModelConfig(
        str(for_vllm(checkpoint(family))),
        dtype="float32",
        max_model_len=2048,
        mm_device_do_normalize=False,
        mm_processor_kwargs=engine,
    )
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    page = Image.open(pictures.paths["page"]).convert("RGB")
    items, prompt = processor.info.parse_mm_data({"image": [page]}), processor.dummy_inputs.get_dummy_text({"image": 1})
    stock, pruned = (
        processor(prompt, items, hf_processor_mm_kwargs={**request, "pixelprune": asked})["mm_kwargs"]["image"][0]
        for asked in (False, True)
    )
    order = processor._pruner.layout.patch_order
    stays = patches_of(encoded(pruned["image_map"].data), stock["image_grid_thw"].data, order)
    assert 0 < int(stays.sum()) < len(stays)
    assert torch.equal(pruned["pixel_values"].data, stock["pixel_values"].data[stays])


@pytest.mark.skipif(
    Version(transformers.__version__) < Version(OLDEST),
    reason="vLLM 0.31 pins a transformers without the other backend",
)
@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("family", SMALL)
def test_both_backends_make_the_same_map(family: str, checkpoint: Any, pictures: Pictures) -> None:
    folder = str(for_vllm(checkpoint(family)))
    config = ModelConfig(folder, dtype="float32", max_model_len=2048, mm_device_do_normalize=False)
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    images = [Image.open(pictures.paths[name]).convert("RGB") for name in ("page", "flat", "photo")]
    items, prompt = processor.info.parse_mm_data({"image": images}), processor.dummy_inputs.get_dummy_text({"image": 3})
    other = enable(processor=AutoProcessor.from_pretrained(checkpoint(family)))
    for options in ({}, {"restore": 0.25}, {"restore": 1}, {"threshold": 0.05, "min_tokens": 70}):
        made = processor(prompt, items, hf_processor_mm_kwargs={"pixelprune": options})
        found = torch.cat([item["image_map"].data for item in made["mm_kwargs"]["image"]])
        expected = other(text=[prompt], images=images, return_tensors="pt", pixelprune=options)
        assert torch.equal(found, expected["image_map"]), options
        placeholders = [place.length for place in made["mm_placeholders"]["image"]]
        assert placeholders == [image.tokens for image in kept(expected)]
        assert sum(placeholders) < len(found) or options == {"restore": 1}


class WithNorm(torch.nn.Module):
    def __init__(self, input_norm: Any = None) -> None:
        super().__init__()
        self.input_norm = input_norm


class WithoutNorm(torch.nn.Module):
    pass


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("encoder", [WithNorm, WithoutNorm])
def test_pixels_that_nobody_normalizes(encoder: type, on_device: bool) -> None:
    config = SimpleNamespace(mm_device_do_normalize=on_device)
    if on_device and encoder is WithoutNorm:
        with pytest.raises(
            ValueError, match=r"start the server with --no-mm-device-do-normalize, or install vLLM 0\.33"
        ):
            check_normalization(config, encoder)
    else:
        check_normalization(config, encoder)
