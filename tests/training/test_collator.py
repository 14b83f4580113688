"""Batches: labels at answers only, rows of several images and turns, and a second batch for a teacher."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelprune.training import load_rows
from pixelprune.training.collator import RowError, answer_labels, opened_row
from pixelprune.transformers import kept
from tests.support.training import distilled, first_batch, sft
from tiny_model.checkpoint import WORD_IDS


def ids(text: str) -> list[int]:
    return [WORD_IDS[word] for word in text.split()]


def rows_of(folder: Path, pages: Path, *rows: tuple[list[str], list[str]]) -> Any:
    """Rows of turns, a question and an answer by turns, and images."""
    lines = []
    for turns, images in rows:
        said = [{"from": ("human", "gpt")[i % 2], "value": turn} for i, turn in enumerate(turns)]
        lines.append(json.dumps({"conversations": said, "images": images}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return load_rows(str(folder / "rows.jsonl"), str(pages))


def test_labels_are_the_answer_alone(pair: Any, pages: Path, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, pages, (["<image>read K", "4 7"], ["0.png"]), (["<image>find A", "x1 y2"], ["1.png"]))
    batch = first_batch(sft(pair, rows, tmp_path))
    said = sorted(label.tolist() for label in answer_labels(batch["labels"]))
    # The new line that ends a turn has no token here.
    assert said == sorted([ids("4 7 <|im_end|>"), ids("x1 y2 <|im_end|>")])
    counts = (batch["input_ids"] == pair[1].image_token_id).sum(1).tolist()
    assert counts == [one.kept for one in kept(batch)]
    assert batch["labels"].shape == batch["input_ids"].shape


def test_several_turns_and_images(pair: Any, pages: Path, tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        pages,
        (["<image>read K", "4 7", "read B <image>", "1 2"], ["0.png", "2.png"]),
        (["<image>find A", "x1 y2"], ["1.png"]),
    )
    batch = first_batch(sft(pair, rows, tmp_path, assistant_only_loss=True))
    said = sorted((label.tolist() for label in answer_labels(batch["labels"])), key=len)
    assert said == [ids("x1 y2 <|im_end|>"), ids("4 7 <|im_end|> 1 2 <|im_end|>")]
    assert len(kept(batch)) == 3


def test_rows_without_images_beside_rows_with(pair: Any, pages: Path, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, pages, (["<image>read K", "4 7"], ["0.png"]), (["read B", "1 2"], []))
    batch = first_batch(sft(pair, rows, tmp_path))
    assert len(kept(batch)) == 1
    assert sorted(map(len, answer_labels(batch["labels"]))) == [3, 3]


@pytest.mark.parametrize("only_answers", [True, False])
def test_visual_tokens_are_never_labels(only_answers: bool, pair: Any, pages: Path, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, pages, (["<image>read K", "4 7", "read B", "1 2"], ["0.png"]))
    batch = first_batch(sft(pair, rows, tmp_path, assistant_only_loss=only_answers))
    (labels,) = answer_labels(batch["labels"])
    assert pair[1].image_token_id not in labels
    assert set(ids("user read K")) <= set(labels.tolist()) or only_answers


def test_batch_of_a_teacher(pair: Any, pages: Path, tmp_path: Path) -> None:
    rows = rows_of(tmp_path, pages, (["<image>read K", "4 7"], ["0.png"]), (["<image>find A", "x1 y2"], ["1.png"]))
    batch = first_batch(distilled(pair, rows, tmp_path))
    whole = batch["teacher"]
    assert bool((whole["image_map"] >= 0).all())
    assert torch.equal(whole["image_grid_thw"], batch["image_grid_thw"])
    assert len(batch["pixel_values"]) < len(whole["pixel_values"]) == 4 * len(whole["image_map"])
    patches = whole["pixel_values"].unflatten(0, (-1, 4))[batch["image_map"] >= 0].flatten(0, 1)
    assert torch.equal(patches, batch["pixel_values"])
    for mine, its in zip(answer_labels(batch["labels"]), answer_labels(whole["labels"]), strict=True):
        assert torch.equal(mine, its)


def test_images_of_all_kinds(pages: Path) -> None:
    path = pages / "0.png"
    pixels = np.asarray(Image.open(path).convert("RGB"))
    grey = io.BytesIO()
    Image.fromarray(pixels).convert("L").save(grey, "PNG")
    given = [str(path), {"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)}]
    given += [Image.open(path), pixels]
    for image in opened_row({"images": given})["images"]:
        assert np.array_equal(np.asarray(image), pixels)
    assert opened_row({"image": {"bytes": grey.getvalue()}})["images"][0].mode == "RGB"


@pytest.mark.parametrize("image", ["none.png", {"bytes": b"no image"}, {"bytes": None, "path": None}, 3])
def test_images_that_cannot_be_opened(image: Any) -> None:
    with pytest.raises(RowError, match=r"^row 7: ."):
        opened_row({"image": image, "row": 7})
