"""Options of the trainers, in addition to those of TRL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import trl

from pixelprune.selection.errors import OptionError


@dataclass
class SFTConfig(trl.SFTConfig):
    """TRL's `SFTConfig` with other defaults and four more options.

    Sequences are not cut (`max_length` is None: TRL's 1024 tokens would cut pages), and mixed precision
    is on only if there is an accelerator.

    Attributes:
        on_bad_row: "stop" or "skip": what to do about rows that cannot be trained on.
        group_by_kept_length: whether batches are made of rows of similar length after pruning.
        unpruned_share: share of the training rows, in [0, 1], whose images keep every block.
        thresholds: what τ of each of the other rows is drawn from; None: all have the τ that the processor was enabled
            with.

    Which rows are not pruned and what τ others have depends on `data_seed` (`seed` by default) and the `row` (its
    place, if rows have no such column) alone: it is the same in each epoch and in a run that resumes. Rows to
    evaluate on are pruned as the processor was enabled for.
    """

    max_length: int | None = field(
        default=None,
        metadata={"help": "Longest sequence in tokens, after pruning. Rows that would lose image tokens are bad rows."},
    )
    on_bad_row: str = field(
        default="stop",
        metadata={
            "help": "What to do about rows that cannot be trained on: stop, or skip them. They are listed either way.",
            "choices": ["stop", "skip"],
        },
    )
    group_by_kept_length: bool = field(
        default=True, metadata={"help": "Make batches of rows of similar length after pruning, to pad less."}
    )

    unpruned_share: float = field(
        default=0.0, metadata={"help": "Share of the training rows (0 to 1) that are not pruned, drawn at random."}
    )
    thresholds: list[float] | None = field(
        default=None,
        metadata={
            "help": "Values of τ, of which each training row that is pruned gets one at random; without --threshold."
        },
    )

    def __post_init__(self) -> None:
        self.unpruned_share, self.thresholds = _share(self.unpruned_share), _thresholds(self.thresholds)
        if self.on_bad_row not in ("stop", "skip"):
            raise OptionError("on_bad_row", f"must be 'stop' or 'skip', got {self.on_bad_row!r}")
        if not torch.accelerator.is_available():
            self.bf16 = bool(self.bf16)
            self.dataloader_pin_memory = False
            # Without it, several processes would each train a separate model.
            self.use_cpu = True
        super().__post_init__()


@dataclass
class SelfDistillationConfig(SFTConfig):
    """Options of `SelfDistillationTrainer`: loss = α·CE + (1 − α)·T²·KL(teacher ‖ student).

    Attributes:
        alpha: α in [0, 1]; 1 is plain fine-tuning, for which no teacher runs, and 0 pure distillation.
        temperature: T > 0, by which the logits of both are divided in KL.
    """

    alpha: float = field(
        default=0.5,
        metadata={"help": "Weight of the labels in the loss: 1 is plain fine-tuning, 0 is pure distillation."},
    )
    temperature: float = field(
        default=1.0, metadata={"help": "Temperature that the logits of teacher and student are divided by."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            hint = "1 is plain fine-tuning, 0 pure distillation"
            raise OptionError("alpha", f"must be in [0, 1], got {self.alpha}", hint)
        if not 0 < self.temperature < float("inf"):
            raise OptionError("temperature", f"must be a number above 0, got {self.temperature}")
        super().__post_init__()


def _share(value: Any) -> float:
    if not _is_fraction(value):
        hint = "divide percent by 100" if _is_number(value) and value > 1 else ""
        raise OptionError("unpruned_share", f"must be a number in [0, 1], got {value!r}", hint)
    return float(value)


def _thresholds(values: Any) -> list[float] | None:
    if values is None:
        return None
    if not (isinstance(values, list | tuple) and values and all(map(_is_fraction, values))):
        hint = "divide gray levels by 255, or leave it out for one threshold"
        raise OptionError("thresholds", f"must be a list of numbers in [0, 1], got {values!r}", hint)
    return [float(value) for value in values]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1
