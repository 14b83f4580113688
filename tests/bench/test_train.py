"""`pixelprune bench train` measures what it says: small sizes, one round, and the command around it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from typer.testing import CliRunner

from pixelprune.bench import train as bench_train
from pixelprune.cli.app import app
from pixelprune.images.samples import photograph, sample_path
from pixelprune.standins import standin_processor, wide_model
from pixelprune.transformers import disable, enable


@pytest.fixture(scope="module")
def half_white() -> PIL.Image.Image:
    """64 blocks, of which 32 and one white one are kept."""
    pixels = photograph(256)
    pixels[128:] = 255
    return PIL.Image.fromarray(pixels)


@pytest.fixture(scope="module")
def parts() -> tuple[Any, Any]:
    model = wide_model(1, 1).train()
    return enable(model, standin_processor(model))


def product(rows: int, *shapes: tuple[int, int]) -> int:
    """Operations of `rows` rows times matrices."""
    return sum(2 * rows * m * n for m, n in shapes)


def by_hand(blocks: int, length: int) -> dict[str, int]:
    """Operations of `wide_model(1, 1)` on `blocks` blocks in a prompt of `length` tokens."""
    patches = 4 * blocks
    embedding = product(patches, (3 * 2 * 16 * 16, 1024))
    layer = product(patches, (1024, 3 * 1024), (1024, 1024), (1024, 4096), (4096, 1024))
    mergers = 2 * product(blocks, (4096, 4096), (4096, 2048))
    text = product(length, (2048, 2048), (2048, 2 * 1024), (2048, 2048), *[(2048, 6144)] * 3, (2048, 1024))
    seen = 4 * patches**2 * 1024 + 4 * length**2 * 2048 // 2  # half, since the language model is causal
    # Each product has two gradients, but that of pixels is not asked for; attention computes its scores again.
    return {
        "forward": embedding + layer + mergers + text + seen,
        "backward": embedding + 2 * (layer + mergers + text) + seen * 5 // 2,
    }


def test_operations_are_those_of_the_formula(parts: tuple[Any, Any], half_white: PIL.Image.Image) -> None:
    model, processor = parts
    for options, blocks in (({"pixelprune": False}, 64), ({}, 33)):
        inputs = bench_train.example(processor, half_white, **options)
        ids = inputs["input_ids"]
        assert int((ids == model.config.image_token_id).sum()) == blocks
        flops, _ = bench_train.Step(model, inputs).count()
        assert flops == pytest.approx(by_hand(blocks, ids.shape[1]), rel=2e-3)  # rotary angles are products too


def test_labels_are_the_answer(parts: tuple[Any, Any], half_white: PIL.Image.Image) -> None:
    _, processor = parts
    inputs = bench_train.example(processor, half_white)
    answer = inputs["labels"][inputs["labels"] != -100]
    assert processor.tokenizer.decode(answer) == bench_train._ANSWER + "<|im_end|>"
    assert (inputs["input_ids"][0, -len(answer) :] == answer).all()


def test_a_step_is_that_of_the_stock_model(parts: tuple[Any, Any], half_white: PIL.Image.Image) -> None:
    model, processor = parts
    step = bench_train.Step(model, bench_train.example(processor, half_white, pixelprune=False))
    model.zero_grad()
    step.forward()
    loss = step.loss.detach()
    step.backward()
    assert all(weight.grad is not None for weight in model.parameters())
    assert model.training
    disable(model)
    try:
        inputs = {name: value for name, value in step.inputs.items() if name != "image_map"}
        assert torch.equal(model(**inputs).loss, loss)
    finally:
        enable(model)


def test_peak_is_that_of_live_tensors() -> None:
    weight = torch.ones(1000, requires_grad=True)

    def run() -> None:
        held = (weight * 2).exp()  # the product is gone when its exponential is there, which is kept for the backward
        held.mul_(1).view(10, 100)
        held.detach().sum()

    size = weight.nbytes
    assert bench_train.peak_bytes(run, torch.device("cpu")) == 2 * size
    assert bench_train.peak_bytes(lambda: [weight.detach() + 1 for _ in range(3)], torch.device("cpu")) == 3 * size
    assert (
        bench_train.peak_bytes(lambda: [bool((weight + 1).sum()) for _ in range(3)], torch.device("cpu")) < 1.1 * size
    )


def test_memory_is_about_what_layers_hold(parts: tuple[Any, Any], half_white: PIL.Image.Image) -> None:
    """An estimate of what is saved for the backward, by hand: 4 bytes per value."""
    model, processor = parts
    peaks = {}
    for options, blocks in (({"pixelprune": False}, 64), ({}, 33)):
        inputs = bench_train.example(processor, half_white, **options)
        # Inputs of each product and norm, q, k, v before and after rotation, attention's output.
        patch = 3 * 1024 + 3 * 1024 + 2 * 1024 + 2 * 1024 + 2 * 4096
        merger = 2 * (4096 + 2 * 4096)
        text = 5 * 2 * 2048 + 3 * 2 * (2048 + 1024) + 2 * 2048 + 4 * 6144
        estimate = 4 * (4 * blocks * patch + blocks * merger + inputs["input_ids"].shape[1] * text)
        _, peaks[blocks] = bench_train.Step(model, inputs).count()
        # The gradients of one weight may be there twice, before they are added to the others.
        largest = max(weight.nbytes for weight in model.parameters())
        assert 0.7 * estimate < peaks[blocks] < 1.3 * estimate + 2 * largest
    assert peaks[33] < 0.9 * peaks[64]


@pytest.fixture
def small(tmp_path: Path, half_white: PIL.Image.Image) -> list[str]:
    """Options of the command that make it quick."""
    half_white.save(tmp_path / "half-white.png")
    return ["--image", str(tmp_path / "half-white.png"), "--side", "256", "--depth", "1", "--rounds", "1"]


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["bench", "train", *words])


def test_command(small: list[str]) -> None:
    threads = torch.get_num_threads()
    done = invoke(*small, "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert torch.get_num_threads() == threads
    assert result["machine"]["torch"] == torch.__version__
    assert {key: result[key] for key in ("depth", "rounds", "device")} == {"depth": 1, "rounds": 1, "device": "cpu"}
    page, photo = (result["pictures"][name]["256"] for name in ("half-white.png", "photograph"))
    assert (page["tokens"], page["kept"], photo["tokens"], photo["kept"]) == (64, 33, 64, 64)
    assert page["length"][0] - page["length"][1] == 31
    for name in ("forward", "backward", "step"):
        assert page[name]["speed_up"] == pytest.approx(page[name]["full"] / page[name]["pruned"])
        assert 1.2 < page[name]["flops"] < 64 / 33
        assert photo[name]["flops"] == 1
    assert page["step"]["full"] == pytest.approx(page["forward"]["full"] + page["backward"]["full"])
    assert page["memory"]["saving"] > 1.1
    assert photo["memory"]["saving"] == pytest.approx(1, abs=1e-3)
    table = bench_train.table(result)
    assert [row[3] for row in table.rows] == 2 * ["forward", "backward", "step", "memory"]
    assert {row[:3] for row in table.rows} == {("half-white.png, 256²", "64", "33"), ("photograph, 256²", "64", "64")}
    assert table.notes[0].endswith("; float32 on one thread, 1 round.")


def test_command_prints_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"full": 3.0, "pruned": 1.5, "speed_up": 2.0, "flops": 1.6}
    memory = {"full": 2.5e9, "pruned": 1e9, "saving": 2.5, "fixed": 10}
    case = {"tokens": 1024, "kept": 500, **dict.fromkeys(("forward", "backward", "step"), times), "memory": memory}
    options: dict[str, Any] = {}

    def measured(pictures: dict[str, np.ndarray], sides: Any, **others: Any) -> dict[str, Any]:
        options.update(others, pictures=list(pictures), sides=sides)
        return {name: {"1024": case} for name in pictures}

    monkeypatch.setattr(bench_train, "bench_train", measured)
    table = invoke()
    assert (options["pictures"], options["sides"], options["device"]) == (["page", "screen"], bench_train.SIDES, "cpu")
    for text in ("page, 1024²", "1,024", "500", "3.00 s", "1.50 s", "2.00 ×", "1.60 ×", "+25 %", "2.50 GB"):
        assert text in table.output
    two = [str(sample_path(name)) for name in ("page", "screen")]
    invoke("--image", two[0], "--image", two[1], "--side", "256", "--side", "288")
    assert (options["pictures"], options["sides"]) == (two, [256, 288])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--image", "nowhere.png"], "nowhere.png: no such file"),
        (["--side", "500"], "side must be a multiple of 32 and at least 256, got 500"),
        (["--device", "tpu"], "device must be cpu or cuda, got 'tpu'"),
        (["--device", "cuda"], "torch finds no GPU here"),
    ],
)
def test_command_ends_with_one_line(words: list[str], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = invoke(*words)
    assert result.exit_code == 2
    assert why in result.output
    assert "Traceback" not in result.output


def test_command_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelprune._extras.find_spec", lambda name: None)
    result = invoke()
    assert result.exit_code == 2
    assert "pip install '.[transformers]' in a checkout" in result.output
