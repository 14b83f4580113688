"""Train the small model from scratch, in one go: `python -m tiny_model.pretrain --out FOLDER --seed 0`.

Asked only for answers, a network this small finds neither glyphs nor the way from a question to its field. So inner
layers are asked too (see `heads.py`): patches for their glyph and the name of their field, merged tokens for the words
in their block, the language model's first layer for where an image token stands and which letter was asked for. And
the vision encoder starts alone, on small crowded images. All tokens take part; nothing is ever pruned here.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tiny_model.batches import IGNORED, Batch, stream
from tiny_model.checkpoint import make_model, make_processor, save
from tiny_model.evaluate import score
from tiny_model.heads import NAMED, Heads, OneFrame
from tiny_model.tasks import LETTERS, TASKS, Layout, held_out

log = logging.getLogger("tiny_model")

REPORT_EVERY = 20.0  # seconds
# Weights of the inner losses relative to that of the answers; while the vision encoder trains alone, both are 1.
PATCHES, BLOCKS, PLACES, ASKED = 0.3, 0.3, 0.2, 0.2


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum."""

    steps: int
    batch: int
    layout: Layout
    find: float  # share of images with buttons
    alone: bool = False  # only the vision encoder learns


# About eight minutes on one core; images grow as accuracy does.
STAGES = (
    Stage(500, 48, Layout((3, 4), (3, 5), (5, 8)), 0.3, alone=True),
    Stage(300, 48, Layout((3, 4), (3, 5), (2, 3)), 0.4),
    Stage(300, 40, Layout((4, 6), (4, 7), (2, 5)), 0.4),
    Stage(500, 32, Layout(), 0.4),
)


class Trainer:
    """Model, heads and optimisers of one run.

    Muon has the matrices of hidden layers, which it trains in far fewer steps than AdamW; AdamW has the rest.
    """

    def __init__(self, seed: int, muon_lr: float = 0.02, adam_lr: float = 3e-3) -> None:
        self.model = make_model(seed)
        self.visual = self.model.model.visual
        self.heads = Heads(self.visual.config.hidden_size, self.visual.config.out_hidden_size)
        self.visual.patch_embed = OneFrame(self.visual.patch_embed)
        self.seen: dict[str, Tensor] = {}
        first = self.model.model.language_model.layers[0]
        self.hooks = [self.visual.register_forward_hook(self._see), first.register_forward_hook(self._see_text)]
        matrices: list[nn.Parameter] = []
        others = list(self.heads.parameters())
        for name, parameter in self.model.named_parameters():
            hidden = parameter.ndim == 2 and "embed" not in name and "lm_head" not in name
            (matrices if hidden else others).append(parameter)
        self.optimizers = [
            (muon_lr, torch.optim.Muon(matrices, weight_decay=0.01)),
            (adam_lr, torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0)),
        ]

    def _see(self, module: nn.Module, given: Any, out: Any) -> None:
        self.seen = {"patches": out.last_hidden_state, "merged": out.pooler_output}

    def _see_text(self, module: nn.Module, given: Any, out: Tensor) -> None:
        self.seen["text"] = out

    @property
    def named(self) -> Tensor:
        """Embeddings of digits and letters (36, hidden)."""
        return self.model.get_input_embeddings().weight[NAMED]  # type: ignore[no-any-return]

    def loss(self, batch: Batch, alone: bool) -> tuple[Tensor, dict[str, float]]:
        """Loss of one batch, and what to report."""
        metrics: dict[str, float] = {}
        loss = torch.zeros(())
        if alone:
            # The model passes this on without the prefix.
            keys = ("image_interp_indices", "image_interp_weights", "image_position_ids", "image_cu_seqlens")
            placing = {key.removeprefix("image_"): batch.inputs[key] for key in keys}
            self.visual(batch.inputs["pixel_values"], grid_thw=batch.inputs["image_grid_thw"], **placing)
        else:
            hidden = self.model.model(**batch.inputs, use_cache=False).last_hidden_state[:, :-1]
            wanted = batch.targets[:, 1:]
            spoken = wanted != IGNORED
            logits, words = self.model.lm_head(hidden[spoken]), wanted[spoken]  # only where an answer is spoken
            loss = F.cross_entropy(logits, words)
            right = (logits.argmax(-1) == words).view(-1, 3).all(-1)  # each answer is two words and the end
            for task in TASKS:
                chosen = right[torch.tensor([name == task for name in batch.turn_tasks])]
                if len(chosen):
                    metrics[task] = chosen.float().mean().item()
            metrics["answer"] = loss.item()
            places, metrics["places"] = self.heads.places(self.seen["text"], batch)
            asked, metrics["asked"] = self.heads.names(
                self.seen["text"][:, :-1][spoken], self.named[-len(LETTERS) :], batch.turn_names
            )
            loss = loss + PLACES * places + ASKED * asked
        weights = (1.0, 1.0) if alone else (PATCHES, BLOCKS)
        patches, (glyphs, names) = self.heads.patches(self.seen["patches"], batch.labels)
        blocks = self.heads.blocks(self.seen["merged"], self.named, batch.labels)
        metrics |= {"patch": patches.item(), "block": blocks.item(), "glyphs": glyphs, "names": names}
        return loss + weights[0] * patches + weights[1] * blocks, metrics

    def step(self, batch: Batch, alone: bool, scale: float) -> dict[str, float]:
        loss, metrics = self.loss(batch, alone)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for rate, optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * scale
            optimizer.step()
            optimizer.zero_grad()
        return metrics

    def finish(self) -> Any:
        """The stock model again."""
        for hook in self.hooks:
            hook.remove()
        self.visual.patch_embed = self.visual.patch_embed.stock
        return self.model.eval()


def schedule(done: float, hold: float = 0.45) -> float:
    """Learning rate as a share of its peak, `done` being the share of the run behind us."""
    if done < 0.01:
        return (done + 1e-3) / (0.01 + 1e-3)
    return 1.0 if done < hold else 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * (done - hold) / (1 - hold)))


def pretrain(seed: int, stages: tuple[Stage, ...] = STAGES) -> Any:
    """Train from scratch; the same seed gives the same model on the same machine."""
    torch.manual_seed(seed)
    trainer = Trainer(seed)
    side = trainer.visual.num_grid_per_side
    total, number, started, reported = sum(stage.steps for stage in stages), 0, time.monotonic(), 0.0
    running: dict[str, float] = {}
    for position, stage in enumerate(stages):
        rng = Random(f"train {seed} {position}")
        batches = stream(rng, stage.batch, stage.layout, side, stage.find)
        for _ in range(stage.steps):
            metrics = trainer.step(next(batches), stage.alone, schedule(number / total))
            number += 1
            running |= {
                key: value if key not in running else 0.95 * running[key] + 0.05 * value
                for key, value in metrics.items()
                if value == value  # NaN where a batch had none of a kind
            }
            if (now := time.monotonic() - started) - reported >= REPORT_EVERY or number == total:
                reported = now
                means = "  ".join(f"{key} {value:.3f}" for key, value in running.items())
                log.info("%4.0f s  step %d of %d  stage %d  %s", now, number, total, position, means)
    return trainer.finish()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", required=True, help="folder of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=500, help="held-out samples of each task at the end")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    model = pretrain(options.seed)
    save(model, options.out)
    log.info("%d parameters, %.0f s of processor time", model.num_parameters(), time.process_time())
    for task in TASKS:
        log.info("%s: %s", task, score(model, make_processor(), held_out(task, options.count)))


if __name__ == "__main__":
    main()
