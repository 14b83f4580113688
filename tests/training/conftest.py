"""What the tests of the trainers share: a small random model, and rows about pages and screens."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("trl", reason="the trainers need TRL: pip install '.[training]'")

import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from pixelprune.transformers import enable
from tests.support.double_precision import every_float_is_double
from tiny_model import tasks
from tiny_model.checkpoint import make_model, save

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _quiet():
    # transformers and TRL speak to their users through warnings; ours are tested where they are given.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """Everything that the test loads and computes is in double precision, so that equal means equal."""
    with every_float_is_double():
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a model of random weights, whose answers depend on what it sees; it loads in either precision."""
    folder = tmp_path_factory.mktemp("checkpoint")
    save(make_model(seed=3).double(), folder)
    return str(folder)


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 24 drawn images, and `rows.jsonl` with one question about each, in the ShareGPT form."""
    folder = tmp_path_factory.mktemp("pages")
    rng = Random(8)
    rows = []
    for number in range(24):
        sample = tasks.sample(rng, tasks.TASKS[number % 2])
        Image.fromarray(sample.image).save(folder / f"{number}.png")
        said = [{"from": "human", "value": f"<image>\n{sample.question}"}, {"from": "gpt", "value": sample.answer}]
        rows.append({"conversations": said, "images": [f"{number}.png"]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def pair(checkpoint: str) -> tuple[Any, Any]:
    """An enabled model and its processor, for one test alone."""
    model = AutoModelForImageTextToText.from_pretrained(checkpoint, dtype="float32")
    return enable(model, AutoProcessor.from_pretrained(checkpoint))
