"""Runs of the trainers, and what they logged."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from pixelprune.training import SelfDistillationConfig, SelfDistillationTrainer, SFTConfig, SFTTrainer

SMALL = {
    "per_device_train_batch_size": 4,
    "max_steps": 3,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "disable_tqdm": True,
    "save_strategy": "no",
}


def sft(pair: tuple[Any, Any], rows: Any, folder: Path, **options: Any) -> SFTTrainer:
    """A trainer that has not yet trained."""
    args, others = _split(SFTConfig, {"output_dir": str(folder), **SMALL, **options})
    return SFTTrainer(pair[0], args, rows, processing_class=pair[1], **others)


def distilled(pair: tuple[Any, Any], rows: Any, folder: Path, **options: Any) -> SelfDistillationTrainer:
    args, others = _split(SelfDistillationConfig, {"output_dir": str(folder), **SMALL, **options})
    return SelfDistillationTrainer(pair[0], args, rows, processing_class=pair[1], **others)


def _split(kind: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    others = {
        name: options.pop(name) for name in ("peft_config", "teacher", "eval_dataset", "callbacks") if name in options
    }
    return kind(**options), others


def fresh(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """For another trainer: each changes its model, once."""
    return copy.deepcopy(pair[0]), pair[1]


def losses(trainer: Any) -> list[float]:
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def first_batch(trainer: Any) -> dict[str, Any]:
    return trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))


def answer_count(batch: dict[str, Any]) -> int:
    return int((batch["labels"][:, 1:] != -100).sum())
