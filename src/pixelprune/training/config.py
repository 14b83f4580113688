"""Options of the trainers, in addition to those of TRL."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import trl

from pixelprune.selection.errors import OptionError


@dataclass
class SFTConfig(trl.SFTConfig):
    """TRL's `SFTConfig` with other defaults and two more options.

    Sequences are not cut (`max_length` is None: TRL's 1024 tokens would cut pages), and mixed precision
    is on only if there is an accelerator.

    Attributes:
        on_bad_row: "stop" or "skip": what to do about rows that cannot be trained on.
        group_by_kept_length: whether batches are made of rows of similar length after pruning.
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

    def __post_init__(self) -> None:
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
