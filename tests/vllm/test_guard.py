"""Models that cannot be pruned: refused where pruning is asked for, stock where it is not."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
import vllm

from pixelprune.vllm import ARCHITECTURES, guard, versions
from pixelprune.vllm.surface import installed
from tests.support.checkpoints import tokenizer
from tests.support.engines import Pictures, run, start
from tests.support.model_config import model_config
from tests.support.vllm_tree import Edited, with_another_body

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


# Versions that were not tested

NAME = "Qwen3VLForConditionalGeneration"
TOWER = "vllm/model_executor/models/qwen3_vl.py"


def asking(**options: Any) -> Any:
    return model_config({"pixelprune": {"threshold": 0.0, **options}}, architecture=NAME)


@pytest.fixture
def version(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes another version of the installed vLLM, in which a method has another body."""

    def set_version(number: str, edited: str | None = None) -> None:
        edits = {TOWER: with_another_body(edited)} if edited else {}
        source = Edited(installed().place, edits)
        monkeypatch.setattr(versions, "installed", lambda: source)
        monkeypatch.setattr(vllm, "__version__", number)
        versions.moved.cache_clear()

    yield set_version
    versions.moved.cache_clear()


MOVED = "Qwen3_VisionTransformer.forward"


def test_with_the_same_code_it_prunes(version: Any) -> None:
    version("0.99.0")
    assert guard.pruning(NAME, asking()).__module__ == "pixelprune.vllm.models.qwen3_vl"
    assert guard.pruning(NAME, model_config({"pixelprune": False}, architecture=NAME)) is not None
    assert guard.pruning(NAME, model_config(architecture=NAME)) is None
    assert guard.pruning(NAME, model_config({"pixelprune": True}, architecture="Another")) is None


def test_with_other_code_it_refuses_and_says_what_moved(version: Any) -> None:
    version("0.99.0", MOVED)
    for config in (asking(), asking(untested=False), model_config({}, {"pixelprune": True}, architecture=NAME)):
        with pytest.raises(ValueError, match="pixelprune was requested, but was tested only with vLLM") as refused:
            guard.pruning(NAME, config)
        text = str(refused.value)
        assert "this is 0.99.0, in which code that pruning of Qwen3VLForConditionalGeneration relies on differs" in text
        assert ": Qwen3_VisionTransformer.forward (qwen3_vl.py) has changed; install such a version" in text
        assert text.endswith("""--hf-overrides '{"pixelprune": {"untested": true}}'""")
    assert guard.pruning(NAME, model_config(architecture=NAME)) is None
    # Other architectures do not mind.
    glm = "Glm4vForConditionalGeneration"
    assert guard.pruning(glm, model_config({"pixelprune": True}, architecture=glm)) is not None


def test_untested_lets_it_prune(version: Any) -> None:
    version("0.99.0", MOVED)
    for config in (asking(untested=True), model_config({}, {"pixelprune": {"untested": True}}, architecture=NAME)):
        assert guard.pruning(NAME, config).__module__ == "pixelprune.vllm.models.qwen3_vl"
    with pytest.raises(ValueError, match="pixelprune: untested must be true or false, got 1"):
        guard.pruning(NAME, asking(untested=1))


def test_older_versions_are_refused_whatever_is_asked(version: Any) -> None:
    version("0.30.0")
    for config in (asking(), asking(untested=True)):
        with pytest.raises(ValueError, match=r"tested only with vLLM .*, this is 0\.30\.0; install such a version"):
            guard.pruning(NAME, config)


def test_what_cannot_be_loaded_is_refused_with_the_reason(version: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_name: str) -> None:
        raise ImportError("pixelprune cannot extend it")

    version("0.99.0", MOVED)
    monkeypatch.setattr(guard, "import_module", fail)
    with pytest.raises(ValueError, match="cannot be pruned with this version of vLLM: ImportError: pixelprune cannot"):
        guard.pruning(NAME, asking(untested=True))


def test_a_guarded_class_builds_the_other_one(version: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _, name = guard.entry(NAME, TOWER.replace("/", ".").removesuffix(".py"), NAME, "0.99.0").partition(":")
    assert module == guard.__name__
    version("0.99.0")
    guarded = getattr(guard, name)
    made: list[Any] = []
    monkeypatch.setattr(guard, "pruning", lambda *_args: lambda *args, **kwargs: made.append((args, kwargs)) or "ours")
    config = SimpleNamespace(model_config=asking())
    assert guarded(vllm_config=config, prefix="a") == "ours"
    assert made == [((), {"vllm_config": config, "prefix": "a"})]


def test_what_stock_classes_do_before_they_are_built_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stock:
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            made: Any = super().__new__(cls)
            made.seen = args, kwargs
            return made

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None: ...

    monkeypatch.setitem(sys.modules, "of_another_version", SimpleNamespace(Stock=Stock))
    config = SimpleNamespace(model_config=model_config(architecture=NAME))
    guarded = guard._guarded.__wrapped__(NAME, "of_another_version", "Stock")
    assert guarded(vllm_config=config, prefix="a").seen == ((), {"vllm_config": config, "prefix": "a"})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_stock_processors_are_given_what_ours_need(architecture: str) -> None:
    # A guard builds ours with the objects that are registered for the stock one.
    ours: Any = getattr(import_module(f"pixelprune.vllm.models.{ARCHITECTURES[architecture]}"), architecture)
    stock = next(base for base in ours.__mro__ if base.__module__.startswith("vllm."))
    for part in ("info", "dummy_inputs"):
        assert getattr(ours._processor_factory, part) is getattr(stock._processor_factory, part)
