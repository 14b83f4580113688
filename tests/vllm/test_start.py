"""What an engine refuses when it starts, and what it does not mind."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import vllm

from pixelprune.vllm import TESTED
from tests.support.engines import Pictures, run, start
from tests.support.small_models import SMALL
from tests.support.vllm_tree import PROCESSOR, copy_installed, with_another_body

IMAGE = SMALL["qwen3_vl"].image
ASKED = {"hf_overrides": {"pixelprune": {"threshold": 0.0}}}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "video pruning": ({**ASKED, "video_pruning_rate": 0.5}, "pixelprune cannot be combined with --video-pruning-rate"),
    "unknown option": (
        {"hf_overrides": {"pixelprune": {"treshold": 0.1}}},
        "pixelprune: unknown option 'treshold'; known options: threshold",
    ),
    "out of range": (
        {"mm_processor_kwargs": {"pixelprune": {"threshold": 5}}},
        "pixelprune: threshold must be a number in [0, 1], got 5",
    ),
    "two places": (
        {**ASKED, "mm_processor_kwargs": {"pixelprune": True}},
        "pixelprune is {'threshold': 0.0} in --hf-overrides and True in --mm-processor-kwargs",
    ),
    "misspelt": ({"hf_overrides": {"pixel_prune": True}}, "did you mean 'pixelprune'?"),
    "within another": (
        {"mm_processor_kwargs": {"images_kwargs": {"pixelprune": True}}},
        "'pixelprune' is nested inside 'images_kwargs'; move it up, next to 'images_kwargs'",
    ),
    "without the key": ({"mm_processor_kwargs": {"threshold": 0.1}}, "'threshold' is an option of pixelprune; write"),
    "model of transformers": (
        {**ASKED, "model_impl": "transformers"},
        "pixelprune was requested, but cannot prune TransformersMultiModalForCausalLM",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_start_is_refused_with_a_reason(name: str, checkpoint: Any, tmp_path: Path) -> None:
    options, text = REFUSED[name]
    done = start(tmp_path, {"model": str(checkpoint("qwen3_vl")), "engine": options, "requests": [], "rounds": []})
    assert done.returncode
    assert text in done.stdout + done.stderr


QWEN3 = "vllm/model_executor/models/qwen3_vl.py"
MOVED = {QWEN3: with_another_body("Qwen3VLForConditionalGeneration._process_image_input")}
UNTESTED = {"hf_overrides": {"pixelprune": {"threshold": 0.0, "untested": True}}}


def untested(checkpoint: Any, pictures: Pictures, engine: dict[str, Any]) -> dict[str, Any]:
    requests = [pictures.request(IMAGE, ["page"])]
    return {"model": str(checkpoint("qwen3_vl")), "engine": engine, "requests": requests, "rounds": [[0]]}


@pytest.mark.parametrize(
    ("engine", "edits", "line"),
    [
        (
            ASKED,
            {},
            "it prunes because all code of it that pruning of Qwen3VLForConditionalGeneration relies on is that",
        ),
        (
            UNTESTED,
            MOVED,
            "WARNING .* it prunes because untested is true: Qwen3VLForConditionalGeneration._process_image",
        ),
    ],
)
def test_a_newer_version_prunes_if_it_may_and_says_so(
    engine: dict[str, Any],
    edits: dict[str, Any],
    line: str,
    checkpoint: Any,
    pictures: Pictures,
    tmp_path: Path,
) -> None:
    other = copy_installed(tmp_path / "other", "0.99.0", edits)
    job = untested(checkpoint, pictures, engine)
    result = run(tmp_path, job, PYTHONPATH=str(other))
    lines = [text for text in result["log"].splitlines() if "pixelprune was not tested with vLLM 0.99.0" in text]
    assert len(lines) == 1
    assert re.search(line, lines[0])
    assert "prunes images for Qwen3VLForConditionalGeneration: threshold=0.0" in result["log"]
    assert result["rounds"] == run(tmp_path, {**job, "engine": ASKED})["rounds"]


def test_a_newer_version_in_which_code_moved_is_refused(checkpoint: Any, pictures: Pictures, tmp_path: Path) -> None:
    other = copy_installed(tmp_path / "other", "0.99.0", MOVED)
    done = start(tmp_path, untested(checkpoint, pictures, ASKED), PYTHONPATH=str(other))
    log = done.stdout + done.stderr
    assert done.returncode
    assert f"pixelprune was requested, but was tested only with vLLM {TESTED}, this is 0.99.0, in which code" in log
    assert "Qwen3VLForConditionalGeneration._process_image_input (qwen3_vl.py) has changed; install such" in log
    assert "Starting to load model" not in log, "the front end refuses, before there is a worker"


def test_a_newer_version_runs_stock_if_nothing_is_asked(checkpoint: Any, pictures: Pictures, tmp_path: Path) -> None:
    other = copy_installed(tmp_path / "other", "0.99.0", MOVED)
    job = untested(checkpoint, pictures, {})
    stock = run(tmp_path, job, VLLM_PLUGINS="")
    assert run(tmp_path, job, PYTHONPATH=str(other))["rounds"] == stock["rounds"]


def test_a_broken_contract_ends_the_start_with_a_reason(checkpoint: Any, pictures: Pictures, tmp_path: Path) -> None:
    # Within the tested range, where nothing else would notice.
    edits = {PROCESSOR: lambda text: text.replace("_maybe_apply_prompt_updates", "_apply_updates")}
    other = copy_installed(tmp_path / "other", vllm.__version__, edits)
    done = start(tmp_path, untested(checkpoint, pictures, ASKED), PYTHONPATH=str(other))
    log = done.stdout + done.stderr
    assert done.returncode
    assert "ImportError: pixelprune cannot extend Qwen3VLMultiModalProcessor of vLLM" in log
    assert "it has no _maybe_apply_prompt_updates, which pixelprune overrides" in log


def test_a_sharded_encoder_with_windows_has_to_be_asked_at_the_start(
    checkpoint: Any, pictures: Pictures, tmp_path: Path
) -> None:
    # Its graphs have no room for kept blocks in many windows, and a request does not know whether there are graphs.
    requests = [pictures.request(SMALL["qwen2_5_vl"].image, ["page"], options) for options in (None, True)]
    job = {
        "model": str(checkpoint("qwen2_5_vl")),
        "engine": {"mm_encoder_tp_mode": "data"},
        "requests": requests,
        "rounds": [[0], [1]],
    }
    stock, refused = run(tmp_path, job)["rounds"]
    assert stock[0]["ids"]
    assert "cannot be switched on by requests to this model with --mm-encoder-tp-mode data" in refused[0]["error"]
