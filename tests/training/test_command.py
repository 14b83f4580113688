"""`pixelprune train`, in processes of its own: one, two, killed, and with options that cannot be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

import pixelprune.transformers
from pixelprune.cli import train
from pixelprune.cli.app import app

ROOT = Path(__file__).parents[2]
SHORT = ["--max_steps", 4, "--logging_steps", 1, "--learning_rate", 1e-3, "--disable_tqdm", "true"]


def run(*arguments: object, processes: int = 1, code: int = 0) -> str:
    launcher: list[object] = [sys.executable]
    if processes > 1:
        config = ROOT / "examples" / "accelerate" / "ddp.yaml"
        launcher += ["-m", "accelerate.commands.launch", "--config_file", config, "--main_process_port", 0]
    done = subprocess.run(
        [*map(str, [*launcher, "-m", "pixelprune", "train", *arguments])],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done.stderr
    if code:
        assert "Traceback" not in done.stderr
        return done.stderr
    return done.stdout


def losses(folder: Path, step: int = 4) -> list[float]:
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    return [line["loss"] for line in state["log_history"] if "loss" in line]


@pytest.mark.parametrize("method", ["sft", "distil"])
def test_two_processes_do_as_one(method: str, checkpoint: str, pages: Path, tmp_path: Path) -> None:
    options = [method, "--model", checkpoint, "--data", pages / "rows.jsonl", *SHORT]
    # Adam would step by the sign of gradients that are nothing but rounding.
    options += ["--optim", "sgd", "--learning_rate", 0.1]
    run(*options, "--output_dir", tmp_path / "one", "--per_device_train_batch_size", 4)
    run(*options, "--output_dir", tmp_path / "two", "--per_device_train_batch_size", 2, processes=2)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == 4
    assert two == pytest.approx(one, rel=1e-4)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "two", dtype="float32")
    processor = AutoProcessor.from_pretrained(tmp_path / "two")
    pixelprune.transformers.enable(model, processor)


def test_options_of_a_file(checkpoint: str, pages: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {checkpoint}\ndata: {pages / 'rows.jsonl'}\noutput_dir: {tmp_path / 'out'}\nuse_peft: true\n"
        "lora_target_modules: [q_proj, v_proj]\nmax_steps: 2\nthreshold: 0.02\nalpha: 0.25\ndisable_tqdm: true\n"
    )
    said = run("distil", "--config", config, "--max_steps", 1, "--alpha", 0.75)
    assert "Trained; saved in" in said
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    state = json.loads((tmp_path / "out" / "checkpoint-1" / "trainer_state.json").read_text())
    assert state["global_step"] == 1


KILLED_AT_12 = """
import os, signal, sys
from transformers import TrainerCallback, trainer
from pixelprune.cli import main

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        if state.global_step == 12:
            os.kill(os.getpid(), signal.SIGKILL)

trainer.DEFAULT_CALLBACKS.append(Kill)
sys.argv = ["pixelprune", "train", *sys.argv[1:]]
main()
"""


def test_killed_run_goes_on(checkpoint: str, pages: Path, tmp_path: Path) -> None:
    """SIGKILL between two checkpoints; the resumed run has the losses of a run that nobody killed."""
    options = [
        *("sft", "--model", checkpoint, "--data", pages / "rows.jsonl", "--max_steps", 20, "--save_steps", 5),
        *("--logging_steps", 1, "--disable_tqdm", "true", "--learning_rate", 1e-3),
    ]  # fmt: skip
    run(*options, "--output_dir", tmp_path / "whole")
    command = [sys.executable, "-c", KILLED_AT_12, *map(str, options), "--output_dir", str(tmp_path / "killed")]
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "checkpoint-15").exists()
    run(*options, "--output_dir", tmp_path / "killed", "--resume_from_checkpoint", "true")
    assert losses(tmp_path / "killed", 20) == pytest.approx(losses(tmp_path / "whole", 20), rel=1e-4)


def test_rows_of_one_turn_evaluate_what_learns_from_several(checkpoint: str, pages: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (pages / "rows.jsonl").read_text().splitlines()[:4]]
    for line in lines:
        line["conversations"] += [{"from": "human", "value": "read B"}, {"from": "gpt", "value": "1 2"}]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    options = ["--model", checkpoint, "--data", data, "--image_folder", pages, "--eval_data", pages / "rows.jsonl"]
    said = run(
        "distil", *options, "--eval_strategy", "steps", "--eval_steps", 1, *SHORT, "--output_dir", tmp_path / "o"
    )
    assert "eval_loss" in said


def test_skipped_rows_are_named(checkpoint: str, pages: Path, tmp_path: Path) -> None:
    lines = (pages / "rows.jsonl").read_text().splitlines()[:6]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join([*lines[:5], lines[5].replace("5.png", "none.png")]))
    options = ["sft", "--model", checkpoint, "--data", data, "--image_folder", pages, *SHORT, "--output_dir", tmp_path]
    stopped = run(*options, code=2)
    assert "error: 1 of 6 rows of train_dataset cannot be trained on; mend them, or skip them with" in stopped
    assert f"\n  row 6: {pages / 'none.png'}: no such file\n" in stopped
    run(*options, "--on_bad_row", "skip", "--max_steps", 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"--model": None}, "--model is missing: name the checkpoint to start from"),
        ({"--data": None}, "the following arguments are required: --data"),
        ({"--model": "/none"}, "there is no checkpoint folder /none"),
        ({"--data": "/none.jsonl"}, "data '/none.jsonl' cannot be read: No such file"),
        ({"--threshold": 5}, r"--threshold must be a number in [0, 1], got 5.0"),
        ({"--learnin_rate": 1}, "there is no option --learnin_rate; did you mean --learning_rate?"),
        ({"--learning_rate": "fast"}, "invalid float value: 'fast'"),
        ({"--resume_from_checkpoint": "true"}, "resume_from_checkpoint: there is no checkpoint in"),
        ({"--alpha": 2}, "alpha must be in [0, 1], got 2.0; 1 is plain fine-tuning, 0 pure distillation"),
        ({"--config": "/none.yaml"}, "/none.yaml: No such file or directory"),
    ],
)
def test_refused(options: dict[str, Any], text: str, checkpoint: str, pages: Path, tmp_path: Path) -> None:
    asked = {"--model": checkpoint, "--data": pages / "rows.jsonl", "--output_dir": tmp_path, **options}
    typed = [str(part) for pair in asked.items() if pair[1] is not None for part in pair]
    done = CliRunner().invoke(app, ["train", "distil", *typed])
    assert done.exit_code == 2
    assert text in " ".join(done.stderr.split())


def test_help() -> None:
    said = CliRunner().invoke(app, ["train", "sft", "--help"]).stdout
    for name in ("--model", "--data", "--output_dir", "--threshold", "--on_bad_row", "--config", "--help-all"):
        assert name in said
    everything = CliRunner().invoke(app, ["train", "distil", "--help-all"]).stdout
    for name in ("--alpha", "--teacher", "--lora_r", "--gradient_accumulation_steps", "--group_by_kept_length"):
        assert name in everything


def test_without_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "find_spec", lambda name: None if name == "trl" else True)
    done = CliRunner().invoke(app, ["train", "sft", "--model", "x"])
    assert done.exit_code == 2
    assert "trl is not installed; pip install 'pixelprune[training]'" in done.stderr
