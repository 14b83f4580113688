"""Every family with a processor at hand trains: TRL's fused loss is that of the pruned model's own logits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from pixelprune.training import load_rows
from pixelprune.transformers import disable, enable, kept
from tests.support.cases import absent
from tests.support.checkpoints import KITS, SIZES, model_and_processor
from tests.support.training import distilled, first_batch, gradients
from tests.training.test_distillation import plain_loss as plain_distillation_loss
from tests.training.test_sft import plain_loss

# Unpruned too: TRL's collator does not know the token types of Ernie, and cuts ids without them; the thinkers want
# the lengths of audio that there is none of.
NOT_IN_TRL = ("ernie4_5_vl_moe", "qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")


def families() -> list[Any]:
    marks = {name: "TRL 1.16 does not train it" if name in NOT_IN_TRL else absent(name) for name in KITS}
    return [pytest.param(name, marks=pytest.mark.skip(reason=why)) if why else name for name, why in marks.items()]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", families())
def test_family(name: str, pages: Path, tmp_path: Path) -> None:
    own_sizes = {"size": SIZES[name]["size"]} if "size" in SIZES[name] else {}
    # Of the kernels of experts, only the eager one takes float64.
    model, processor = model_and_processor(name, experts="eager", **own_sizes)
    processor.chat_template = processor.chat_template.replace("<|image_pad|>", processor.image_token)
    pair = enable(model, processor)
    pair[0].config.get_text_config().router_aux_loss_coef = 0.0
    rows = load_rows(str(pages / "rows.jsonl")).select([0, 1])
    student = copy.deepcopy(pair[0])
    teacher = disable(copy.deepcopy(pair[0])).eval()
    trainer = distilled(pair, rows, tmp_path, alpha=0.5, gradient_checkpointing=False, router_aux_loss_coef=0.0)
    batch = first_batch(trainer)
    assert sum(one.kept for one in kept(batch)) < sum(one.total for one in kept(batch))
    model = trainer.model.eval()
    expected = plain_distillation_loss(student.eval(), teacher, batch, 0.5, 1.0)
    actual = trainer.compute_loss(model, dict(batch))
    assert actual.item() == pytest.approx(expected.item(), rel=1e-9)
    actual.backward()
    assert any(bool(gradient.any()) for gradient in gradients(model).values())
    trainer._distils = False
    with torch.no_grad():
        fused = trainer.compute_loss(model, dict(batch)).item()
        assert fused == pytest.approx(plain_loss(student, batch).item(), rel=1e-9)
