"""`pixelprune train`, in processes of its own: one, two, killed, and with options that cannot be."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

import pixelprune.transformers
from pixelprune import PruneConfig, _extras
from pixelprune.cli.app import app
from pixelprune.training import SelfDistillationConfig
from pixelprune.training.run import Options, read_arguments

ROOT = Path(__file__).parents[2]
SHORT = ["--max-steps", 4, "--logging-steps", 1, "--learning-rate", 1e-3, "--disable-tqdm", "true"]


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


@pytest.mark.parametrize("method", ["sft", "distill"])
def test_two_processes_do_as_one(method: str, checkpoint: str, pages: Path, tmp_path: Path) -> None:
    options = [method, "--model", checkpoint, "--data", pages / "rows.jsonl", *SHORT]
    # Adam would step by the sign of gradients that are nothing but rounding.
    options += ["--optim", "sgd", "--learning-rate", 0.1]
    run(*options, "--output-dir", tmp_path / "one", "--per-device-train-batch-size", 4)
    run(*options, "--output-dir", tmp_path / "two", "--per-device-train-batch-size", 2, processes=2)
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
    said = run("distill", "--config", config, "--max-steps", 1, "--alpha", 0.75)
    assert "Training finished; saved in" in said
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
        *("sft", "--model", checkpoint, "--data", pages / "rows.jsonl", "--max-steps", 20, "--save-steps", 5),
        *("--logging-steps", 1, "--disable-tqdm", "true", "--learning-rate", 1e-3),
        *("--unpruned-share", 0.4, "--thresholds", 0, 0.1),
    ]  # fmt: skip
    run(*options, "--output-dir", tmp_path / "whole")
    command = [sys.executable, "-c", KILLED_AT_12, *map(str, options), "--output-dir", str(tmp_path / "killed")]
    killed = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed" / "checkpoint-15").exists()
    run(*options, "--output-dir", tmp_path / "killed", "--resume-from-checkpoint", "true")
    assert losses(tmp_path / "killed", 20) == pytest.approx(losses(tmp_path / "whole", 20), rel=1e-4)


def test_rows_of_one_turn_evaluate_what_learns_from_several(checkpoint: str, pages: Path, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (pages / "rows.jsonl").read_text().splitlines()[:4]]
    for line in lines:
        line["conversations"] += [{"from": "human", "value": "read B"}, {"from": "gpt", "value": "1 2"}]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(map(json.dumps, lines)))
    options = ["--model", checkpoint, "--data", data, "--image-folder", pages, "--eval-data", pages / "rows.jsonl"]
    said = run(
        "distill", *options, "--eval-strategy", "steps", "--eval-steps", 1, *SHORT, "--output-dir", tmp_path / "o"
    )
    assert "eval_loss" in said


def test_skipped_rows_are_named(checkpoint: str, pages: Path, tmp_path: Path) -> None:
    lines = (pages / "rows.jsonl").read_text().splitlines()[:6]
    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join([*lines[:5], lines[5].replace("5.png", "none.png")]))
    options = ["sft", "--model", checkpoint, "--data", data, "--image-folder", pages, *SHORT, "--output-dir", tmp_path]
    stopped = run(*options, code=2)
    assert "error: 1 of 6 rows of train_dataset cannot be trained on; fix them, or skip them with" in stopped
    assert f"\n  row 6: {pages / 'none.png'}: no such file\n" in stopped
    run(*options, "--on-bad-row", "skip", "--max-steps", 1)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"--model": None}, "error: missing: the checkpoint to start from (--model)"),
        ({"--data": None}, "error: missing: the training data (--data)"),
        (
            {"--model": None, "--data": None},
            "error: missing: the checkpoint to start from (--model) and the training data (--data)",
        ),
        ({"--max-threshold": 0.1}, "--max-threshold must come with --max-tokens, the budget that it limits, got 0.1"),
        ({"--max_threshold": 0.1}, "--max-threshold must come with --max-tokens, the budget that it limits, got 0.1"),
        ({"--eval-data": "e.jsonl"}, "--eval-data must come with --eval-strategy, got e.jsonl alone; add"),
        ({"--model": "/none"}, "or a name on the Hugging Face Hub, got /none, which does not exist"),
        ({"--model": "/"}, "--model must be a folder with a config.json, as save_pretrained writes it, or a name on"),
        ({"--teacher": "/"}, "--teacher must be a folder with a config.json, as save_pretrained writes it, or a name"),
        ({"--data": "/none.jsonl"}, "data '/none.jsonl' cannot be read: No such file"),
        ({"--threshold": 5}, r"error: --threshold must be a number in [0, 1], got 5.0; divide gray levels by 255"),
        ({"--predictor": "best"}, "error: --predictor must be one of 'pred2d', 'raster', 'serpentine', got 'best'"),
        ({"--max-tokens": 0}, "error: --max-tokens must be a whole number of at least 1, got 0; leave it out"),
        ({"--learnin_rate": 1}, "there is no option --learnin_rate; did you mean --learning-rate?"),
        ({"--frobnicate": 1}, "there is no option --frobnicate; --help-all lists all options"),
        ({"--learning-rate": "fast"}, "argument --learning-rate: invalid float value: 'fast'"),
        ({"--resume-from-checkpoint": "true"}, "--resume-from-checkpoint is true, but there is no checkpoint in"),
        ({"--alpha": 2}, "--alpha must be in [0, 1], got 2.0; 1 is plain fine-tuning, 0 pure distillation"),
        ({"--unpruned-share": 30}, "--unpruned-share must be a number in [0, 1], got 30.0; divide percent by 100"),
        ({"--thresholds": 5}, "--thresholds must be a list of numbers in [0, 1], got [5.0]; divide gray levels by 255"),
        ({"--thresholds": "many"}, "argument --thresholds: invalid float value: 'many'"),
        (
            {"--threshold": 0.02, "--thresholds": 0.1},
            "--thresholds takes the place of threshold, got both (0.1; 0.02); leave out one of them",
        ),
        ({"--on-bad-row": "ask"}, "argument --on-bad-row: invalid choice: 'ask'"),
        ({"--config": "/none.yaml"}, "/none.yaml: No such file or directory"),
    ],
)
def test_refused(options: dict[str, Any], text: str, checkpoint: str, pages: Path, tmp_path: Path) -> None:
    asked = {"--model": checkpoint, "--data": pages / "rows.jsonl", "--output-dir": tmp_path, **options}
    typed = [str(part) for pair in asked.items() if pair[1] is not None for part in pair]
    done = CliRunner().invoke(app, ["train", "distill", *typed])
    assert done.exit_code == 2
    assert text in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_threshold: 0.2", "--max-threshold must come with --max-tokens, the budget that it limits, got 0.2 alone"),
        ("threshold: 5", "--threshold must be a number in [0, 1], got 5.0; divide gray levels by 255"),
        ("metric: [max]", "--metric must be one of 'max', 'mae', 'rmse', got ['max']"),
        ("learnin_rate: 1", "there is no option --learnin_rate; did you mean --learning-rate?"),
        ("unpruned_share: 30", "--unpruned-share must be a number in [0, 1], got 30.0; divide percent by 100"),
        ("thresholds: 0.1", "--thresholds must be a list of numbers in [0, 1], got 0.1; divide gray levels by 255"),
        ("thresholds: [0, a]", "--thresholds must be a list of numbers in [0, 1], got [0, 'a']"),
        ("max_steps: [1]", "argument --max-steps: invalid int value: '[1]'"),
        ("1: 2", "the file of --config has a name or a value of the wrong type"),
        ("model: [", "the file of --config is not valid YAML"),
        ("- model", "must contain a YAML mapping"),
    ],
)
def test_refused_files(text: str, expected: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"{text}\n")
    done = CliRunner().invoke(app, ["train", "sft", f"--config={config}", "--model", "none", "--data", "none"])
    assert done.exit_code == 2, done.exception
    assert expected in " ".join(done.stderr.split())


def test_nothing_is_named() -> None:
    done = CliRunner().invoke(app, ["train", "sft"])
    line = "error: missing: the checkpoint to start from (--model) and the training data (--data)\n"
    assert (done.exit_code, done.stderr) == (2, line)


def test_a_file_that_is_not_named() -> None:
    done = CliRunner().invoke(app, ["train", "sft", "--config"])
    assert (done.exit_code, done.stderr) == (2, "error: --config needs the name of a YAML file\n")


@pytest.mark.parametrize("form", ["--config={}", "--config {}"])
def test_dashes_and_underscores(form: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("max-tokens: 9\nmax_threshold: 0.25\n")
    typed = [*form.format(config).split(), "--model", "m", "--data", "d", "--output_dir", "a", "--learning-rate", "2"]
    options = read_arguments(typed, "sft", {})
    assert options.prune == PruneConfig(max_tokens=9, max_threshold=0.25)
    assert (options.config.output_dir, options.config.learning_rate) == ("a", 2)


@pytest.mark.parametrize("form", ["line", "file"])
def test_several_thresholds(form: str, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("unpruned_share: 0.3\nthresholds: [0, 0.02]\n")
    typed = ["--thresholds", "0", "0.02", "--unpruned-share", "0.3"] if form == "line" else ["--config", str(config)]
    options = read_arguments([*typed, "--model", "m", "--data", "d"], "distill", {})
    assert (options.config.unpruned_share, options.config.thresholds) == (0.3, [0, 0.02])


@pytest.mark.parametrize("spelled", ["distill", "distil"])
def test_both_spellings_distill(spelled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Options, str]] = []
    monkeypatch.setattr("pixelprune.training.run.train", lambda *call: calls.append(call))
    arguments = ["--model", "m", "--data", "d", "--alpha", "0.25", "--teacher", "t", "--threshold", "0.02"]
    done = CliRunner().invoke(app, ["train", spelled, *arguments])
    assert done.exit_code == 0, done.stderr
    ((options, method),) = calls
    assert method == "distill"
    assert isinstance(options.config, SelfDistillationConfig)
    assert (options.config.alpha, options.teacher.teacher) == (0.25, "t")
    assert options.prune == PruneConfig(threshold=0.02)


def test_packages_that_are_missing(
    monkeypatch: pytest.MonkeyPatch, checkpoint: str, pages: Path, tmp_path: Path
) -> None:
    typed = ["train", "sft", "--model", checkpoint, "--data", str(pages / "rows.jsonl"), "--output-dir", str(tmp_path)]
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    done = CliRunner().invoke(app, [*typed, "--report-to", "wandb"])
    assert done.exit_code == 2, done.exception
    assert "error: WandbCallback requires wandb to be installed" in done.stderr


def test_models_that_need_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ImportError("this needs nothing; pip install it")

    monkeypatch.setattr("pixelprune.training.run.train", fail)
    done = CliRunner().invoke(app, ["train", "sft", "--model", "m", "--data", "d"])
    assert (done.exit_code, done.stderr) == (2, "error: this needs nothing; pip install it\n")


@pytest.mark.parametrize("method", ["sft", "distill"])
def test_help_says_what_the_parser_does(method: str) -> None:
    """Options are declared for the help, and read by TRL's parser: names, defaults and words are the same."""
    command = typer.main.get_command(app).commands["train"].commands[method]  # type: ignore[attr-defined]
    declared = {option.name: option for option in command.params if option.name not in ("help_all", "config")}
    options = read_arguments(["--model", "m", "--data", "d"], method, {})
    read = {field.name: (field, part) for part in options for field in dataclasses.fields(part)}
    for name, option in declared.items():
        field, part = read[name]
        if not option.required:
            assert option.default == getattr(part, name), name
        if name != "output_dir" and "help" in field.metadata:
            assert option.help == field.metadata["help"]
    everything = CliRunner().invoke(app, ["train", method, "--help-all"], env={"COLUMNS": "100"}).stdout
    for name, option in declared.items():
        assert f"--{name.replace('_', '-')} " in everything
        if name != "output_dir":  # TRL describes it
            assert "".join(option.help.split()) in "".join(everything.split())
    assert "--gradient-accumulation-steps" in everything
    assert not re.search(r"^ *--\w*_", everything, re.MULTILINE)


def test_without_trl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extras, "find_spec", lambda name: None if name == "trl" else True)
    done = CliRunner().invoke(app, ["train", "sft", "--model", "x"])
    assert done.exit_code == 2
    assert "this needs trl: pip install '.[training]' in a checkout" in done.stderr
