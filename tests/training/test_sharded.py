"""FSDP2 and DeepSpeed on two CPU processes, for student and frozen teacher: the same weights as in one process."""

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


def train(method: str, checkpoint: str, pages: Path, folder: Path, config: str | None = None) -> list[Any]:
    """Two steps of four rows; what each process noted."""
    folder.mkdir()
    data = folder / "rows.jsonl"
    rows = [json.loads(line) for line in (pages / "rows.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):  # answers of one to four times the length
        row["conversations"][1]["value"] *= number % 4 + 1
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    launcher, processes = [sys.executable], 1 if config is None else 2
    if config is not None:
        path = ROOT / "examples" / "accelerate" / config
        launcher += ["-m", "accelerate.commands.launch", "--config_file", str(path), "--mixed_precision", "no"]
        launcher += ["--main_process_port", "0"]
    asked: list[object] = [
        *(method, "--model", checkpoint, "--data", data, "--image-folder", pages, "--output-dir", folder / "model"),
        # The loss is the mean of what each batch of two has: Qwen3-VL of transformers refuses to count tokens over all.
        *("--per-device-train-batch-size", 2, "--gradient-accumulation-steps", 2 // processes),
        *("--max-steps", 2, "--logging-steps", 1),
        # Adam would step by the sign of gradients that are nothing but rounding.
        *("--optim", "sgd", "--learning-rate", 0.1, "--save-strategy", "no", "--disable-tqdm", "true"),
    ]
    done = subprocess.run(
        [*launcher, "-m", "tests.support.sharded", str(folder), *map(str, asked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,  # processes that wait for different things wait forever
        env={**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.parametrize("method", ["sft", "distill"])
@pytest.mark.parametrize(
    ("config", "kind", "share"),
    [("fsdp.yaml", "FSDPQwen3VLForConditionalGeneration", 0.5), ("deepspeed.yaml", "DeepSpeedEngine", 1.0)],
    ids=["fsdp", "deepspeed"],
)
def test_sharing_changes_nothing(
    config: str, kind: str, share: float, method: str, checkpoint: str, pages: Path, tmp_path: Path
) -> None:
    if kind == "DeepSpeedEngine":
        pytest.importorskip("deepspeed", reason="not installed: DS_ACCELERATOR=cpu pip install deepspeed")
    train(method, checkpoint, pages, tmp_path / "one")
    notes = train(method, checkpoint, pages, tmp_path / "two", config)
    for name in ("whole", "answers"):  # one process drops nothing, the other something; and they have other lengths
        assert any(len(set(step)) == 2 for step in zip(*(note[name] for note in notes), strict=True)), name
    for note in notes:
        assert note["models"] == [[kind, pytest.approx(share, abs=0.01)]] * (2 if method == "distill" else 1)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    before = load_file(Path(checkpoint) / "model.safetensors")
    assert one.keys() == two.keys() == before.keys()
    for name, weight in one.items():
        assert weight.dtype is torch.float64
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
    assert not torch.equal(one["lm_head.weight"], before["lm_head.weight"])
