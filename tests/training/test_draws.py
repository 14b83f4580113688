"""Rows that are not pruned, and rows that are pruned at a τ drawn for each: what the collator makes of them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import pixelprune
from pixelprune import PruneConfig
from pixelprune.training import SFTConfig, load_rows
from pixelprune.training.draws import ROW_THRESHOLD, drawn_thresholds
from pixelprune.transformers import enable, kept
from tests.support.training import distilled, fresh, sft

COARSE = 0.1  # at which noise is dropped, too


@pytest.fixture
def rows(pages: Path) -> Any:
    return load_rows(str(pages / "rows.jsonl"))


def pixels(row: Any) -> Any:
    return np.asarray(Image.open(row["images"][0]).convert("RGB"))


def kept_of(trainer: Any, row: Any) -> int:
    (image,) = kept(trainer.data_collator([row]))
    return image.kept


def test_share_of_the_rows(pair: Any, rows: Any, tmp_path: Path) -> None:
    """Each row is either whole or what `select` keeps of it, and about as many are whole as the option says."""
    trainer = sft(pair, rows, tmp_path, unpruned_share=0.5)
    whole = 0
    for row in trainer.train_dataset:
        selection = pixelprune.select(pixels(row))
        found = kept_of(trainer, row)
        assert found == (selection.total if row[ROW_THRESHOLD] is None else selection.kept)
        whole += row[ROW_THRESHOLD] is None
    assert 6 <= whole <= 18  # of 24; 0.7 % of all seeds are outside


@pytest.mark.parametrize("share", [0, 1])
def test_none_and_all(share: float, pair: Any, rows: Any, tmp_path: Path) -> None:
    trainer = sft(pair, rows, tmp_path, unpruned_share=share)
    selections = [pixelprune.select(pixels(row)) for row in rows]
    expected = [one.total if share else one.kept for one in selections]
    assert [kept_of(trainer, row) for row in trainer.train_dataset] == expected
    assert sum(one.kept for one in selections) < 0.8 * sum(one.total for one in selections)
    assert (ROW_THRESHOLD in trainer.train_dataset.column_names) == bool(share)


def test_thresholds_of_the_rows(pair: Any, rows: Any, tmp_path: Path) -> None:
    """Counted against `select` with each τ; on rows with noise the two differ."""
    trainer = sft(pair, rows, tmp_path, thresholds=[0, COARSE])
    seen = Counter()
    for row in trainer.train_dataset:
        counts = {tau: pixelprune.select(pixels(row), PruneConfig(tau)).kept for tau in (0, COARSE)}
        found = kept_of(trainer, row)
        assert found == counts[row[ROW_THRESHOLD]]
        if counts[0] != counts[COARSE]:
            seen[found == counts[0]] += 1
    assert min(seen[True], seen[False]) >= 1, seen


def test_other_options_stay(pair: Any, rows: Any, tmp_path: Path) -> None:
    enable(*pair, restore=0.5, predictor="raster")
    trainer = sft(pair, rows, tmp_path, thresholds=[COARSE])
    for row in trainer.train_dataset.select(range(4)):
        config = PruneConfig(COARSE, predictor="raster", restore=0.5)
        (image,) = kept(trainer.data_collator([row]))
        assert image.tokens == pixelprune.select(pixels(row), config).tokens


def test_a_batch_is_its_rows(pair: Any, rows: Any, tmp_path: Path) -> None:
    """Rows of one image and of none, in one batch, are what each is alone."""
    trainer = sft(pair, rows, tmp_path, unpruned_share=0.4, thresholds=[0, COARSE])
    examples = list(trainer.train_dataset.select(range(8)))
    assert {row[ROW_THRESHOLD] for row in examples} == {None, 0, COARSE}
    examples[2] = {
        **examples[2],
        "images": [],
        "prompt": [{"role": "user", "content": [{"type": "text", "text": "A"}]}],
    }
    batch = trainer.data_collator(examples)
    alone = [trainer.data_collator([row]) for row in examples]
    for name in ("pixel_values", "image_map", "image_grid_thw"):
        parts = [one[name] for one in alone if name in one]
        assert len(parts) == 7
        assert torch.equal(batch[name], torch.cat(parts)), name


def test_images_of_one_row_are_pruned_alike(pair: Any, rows: Any, tmp_path: Path) -> None:
    trainer = sft(pair, rows, tmp_path)
    first, second, third = rows[0], rows[1], rows[2]
    said = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "read K"}]
    two = {**first, "prompt": [{"role": "user", "content": said}], "images": first["images"] + second["images"]}
    batch = trainer.data_collator([{**two, ROW_THRESHOLD: None}, {**third, ROW_THRESHOLD: 0.0}])
    one, other, last = kept(batch)
    assert (one.kept, other.kept) == (one.total, other.total)
    assert last.kept == pixelprune.select(pixels(third)).kept < last.total


def test_draws_are_those_of_seed_and_row(pair: Any, rows: Any, tmp_path: Path) -> None:
    """Another trainer with the same seed, as a resumed run makes it, and rows in another order or fewer of them."""
    options: dict[str, Any] = {"unpruned_share": 0.4, "thresholds": [0, 0.02, COARSE]}

    def drawn(some: Any, **more: Any) -> dict[int, float | None]:
        trainer = sft(fresh(pair), some, tmp_path, **options, **more)
        return {row["row"]: row[ROW_THRESHOLD] for row in trainer.train_dataset}

    first = drawn(rows)
    assert drawn(rows.select(range(23, -1, -1))) == first == drawn(rows, learning_rate=1e-2)
    assert drawn(rows.select([5, 3])) == {row: first[row] for row in (6, 4)}
    assert drawn(rows, seed=7) != first == drawn(rows, seed=7, data_seed=42)
    without = rows.remove_columns("row")
    trainer = sft(fresh(pair), without, tmp_path, **options)
    assert trainer.train_dataset[ROW_THRESHOLD][:] == list(first.values())


def test_steps_of_training_see_the_draws(pair: Any, rows: Any, tmp_path: Path) -> None:
    """The column reaches the collator, in the order of lengths that were measured with it, and the log."""
    trainer = sft(pair, rows, tmp_path, unpruned_share=1, max_steps=2, logging_steps=1)
    trainer.train()
    logged = [line for line in trainer.state.log_history if "retain_ratio" in line]
    assert [line["retain_ratio"] for line in logged] == [1, 1]
    totals = [pixelprune.select(pixels(row)).total for row in rows]
    assert np.argsort(trainer._lengths, kind="stable").tolist() == np.argsort(totals, kind="stable").tolist()


def test_rows_to_evaluate_on_are_pruned_as_enabled(pair: Any, rows: Any, tmp_path: Path) -> None:
    trainer = sft(pair, rows, tmp_path, eval_dataset=rows, unpruned_share=1)
    batch = next(iter(trainer.get_eval_dataloader()))
    assert sum(image.kept for image in kept(batch)) < sum(image.total for image in kept(batch))


def test_a_teacher_sees_every_block(pair: Any, rows: Any, tmp_path: Path) -> None:
    trainer = distilled(pair, rows, tmp_path, unpruned_share=0.5, thresholds=[COARSE])
    for row in trainer.train_dataset.select(range(6)):
        batch = trainer.data_collator([row])
        same = torch.equal(batch["image_map"], batch["teacher"]["image_map"])
        assert same == (row[ROW_THRESHOLD] is None)
        assert bool((batch["teacher"]["image_map"] >= 0).all())


def test_distribution() -> None:
    """Within 4.5 standard deviations, for a fixed seed."""
    thresholds, count = [0.0, 0.004, 0.016, 0.03, 0.1], 20_000
    drawn = Counter(drawn_thresholds(range(count), 0.3, thresholds, seed=11))
    for value, share in [(None, 0.3), *((threshold, 0.7 / 5) for threshold in thresholds)]:
        assert abs(drawn[value] - share * count) < 4.5 * (count * share * (1 - share)) ** 0.5, value
    assert drawn.total() == count


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"unpruned_share": 30}, "unpruned_share must be a number in [0, 1], got 30; divide percent by 100"),
        ({"unpruned_share": -0.1}, "unpruned_share must be a number in [0, 1], got -0.1"),
        ({"unpruned_share": float("nan")}, "unpruned_share must be a number in [0, 1], got nan"),
        ({"unpruned_share": True}, "unpruned_share must be a number in [0, 1], got True"),
        ({"thresholds": []}, "thresholds must be a list of numbers in [0, 1], got []; divide gray levels by 255, or "),
        ({"thresholds": 0.1}, "thresholds must be a list of numbers in [0, 1], got 0.1; "),
        ({"thresholds": [0, 4]}, "thresholds must be a list of numbers in [0, 1], got [0, 4]; divide gray levels"),
        ({"thresholds": ["0"]}, "thresholds must be a list of numbers in [0, 1], got ['0']; "),
    ],
)
def test_values_that_are_refused(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    whole = "$" if "unpruned_share" in options else ""
    with pytest.raises(ValueError, match=f"^{re.escape(text)}{whole}"):
        SFTConfig(str(tmp_path), **options)


def test_contradictions_are_refused(pair: Any, rows: Any, tmp_path: Path) -> None:
    enable(*pair, threshold=0.02)
    with pytest.raises(ValueError, match=r"^thresholds takes the place of threshold, got both \(0, 0.1; 0.02\); leave"):
        sft(fresh(pair), rows, tmp_path, thresholds=[0, COARSE])
    enable(*pair, max_tokens=9, max_threshold=0.05)
    with pytest.raises(
        ValueError, match=r"^max_threshold must be at least the threshold \(0.1\) when there is a token"
    ):
        sft(fresh(pair), rows, tmp_path, thresholds=[0, COARSE])


@pytest.mark.parametrize("options", [{"unpruned_share": 0.3}, {"thresholds": [0.0]}])
def test_streamed_rows_are_refused(options: dict[str, Any], pair: Any, rows: Any, tmp_path: Path) -> None:
    streamed: datasets.IterableDataset = rows.to_iterable_dataset()
    (name,) = options
    with pytest.raises(ValueError, match=f"^{name} needs rows that can be counted; load them without streaming$"):
        sft(pair, streamed, tmp_path, **options)
