"""Rows that cannot be trained on are named, and end training or are left out, as was chosen."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from pixelprune.training import SFTConfig, SFTTrainer, load_rows
from pixelprune.transformers import disable
from tests.support.training import distilled, fresh, losses, sft

GOOD = [2, 4, 6, 8]


@pytest.fixture
def bad(pages: Path, tmp_path: Path) -> Any:
    """Twelve rows of which those with an even number up to 8 are good, and one of each kind of bad one."""
    good = [json.loads(line) for line in (pages / "rows.jsonl").read_text().splitlines()[:8]]
    for row in good:
        row["images"] = [str(pages / name) for name in row["images"]]
    broken = tmp_path / "broken.png"
    broken.write_bytes((pages / "0.png").read_bytes()[:200])
    said = good[0]["conversations"]
    good[0]["images"] = [str(pages / "none.png")]
    good[2]["images"] = [str(broken)]
    good[4]["conversations"] = [{"from": "human", "value": "read K"}, said[1]]
    good[6]["conversations"] = [{"from": "human", "value": "<image><image>read K"}, said[1]]
    rows = [
        *good,
        {"conversations": [{"from": "robot", "value": "x"}], "images": []},
        {"conversations": [said[0], {"from": "gpt", "value": ""}], "images": good[1]["images"]},
        "{not JSON",
    ]
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    return load_rows(str(tmp_path / "rows.jsonl"))


def test_stops_and_names_them(bad: Any, pair: Any, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"7 of 11 rows of train_dataset cannot be trained on; fix them, or skip"
    ) as told:
        sft(pair, bad, tmp_path)
    lines = str(told.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [f"row {n}" for n in (1, 3, 5, 7, 9, 10, 11)]
    for line, problem in zip(
        lines,
        [
            "none.png: no such file",
            "broken.png",
            "images",
            "images",
            "conversations need 'from'",
            "an answer is empty",
            "not valid JSON",
        ],
        strict=True,
    ):
        assert problem in line


def test_skips_and_names_them(bad: Any, pair: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="pixelprune"):
        trainer = sft(pair, bad, tmp_path, on_bad_row="skip")
    assert trainer.train_dataset["row"][:] == GOOD
    assert "7 of 11 rows of train_dataset cannot be trained on and are skipped" in caplog.text
    assert "row 3: " in caplog.text
    trainer.train()
    assert len(losses(trainer)) == 3


def test_rows_to_evaluate_on_are_looked_at_too(bad: Any, pair: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="7 of 11 rows of eval_dataset"):
        sft(pair, bad.select([1, 3]), tmp_path, eval_dataset=bad)


def test_none_left(bad: Any, pair: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="2 of 2 rows of train_dataset cannot be trained on; fix them:\n"):
        sft(pair, bad.select([0, 2]), tmp_path, on_bad_row="skip")


def test_many_are_counted(pages: Path, pair: Any, tmp_path: Path) -> None:
    rows = load_rows(str(pages / "rows.jsonl"), image_folder=str(tmp_path))
    with pytest.raises(ValueError, match=r"24 of 24 rows[^$]*\n  and 14 rows more"):
        sft(pair, rows, tmp_path)


@pytest.mark.parametrize("make", [sft, distilled])
def test_cut_rows(make: Any, pages: Path, pair: Any, tmp_path: Path) -> None:
    """A length that cuts images, and one that cuts answers, which TRL would train on in silence."""
    rows = load_rows(str(pages / "rows.jsonl")).select([0])
    (whole,) = sft(fresh(pair), rows, tmp_path)._lengths
    with pytest.raises(ValueError, match=r"row 1: .*visual tokens for \d+ that its images have"):
        make(fresh(pair), rows, tmp_path, max_length=10)
    with pytest.raises(ValueError, match=r"row 1: no token of an answer is left in \d+ tokens; raise max_length"):
        make(fresh(pair), rows, tmp_path, max_length=whole - 3)


def test_distillation_refuses_answers_that_are_cut_in_part(pages: Path, pair: Any, tmp_path: Path) -> None:
    rows = load_rows(str(pages / "rows.jsonl")).select([0])
    (whole,) = sft(fresh(pair), rows, tmp_path)._lengths
    with pytest.raises(ValueError, match=r"row 1: answers of student and teacher differ"):
        distilled(fresh(pair), rows, tmp_path, max_length=whole - 1)


def test_wrong_things(pages: Path, pair: Any, tmp_path: Path) -> None:
    rows = load_rows(str(pages / "rows.jsonl"))
    model, processor = pair
    with pytest.raises(ValueError, match="on_bad_row must be 'stop' or 'skip', got 'drop'"):
        SFTConfig(str(tmp_path), on_bad_row="drop")
    with pytest.raises(ValueError, match=r"args must be a pixelprune\.training\.SFTConfig, got NoneType"):
        SFTTrainer(model, None, rows, processing_class=processor)
    args = SFTConfig(str(tmp_path))
    with pytest.raises(ValueError, match="train_dataset must have a column 'images' or 'image', got row"):
        SFTTrainer(model, args, rows.select_columns(["row"]), processing_class=processor)
    stream = rows.to_iterable_dataset()
    with pytest.raises(ValueError, match="on_bad_row='skip' needs rows that can be counted"):
        SFTTrainer(model, SFTConfig(str(tmp_path), on_bad_row="skip", max_steps=1), stream, processing_class=processor)
    with pytest.raises(ValueError, match="processing_class is not enabled, so it would be trained on unpruned inputs"):
        SFTTrainer(model, args, rows, processing_class=disable(processor=processor))
    with pytest.raises(ValueError, match="model is not enabled"):
        SFTTrainer(disable(model), args, rows, processing_class=processor)


def test_streamed_rows(pages: Path, pair: Any, tmp_path: Path) -> None:
    """They cannot be looked at beforehand: a bad one ends training when it comes, by its number."""
    rows = load_rows(str(pages / "rows.jsonl"))
    trainer = sft(pair, rows.to_iterable_dataset(), tmp_path, max_steps=2)
    trainer.train()
    assert len(losses(trainer)) == 2
    missing = datasets.concatenate_datasets(
        [rows.select([0, 1, 2]), load_rows(str(pages / "rows.jsonl"), str(tmp_path)).select([3])]
    )
    trainer = sft(fresh(pair), missing.to_iterable_dataset(), tmp_path, max_steps=2)
    with pytest.raises(ValueError, match=r"row 4: .*3\.png: no such file"):
        trainer.train()
