"""The parts of the plugin one by one, without an engine."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import ModelRegistry
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.rotary_embedding.mrope import MRotaryEmbedding

import pixelprune
from pixelprune.vllm import ARCHITECTURES, register
from pixelprune.vllm.options import announcement, check_names, engine_config, engine_options, is_asked, split
from pixelprune.vllm.positions import furthest_ahead, grow_table, table_rows

MODELS = Path(pixelprune.__file__).parent / "vllm" / "models"


@pytest.fixture
def registry() -> Any:
    before = dict(ModelRegistry.models)
    yield ModelRegistry.models
    ModelRegistry.models.clear()
    ModelRegistry.models.update(before)


def test_registering_twice_is_registering_once(registry: Any) -> None:
    register()
    once = dict(registry)
    register()
    assert dict(registry) == once
    for architecture, module in ARCHITECTURES.items():
        assert registry[architecture].module_name == f"pixelprune.vllm.models.{module}"
        assert registry[architecture].class_name == architecture
    assert registry["LlamaForCausalLM"].module_name.startswith("vllm.")


def test_entries_of_others_are_left_alone(registry: Any, caplog: pytest.LogCaptureFixture) -> None:
    ModelRegistry.register_model("Qwen3VLForConditionalGeneration", "somebody.elses:Model")
    logging.getLogger("vllm").propagate = True
    with caplog.at_level(logging.WARNING, "vllm.pixelprune"):
        register()
    assert registry["Qwen3VLForConditionalGeneration"].module_name == "somebody.elses"
    assert "does not prune Qwen3VLForConditionalGeneration, which somebody.elses has registered" in caplog.text


def test_registering_imports_neither_torch_nor_models() -> None:
    script = (
        "import sys, types\n"
        "vllm = types.ModuleType('vllm'); vllm.__version__ = '0.32.0'\n"
        "vllm.ModelRegistry = types.SimpleNamespace(models={})\n"
        "registry = types.ModuleType('registry'); registry._MULTIMODAL_MODELS = {}\n"
        "sys.modules |= {'vllm': vllm, 'vllm.model_executor.models.registry': registry}\n"
        "names = ('vllm.model_executor', 'vllm.model_executor.models')\n"
        "sys.modules |= {name: types.ModuleType(name) for name in names}\n"
        "import pixelprune.vllm; pixelprune.vllm.register()\n"
        "print(sorted({'torch', 'transformers', 'numba', 'llvmlite'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("module", sorted(set(ARCHITECTURES.values())))
def test_modules_name_the_version_that_they_are_for(module: str) -> None:
    # vLLM remembers what it found out about a class by the text of its module.
    first = (MODELS / f"{module}.py").read_text(encoding="utf-8").splitlines()[0]
    assert first.endswith('for vLLM 0.32."""')


def model_config(hf: dict[str, Any] | None = None, processor: dict[str, Any] | None = None, **more: Any) -> Any:
    return SimpleNamespace(
        hf_config=SimpleNamespace(**(hf or {})),
        hf_overrides=hf or {},
        multimodal_config=SimpleNamespace(mm_processor_kwargs=processor),
        **more,
    )


def test_where_an_engine_is_asked() -> None:
    assert engine_options(model_config()) is None
    config = engine_config(model_config({"pixelprune": {"threshold": 0.02}}))
    assert config == pixelprune.PruneConfig(threshold=0.02)
    assert engine_config(model_config({}, {"pixelprune": True})) == pixelprune.PruneConfig()
    assert engine_config(model_config({"pixelprune": False})) is None
    assert engine_options(model_config({"pixelprune": {}}, {"pixelprune": {}})) == {}
    with pytest.raises(ValueError, match="pixelprune is True in --hf-overrides and False in --mm-processor-kwargs"):
        engine_options(model_config({"pixelprune": True}, {"pixelprune": False}))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"PixelPrune": True}, "unknown option 'PixelPrune'; did you mean 'pixelprune'"),
        ({"text_config": {"pixelprune": True}}, "'pixelprune' stands within 'text_config'; put it beside"),
        ({"threshold": 0.1}, r"'threshold' is an option of pixelprune; write {\"pixelprune\": {\"threshold\": 0.1}}"),
    ],
)
def test_what_was_meant_for_us_is_not_passed_over(wrong: dict[str, Any], text: str) -> None:
    for config in (model_config(wrong), model_config({}, wrong)):
        with pytest.raises(ValueError, match=text):
            engine_options(config)
        assert is_asked(config)
    with pytest.raises(ValueError, match=text):
        split(wrong, None)
    check_names({"size": {"longest_edge": 5}, "fps": 2, "text_config": {"max_position_embeddings": 9}})


def test_what_the_log_says() -> None:
    assert announcement(model_config(), "A") is None
    assert announcement(model_config({"pixelprune": False}), "A") == (
        f"pixelprune {pixelprune.__version__} is off for A, but for requests that switch it on"
    )
    line = announcement(model_config({"pixelprune": {"max_tokens": 9}}), "A")
    assert line
    assert line.startswith(f"pixelprune {pixelprune.__version__} prunes images for A: threshold=0.0, metric=max")
    assert "max_tokens=9" in line


def test_requests_change_single_options_of_the_engine() -> None:
    engine = pixelprune.PruneConfig(threshold=0.02, metric="mae")
    config, rest = split({"pixelprune": {"threshold": 0.1}, "fps": 2}, engine)
    assert config == pixelprune.PruneConfig(threshold=0.1, metric="mae")
    assert rest == {"fps": 2}
    assert split({}, engine)[0] is engine
    assert split({"pixelprune": None}, engine)[0] is engine
    assert split({"pixelprune": {}}, None)[0] == pixelprune.PruneConfig()
    with pytest.raises(ValueError, match="pixelprune must be an object of options, true or false, got 3"):
        split({"pixelprune": 3}, engine)
    with pytest.raises(ValueError, match=r"^pixelprune: predictor must be one of [^;]*$"):
        split({"pixelprune": {"predictor": "best"}}, engine)


@pytest.mark.parametrize("scaling", [None, 4.0])
def test_a_grown_table_begins_as_it_was(scaling: float | None) -> None:
    with set_current_vllm_config(VllmConfig()):
        rotary = MRotaryEmbedding(
            32, 32, 64, 1e4, True, torch.float32, mrope_section=[8, 4, 4], positions_factor=1, scaling_factor=scaling
        )
    before = rotary.cos_sin_cache.clone()
    grow_table(rotary, 1000)
    assert len(before) == 64 * (scaling or 1)
    assert len(rotary.cos_sin_cache) == 1000
    assert torch.equal(rotary.cos_sin_cache[: len(before)], before)
    grow_table(rotary, 500)
    assert len(rotary.cos_sin_cache) == 1000
    if scaling is None:
        angle = 999 * 1e4 ** (-torch.arange(0, 32, 2) / 32)
        assert torch.allclose(rotary.cos_sin_cache[999], torch.cat([angle.cos(), angle.sin()]), atol=1e-4)


def test_how_long_a_table_is() -> None:
    text = SimpleNamespace(max_position_embeddings=1000, rope_parameters={"rope_type": "default"})
    yarn = SimpleNamespace(
        max_position_embeddings=4000,
        rope_parameters={"rope_type": "yarn", "original_max_position_embeddings": 1000, "factor": 4.0},
    )
    plain = {"hf_text_config": text, "max_model_len": 500}
    assert table_rows(model_config({}, None, **plain), 1, False) == 1000
    assert table_rows(model_config({}, None, **plain), 4, False) == 4000
    assert table_rows(model_config({}, None, **plain), 1, True) == 2000
    assert table_rows(model_config({}, None, hf_text_config=yarn, max_model_len=500), 1, False) == 4000


def test_how_far_positions_run_ahead() -> None:
    assert furthest_ahead([]) == 0
    assert furthest_ahead([(10, 100)]) == 0
    # What a full image leaves behind, a flat one after it may use; not the other way round.
    assert furthest_ahead([(10, 100), (40, 1)]) == 0
    assert furthest_ahead([(40, 1), (10, 100), (40, 1)]) == 39
    assert furthest_ahead([(40, 1), (40, 1)]) == 78


@pytest.mark.parametrize(
    ("asked", "graphs", "refused"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_windows_and_graphs_and_sharding_exclude_each_other(
    asked: bool, graphs: bool, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Stock

    from pixelprune.vllm.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration as Ours

    def build(self: Any, **_options: Any) -> None:
        torch.nn.Module.__init__(self)
        self.use_data_parallel = True

    monkeypatch.setattr(Stock, "__init__", build)
    config = SimpleNamespace(
        model_config=model_config({"pixelprune": True} if asked else {}, max_model_len=100),
        compilation_config=SimpleNamespace(cudagraph_mm_encoder=graphs),
    )
    if refused:
        with pytest.raises(ValueError, match="CUDA graphs of the encoder and --mm-encoder-tp-mode data at once"):
            Ours(vllm_config=config)
    else:
        Ours(vllm_config=config)
