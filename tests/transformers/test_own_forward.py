"""What others put over the forward of a model, before it is enabled, while it is, or after."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelprune.transformers import disable, enable
from tests.support.cases import Case, case
from tests.support.prompts import ROWS


@pytest.fixture(params=["qwen3_vl", "kimi_k25"])
def model_case(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


def closure(model: Any, calls: list[int]) -> None:
    under = model.forward

    # With its signature, in which stock generate() looks for the names of inputs.
    @functools.wraps(under)
    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return under(*args, **kwargs)

    model.forward = forward


def method(model: Any, calls: list[int]) -> None:
    """As accelerate does for mixed precision: it takes the function of the bound method."""
    under = getattr(model.forward, "__func__", None)
    if under is None:
        closure(model, calls)
        return

    @functools.wraps(under)
    def forward(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return under(*args, **kwargs)

    model.forward = types.MethodType(forward, model)


def partial(model: Any, calls: list[int]) -> None:
    def call(under: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return under(*args, **kwargs)

    model.forward = functools.update_wrapper(functools.partial(call, model.forward), model.forward)


def hook(model: Any, calls: list[int]) -> None:
    """As device_map does."""
    hooks = pytest.importorskip("accelerate", reason="hooks are those of accelerate").hooks

    class Counter(hooks.ModelHook):
        def pre_forward(self, _module: Any, *args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return args, kwargs

    hooks.add_hook_to_module(model, Counter(), append=True)


def compiled(model: Any, calls: list[int]) -> None:
    del calls
    model.forward = torch.compile(model.forward, backend="eager")


def same(model: Any, calls: list[int]) -> None:
    del calls
    model.forward = model.forward


WAYS = [closure, method, partial, hook]


def check(model_case: Case, model: Any, pruning: bool, calls: list[int], wrapped: int = 0) -> None:
    """The model gives what it gives without wrappers, and each wrapper is called once."""
    full, pruned = model_case.prompts(ROWS, side="right")
    whole, everything = model_case.prompts(ROWS, share=1.0, side="right")
    calls.clear()
    plain = model_case.pruned if pruning else model_case.stock
    with torch.no_grad():
        for prompt in (pruned, everything) if pruning else (full, whole):
            inputs = model_case.inputs(prompt)
            assert torch.equal(model(**inputs, use_cache=False).logits, plain(**inputs, use_cache=False).logits)
            assert len(calls) == wrapped
            options = {"max_new_tokens": 2, "do_sample": False}
            assert torch.equal(model.generate(**inputs, **options), plain.generate(**inputs, **options))
            calls.clear()
        if pruning:
            with pytest.raises(ValueError, match="pixel_values came without image_map"):
                model(**model_case.inputs(full))
    assert ("image_map" in inspect.signature(type(model).forward).parameters) == pruning
    if pruning:
        assert "image_map" in inspect.signature(model.forward).parameters or wrapped


@pytest.mark.parametrize("way", [*WAYS, same])
@pytest.mark.parametrize("when", ["before", "while", "between"])
def test_wrapped(model_case: Case, way: Any, when: str) -> None:
    model, calls = copy.deepcopy(model_case.stock), []
    stock = type(model)
    wrapped = 0 if way is same else 1
    if when == "before":
        way(model, calls)
    enable(model)
    if when == "while":
        way(model, calls)
    if when == "between":
        way(disable(model), calls)
    for _ in range(2):
        check(model_case, enable(model), True, calls, wrapped)
        check(model_case, enable(model), True, calls, wrapped)
        check(model_case, disable(model), False, calls, wrapped)
        assert type(model) is stock
        check(model_case, disable(model), False, calls, wrapped)


@pytest.mark.parametrize("below", [False, True])
def test_wrapped_three_times(model_case: Case, below: bool) -> None:
    """Before, while enabled, and after: by other ways, on the model or on the one below its head."""
    model, calls = copy.deepcopy(model_case.stock), []
    part = model.base_model if below else model
    partial(part, calls)
    method(part if enable(model) is model else None, calls)
    check(model_case, model, True, calls, 2)
    disable(model)
    hook(part, calls)
    check(model_case, model, False, calls, 3)
    check(model_case, enable(model), True, calls, 3)
    check(model_case, disable(model), False, calls, 3)


@pytest.mark.parametrize("below", [False, True])
def test_wrapped_once_more_while_disabled(model_case: Case, below: bool) -> None:
    """Then our forward is around theirs and within it; pixels from which nothing was dropped pass through both."""
    model, calls = enable(copy.deepcopy(model_case.stock)), []
    part = model.base_model if below else model
    closure(part, calls)
    closure(part if disable(model) is model else None, calls)
    check(model_case, enable(model), True, calls, 2)
    check(model_case, disable(model), False, calls, 2)


def test_stock_forward_is_the_wrapper_again(model_case: Case) -> None:
    model, calls = copy.deepcopy(model_case.stock), []
    closure(model, calls)
    own = model.forward
    assert disable(enable(model)).forward is own
    assert "image_map" in inspect.signature(enable(model).forward).parameters


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
@pytest.mark.parametrize("when", ["before", "while"])
def test_copies_call_themselves(model_case: Case, way: str, when: str) -> None:
    model, calls = copy.deepcopy(model_case.stock), []
    if when == "before":
        pass_on(model)
    enable(model)
    if when == "while":
        pass_on(model)
    copied = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        for value in model.parameters():
            value.zero_()
    check(model_case, copied, True, calls)
    check(model_case, disable(copied), False, calls)
    check(model_case, enable(copied), True, calls)


def pass_on(model: Any) -> None:
    """With a wrapper that copies and pickles take along."""
    under = model.forward
    model.forward = functools.partial(_passed, under)
    model.forward.__wrapped__ = under


def _passed(under: Any, *args: Any, **kwargs: Any) -> Any:
    return under(*args, **kwargs)


@pytest.mark.parametrize("when", ["before", "while"])
def test_compiled_forward(when: str) -> None:
    model_case = case("qwen3_vl")
    model = copy.deepcopy(model_case.stock)
    torch._dynamo.reset()
    if when == "before":
        compiled(model, [])
    enable(model)
    if when == "while":
        compiled(model, [])
    full, pruned = model_case.prompts(ROWS, side="right")
    mask = pruned.inputs["attention_mask"].bool()
    with torch.no_grad():
        for _ in range(2):
            model_case.check(enable(model)(**model_case.inputs(pruned), use_cache=False).logits[mask], full, pruned)
            disable(model)(**model_case.inputs(full), use_cache=False)


@pytest.mark.parametrize("first", ["enable", "prepare"])
def test_mixed_precision(first: str) -> None:
    accelerate = pytest.importorskip("accelerate", reason="mixed precision is that of accelerate")
    model_case = case("qwen3_vl")
    accelerate.state.AcceleratorState._reset_state(True)
    model = copy.deepcopy(model_case.stock)
    reference = copy.deepcopy(model_case.stock)
    try:
        accelerator = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
        for step in ("enable", "prepare") if first == "enable" else ("prepare", "enable"):
            if step == "enable":
                enable(model)
            else:
                accelerator.prepare(model)
    finally:
        accelerate.state.AcceleratorState._reset_state(True)
    full, pruned = model_case.prompts(ROWS, side="right")
    with torch.no_grad():
        half = model(**model_case.inputs(pruned), use_cache=False).logits
        stock = disable(model)(**model_case.inputs(full), use_cache=False).logits
        with torch.autocast("cpu", torch.bfloat16):
            expected = reference(**model_case.inputs(full), use_cache=False).logits.float()
            enabled = enable(reference)(**model_case.inputs(pruned), use_cache=False).logits.float()
        again = enable(model)(**model_case.inputs(pruned), use_cache=False).logits
    assert torch.equal(stock, expected)
    assert torch.equal(again, half)
    if first == "enable":  # the encoder too runs within it
        assert torch.equal(half, enabled)


def test_trainer_in_bfloat16(tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments

    model_case = case("qwen3_vl")
    full, pruned = model_case.prompts(ROWS[:1], side="right")
    model = enable(copy.deepcopy(model_case.stock))
    data = [{**model_case.inputs(pruned), "labels": pruned.inputs["input_ids"]}]
    options = {"max_steps": 1, "bf16": True, "use_cpu": True, "report_to": [], "save_strategy": "no"}
    arguments = TrainingArguments(output_dir=str(tmp_path), disable_tqdm=True, learning_rate=0.0, **options)
    Trainer(model=model, args=arguments, train_dataset=data, data_collator=lambda rows: rows[0]).train()
    disable(model.eval())
    assert type(model) is type(model_case.stock)
    with torch.no_grad():
        model(**model_case.inputs(full))
        enable(model)(**model_case.inputs(pruned))
