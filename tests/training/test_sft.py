"""Fine-tuning: the loss is that of the pruned inputs, whichever way it is asked for."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import torch.nn.functional as F
import trl
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

from pixelprune.training import load_rows
from pixelprune.training.collator import opened_row
from pixelprune.transformers import disable, enable, kept
from tests.support.training import first_batch, gradients, losses, sft

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "qkv"], task_type="CAUSAL_LM")


@pytest.fixture
def rows(pages: Path) -> Any:
    return load_rows(str(pages / "rows.jsonl"))


def plain_loss(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Mean cross entropy of the answers, from the logits of all tokens."""
    logits = model(**{k: v for k, v in batch.items() if k not in ("labels", "teacher")}).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), batch["labels"][:, 1:].flatten(), ignore_index=-100)


@pytest.mark.usefixtures("float64")
def test_loss_and_gradients_are_those_of_the_pruned_model(pair: Any, rows: Any, tmp_path: Path) -> None:
    model = copy.deepcopy(pair[0]).train()
    trainer = sft(pair, rows, tmp_path, gradient_checkpointing=False)
    batch = first_batch(trainer)
    assert 0 < sum(one.kept for one in kept(batch)) < sum(one.total for one in kept(batch))
    expected_loss = plain_loss(model, batch)
    expected_loss.backward()
    loss = trainer.compute_loss(trainer.model.train(), dict(batch))
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-9)
    expected = gradients(model)
    for name, gradient in gradients(trainer.model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-10)


def test_pruning_matters_to_the_loss(pair: Any, rows: Any, tmp_path: Path) -> None:
    """The batch is not that of a stock processor, and a stock model does not take it."""
    trainer = sft(pair, rows, tmp_path)
    batch = first_batch(trainer)
    model = disable(copy.deepcopy(trainer.model))
    with pytest.raises((ValueError, RuntimeError, TypeError, IndexError)):
        type(model).forward(model, **{k: v for k, v in batch.items() if k not in ("labels", "image_map")})


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("form", ["prompt and completion", "messages"])
def test_stock_trainer_of_trl(form: str, pair: Any, rows: Any, tmp_path: Path) -> None:
    """Nothing of ours but `enable`: the loss is the same as through our trainer."""
    model = copy.deepcopy(pair[0])
    plain = [opened_row(row) for row in rows]
    if form == "messages":
        plain = [{"messages": row["prompt"] + row["completion"], "images": row["images"]} for row in plain]
    settings = {"per_device_train_batch_size": 4, "max_steps": 3, "logging_steps": 1, "learning_rate": 1e-3}
    args = trl.SFTConfig(
        str(tmp_path / "trl"), **settings, bf16=False, max_length=None, use_cpu=True, save_strategy="no",
        assistant_only_loss=form == "messages", dataloader_pin_memory=False, disable_tqdm=True,
    )  # fmt: skip
    stock = trl.SFTTrainer(model, args, train_dataset=datasets.Dataset.from_list(plain), processing_class=pair[1])
    stock.train()
    ours = sft(pair, rows, tmp_path, group_by_kept_length=False)
    ours.train()
    assert losses(ours) == pytest.approx(losses(stock), rel=1e-9)
    assert len(losses(ours)) == 3


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_checkpointing": False}, {"peft_config": LORA}],
    ids=["checkpointing", "no checkpointing", "LoRA"],
)
def test_trains(options: dict[str, Any], pair: Any, rows: Any, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in pair[0].state_dict().items()}
    trainer = sft(pair, rows.select(range(4)), tmp_path, max_steps=8, learning_rate=2e-2, **options)
    trainer.train()
    found = losses(trainer)
    assert found[-1] < found[0] - 0.3
    after = {name.replace("base_layer.", ""): value for name, value in inner(trainer.model).state_dict().items()}
    moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
    if "peft_config" in options:
        assert not moved
    else:
        assert {"model.visual.patch_embed.proj.weight", "lm_head.weight"} < moved


def inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def test_log(pair: Any, rows: Any, tmp_path: Path) -> None:
    trainer = sft(pair, rows, tmp_path, gradient_accumulation_steps=2, max_steps=2)
    lines = []
    collate = trainer.data_collator

    def counted(examples: Any) -> Any:
        batch = collate(examples)
        tokens = int((batch["image_map"] >= 0).sum())
        lines.append((len(batch["image_map"]), tokens, int(batch["attention_mask"].sum())))
        return batch

    trainer.data_collator = counted
    trainer.train()
    logged = [line for line in trainer.state.log_history if "loss" in line]
    assert len(logged) == 2
    for place, line in enumerate(logged):
        first, second = lines[2 * place : 2 * place + 2]
        assert line["visual_tokens_unpruned"] == first[0] + second[0]
        assert line["visual_tokens"] == first[1] + second[1]
        assert line["retain_ratio"] == pytest.approx((first[1] + second[1]) / (first[0] + second[0]))
        assert 0 < line["tokens_per_second"] < math.inf


def test_saved_model_is_stock(pair: Any, rows: Any, tmp_path: Path) -> None:
    trainer = sft(pair, rows, tmp_path, max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved", dtype="float32")
    assert not hasattr(type(loaded), "_pixelprune_base")
    for name, value in trainer.model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, _args: Any, state: Any, _control: Any, **options: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("grouped", [True, False])
def test_resumed_run_is_the_unbroken_one(grouped: bool, checkpoint: str, rows: Any, tmp_path: Path) -> None:
    """Over the end of an epoch, with a checkpoint in the middle of the second."""

    def run(folder: str, callbacks: Any = None, resume: Any = None) -> list[float]:
        model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="float32")
        fresh = enable(model, AutoProcessor.from_pretrained(checkpoint))
        trainer = sft(
            fresh, rows, tmp_path / folder, max_steps=10, save_strategy="steps", save_steps=4,
            group_by_kept_length=grouped, callbacks=callbacks,
        )  # fmt: skip
        trainer.train(resume_from_checkpoint=resume)
        return losses(trainer)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", [StopAt(9)])
    # Both runs do the same sums; without the state of the optimizer, losses would differ in the second digit.
    assert run("broken", resume=str(tmp_path / "broken" / "checkpoint-8")) == pytest.approx(whole, rel=1e-4)
    assert len(whole) == 10


@pytest.mark.parametrize("world", [1, 2])
def test_batches_of_alike_length_pad_less(world: int, pair: Any, rows: Any, tmp_path: Path) -> None:
    many = datasets.concatenate_datasets([rows] * 8)
    padded = {}
    for grouped in (True, False):
        trainer = sft((copy.deepcopy(pair[0]), pair[1]), many, tmp_path, group_by_kept_length=grouped)
        loader = trainer.get_train_dataloader()
        masks = [batch["attention_mask"] for batch in loader]
        assert sum(len(mask) for mask in masks) == len(many)
        # Processes take batches in turns; their sequences are as long as the longest that they meet.
        masks = masks[: len(masks) // world * world]
        longest = [max(mask.shape[1] for mask in masks[i : i + world]) for i in range(0, len(masks), world)]
        padded[grouped] = sum(longest) * world * 4 / sum(int(mask.sum()) for mask in masks)
    assert 1 <= padded[True] < 1.15
    assert padded[False] > padded[True] + 0.2
