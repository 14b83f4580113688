"""The trained checkpoint of this repository through the engine: the answers of transformers, and right ones.

Accuracy notices positions that are wrong, as random weights hardly can.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pixelprune.transformers
from tests.support.engines import run
from tiny_model.evaluate import FOLDER, answers, load
from tiny_model.tasks import TASKS, Sample, held_out, held_out_sparse

COUNT = 250
SPARSE_COUNT = 200


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Any]:
    return pixelprune.transformers.enable(*load(FOLDER))


def test_answers_of_the_trained_model(trained: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = trained
    samples = [sample for task in TASKS for sample in held_out(task, COUNT)]
    ((said, tokens),) = engine(processor, samples, [None], tmp_path)
    blocks = sum(sample.image.shape[0] * sample.image.shape[1] for sample in samples) // 32**2
    there, retained = answers(model, processor, samples)
    assert tokens / blocks == retained < 0.7
    # A tie between two words may fall either way; no more than that.
    assert sum(a == b for a, b in zip(said, there, strict=True)) >= 0.995 * len(samples)
    for task, least in (("read", 0.9), ("find", 0.9)):
        right = [sample.answer == words for sample, words in zip(samples, said, strict=True) if sample.task == task]
        assert sum(right) >= least * COUNT, task


def test_copies_win_back_what_pruning_loses(trained: tuple[Any, Any], tmp_path: Path) -> None:
    """On sparse screens: with a copy for each dropped block, the answers of all tokens."""
    _, processor = trained
    samples = held_out_sparse("find", SPARSE_COUNT)
    (full, most), (pruned, fewest), (copied, as_many) = engine(
        processor, samples, [False, {"restore": 0}, {"restore": 1}], tmp_path
    )
    assert as_many == most > 4 * fewest
    assert sum(a == b for a, b in zip(copied, full, strict=True)) >= 0.98 * SPARSE_COUNT
    right = [
        sum(sample.answer == words for sample, words in zip(samples, said, strict=True)) for said in (copied, pruned)
    ]
    assert right[0] >= 0.96 * SPARSE_COUNT
    assert right[1] <= 0.9 * SPARSE_COUNT


def engine(
    processor: Any, samples: Sequence[Sample], options: Sequence[Any], folder: Path
) -> list[tuple[list[str], int]]:
    """What one engine answers with each of the options of a request, and how many visual tokens it got for that."""
    requests = []
    for number, sample in enumerate(samples):
        Image.fromarray(sample.image).save(folder / f"{number}.png")
        content = [{"type": "image"}, {"type": "text", "text": sample.question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        requests.append({"prompt": prompt, "images": [str(folder / f"{number}.png")]})
    asked = [
        request if one is None else {**request, "options": {"pixelprune": one}}
        for one in options
        for request in requests
    ]
    rounds = [list(range(start, start + len(requests))) for start in range(0, len(asked), len(requests))]
    job = {
        "model": str(FOLDER),
        "requests": asked,
        "max_tokens": 4,
        "prompt_logprobs": False,
        "engine": {"hf_overrides": {"pixelprune": {"threshold": 0.0}}},
        "rounds": rounds,
    }
    found = []
    for answered in run(folder, job)["rounds"]:
        said = processor.batch_decode([answer["ids"] for answer in answered], skip_special_tokens=True)
        tokens = sum(answer["prompt_ids"].count(processor.image_token_id) for answer in answered)
        found.append((said, tokens))
    return found
