"""Training data as files: `python -m tiny_model.rows --out FOLDER --count 2000` draws images and writes `rows.jsonl`.

Half of the images are pages, half are screens; each row asks one question, in the form that ShareGPT made common.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from PIL import Image

from tiny_model.tasks import TASKS, sample


def write(folder: Path, count: int, seed: int = 1) -> Path:
    """Draw `count` images into `folder`; return the file of rows.

    The stream of random numbers is neither that of the held-out samples nor that of the training from scratch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = Random(f"rows {seed}")
    lines = []
    for number in range(count):
        drawn = sample(rng, TASKS[number % 2])
        name = f"{number:05}.png"
        Image.fromarray(drawn.image).save(folder / name)
        said = [{"from": "human", "value": f"<image>\n{drawn.question}"}, {"from": "gpt", "value": drawn.answer}]
        lines.append(json.dumps({"conversations": said, "images": [name]}) + "\n")
    path = folder / "rows.jsonl"
    path.write_text("".join(lines))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--out", required=True, type=Path, help="folder for images and rows.jsonl")
    parser.add_argument("--count", type=int, default=2000, help="rows")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    write(options.out, options.count, options.seed)


if __name__ == "__main__":
    main()
