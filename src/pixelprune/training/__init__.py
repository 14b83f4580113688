"""Fine-tune and distill models on pruned inputs, on TRL.

SFTConfig, SFTTrainer                            TRL's, with what pruned inputs need: rows checked before the first
                                                 step, batches of similar kept length, what was kept in the log
SelfDistillationConfig, SelfDistillationTrainer  the same, learning from a teacher that sees every block
Collator                                         rows to batches, for student and teacher
load_rows                                        data files to rows

TRL's own `SFTTrainer` takes an enabled model and processor too. The page docs/training.md explains the
data format, the command `pixelprune train`, several processes, and what to expect.
"""

from pixelprune import _extras

_extras.require("pixelprune.training", "training", "accelerate", "datasets", "peft", "torch", "transformers", "trl")

from pixelprune.training.collator import Collator
from pixelprune.training.config import SelfDistillationConfig, SFTConfig
from pixelprune.training.distillation import SelfDistillationTrainer
from pixelprune.training.rows import load_rows
from pixelprune.training.trainer import SFTTrainer

__all__ = [
    "Collator",
    "SFTConfig",
    "SFTTrainer",
    "SelfDistillationConfig",
    "SelfDistillationTrainer",
    "load_rows",
]
