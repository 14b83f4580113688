"""What fine-tuning forgets, and whether unpruned rows keep it: `python -m tiny_model.mixed --out mixed.json`.

Four recipes of `pixelprune train` with as many steps and three seeds each; each seed draws other rows. All models
answer the same held-out images, so they are compared image by image. About half an hour on one CPU. With `--folder`, a
stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import pixelprune
import pixelprune.transformers
from pixelprune.bench._tables import Table, measured_on, numbers, texts
from pixelprune.bench._timing import machine
from tiny_model import rows
from tiny_model.accuracy import ROWS, STEPS, measure, split, together, trained
from tiny_model.evaluate import FOLDER, load
from tiny_model.tasks import Sample, Task, held_out, held_out_sparse

log = logging.getLogger("tiny_model")

SEEDS = (1, 2, 3)
ORIGINAL = "as trained"
# By name: the method, and its options.
RECIPES: dict[str, tuple[str, ...]] = {
    "plain": ("sft",),
    "control": ("sft", "--unpruned-share", "1"),
    "mixed": ("sft", "--unpruned-share", "0.3", "--thresholds", "0", "0.004", "0.016", "0.03", "0.1"),
    "distilled": ("distill",),
}
# By the name of the set: how many images of each task, and which.
SETS: dict[str, tuple[int, Callable[[Task, int], list[Sample]]]] = {
    "standard": (2000, held_out),
    "sparse": (1000, held_out_sparse),
}
TASKS: dict[Task, str] = {"read": "reading", "find": "finding"}
WAYS = {"all": None, "τ = 0": pixelprune.select}
# All that is measured, and what recipes are compared in.
CASES = [f"{name}, {said}, {way}" for name in SETS for said in TASKS.values() for way in WAYS]
TOLD = ["standard, reading, all", "standard, reading, τ = 0", "standard, finding, τ = 0", "sparse, finding, τ = 0"]
PAIRS = [
    (ORIGINAL, "plain"),
    (ORIGINAL, "control"),
    (ORIGINAL, "mixed"),
    (ORIGINAL, "distilled"),
    ("plain", "control"),
    ("plain", "mixed"),
    ("plain", "distilled"),
    ("control", "mixed"),
]


def hits(checkpoint: Path) -> dict[str, str]:
    """By case, a digit per image: 1 where the checkpoint answers right."""
    model, processor = pixelprune.transformers.enable(*load(checkpoint))
    result = {}
    for name, (count, images) in SETS.items():
        for task, said in TASKS.items():
            samples = images(task, count)
            for way, choose in WAYS.items():
                cell = measure(model, processor, samples, choose)
                result[f"{name}, {said}, {way}"] = "".join(str(int(hit)) for hit in cell.hits)
    return result


def measured(folder: Path, recipes: Sequence[str]) -> dict[str, dict[str, str]]:
    """`hits` of each model; models and hits that are in `folder` are not made again."""
    models: list[tuple[str, str, int]] = [(ORIGINAL, "", 0)]
    models += [(f"{recipe} {seed}", recipe, seed) for seed in SEEDS for recipe in recipes]
    result = {}
    for name, recipe, seed in models:
        path = folder / f"{name}.json"
        if not path.exists():
            checkpoint = _checkpoint(folder, recipe, seed) if recipe else FOLDER
            path.write_text(json.dumps(hits(checkpoint)) + "\n")
        result[name] = json.loads(path.read_text())
        log.info("%s: %s", name, {case: f"{said.count('1')}/{len(said)}" for case, said in result[name].items()})
    return result


def _checkpoint(folder: Path, recipe: str, seed: int) -> Path:
    checkpoint, data = folder / f"{recipe} {seed}", folder / f"rows {seed}" / "rows.jsonl"
    if not data.exists():
        rows.write(data.parent, ROWS, seed)
    if not (checkpoint / "model.safetensors").exists():
        method, *options = RECIPES[recipe]
        trained(method, data, checkpoint, "--seed", str(seed), *options)
    return checkpoint


def table(result: Mapping[str, Any]) -> tuple[Table, Table]:
    """Right answers of each model; and how many images turned right and wrong from one recipe to another."""
    models: Mapping[str, Mapping[str, str]] = result["models"]
    right = []
    for name in [ORIGINAL, *(f"{recipe} {seed}" for recipe in RECIPES for seed in SEEDS)]:
        shares = (f"{100 * said.count('1') / len(said):.2f}" for said in (models[name][case] for case in CASES))
        right.append((name, *shares))
    about = f"{STEPS} steps; {', '.join(f'{count:,} {name}' for name, (count, _) in SETS.items())} images per task"
    note = measured_on(result["machine"], about)
    answers = Table("Right answers in percent", texts("model") + numbers(*CASES), tuple(right))
    turned = tuple(_turned(models, *pair, case) for pair in PAIRS for case in TOLD)
    columns = texts("from", "to", "images") + numbers(*(f"seed {seed}" for seed in SEEDS), "together")
    return answers, Table("Turned right and wrong", columns, turned, (note,))


def _turned(models: Mapping[str, Mapping[str, str]], before: str, after: str, case: str) -> tuple[str, ...]:
    differences = []
    for seed in SEEDS:
        first = models[before if before == ORIGINAL else f"{before} {seed}"][case]
        last = models[f"{after} {seed}"][case]
        differences.append([int(b) - int(a) for a, b in zip(first, last, strict=True)])
    cells = [split(*together(*some)) for some in (*([one] for one in differences), differences)]
    return before, after, case, *cells


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--out", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--folder", type=Path, help="where to keep rows, models and answers; default: nowhere")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        models = measured(folder, options.recipes)
    result = {"models": models, "machine": machine("torch", "transformers")}
    options.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
