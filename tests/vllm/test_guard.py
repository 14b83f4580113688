"""Models that cannot be pruned: refused where pruning is asked for, stock where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from pixelprune.vllm import guard
from tests.support.checkpoints import tokenizer
from tests.support.engines import Pictures, run, start

IMAGE = "<|image_pad|>"


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of an architecture that is not covered."""
    folder = tmp_path_factory.mktemp("llava")
    words = tokenizer()
    torch.manual_seed(0)
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(
            vocab_size=len(words),
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=2048,
        ),
        vision_config=transformers.CLIPVisionConfig(
            hidden_size=128,
            intermediate_size=256,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=112,
            patch_size=14,
            projection_dim=64,
        ),
        image_token_id=words.convert_tokens_to_ids(IMAGE),
        image_seq_length=64,
    )
    transformers.LlavaForConditionalGeneration(config).save_pretrained(folder)
    image_processor = transformers.CLIPImageProcessor(size={"shortest_edge": 112}, crop_size=112)
    transformers.LlavaProcessor(
        image_processor=image_processor,
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        image_token=IMAGE,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


def test_asked_for_it_ends_the_start(llava: Path, tmp_path: Path) -> None:
    for asked in ({"hf_overrides": {"pixelprune": True}}, {"mm_processor_kwargs": {"pixelprune": True}}):
        job = {"model": str(llava), "engine": {"max_model_len": 1024, **asked}, "requests": [], "rounds": []}
        done = start(tmp_path, job)
        log = done.stdout + done.stderr
        assert done.returncode
        assert "pixelprune was requested, but cannot prune LlavaForConditionalGeneration" in log
        assert "use one of Qwen3VLForConditionalGeneration, " in log
        assert "Starting to load model" not in log, "the front end refuses, before there is a worker"


def test_not_asked_for_it_is_the_stock_model(llava: Path, pictures: Pictures, tmp_path: Path) -> None:
    job = {
        "model": str(llava),
        # Weights are random either way, and named otherwise by transformers.
        "engine": {"max_model_len": 1024, "load_format": "dummy"},
        "requests": [pictures.request(IMAGE, ["page"]), pictures.request(IMAGE, ["photo", "crop"])],
        "rounds": [[0, 1]],
        "probe": "class",
    }
    trust = {"VLLM_ALLOW_INSECURE_SERIALIZATION": "1"}
    with_us, without = run(tmp_path, job, **trust), run(tmp_path, job, VLLM_PLUGINS="", **trust)
    assert with_us["rounds"] == without["rounds"]
    assert (
        with_us["probe"] == without["probe"] == [["vllm.model_executor.models.llava", "LlavaForConditionalGeneration"]]
    )


def test_vllm_finds_out_the_same_about_a_guarded_class() -> None:
    from vllm.model_executor.models.llava import LlavaForConditionalGeneration
    from vllm.model_executor.models.registry import _ModelInfo

    module, _, name = guard.entry(
        "LlavaForConditionalGeneration", LlavaForConditionalGeneration.__module__, "LlavaForConditionalGeneration", "1"
    ).partition(":")
    assert module == guard.__name__
    guarded = getattr(guard, name)
    assert issubclass(guarded, LlavaForConditionalGeneration)
    assert _ModelInfo.from_model_cls(guarded) == _ModelInfo.from_model_cls(LlavaForConditionalGeneration)


def test_a_guard_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'LlavaForConditionalGeneration'"):
        guard.LlavaForConditionalGeneration  # noqa: B018


def test_media_architectures_are_known() -> None:
    # Read from a name that vLLM does not promise: if it goes, this tells.
    known = {"LlavaForConditionalGeneration", "Qwen3VLForConditionalGeneration", "TransformersMultiModalForCausalLM"}
    assert known < guard.multimodal()
    assert "LlamaForCausalLM" not in guard.multimodal()
