"""Models under adapters, hooks and quantised weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pixelprune.transformers import disable, enable
from tests.support.cases import Case
from tests.support.prompts import ROWS
from tests.support.rounding import difference

FAMILIES = ["qwen3_vl", "qwen2_5_vl", "video_llama_3"]


@pytest.fixture(params=FAMILIES)
def fresh(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def check(model_case: Case, model: Any, inner: Any) -> None:
    """`model` wraps `inner`, which has the weights of the stock model: forward and generate prune, correctly."""
    full, pruned = model_case.prompts(ROWS)
    mask = pruned.inputs["attention_mask"].bool()
    with torch.no_grad():
        actual = model(**model_case.inputs(pruned), use_cache=False).logits[mask]
    model_case.check(actual, full, pruned)
    options = {"max_new_tokens": 3, "do_sample": False, "suppress_tokens": list(range(100, 110))}
    expected = model_case.stock.generate(**model_case.expected_inputs(full, pruned), **options)
    assert torch.equal(model.generate(**model_case.inputs(pruned), **options), expected)
    disable(model)
    assert type(inner) is type(model_case.stock)
    with torch.no_grad():
        stock = model(**model_case.inputs(full), use_cache=False).logits[full.selected]
    assert difference(stock, model_case.unpruned(full)) < model_case.limit(full)


@pytest.mark.parametrize("first", ["enable", "adapter"])
def test_lora(fresh: Case, first: str) -> None:
    peft = pytest.importorskip("peft", reason="LoRA adapters need peft")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = copy.deepcopy(fresh.stock)
    torch.manual_seed(0)
    if first == "enable":
        inner = enable(model)
        model = peft.get_peft_model(inner, config)
    else:
        inner = model
        model = enable(peft.get_peft_model(model, config))
    # The oracle gets the same adapter.
    reference = copy.deepcopy(fresh.stock)
    wrapped = peft.get_peft_model(reference, config)
    peft.set_peft_model_state_dict(wrapped, peft.get_peft_model_state_dict(model))
    fresh.stock = wrapped.get_base_model().eval()
    check(fresh, model.eval(), inner)


@pytest.mark.parametrize("first", ["enable", "hooks"])
def test_device_map_with_offloaded_weights(fresh: Case, first: str, tmp_path: Path) -> None:
    """Loading with device_map puts a forward on the object itself; parts of the model lie on disk."""
    accelerate = pytest.importorskip("accelerate", reason="device_map needs accelerate")
    model = copy.deepcopy(fresh.stock)
    parts = {name: "cpu" for name, _ in model.named_children()} | {"model": "disk"}
    if first == "enable":
        enable(model)
    accelerate.dispatch_model(model, parts, main_device="cpu", offload_dir=str(tmp_path), force_hooks=True)
    assert "forward" in model.__dict__
    enable(model)
    check(fresh, model, model)


class Int8(nn.Module):
    """A linear layer with 8-bit weights and no float tensor called weight."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("values", (linear.weight.detach() / scale).round().to(torch.int8))
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.values.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def quantise(module: nn.Module) -> nn.Module:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, Int8(child))
        else:
            quantise(child)
    return module


def test_quantised_weights(fresh: Case) -> None:
    fresh.stock = quantise(fresh.stock)
    model = enable(copy.deepcopy(fresh.stock))
    check(fresh, model, model)
