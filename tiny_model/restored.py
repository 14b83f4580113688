"""What copies after the encoder win back: `python -m tiny_model.restored --out restored.json`.

The checkpoint as trained, with several options of pruning, on the standard images and on sparse ones. All variants see
the same images, so each is compared with all tokens image by image. About four minutes on one CPU.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import pixelprune
import pixelprune.transformers
from pixelprune import PruneConfig, Selection
from pixelprune.bench._tables import Table, measured_on, numbers, texts
from pixelprune.bench._timing import machine
from tiny_model.accuracy import Chooser, as_json, mcnemar, measure, percent, split
from tiny_model.evaluate import FOLDER, load
from tiny_model.tasks import Sample, Task, held_out, held_out_sparse

log = logging.getLogger("tiny_model")

ALL = "all tokens"
AT_RANDOM = "as many encoded at random as "
VARIANTS = (
    ALL,
    "restore=0",
    "restore=0.25",
    AT_RANDOM + "restore=0.25",
    "restore=0.5",
    "restore=1",
    "min_tokens=24",
    "min_tokens=40",
)
SETS: dict[str, Callable[[Task, int], list[Sample]]] = {"standard": held_out, "sparse": held_out_sparse}
TASKS: tuple[Task, Task] = ("find", "read")


def chooser(variant: str) -> Chooser | None:
    """What chooses the blocks and copies of one image; None for all tokens.

    >>> page = np.full((64, 256, 3), 255, np.uint8)
    >>> chooser("restore=0.5, min_tokens=3")(page)
    <Selection: 1 of 16 blocks kept, 8 copies, grid (2, 8), threshold 0>
    >>> chooser("as many encoded at random as restore=0.5")(page)
    <Selection: 9 of 16 blocks kept, grid (2, 8), threshold 0>
    """
    if variant == ALL:
        return None
    options = (option.split("=") for option in variant.removeprefix(AT_RANDOM).split(", "))
    config = PruneConfig.from_dict({name: json.loads(value) for name, value in options})
    choose = encoded_at_random if variant.startswith(AT_RANDOM) else pixelprune.select
    return partial(choose, config=config)


def encoded_at_random(image: Any, config: PruneConfig) -> Selection:
    """The kept blocks, and in place of each copy that `config` adds a dropped block at random, which is encoded."""
    selection = pixelprune.select(image, config)
    keep = selection.keep.ravel().copy()
    dropped = np.flatnonzero(~keep)
    keep[np.random.default_rng(0).permutation(dropped)[: selection.copies]] = True
    source = np.where(keep, np.arange(keep.size, dtype=np.int32), selection.source.ravel())
    return replace(selection, keep=keep.reshape(selection.grid), source=source.reshape(selection.grid), copies=0)


def compared(count: int) -> dict[str, dict[str, dict[str, Any]]]:
    """By set and variant, and by task, what a table shows."""
    model, processor = pixelprune.transformers.enable(*load(FOLDER))
    result: dict[str, dict[str, dict[str, Any]]] = {}
    for name, images in SETS.items():
        for task in TASKS:
            samples = images(task, count)
            before: tuple[bool, ...] | None = None
            for variant in VARIANTS:
                choose = chooser(variant)
                cell = measure(model, processor, samples, choose)
                before = before or cell.hits  # all tokens come first
                won, lost, p = mcnemar(before, cell.hits)
                of_all = {"tokens": tokens(samples, choose), "won": won, "lost": lost, "p": p}
                log.info("%s, %s, %s: %s, +%d -%d", name, task, variant, cell, won, lost)
                result.setdefault(name, {}).setdefault(variant, {})[task] = {**as_json(cell), **of_all}
    return result


def tokens(samples: list[Sample], choose: Chooser | None) -> float:
    """Share of the visual tokens that the language model gets."""
    if choose is None:
        return 1.0
    selections = [choose(sample.image) for sample in samples]
    return sum(one.tokens for one in selections) / sum(one.total for one in selections)


def table(result: Mapping[str, Any]) -> Table:
    """The table of the JSON that `main` writes."""
    lines = []
    for name, variants in result["sets"].items():
        for variant, by_task in variants.items():
            cells: list[str] = []
            for task in TASKS:
                cell = by_task[task]
                against = "" if variant == ALL else split(cell["won"], cell["lost"], cell["p"])
                cells += [f"{cell['retained']:.2f} / {cell['tokens']:.2f}", percent(cell), against]
            lines.append((name, variant, *cells))
    each = ("encoder / language model", "right", "against all tokens")
    headings = [f"{said}{part}" for said in ("finding: ", "reading: ") for part in each]
    columns = texts("images", "visual tokens") + numbers(*headings)
    count = next(iter(result["sets"].values()))[ALL]["find"]["count"]
    note = measured_on(result["machine"], f"{count:,} held-out images of each kind per task; one thread")
    return Table("Copies after the encoder", columns, tuple(lines), (note,))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--count", type=int, default=1000, help="held-out images of each kind and task")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    result = {"sets": compared(options.count), "machine": machine("torch", "transformers")}
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
