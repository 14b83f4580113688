"""`pixelprune bench serve` with servers of vLLM: what it counts is what is sent, and errors are those of vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from pixelprune import PruneConfig, select
from pixelprune._processes import run_in_subprocess
from pixelprune.bench import serve as bench
from pixelprune.bench._servers import Server, ServerError
from pixelprune.standins import save_standin
from tests.support.engines import Pictures, environment

ENGINE = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "4096", "--kv-cache-memory-bytes", str(2**28)]


def test_command(checkpoint, pictures: Pictures) -> None:
    names = ("page", "photo")
    images = [word for name in names for word in ("--image", str(pictures.paths[name]))]
    command = [sys.executable, "-m", "pixelprune", "bench", "serve", "--model", str(checkpoint("qwen3_vl")), *images]
    command += ["--requests", "1", "--rounds", "1", "--json", "--", *ENGINE]
    done = subprocess.run(
        command,
        env=environment(VLLM_ENABLE_V1_MULTIPROCESSING="1"),
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["machine"]["vllm"]
    for name in names:
        case = result["pictures"][str(pictures.paths[name])]
        image = bench.stamped(np.asarray(PIL.Image.open(pictures.paths[name])), 0)
        selection = select(image)
        stock, pruned = case["stock"], case["pruned"]
        assert stock["prompt_tokens"] - pruned["prompt_tokens"] == selection.total - selection.kept
        # Two frames of bytes, and little more.
        for counts, blocks in ((stock, selection.total), (pruned, selection.kept)):
            assert 0 <= counts["bytes"] - blocks * 32 * 32 * 3 * 2 < 8192
        assert min(counts[key] for counts in (stock, pruned) for key in ("requests_per_second", "first_token_ms")) > 0


def test_server_says_why_it_does_not_start(checkpoint) -> None:
    options = [*ENGINE, "--hf-overrides", '{"pixelprune": {"treshold": 0.1}}']
    with (
        pytest.raises(ServerError, match="unknown option 'treshold'; known options: threshold"),
        Server(checkpoint("qwen3_vl"), options, env={"HF_HUB_OFFLINE": "1"}),
    ):
        pass


def test_standin_is_pruned(tmp_path: Path) -> None:
    run_in_subprocess(save_standin, tmp_path)
    commands = {"stock": bench.STANDIN_OPTIONS, "pruned": bench.with_pruning(bench.STANDIN_OPTIONS, PruneConfig())}
    about, sizes = run_in_subprocess(
        bench.versions_and_bytes, str(tmp_path), commands, {"flat": np.full((256, 256, 3), 255, np.uint8)}
    )
    assert set(about) == {"device", "vllm", "torch", "transformers"}
    assert sizes["stock"]["flat"] > 64 * 32 * 32 * 3 * 2
    assert sizes["pruned"]["flat"] < sizes["stock"]["flat"] / 16
