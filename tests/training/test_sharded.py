"""FSDP2 on two CPU processes, for student and frozen teacher: the same weights as in one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


def train(method: str, checkpoint: str, pages: Path, folder: Path, processes: int, *options: object) -> list[Any]:
    """Two steps of four rows; what each process noted."""
    folder.mkdir()
    launcher = [sys.executable]
    if processes > 1:
        config = ROOT / "examples" / "accelerate" / "fsdp.yaml"
        launcher += ["-m", "accelerate.commands.launch", "--config_file", str(config), "--mixed_precision", "no"]
        launcher += ["--main_process_port", "0"]
    asked: list[object] = [
        *(method, "--model", checkpoint, "--data", pages / "rows.jsonl", "--output-dir", folder / "model"),
        *("--per-device-train-batch-size", 4 // processes, "--max-steps", 2, "--logging-steps", 1),
        # Adam would step by the sign of gradients that are nothing but rounding.
        *("--optim", "sgd", "--learning-rate", 0.1, "--save-strategy", "no", "--disable-tqdm", "true"),
        *options,
    ]
    done = subprocess.run(
        [*launcher, "-m", "tests.support.sharded", str(folder), *map(str, asked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,  # processes that wait for different things wait forever
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.parametrize("method", ["sft", "distill"])
def test_sharded_weights_do_as_whole_ones(method: str, checkpoint: str, pages: Path, tmp_path: Path) -> None:
    train(method, checkpoint, pages, tmp_path / "one", 1)
    notes = train(method, checkpoint, pages, tmp_path / "two", 2)
    # In one process nothing is dropped while the other drops something.
    assert any(len(set(step)) == 2 for step in zip(*(note["whole"] for note in notes), strict=True))
    for note in notes:
        assert note["held"] == pytest.approx([0.5] * (2 if method == "distill" else 1), abs=0.01)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    before = load_file(Path(checkpoint) / "model.safetensors")
    assert one.keys() == two.keys() == before.keys()
    for name, weight in one.items():
        assert weight.dtype is torch.float64
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.equal(one["lm_head.weight"], before["lm_head.weight"])
