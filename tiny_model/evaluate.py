"""Accuracy of a checkpoint on held-out images: `python -m tiny_model.evaluate [FOLDER] [--pruned]`.

Everything here is what a user would write: the stock processor's chat template, `generate`, and the words compared.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import pixelprune
import pixelprune.transformers
from tiny_model.tasks import TASKS, Sample, held_out

log = logging.getLogger("tiny_model")

FOLDER = Path(__file__).parent / "checkpoint"


@dataclass(frozen=True)
class Score:
    """What came out on one set of samples of one task."""

    hits: tuple[bool, ...]  # for each sample, whether its answer is right word for word
    retained: float  # share of the blocks that the encoder computed
    clicked: int | None = None  # answers that name a square on the button; None for "read"

    @property
    def right(self) -> int:
        return sum(self.hits)

    @property
    def count(self) -> int:
        return len(self.hits)

    def __str__(self) -> str:
        click = "" if self.clicked is None else f", click {self.clicked / self.count:.3f}"
        return f"exact {self.right / self.count:.3f}{click} (N = {self.count}, retained {self.retained:.3f})"


def prompt(sample: Sample) -> list[dict[str, Any]]:
    """The one question of a sample as a chat."""
    image = {"type": "image", "image": Image.fromarray(sample.image)}
    return [{"role": "user", "content": [image, {"type": "text", "text": sample.question}]}]


def chat_inputs(processor: Any, samples: Sequence[Sample], **image_options: Any) -> Any:
    """What the processor makes of the samples' questions; left padding."""
    return processor.apply_chat_template(
        [prompt(sample) for sample in samples],
        tokenize=True,
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left", "images_kwargs": image_options},
    )


@torch.inference_mode()
def answers(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    batch: int = 50,
    one_axis: bool = False,
    make: Callable[[Any, Sequence[Sample]], Any] = chat_inputs,
) -> tuple[list[str], float]:
    """Greedy answers to the samples' questions, and the share of visual tokens that was retained.

    `one_axis` gives the language model wrong positions on purpose, tokens numbered one after the other: a model that
    does not mind cannot tell right from wrong positions. `make` makes the inputs.
    """
    said: list[str] = []
    kept, total = 0, 0
    merge = processor.image_processor.merge_size**2
    for start in range(0, len(samples), batch):
        inputs = make(processor, samples[start : start + batch])
        kept += len(inputs["pixel_values"]) // merge
        total += int(inputs["image_grid_thw"].prod(-1).sum()) // merge
        if one_axis:
            mask = inputs["attention_mask"]
            inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0).expand(4, *mask.shape)
        out = model.generate(**inputs, max_new_tokens=4)[:, inputs["input_ids"].shape[1] :]
        said += processor.batch_decode(out, skip_special_tokens=True)
    return said, kept / total


def score(model: Any, processor: Any, samples: Sequence[Sample], **options: Any) -> Score:
    """Accuracy on samples of one task; options are those of `answers`."""
    said, retained = answers(model, processor, samples, **options)
    pairs = list(zip(samples, said, strict=True))
    clicked = sum(sample.clicks(words) for sample, words in pairs) if samples[0].task == "find" else None
    return Score(tuple(sample.answer == words for sample, words in pairs), retained, clicked)


def load(folder: str | Path) -> tuple[Any, Any]:
    """Model and processor of a checkpoint, by stock classes."""
    model: Any = AutoModelForImageTextToText
    processor: Any = AutoProcessor
    return model.from_pretrained(folder).eval(), processor.from_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("folder", nargs="?", default=FOLDER, type=Path, help="default: the one in this package")
    parser.add_argument("--pruned", action="store_true", help="also with blocks pruned at threshold 0, untrained")
    parser.add_argument("--count", type=int, default=500, help="samples of each task")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    model, processor = load(options.folder)
    for pruned in (False, True) if options.pruned else (False,):
        if pruned:
            pixelprune.transformers.enable(model, processor)
        for task in TASKS:
            samples = held_out(task, options.count)
            for one_axis in (False, True):
                how = ("pruned" if pruned else "full") + (", one axis" if one_axis else "")
                log.info("%s (%s): %s", task, how, score(model, processor, samples, one_axis=one_axis))


if __name__ == "__main__":
    main()
