"""Rows to batches: TRL's collator, with images opened here, and a second batch for a teacher."""

from __future__ import annotations

import dataclasses
import io
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from pixelprune.images.files import load_image
from pixelprune.images.modes import to_rgb
from pixelprune.plan.token_map import IMAGE_MAP
from pixelprune.selection.config import PruneConfig
from pixelprune.training.draws import ROW_THRESHOLD
from pixelprune.transformers import keeping_all
from pixelprune.transformers.processing import configured, pruning_each

IGNORED = -100


class RowError(ValueError):
    """A row that cannot be trained on; the text says which and why."""


class Collator:
    """Make a batch of rows as TRL does, and refuse rows that would be trained on wrongly.

    Images may be paths, dicts of bytes as data sets hold them, or Pillow images. Visual tokens are never
    labels. Rows with a `pixelprune_threshold` are pruned at that τ, or not at all if it is None. For a teacher, the
    batch holds a second one under ``teacher``: the same rows with every block, and with labels at the same answer
    tokens.

    Args:
        stock: TRL's collator, with an enabled processor.
        teacher: whether there is a teacher.

    Raises:
        RowError: (a ValueError, on calling) an image is missing or broken, images and placeholders
            do not match, or the answer has been cut off.

    Example (`processor` enabled):

        collator = Collator(DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True))
        collator([{"prompt": …, "completion": …, "images": ["page.png"]}])["image_map"]
    """

    def __init__(self, stock: DataCollatorForVisionLanguageModeling, teacher: bool = False) -> None:
        self.stock = stock
        # Never truncated: its answers must be as long as those of the student.
        self.of_teacher = dataclasses.replace(stock, max_length=None) if teacher else None
        self.image_token: int = stock.processor.image_token_id

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        opened = [opened_row(example) for example in examples]
        with self._pruning(examples, opened):
            batch = self._batch(self.stock, opened)
        self._check(batch, examples)
        if self.of_teacher is not None:
            with keeping_all(self.of_teacher.processor):
                batch["teacher"] = self._batch(self.of_teacher, opened)
        return batch

    def _pruning(self, rows: list[dict[str, Any]], opened: list[dict[str, Any]]) -> AbstractContextManager[None]:
        """What prunes the images of each row as was drawn for it."""
        if ROW_THRESHOLD not in rows[0]:
            return nullcontext()
        base = configured(self.stock.processor)
        configs: list[PruneConfig | None] = []
        for row, images in zip(rows, (one["images"] for one in opened), strict=True):
            threshold = row[ROW_THRESHOLD]
            config = None if threshold is None else dataclasses.replace(base, threshold=threshold)
            configs += [config] * len(images)
        return pruning_each(self.stock.processor, configs)

    def _batch(self, stock: DataCollatorForVisionLanguageModeling, rows: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL changes the rows that it is given.
        batch = dict(stock([dict(row) for row in rows]))
        batch["labels"] = batch["labels"].masked_fill(batch["input_ids"] == self.image_token, IGNORED)
        return batch

    def _check(self, batch: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        # For a batch only the sum over all images is known; single rows are checked before training.
        found = int((batch["input_ids"] == self.image_token).sum())
        expected = int((batch[IMAGE_MAP] >= 0).sum()) if IMAGE_MAP in batch else 0
        if found != expected:
            named = row_label(rows[0]) if len(rows) == 1 else f"{row_label(rows[0])} to {row_label(rows[-1])}"
            raise RowError(
                f"{named}: the prompt holds {found} visual tokens for {expected} that its images have; "
                "write one placeholder per image, and set no max_length that cuts images"
            )
        answers = (batch["labels"][:, 1:] != IGNORED).sum(1)
        for row, count in zip(rows, answers.tolist(), strict=True):
            if not count:
                raise RowError(
                    f"{row_label(row)}: no token of an answer is left in {batch['labels'].shape[1]} tokens; "
                    "raise max_length (or leave it out), or check that the row has an answer"
                )


def row_label(row: dict[str, Any]) -> str:
    """The name of a row in messages."""
    return f"row {row['row']}" if "row" in row else "a row"


def opened_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row with Pillow images, and contents without empty entries.

    Raises:
        RowError: an image is missing or broken.
    """
    result = {key: value for key, value in row.items() if key in ("prompt", "completion", "messages", "text")}
    images = [row["image"]] if "image" in row else row.get("images") or []
    result["images"] = [_opened(image, row) for image in images]
    for key in ("prompt", "completion", "messages"):
        if isinstance(result.get(key), list):
            result[key] = [_without_nones(message) for message in result[key]]
    return result


def _without_nones(message: dict[str, Any]) -> dict[str, Any]:
    """Tables give every key to every part; templates and TRL test which keys exist."""
    message = {key: value for key, value in message.items() if value is not None}
    if isinstance(message.get("content"), list):
        message["content"] = [{k: v for k, v in part.items() if v is not None} for part in message["content"]]
    return message


def _opened(image: Any, row: dict[str, Any]) -> PIL.Image.Image:
    try:
        if isinstance(image, dict):
            if image.get("bytes") is None:
                image = image.get("path") or ""
            else:
                return PIL.Image.fromarray(to_rgb(PIL.Image.open(io.BytesIO(image["bytes"]))))
        if isinstance(image, PIL.Image.Image):
            return PIL.Image.fromarray(to_rgb(image))
        if isinstance(image, np.ndarray):
            return PIL.Image.fromarray(image)
        return PIL.Image.fromarray(load_image(image))
    except Exception as error:  # decoders raise nearly anything on damaged data
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RowError(f"{row_label(row)}: {reason}") from None


def answer_labels(labels: Tensor) -> list[Tensor]:
    """Labels of each row of (batch, S) in order, without ignored ones; the first token is never predicted."""
    return [row[row != IGNORED] for row in labels[:, 1:]]


def check_aligned(student: Tensor, teacher: Tensor) -> None:
    """Raise a ValueError unless both batches of labels hold the same answers, row by row."""
    if len(student) != len(teacher):
        raise ValueError(f"teacher has {len(teacher)} rows of labels, student {len(student)}")
    for place, (mine, its) in enumerate(zip(answer_labels(student), answer_labels(teacher), strict=True)):
        if not torch.equal(mine, its):
            raise ValueError(
                f"answers of student and teacher differ in row {place} of a batch ({len(mine)} and {len(its)} tokens): "
                "their tokens cannot be aligned; use one processor for both, and no max_length that cuts answers"
            )
