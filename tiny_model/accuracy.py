"""What pruning does to accuracy: `python -m tiny_model.accuracy --out accuracy.json`.

Every way of choosing blocks is measured on the same held-out images, with the trained checkpoint as it is, and after
fine-tuning and self-distillation on pruned inputs by the command `pixelprune train`. About five minutes on one CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

import pixelprune
import pixelprune.transformers
from pixelprune import PruneConfig, baselines
from pixelprune.bench._tables import Table, measured_on, numbers, texts
from pixelprune.bench._timing import machine, median_seconds
from tiny_model import rows
from tiny_model.evaluate import FOLDER, Score, chat_inputs, load, score
from tiny_model.tasks import TASKS, Sample, held_out

log = logging.getLogger("tiny_model")

# What fine-tuning and distillation see; the same rows, order and number of steps for both.
ROWS, STEPS, BATCH, RATE = 3200, 200, 16, 3e-4
Chooser = Callable[[Any], pixelprune.Selection]

SELECTED: dict[str, Chooser | None] = {
    "all tokens": None,
    "pred2d, τ = 0": pixelprune.select,
    "pred2d, τ = 4/255": partial(pixelprune.select, config=PruneConfig(threshold=4 / 255)),
    "pred2d, τ = 0.1": partial(pixelprune.select, config=PruneConfig(threshold=0.1)),
    "raster, τ = 0": partial(pixelprune.select, config=PruneConfig(predictor="raster")),
    "random, as many as pred2d": baselines.random,
    "components, as many as pred2d": baselines.components,
}


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Interval of a share by Wilson (1927), which stays within [0, 1] near its ends.

    >>> [round(end, 3) for end in wilson(990, 1000)]
    [0.982, 0.995]
    """
    share, weight = right / count, z * z / count
    middle = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count)) / (1 + weight)
    return middle - half, middle + half


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> tuple[int, int, float]:
    """How many samples turned right, how many wrong, and the p value of so unequal a split, exact and two-sided.

    Under the hypothesis that nothing changed, a sample that turned is as likely to have turned either way
    (McNemar, 1947); samples that are right both times, or wrong, say nothing.

    >>> mcnemar([True] * 8 + [False] * 2, [False] * 8 + [True] * 2)
    (2, 8, 0.109375)
    """
    won = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    turned = won + lost
    tail = sum(math.comb(turned, k) for k in range(min(won, lost) + 1))
    return won, lost, min(1.0, 2 * tail / 2**turned)


def together(*differences: Sequence[int]) -> tuple[int, int, float]:
    """As `mcnemar`, for several pairs of models that answer the same samples.

    What the pairs say about one sample is not independent, so a sample counts as a whole: under the hypothesis that
    nothing changed, the sum of its differences is as likely to have had the other sign. With one pair, this is
    McNemar's test.

    Args:
        differences: of each pair, per sample: 1 where it turned right, -1 where it turned wrong, otherwise 0.

    >>> together([1, 1, 1, 1, 1, 0]), together([1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 1])
    ((5, 0, 0.0625), (10, 0, 0.03125))
    """
    sums = [sum(of_sample) for of_sample in zip(*differences, strict=True)]
    ways = Counter({0: 1})  # by total: in how many ways signs can make it
    for size in filter(None, map(abs, sums)):
        before, ways = ways, Counter()
        for total, count in before.items():
            ways[total + size] += count
            ways[total - size] += count
    as_far = sum(count for total, count in ways.items() if abs(total) >= abs(sum(sums)))
    won, lost = (sum(turned.count(sign) for turned in differences) for sign in (1, -1))
    return won, lost, as_far / ways.total()


def split(won: int, lost: int, p: float) -> str:
    """What `mcnemar` gives, as a cell of a table.

    >>> split(3, 29, 2.6e-6), split(0, 0, 1.0)
    ('+3 −29, p = 3e-06', '+0 −0')
    """
    said = f"+{won} −{lost}"
    if not won + lost:
        return said
    return f"{said}, p = {p:.2f}" if p >= 0.005 else f"{said}, p = {p:.0e}"


def inputs_for(processor: Any, samples: Sequence[Sample], choose: Chooser | None) -> dict[str, Tensor]:
    """Inputs of an enabled model in which each image has the blocks and copies that `choose` chooses; left padding."""
    inputs = chat_inputs(processor, samples, pixelprune=False)
    if choose is None:
        return dict(inputs)
    selections = [choose(sample.image) for sample in samples]
    keep, tokens = (
        torch.from_numpy(np.concatenate(parts))
        for parts in zip(*((one.keep.ravel(), one.token_map.ravel()) for one in selections), strict=True)
    )
    ids, stays = inputs["input_ids"], inputs["attention_mask"].bool()
    stays[ids == processor.image_token_id] = tokens >= 0
    names = ("input_ids", "attention_mask", "mm_token_type_ids")
    pad = {"input_ids": processor.tokenizer.pad_token_id}
    lines = {name: [line[mask] for line, mask in zip(inputs[name], stays, strict=True)] for name in names}
    patches = inputs["pixel_values"].unflatten(0, (len(keep), -1))
    return {
        **{
            name: pad_sequence(lines[name], True, pad.get(name, 0), padding_side="left")  # (batch, S)
            for name in names
        },
        "pixel_values": patches[keep].flatten(0, 1),
        "image_grid_thw": inputs["image_grid_thw"],
        "image_map": tokens,
    }


def measure(model: Any, processor: Any, samples: Sequence[Sample], choose: Chooser | None) -> Score:
    """Accuracy of an enabled model on samples of one task."""
    return score(model, processor, samples, make=partial(inputs_for, choose=choose))


def as_json(cell: Score) -> dict[str, Any]:
    """What a table needs to know of a score."""
    share = {"right": cell.right, "count": cell.count, "retained": cell.retained}
    return {**share, "interval": wilson(cell.right, cell.count)}


def accuracies(folder: Path, count: int, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Accuracy of a checkpoint by way of choosing and task."""
    model, processor = pixelprune.transformers.enable(*load(folder))
    result: dict[str, dict[str, Any]] = {}
    for name in names:
        for task in TASKS:
            cell = measure(model, processor, held_out(task, count), SELECTED[name])
            log.info("%s, %s: %d of %d right, %.3f retained", name, task, cell.right, cell.count, cell.retained)
            result.setdefault(name, {})[task] = as_json(cell)
    return result


def trained(method: str, data: Path, folder: Path, *more: str) -> Path:
    """Fine-tune or distill the checkpoint by the command that users have, with `more` of its options."""
    options = {
        "model": FOLDER,
        "data": data,
        "output_dir": folder,
        "max_steps": STEPS,
        "per_device_train_batch_size": BATCH,
        "learning_rate": RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 20,
        "gradient_checkpointing": "false",
        "save_strategy": "no",
        "logging_steps": 50,
        "disable_tqdm": "true",
    }
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    subprocess.run([sys.executable, "-m", "pixelprune", "train", method, *words, *more], check=True)
    return folder


def seconds_per_step(count: int = 12) -> dict[str, float]:
    """Median seconds of forward and backward; batches of all tokens and of kept ones take turns."""
    model, processor = pixelprune.transformers.enable(*load(FOLDER))
    model.train()
    pairs = zip(*(held_out(task, count * BATCH // 2) for task in TASKS), strict=True)
    samples = [sample for pair in pairs for sample in pair]
    parts = [samples[start : start + BATCH] for start in range(0, len(samples), BATCH)]

    def steps(choose: Chooser | None) -> Callable[[], None]:
        batches = iter([inputs_for(processor, part, choose) for part in parts])

        def step() -> None:
            inputs = next(batches)
            labels = inputs["input_ids"].clone()
            labels[:, :-4] = -100
            model(**inputs, labels=labels).loss.backward()
            model.zero_grad()

        return step

    return median_seconds({"all tokens": steps(None), "kept tokens": steps(pixelprune.select)}, count - 1)


def percent(cell: Mapping[str, Any]) -> str:
    """A share of right answers, with its interval, as a cell of a table."""
    low, high = (100 * end for end in cell["interval"])
    return f"{100 * cell['right'] / cell['count']:.1f} % ({low:.1f}–{high:.1f})"


def table(result: Mapping[str, Any]) -> Table:
    """The table of the JSON that `main` writes."""
    lines = []
    for model, ways in result["models"].items():
        for way, tasks in ways.items():
            cells: list[str] = []
            for cell in (tasks[task] for task in ("read", "find")):
                cells += [percent(cell), f"{cell['retained']:.2f}"]
            lines.append((model, way, *cells))
    columns = texts("model", "visual tokens") + numbers("reading", "retained", "finding", "retained")
    return Table("Accuracy", columns, tuple(lines), (_note(result),))


def _note(result: Mapping[str, Any]) -> str:
    count = result["models"]["as trained"]["all tokens"]["read"]["count"]
    full, kept = (result["seconds per step"][name] for name in ("all tokens", "kept tokens"))
    return measured_on(
        result["machine"],
        f"{count:,} held-out images per task. Forward and backward of {result['batch']} images: {full:.2f} s with all "
        f"tokens, {kept:.2f} s with those kept at τ = 0, {full / kept:.2f} × faster (medians, one thread)",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--count", type=int, default=1000, help="held-out images of each task")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    models = {"as trained": accuracies(FOLDER, options.count, list(SELECTED))}
    both = ["all tokens", "pred2d, τ = 0"]
    with tempfile.TemporaryDirectory() as scratch:
        data = rows.write(Path(scratch) / "data", ROWS)
        for method, name in (("sft", "fine-tuned on pruned inputs"), ("distill", "self-distilled")):
            models[name] = accuracies(trained(method, data, Path(scratch) / method), options.count, both)
    about = {"batch": BATCH, "machine": machine("torch", "transformers")}
    result = {"models": models, "seconds per step": seconds_per_step(), **about}
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
