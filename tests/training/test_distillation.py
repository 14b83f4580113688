"""The loss of self-distillation against a plain implementation, in which every logit exists at once."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoProcessor

from pixelprune.training import distillation, load_rows
from pixelprune.training.collator import check_aligned
from pixelprune.transformers import disable, enable, keeping_all
from tests.support.training import answer_count, distilled, first_batch, gradients, losses, sft
from tiny_model.checkpoint import make_model

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", lora_dropout=0.1)


@pytest.fixture
def rows(pages: Path) -> Any:
    return load_rows(str(pages / "rows.jsonl"))


def loaded(checkpoint: str, **options: Any) -> Any:
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="float32")
    return enable(model, AutoProcessor.from_pretrained(checkpoint), **options)


def plain_loss(student: Any, teacher: Any, batch: dict[str, Any], alpha: float, temperature: float) -> torch.Tensor:
    """Row by row and token by token, as the formula is written; the teacher is stock and gets stock inputs."""
    whole = {name: value for name, value in batch["teacher"].items() if name != "image_map"}
    mine = student(**{k: v for k, v in batch.items() if k not in ("labels", "teacher")}).logits
    with torch.no_grad():
        its = teacher(**{k: v for k, v in whole.items() if k != "labels"}).logits
    terms = []
    for row in range(len(mine)):
        at = [i for i in range(1, mine.shape[1]) if batch["labels"][row, i] != -100]
        there = [i for i in range(1, its.shape[1]) if whole["labels"][row, i] != -100]
        for i, j in zip(at, there, strict=True):
            assert batch["labels"][row, i] == whole["labels"][row, j]
            p = torch.softmax(its[row, j - 1].double() / temperature, -1)
            log_q = torch.log_softmax(mine[row, i - 1].double() / temperature, -1)
            kl = (p * (p.log() - log_q)).sum()
            ce = -torch.log_softmax(mine[row, i - 1].double(), -1)[batch["labels"][row, i]]
            terms.append(alpha * ce + (1 - alpha) * temperature**2 * kl)
    return torch.stack(terms).mean()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 1.0), (0.3, 2.5), (0.0, 4.0)])
@pytest.mark.parametrize("chunk", [5, 256])
def test_loss_and_gradients(
    alpha: float, temperature: float, chunk: int, pair: Any, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distillation, "CHUNK", chunk)
    teacher_of_ours = enable(make_model(seed=11))
    teacher, student = disable(copy.deepcopy(teacher_of_ours)).eval(), copy.deepcopy(pair[0]).train()
    trainer = distilled(pair, rows, tmp_path, alpha=alpha, temperature=temperature, teacher=teacher_of_ours)
    batch = first_batch(trainer)
    assert answer_count(batch) > chunk or chunk == 256
    expected_loss = plain_loss(student, teacher, batch, alpha, temperature)
    expected_loss.backward()
    loss = trainer.compute_loss(trainer.model.train(), dict(batch))
    loss.backward()
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-9)
    expected = gradients(student)
    assert len(expected) > 50
    for name, gradient in gradients(trainer.model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-7, atol=1e-10)
    assert not gradients(trainer.teacher)


def test_alpha_1_is_plain_fine_tuning(checkpoint: str, rows: Any, tmp_path: Path) -> None:
    plain, taught = sft(loaded(checkpoint), rows, tmp_path), distilled(loaded(checkpoint), rows, tmp_path, alpha=1.0)
    plain.train()
    taught.train()
    assert losses(taught) == losses(plain)
    assert taught.teacher is None
    assert "teacher" not in first_batch(taught)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("adapter", [None, LORA], ids=["copy", "LoRA"])
def test_nothing_pruned_is_alpha_times_ce(adapter: Any, checkpoint: str, rows: Any, tmp_path: Path) -> None:
    """At the first step teacher and student are one, and KL is 0 but for the last bits of float64."""
    model, processor = loaded(checkpoint)
    with keeping_all(processor):
        trainer = distilled((model, processor), rows, tmp_path, alpha=0.25, temperature=3.0, peft_config=adapter)
        trainer.model.eval()  # adapters have dropout
        batch = first_batch(trainer)
    assert bool((batch["image_map"] >= 0).all())
    loss = trainer.compute_loss(trainer.model, dict(batch)).item()
    logits = loaded(checkpoint)[0].eval()(**{k: v for k, v in batch.items() if k not in ("labels", "teacher")}).logits
    ce = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100).item()
    assert loss == pytest.approx(0.25 * ce, rel=1e-9)
    trainer.args.alpha = 0.0
    assert abs(trainer.compute_loss(trainer.model, dict(batch)).item()) < 1e-12 * ce


@pytest.mark.usefixtures("float64")
def test_base_model_under_an_adapter_is_the_teacher(checkpoint: str, rows: Any, tmp_path: Path) -> None:
    """After some steps too: what teaches is the model without its adapter, not with it."""
    other = loaded(checkpoint)[0]
    trainer = distilled(loaded(checkpoint), rows, tmp_path, peft_config=LORA, learning_rate=3e-2, alpha=0.0)
    trainer.train()
    assert trainer.teacher is None
    batch = first_batch(trainer)
    model = trainer.model.eval()
    actual = trainer.compute_loss(model, dict(batch)).item()
    expected = plain_loss(model, disable(other).eval(), batch, 0.0, 1.0).item()
    assert actual == pytest.approx(expected, rel=1e-9)
    assert actual > 1e-4
    assert model.training is False
    assert all(p.requires_grad == ("lora" in name) for name, p in model.named_parameters())


def test_teacher_stays_as_it_was(pair: Any, rows: Any, tmp_path: Path) -> None:
    before = {name: value.clone() for name, value in pair[0].state_dict().items()}
    trainer = distilled(pair, rows, tmp_path, learning_rate=1e-2)
    trainer.train()
    for name, value in trainer.teacher.state_dict().items():
        assert torch.equal(value, before[name])
    assert not torch.equal(trainer.model.state_dict()["lm_head.weight"], before["lm_head.weight"])
    logged = [line for line in trainer.state.log_history if "loss" in line]
    for line in logged:
        assert line["loss"] == pytest.approx(0.5 * line["ce_loss"] + 0.5 * line["kl_loss"], rel=1e-3)
        assert 0 <= line["mean_token_accuracy"] <= 1


def test_resumed_run_keeps_the_first_teacher(checkpoint: str, rows: Any, tmp_path: Path) -> None:
    options = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "learning_rate": 1e-2}
    whole = distilled(loaded(checkpoint), rows, tmp_path / "run", **options)
    whole.train()
    again = distilled(loaded(checkpoint), rows, tmp_path / "again", **options)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert losses(again) == pytest.approx(losses(whole), rel=1e-4)


def test_evaluates(pair: Any, rows: Any, tmp_path: Path) -> None:
    trainer = distilled(pair, rows, tmp_path, eval_dataset=rows, per_device_eval_batch_size=4)
    result = trainer.evaluate()
    batches = [trainer._prepare_inputs(batch) for batch in trainer.get_eval_dataloader()]
    model, teacher = trainer.model.eval(), disable(copy.deepcopy(trainer.teacher))
    sums = [plain_loss(model, _stock_forward(teacher), batch, 0.5, 1.0).item() for batch in batches]
    assert result["eval_loss"] == pytest.approx(sum(sums) / len(sums), rel=0.02)


def _stock_forward(model: Any) -> Any:
    model.__dict__.pop("forward", None)
    return model


def test_answers_that_differ_are_an_error() -> None:
    mine = torch.tensor([[-100, 5, 6, -100], [-100, -100, 7, 8]])
    check_aligned(mine, torch.tensor([[-100, -100, -100, 5, 6], [7, -100, 7, -100, 8]]))
    with pytest.raises(ValueError, match=r"differ in row 1 of a batch \(2 and 1 tokens\)"):
        check_aligned(mine, torch.tensor([[-100, 5, 6, -100], [-100, -100, 7, -100]]))
    with pytest.raises(ValueError, match=r"differ in row 0 of a batch \(2 and 2 tokens\)"):
        check_aligned(mine, torch.tensor([[-100, 5, 9, -100], [-100, -100, 7, 8]]))
    with pytest.raises(ValueError, match="teacher has 1 rows of labels, student 2"):
        check_aligned(mine, mine[:1])


def test_a_batch_out_of_line_ends_training(pair: Any, rows: Any, tmp_path: Path) -> None:
    trainer = distilled(pair, rows, tmp_path)
    batch = first_batch(trainer)
    batch["teacher"]["labels"] = batch["teacher"]["labels"].roll(1, 0)
    with pytest.raises(ValueError, match="answers of student and teacher differ"):
        trainer.compute_loss(trainer.model, batch)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"alpha": -0.1}, "alpha must be in"),
        ({"temperature": 0.0}, "temperature must be a number above 0, got 0.0"),
        ({"label_smoothing_factor": 0.1}, "distillation has its own loss"),
        ({"loss_type": "dft"}, "distillation has its own loss"),
    ],
)
def test_refused_options(options: dict[str, Any], text: str, pair: Any, rows: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=text):
        distilled(pair, rows, tmp_path, **options)


def test_teacher_of_another_vocabulary(pair: Any, rows: Any, tmp_path: Path) -> None:
    other = make_model(seed=1)
    other.resize_token_embeddings(200)
    with pytest.raises(ValueError, match=r"teacher must have the vocabulary of model, \d+ tokens, got 200"):
        distilled(pair, rows, tmp_path, teacher=other)
