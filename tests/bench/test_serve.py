"""`pixelprune bench serve` and its parts, with tests/support/fake_vllm.py in place of vLLM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from typer.testing import CliRunner

from pixelprune._processes import last_error
from pixelprune.bench import _client as client
from pixelprune.bench import serve as bench
from pixelprune.bench._client import Answer, Batch
from pixelprune.bench._servers import Server, ServerError
from pixelprune.bench._timing import machine
from pixelprune.cli.app import app
from pixelprune.images.files import load_image
from pixelprune.images.samples import sample_path
from pixelprune.selection.config import PruneConfig

FAKE = Path(__file__).parents[1] / "support" / "fake_vllm.py"

# Seconds that guard against hanging, and decide nothing.
PATIENCE = 300


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Puts the fake in place of vLLM; a function that lists the processes it has started."""
    module = tmp_path / "vllm" / "entrypoints" / "openai" / "api_server.py"
    module.parent.mkdir(parents=True)
    shutil.copy(FAKE, module)
    for folder in list(module.parents)[:3]:
        (folder / "__init__.py").touch()
    pids = tmp_path / "pids"
    monkeypatch.setenv("FAKE_PIDS", str(pids))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(
        "pixelprune.bench.serve.run_in_subprocess",
        lambda function, model, commands, images: (_ABOUT, _sizes(images)),
    )
    return lambda: [int(pid) for pid in pids.read_text(encoding="utf-8").split()] if pids.exists() else []


_ABOUT = {"device": "cpu", "vllm": "0.32.0", "torch": "2.14.1", "transformers": "5.19.0"}


def _sizes(pictures: Any) -> dict[str, dict[str, int]]:
    return {name: dict.fromkeys(pictures, size) for name, size in (("stock", 4_000_000), ("pruned", 1_000_000))}


def ended(pid: int) -> bool:
    """Whether a process is gone, or goes soon; one that nobody has waited for yet counts as gone."""
    return soon(lambda: state(pid) in ("", "Z", "X"))


def state(pid: int) -> str:
    """The state of a process in one letter; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def soon(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true within `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


PICTURE = np.full((64, 64, 3), 200, np.uint8)


def test_server_runs_and_leaves_no_process(processes: Callable[[], list[int]]) -> None:
    with Server("model", ["--seed", "1"], env={"MORE": "1"}) as server:
        assert client.ask(server.url, PICTURE).prompt_tokens == 40
        started = processes()
    assert len(started) == 2
    assert all(ended(pid) for pid in started)
    assert server.url == ""


def test_server_that_fails_to_start(processes: Callable[[], list[int]]) -> None:
    with pytest.raises(ServerError, match=r"^no room for \[the\] model$"), Server("model", ["--broken"]):
        pass
    assert all(ended(pid) for pid in processes())


def test_server_that_never_answers(processes: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time is up when both of its processes run, however long that takes."""
    clock = SimpleNamespace(monotonic=lambda: 3 if len(processes()) == 2 else 0, sleep=time.sleep)
    monkeypatch.setattr("pixelprune.bench._servers.time", clock)
    with pytest.raises(ServerError, match="has not answered for 2 s"), Server("model", ["--silent"], patience=2):
        pass
    assert all(ended(pid) for pid in processes())


@pytest.mark.parametrize(
    ("log", "why"),
    [
        ("api_server.py: error: unrecognized arguments: --nonsense\n", "unrecognized arguments: --nonsense"),
        (
            "(APIServer pid=1) pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "(APIServer pid=1)   Value error, too long [type=value_error, input_value=ArgsKwargs(()), input_type=x]\n",
            "too long",
        ),
        (
            "(EngineCore pid=2) ERROR 11-25 03:00:00 [core.py:9] torch.OutOfMemoryError: 3 GiB\n"
            "(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.\n",
            "3 GiB",
        ),
        ("INFO 11-25 03:00:00 [a.py:1] hello\nKilled\n\n", "Killed"),
        ("", "it exited without output"),
    ],
)
def test_last_error(log: str, why: str) -> None:
    assert last_error(log) == why


@pytest.mark.parametrize("one_after_another", [False, True])
@pytest.mark.usefixtures("processes")
def test_both_servers_are_measured(one_after_another: bool) -> None:
    """The fake refuses what it has seen before, so this also shows that no image is sent twice."""
    lines: list[str] = []
    result = bench.bench_serve(
        "model",
        {"flat": PICTURE, "same": PICTURE},
        requests=3,
        rounds=2,
        one_after_another=one_after_another,
        on_progress=lines.append,
    )
    assert result["machine"] == {**machine(), **_ABOUT}
    for case in result["pictures"].values():
        assert case["size"] == [64, 64]
        assert {name: (case[name]["prompt_tokens"], case[name]["bytes"]) for name in ("stock", "pruned")} == {
            "stock": (40, 4_000_000),
            "pruned": (10, 1_000_000),
        }
        assert min(case[n][k] for n in ("stock", "pruned") for k in ("requests_per_second", "first_token_ms")) > 0
    assert lines[0] == "Starting the stock server…"
    assert lines.index("Starting the pruned server…") == (4 if one_after_another else 1)


@pytest.mark.parametrize(
    ("option", "error", "why"),
    [
        ("--deaf", bench.NotPrunedError, "40 prompt tokens on the server that should prune and 40 on the stock one"),
        ("--broken", ServerError, "no room"),
        ("--refusing", ServerError, "refused a request: seen this before"),
        ("--dying", ServerError, "the server failed on a request: the engine is dead"),
    ],
)
def test_servers_end_with_an_error(
    processes: Callable[[], list[int]], option: str, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        bench.bench_serve("model", {"flat": PICTURE}, [option], requests=1, rounds=1)
    assert all(ended(pid) for pid in processes())


def test_with_all_tokens_restored_bytes_show_what_prunes(
    processes: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both servers then count as many tokens, as this fake does when it is deaf."""
    config = PruneConfig(restore=1)
    result = bench.bench_serve("model", {"page": PICTURE}, ["--deaf"], config=config, requests=1, rounds=1)
    assert list(result["pictures"]) == ["page"]
    equal = {name: dict.fromkeys(("page", "a flat image"), 4_000_000) for name in ("stock", "pruned")}
    monkeypatch.setattr(bench, "run_in_subprocess", lambda *_: (_ABOUT, equal))
    with pytest.raises(bench.NotPrunedError, match="a flat image has 4000000 bytes of image data on the server that"):
        bench.bench_serve("model", {"page": PICTURE}, ["--deaf"], config=config, requests=1, rounds=1)
    assert all(ended(pid) for pid in processes())


def test_summary() -> None:
    batches = [
        Batch(requests=4, seconds=seconds, alone=[Answer(first, 100), Answer(first / 2, 101)])
        for seconds, first in ((2.0, 0.4), (1.0, 0.8), (8.0, 0.6))
    ]
    expected = {"requests_per_second": 2, "first_token_ms": pytest.approx(400), "prompt_tokens": 100}
    assert bench.summary(batches) == expected


def test_stamps_differ_and_stay_in_the_corner() -> None:
    stamped = [bench.stamped(PICTURE, number) for number in range(40)]
    assert len({image.tobytes() for image in stamped}) == 40
    changed = (np.stack(stamped) != PICTURE).any(axis=(0, 3))
    assert not changed[:-8].any()
    assert not changed[:, :-8].any()
    assert (PICTURE == 200).all()


def test_default_pictures_are_those_that_a_block_of_32_divides() -> None:
    pictures = bench.default_pictures()
    assert {name: image.shape[:2] for name, image in pictures.items()} == {
        "page": (1024, 736),
        "screen": (640, 1024),
        "photograph": (768, 768),
    }


def test_pruning_joins_other_overrides() -> None:
    config = PruneConfig(threshold=0.02)
    for given in (["--hf-overrides", '{"a": {"b": 1}}'], ['--hf_overrides={"a": {"b": 1}}']):
        *rest, name, value = bench.with_pruning(["--seed", "1", *given, "--tokenizer", "/pixelprune/x"], config)
        assert rest == ["--seed", "1", "--tokenizer", "/pixelprune/x"]
        assert name == "--hf-overrides"
        assert json.loads(value) == {"a": {"b": 1}, "pixelprune": config.to_dict()}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (["--hf-overrides", '{"pixelprune": true}'], "leave pixelprune out"),
        (["--hf-overrides.a.b", "1"], "given once, as JSON, got --hf-overrides.a.b"),
        (["--hf-overrides", "[1]"], r"must be a JSON object, got \[1\]"),
        (["--hf-overrides"], "must be a JSON object"),
    ],
)
def test_overrides_that_cannot_be_joined(given: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        bench.with_pruning(given, PruneConfig())


# The command


def invoke(*words: str) -> Any:
    return CliRunner().invoke(app, ["bench", "serve", *words])


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelprune.cli.bench_serve.find_spec", lambda name: object())
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")  # which the command would leave behind


def test_command_without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixelprune.cli.bench_serve.find_spec", lambda name: None)
    result = invoke()
    assert result.exit_code == 2
    assert "this needs vLLM" in result.output


@pytest.mark.usefixtures("installed", "processes")
def test_command() -> None:
    words = ["--model", "some/model", "--requests", "1", "--rounds", "1"]
    table = invoke(*words)
    assert table.exit_code == 0, table.output
    for text in ("some/model", "page, 736 × 1024", "photograph", "prompt tokens", "0.25 ×", "4.00 MB", "1.00 MB"):
        assert text in table.output
    result = json.loads(
        invoke(
            *words, "--image", str(sample_path("screen")), "--json", "--threshold", "0.02", "--", "--seed", "1"
        ).stdout
    )
    assert {key: result[key] for key in ("model", "options", "threshold", "requests", "rounds")} == {
        "model": "some/model",
        "options": ["--seed", "1"],
        "threshold": 0.02,
        "requests": 1,
        "rounds": 1,
    }
    height, width, _ = load_image(sample_path("screen")).shape
    assert result["pictures"]["screen.png"]["size"] == [width, height]


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--image", "nowhere.png"], 2, "nowhere.png"),
        (["--threshold", "5"], 2, "--threshold must be a number in [0, 1], got 5"),
        (["page.png"], 2, "got 'page.png'"),
        (["--", "--hf-overrides", "[]x"], 2, "must be a JSON object"),
        (["--", "--broken"], 2, "no room for [the] model"),
        (["--", "--refusing"], 2, "seen this before"),
        (["--", "--deaf"], 1, "nothing is pruned"),
    ],
)
@pytest.mark.usefixtures("installed", "processes")
def test_command_ends_with_one_line(words: list[str], code: int, why: str) -> None:
    result = invoke("--model", "some/model", *words)
    assert result.exit_code == code
    assert why in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_servers_end_with_the_command(processes: Callable[[], list[int]], tmp_path: Path, number: int) -> None:
    PIL.Image.fromarray(PICTURE).save(tmp_path / "flat.png")
    words = ["--model", "m", "--image", str(tmp_path / "flat.png"), "--", "--silent"]
    command = [sys.executable, "-m", "pixelprune", "bench", "serve", *words]
    running = subprocess.Popen(command, env=os.environ.copy(), stderr=subprocess.PIPE)
    try:
        assert soon(lambda: len(processes()) == 2)
        running.send_signal(number)
        _, errors = running.communicate(timeout=PATIENCE)
    finally:
        running.kill()
    assert running.returncode == 130
    assert b"Traceback" not in errors
    assert all(ended(pid) for pid in processes())
