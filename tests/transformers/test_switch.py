"""An enabled model is still what it was: it can be saved, copied, trained, compiled and wrapped, and disabled."""

from __future__ import annotations

import abc
import copy
import functools
import inspect
import io
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen3VLForConditionalGeneration

from pixelprune.transformers import disable, enable
from tests.support.cases import Case, absent, case
from tests.support.prompts import ROWS, Prompt
from tests.support.rounding import difference, limit


def logits(model: Any, model_case: Case, prompt: Prompt) -> torch.Tensor:
    with torch.no_grad():
        return model(**model_case.inputs(prompt), use_cache=False).logits


def test_class_and_signature(family_name: str) -> None:
    model_case = case(family_name)
    stock, pruned = type(model_case.stock), type(model_case.pruned)
    assert (pruned.__name__, pruned.__qualname__, pruned.__module__) == (
        stock.__name__,
        stock.__qualname__,
        stock.__module__,
    )
    assert isinstance(model_case.pruned, stock)
    assert model_case.pruned.can_generate() == model_case.stock.can_generate()
    names = list(inspect.signature(model_case.pruned.forward).parameters)
    assert [name for name in names if name != "image_map"] == list(
        inspect.signature(model_case.stock.forward).parameters
    )
    with pytest.raises(ValueError, match="image_kpet"):
        model_case.pruned.generate(torch.tensor([[5, 6]]), image_kpet=1, max_new_tokens=1)


def test_disable_gives_the_stock_object_back(family_name: str) -> None:
    model_case = case(family_name)
    model = copy.deepcopy(model_case.pruned)
    assert disable(model) is model
    assert type(model) is type(model_case.stock)
    assert model.__dict__.keys() == model_case.stock.__dict__.keys()
    full, _ = model_case.prompts(ROWS)
    assert torch.equal(logits(model, model_case, full), logits(model_case.stock, model_case, full))
    assert disable(model) is model
    assert enable(enable(model)) is model
    assert type(model) is type(model_case.pruned)


def test_saved_and_loaded(family_name: str, tmp_path: Path) -> None:
    model_case = case(family_name)
    model_case.pruned.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [type(model_case.stock).__name__]
    _, pruned = model_case.prompts(ROWS)
    expected = logits(model_case.pruned, model_case, pruned)
    for cls in (type(model_case.stock), type(model_case.pruned)):
        loaded = cls.from_pretrained(tmp_path, attn_implementation="eager")
        check_stock(model_case, loaded)
        assert torch.equal(logits(enable(loaded), model_case, pruned), expected)


def test_made_with_the_class_of_an_enabled_model(family_name: str) -> None:
    model_case = case(family_name)
    cls, stock = type(model_case.pruned), type(model_case.stock)
    assert inspect.signature(cls) == inspect.signature(stock)
    for made in (cls(model_case.stock.config), cls._from_config(model_case.stock.config)):
        made.load_state_dict(model_case.stock.state_dict())
        check_stock(model_case, made.eval())


def check_stock(model_case: Case, made: Any) -> None:
    full, _ = model_case.prompts(ROWS)
    assert type(made) is type(model_case.stock)
    assert type(made.base_model) is type(model_case.stock.base_model)
    assert torch.equal(logits(made, model_case, full), logits(model_case.stock, model_case, full))


def test_class_with_a_type_of_its_own() -> None:
    """A model may be of an abstract class; and a class that is made of an enabled one makes its own objects."""

    class Abstract(Qwen3VLForConditionalGeneration, abc.ABC):
        pass

    model_case = case("qwen3_vl")
    model = copy.deepcopy(model_case.stock)
    model.__class__ = Abstract
    enabled = type(enable(model))
    assert issubclass(enabled, Abstract)
    assert type(enabled(model.config)) is Abstract
    derived = type("Derived", (enabled,), {})
    assert type(derived(model.config)) is derived


def test_auto_class_loads_the_stock_class(tmp_path: Path) -> None:
    model_case = case("qwen3_vl")
    model_case.pruned.save_pretrained(tmp_path)
    assert type(AutoModelForImageTextToText.from_pretrained(tmp_path)) is type(model_case.stock)


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies(family_name: str, way: str) -> None:
    model_case = case(family_name)
    model = copy.deepcopy(model_case.pruned)  # hooks of other tests would not be copied
    if way == "deepcopy":
        copied = copy.deepcopy(model)
    elif way == "pickle":
        copied = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        copied = torch.load(file, weights_only=False)
    assert type(copied) is type(model_case.pruned)
    _, pruned = model_case.prompts(ROWS)
    assert torch.equal(logits(copied, model_case, pruned), logits(model_case.pruned, model_case, pruned))


def gradients(model: Any, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The gradient of each parameter, and the loss of the text tokens that follow a token."""
    ids = inputs["input_ids"]
    model.zero_grad()
    loss = model(**inputs, labels=ids.masked_fill((ids > 99) | (ids == 0), -100), use_cache=False).loss
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"loss": loss.detach(), **found}


def test_gradient_checkpointing(family_name: str) -> None:
    model_case = case(family_name)
    if not model_case.stock.supports_gradient_checkpointing:
        pytest.skip("the stock model does not support gradient checkpointing")
    full, pruned = model_case.prompts(ROWS, side="right")
    model = copy.deepcopy(model_case.pruned).train()
    expected = gradients(model, model_case.inputs(pruned))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    actual = gradients(model, model_case.inputs(pruned))
    assert actual.keys() == expected.keys()
    assert any(model_case.family.tower in name for name in actual)

    def in_one(found: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([value.flatten() for value in found.values()])

    rounding = limit(
        model_case.stock, model_case.nudged, lambda model: in_one(gradients(model, model_case.inputs(full)))
    )
    assert difference(in_one(actual), in_one(expected)) < rounding


def rows_of(model_case: Case, prompt: Prompt) -> list[dict[str, torch.Tensor]]:
    """One dict a row without padding, as a dataset has them; one image each."""
    inputs, examples, start = model_case.inputs(prompt), [], 0
    for i, (keep, values) in enumerate(zip(prompt.keep, prompt.maps, strict=True)):
        tokens = inputs["attention_mask"][i].bool()
        example = {
            name: value[i][tokens] for name, value in inputs.items() if value.shape == inputs["attention_mask"].shape
        }
        count = 4 * int(keep.sum())
        example["pixel_values"] = inputs["pixel_values"][start : start + count]
        start += count
        for name in ("image_grid_thw", "image_merge_sizes"):
            if name in inputs:
                example[name] = inputs[name][i : i + 1]
        example["image_map"] = values
        example["labels"] = example["input_ids"].masked_fill(example["input_ids"] > 99, -100)
        examples.append(example)
    return examples


def collate(examples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    assert "junk" not in examples[0]
    assert "image_map" in examples[0]
    length = max(len(example["input_ids"]) for example in examples)
    batch = {}
    for name in examples[0]:
        values = [example[name] for example in examples]
        if name.startswith(("pixel", "image")):
            batch[name] = torch.cat(values)
        else:
            fill = -100 if name == "labels" else 0
            padded = [torch.nn.functional.pad(value, (0, length - len(value)), value=fill) for value in values]
            batch[name] = torch.stack(padded)
    return batch


def test_trainer(family_name: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate", reason="Trainer needs accelerate")
    from transformers import Trainer, TrainingArguments

    model_case = case(family_name)
    _, pruned = model_case.prompts([[5, 6, (8, 12), 7, 8, 9], [10, (4, 8), 11, 12]], side="right")
    data = [{**example, "junk": torch.zeros(1)} for example in rows_of(model_case, pruned)]
    model = copy.deepcopy(model_case.pruned)
    before = copy.deepcopy(model.state_dict())
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        optim="sgd",
        remove_unused_columns=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
    )
    result = Trainer(model=model, args=arguments, train_dataset=data, data_collator=collate).train()
    assert result.training_loss > 0
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert any(model_case.family.tower in name for name in moved)
    assert any(model_case.family.tower not in name for name in moved)


# One family for each way of feeding an encoder: tracing a model takes a quarter of a minute.
@pytest.mark.parametrize(
    "name", ["qwen3_vl", "qwen2_5_vl", "glm4v", "paddleocr_vl", "kimi_k25", "video_llama_3", "qwen3_5"]
)
def test_compiled(name: str) -> None:
    if why := absent(name):
        pytest.skip(why)
    model_case = case(name, "sdpa")
    full, pruned = model_case.prompts(ROWS, side="right")
    expected = logits(model_case.pruned, model_case, pruned)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model_case.pruned), backend="eager")
    assert difference(logits(compiled, model_case, pruned), expected) < model_case.limit(full)


def test_bfloat16(family_name: str) -> None:
    """As far from the float32 answer as the stock model in bfloat16 is from its own.

    Of each token the largest difference, and of these the median: in bfloat16 some tokens get another expert.
    """
    model_case = case(family_name)
    full, pruned = model_case.prompts(ROWS, side="right")
    half, half_stock = copy.deepcopy(model_case.pruned).bfloat16(), copy.deepcopy(model_case.stock).bfloat16()
    for prompt in (full, pruned):
        prompt.inputs["pixel_values"] = prompt.inputs["pixel_values"].bfloat16()
    half_logits, half_stock_logits = logits(half, model_case, pruned), logits(half_stock, model_case, full)
    assert half_logits.dtype == half_stock_logits.dtype
    for prompt in (full, pruned):
        prompt.inputs["pixel_values"] = prompt.inputs["pixel_values"].float()
    noise = _of_most_tokens(half_stock_logits, logits(model_case.stock, model_case, full))
    assert _of_most_tokens(half_logits, logits(model_case.pruned, model_case, pruned)) < 3 * noise


def _of_most_tokens(a: torch.Tensor, b: torch.Tensor) -> float:
    """The median over tokens of the largest difference of their logits."""
    return float((a.double() - b.double()).abs().amax(-1).median())


def test_methods_replaced_later_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernel libraries replace forward of stock classes, before or after."""
    model_case = case("qwen2_vl")
    calls = []
    stock = type(model_case.stock).forward

    @functools.wraps(stock)
    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return stock(self, *args, **kwargs)

    monkeypatch.setattr(type(model_case.stock), "forward", counted)
    _, pruned = model_case.prompts(ROWS)
    logits(model_case.pruned, model_case, pruned)
    assert calls == [1]
