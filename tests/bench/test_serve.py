"""`pixelprune bench serve` and its parts, with a stand-in for vLLM: a server that counts, and may misbehave."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
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

# 40 tokens a picture or, told to prune, 10. A child stands for the engine.
FAKE = """
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

words = sys.argv
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
with open(os.environ["FAKE_PIDS"], "a") as file:
    print(os.getpid(), child.pid, file=file)
if "--broken" in words:
    print("INFO 11-25 03:00:00 [a.py:1] all is well")
    sys.exit("(EngineCore pid=7) ERROR 11-25 03:00:00 [b.py:2] ValueError: no room for [the] model")
if "--silent" in words:
    time.sleep(100)
prunes = "--hf-overrides" in words and "--deaf" not in words
seen = set()


class Handler(BaseHTTPRequestHandler):
    def answer(self, status, text):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        self.answer(200, "")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body in seen or "--refusing" in words:
            return self.answer(400, json.dumps({"error": {"message": "seen this before"}}))
        seen.add(body)
        if "--dying" in words:
            return self.answer(200, 'data: {"error": {"message": "the engine is dead"}}\\n\\n')
        usage = {"prompt_tokens": 10 if prunes else 40}
        events = [{"choices": [{}]}, {"choices": [{}]}, {"choices": [], "usage": usage}]
        self.answer(200, "".join(f"data: {json.dumps(event)}\\n\\n" for event in events) + "data: [DONE]\\n\\n")

    def log_message(self, *args):
        pass


port = int(words[words.index("--port") + 1])
ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """The stand-in in place of vLLM, and a function that lists which processes of it have been started."""
    module = tmp_path / "vllm" / "entrypoints" / "openai" / "api_server.py"
    module.parent.mkdir(parents=True)
    module.write_text(FAKE, encoding="utf-8")
    for folder in list(module.parents)[:3]:
        (folder / "__init__.py").touch()
    pids = tmp_path / "pids"
    monkeypatch.setenv("FAKE_PIDS", str(pids))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(
        "pixelprune.bench.serve.run_in_subprocess", lambda look, model, commands, images: (_ABOUT, _sizes(images))
    )
    return lambda: [int(pid) for pid in pids.read_text(encoding="utf-8").split()]


_ABOUT = {"device": "cpu", "vllm": "0.32.0", "torch": "2.14.1", "transformers": "5.19.0"}


def _sizes(pictures: Any) -> dict[str, dict[str, int]]:
    return {name: dict.fromkeys(pictures, size) for name, size in (("stock", 4_000_000), ("pruned", 1_000_000))}


def ended(pid: int) -> bool:
    """Whether a process is gone; one that nobody has waited for yet counts as gone."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


PICTURE = np.full((64, 64, 3), 200, np.uint8)


def test_server_runs_and_leaves_no_process(processes: Callable[[], list[int]]) -> None:
    with Server("model", ["--seed", "1"], env={"MORE": "1"}) as server:
        assert client.ask(server.url, PICTURE).prompt_tokens == 40
        started = processes()
    assert len(started) == 2
    assert all(ended(pid) for pid in started)
    assert server.url == ""


@pytest.mark.parametrize(
    ("option", "why"), [("--broken", r"^no room for \[the\] model$"), ("--silent", "has not answered for 2 s")]
)
def test_server_that_does_not_start(processes: Callable[[], list[int]], option: str, why: str) -> None:
    with pytest.raises(ServerError, match=why), Server("model", [option], patience=2):
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
    """The stand-in refuses what it has seen before, so this also shows that no picture is sent twice."""
    told: list[str] = []
    result = bench.bench_serve(
        "model",
        {"flat": PICTURE, "same": PICTURE},
        requests=3,
        rounds=2,
        one_after_another=one_after_another,
        tell=told.append,
    )
    assert result["machine"] == {**machine(), **_ABOUT}
    for case in result["pictures"].values():
        assert case["size"] == [64, 64]
        assert {name: (case[name]["prompt_tokens"], case[name]["bytes"]) for name in ("stock", "pruned")} == {
            "stock": (40, 4_000_000),
            "pruned": (10, 1_000_000),
        }
        assert min(case[n][k] for n in ("stock", "pruned") for k in ("requests_per_second", "first_token_ms")) > 0
    assert told[0] == "Starting the stock server…"
    assert told.index("Starting the pruned server…") == (4 if one_after_another else 1)


@pytest.mark.parametrize(
    ("option", "error", "why"),
    [
        ("--deaf", bench.NotPrunedError, "40 prompt tokens on the server that should prune and 40 on the stock one"),
        ("--broken", ServerError, "no room"),
        ("--refusing", ServerError, "refused a request: seen this before"),
        ("--dying", ServerError, "gave up on a request: the engine is dead"),
    ],
)
def test_servers_end_with_an_error(
    processes: Callable[[], list[int]], option: str, error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        bench.bench_serve("model", {"flat": PICTURE}, [option], requests=1, rounds=1)
    assert all(ended(pid) for pid in processes())


def test_summary() -> None:
    batches = [
        Batch(requests=4, seconds=seconds, alone=[Answer(first, 100), Answer(first / 2, 101)])
        for seconds, first in ((2.0, 0.4), (1.0, 0.8), (8.0, 0.6))
    ]
    summary = bench.summary(batches)
    assert summary == {"requests_per_second": 2, "first_token_ms": pytest.approx(400), "prompt_tokens": 100}


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
    for text in ("some/model", "page, 736 × 1024", "photograph", "prompt tokens", "0.25 ×", "4.00", "1.00"):
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


def test_figures() -> None:
    figures = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "make_figures.py"))
    counts = {"requests_per_second": 0.5, "first_token_ms": 1500.0, "prompt_tokens": 1041, "bytes": 6_300_000}
    half = {"requests_per_second": 1.0, "first_token_ms": 750.0, "prompt_tokens": 520, "bytes": 3_150_000}
    case = {"size": [736, 1024], "stock": counts, "pruned": half}
    about = {"rounds": 3, "requests": 5, "threshold": 0.02}
    result = {"machine": {**machine(), **_ABOUT}, **about, "pictures": {"page": case}}
    assert figures["serve_table"](result).splitlines()[2:] == [
        "| page, 736 × 1024 | requests per second | 0.50 | 1.00 | 2.00 × |",
        "| page, 736 × 1024 | time to first token | 1.50 s | 0.75 s | 0.50 × |",
        "| page, 736 × 1024 | prompt tokens | 1,041 | 520 | 0.50 × |",
        "| page, 736 × 1024 | image data between processes | 6.30 MB | 3.15 MB | 0.50 × |",
    ]
    notes = figures["serve_notes"](result)
    assert notes.endswith("vLLM 0.32.0; τ = 0.02, 3 rounds of 5 requests two at a time and 3 alone.")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_servers_end_with_the_command(processes: Callable[[], list[int]], tmp_path: Path, number: int) -> None:
    PIL.Image.fromarray(PICTURE).save(tmp_path / "flat.png")
    words = ["--model", "m", "--image", str(tmp_path / "flat.png"), "--", "--silent"]
    command = [sys.executable, "-m", "pixelprune", "bench", "serve", *words]
    running = subprocess.Popen(command, env=os.environ.copy(), stderr=subprocess.PIPE)
    try:
        for _ in range(600):
            if (tmp_path / "pids").exists() and len(processes()) == 2:
                break
            time.sleep(0.05)
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
    finally:
        running.kill()
    assert running.returncode == 130
    assert b"Traceback" not in said
    assert all(ended(pid) for pid in processes())
