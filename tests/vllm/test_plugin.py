"""The parts of the plugin one by one, without an engine."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import vllm
from vllm import ModelRegistry
from vllm.model_executor.models.registry import _ModelInfo

import pixelprune
from pixelprune.vllm import ARCHITECTURES, TESTED, register
from tests.support.model_config import model_config

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
def test_modules_name_the_versions_that_they_are_for(module: str) -> None:
    # vLLM remembers what it found out about a class by the text of its module.
    minors = [minor for minor in range(100) if TESTED.contains(f"0.{minor}.0")]
    first = (MODELS / f"{module}.py").read_text(encoding="utf-8").splitlines()[0]
    assert first.endswith(f'for vLLM 0.{minors[0]} to 0.{minors[-1]}."""')


def test_versions_do_not_take_what_another_one_found_out() -> None:
    # The text of a module is the same in all of them, but vLLM discards an answer with other fields than it has.
    counts = {"0.31": 22, "0.32": 23, "0.33": 24}
    minor = ".".join(vllm.__version__.split(".")[:2])
    assert len(fields(_ModelInfo)) == counts[minor]
    assert len(set(counts.values())) == len(counts), "name the version in what `register` registers"


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
        with pytest.raises(ValueError, match="CUDA graphs of the encoder and --mm-encoder-tp-mode data together"):
            Ours(vllm_config=config)
    else:
        Ours(vllm_config=config)
