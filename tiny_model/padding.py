"""What it saves to make batches of rows of alike length: `python -m tiny_model.padding --out padding.json`.

Padding is computed like any other token. Seconds are those of forward and backward; both kinds of batches take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import pixelprune.transformers
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


def seconds(model: Any, batch: dict[str, Any]) -> float:
    begin = time.perf_counter()
    model(**batch).loss.backward()
    model.zero_grad()
    return time.perf_counter() - begin


def compared() -> dict[str, Any]:
    """Share of padding, and mean seconds a step, of batches in random order and of batches of alike length."""
    with tempfile.TemporaryDirectory() as scratch:
        data = rows.write(Path(scratch), ROWS)
        kinds = {name: batches(data, grouped) for name, grouped in (("random", False), ("alike", True))}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for place in range(ROWS // BATCH):
        for name, (model, made) in kinds.items():
            times[name].append(seconds(model, made[place]))
    result: dict[str, Any] = {}
    for name, (_, made) in kinds.items():
        masks = [batch["attention_mask"] for batch in made]
        real, computed = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
        result[name] = {"padding": 1 - real / computed, "seconds": statistics.fmean(times[name][1:])}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.write_text(json.dumps(compared(), indent=2) + "\n")


if __name__ == "__main__":
    main()
