"""What batches of rows of similar length save: `python -m tiny_model.padding --out padding.json`.

Padding is computed like any other token. Seconds are those of forward and backward; both kinds of batches take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

import pixelprune.transformers
from pixelprune.bench._tables import Table, numbers, texts
from pixelprune.bench._timing import seconds_in_turns
from pixelprune.training import SFTConfig, SFTTrainer, load_rows
from tiny_model import rows
from tiny_model.evaluate import FOLDER, load

ROWS, BATCH = 1600, 16


def batches(data: Path, grouped: bool) -> tuple[Any, list[dict[str, Any]]]:
    """A model, and the batches of one epoch that its trainer makes."""
    model, processor = pixelprune.transformers.enable(*load(FOLDER))
    args = SFTConfig(
        "unused", per_device_train_batch_size=BATCH, group_by_kept_length=grouped, gradient_checkpointing=False
    )
    trainer = SFTTrainer(model, args, load_rows(str(data)), processing_class=processor)
    return trainer.model.train(), list(trainer.get_train_dataloader())


def step(model: Any, made: Iterator[dict[str, Any]]) -> None:
    """Forward and backward of the next batch."""
    model(**next(made)).loss.backward()
    model.zero_grad()


def compared() -> dict[str, Any]:
    """Share of padding and mean seconds per step, for batches in random order and batches of similar length."""
    with tempfile.TemporaryDirectory() as scratch:
        data = rows.write(Path(scratch), ROWS)
        kinds = {name: batches(data, grouped) for name, grouped in (("random", False), ("alike", True))}
    steps = {name: partial(step, model, iter(made)) for name, (model, made) in kinds.items()}
    seconds = seconds_in_turns(steps, ROWS // BATCH - 1)
    result: dict[str, Any] = {}
    for name, (_, made) in kinds.items():
        masks = [batch["attention_mask"] for batch in made]
        real, computed = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
        result[name] = {"padding": 1 - real / computed, "seconds": statistics.fmean(seconds[name])}
    return result


def table(result: Mapping[str, Any]) -> Table:
    """The table of what `compared` returns."""
    lines = [
        (label, f"{100 * result[name]['padding']:.0f} %", f"{result[name]['seconds']:.3f} s")
        for name, label in (("random", "in random order"), ("alike", "of similar length after pruning"))
    ]
    return Table("Padding", texts("batches") + numbers("tokens that are padding", "forward and backward"), tuple(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.write_text(json.dumps(compared(), indent=2) + "\n")


if __name__ == "__main__":
    main()
