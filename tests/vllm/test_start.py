"""What an engine refuses when it starts, and what it does not mind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pixelprune.vllm import TESTED
from tests.support.engines import Pictures, run, start
from tests.support.small_models import SMALL

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


OTHER_VERSION = """
import vllm
vllm.__version__ = "0.99.0"
"""


@pytest.mark.parametrize("asked", [True, False])
def test_untested_versions_of_vllm_run_stock_or_not_at_all(
    asked: bool, checkpoint: Any, pictures: Pictures, tmp_path: Path
) -> None:
    # Imported before anything else, in each process.
    (tmp_path / "sitecustomize.py").write_text(OTHER_VERSION, encoding="utf-8")
    job = {
        "model": str(checkpoint("qwen3_vl")),
        "engine": ASKED if asked else {},
        "requests": [pictures.request(IMAGE, ["page"])],
        "rounds": [[0]],
    }
    stock = run(tmp_path, {**job, "engine": {}}, VLLM_PLUGINS="") if not asked else None
    done = start(tmp_path, job, PYTHONPATH=str(tmp_path))
    log = done.stdout + done.stderr
    if asked:
        assert done.returncode
        assert f"pixelprune was requested, but was tested only with vLLM {TESTED}, this is 0.99.0" in log
    else:
        assert done.returncode == 0, log[-3000:]
        assert stock
        assert run(tmp_path, job, PYTHONPATH=str(tmp_path))["rounds"] == stock["rounds"]


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
