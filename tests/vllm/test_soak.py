"""Hundreds of mixed requests on a busy machine, a short run of `scripts/soak_vllm.py`; and what it calls a problem."""

from __future__ import annotations

import subprocess
import threading
from collections import Counter
from importlib import import_module
from typing import Any

import psutil
import pytest

soak_vllm = import_module("scripts.soak_vllm")
Kind, Reply = soak_vllm.Kind, soak_vllm.Reply

KIND = Kind("read, pruned", "read A", b"", {"threshold": 0.0}, 40)
BAD = Kind("bad options", "read A", b"", {"threshold": 5}, refusal="got 5")


def reply(text: str = "4 7", ids: tuple[int, ...] = (1, 2), prompt_tokens: int = 40, status: int = 200) -> Any:
    choice = {"message": {"content": text}, "token_ids": list(ids)}
    return Reply(status, {"choices": [choice], "usage": {"prompt_tokens": prompt_tokens}})


def refusal(status: int, text: str) -> Any:
    return Reply(status, {"error": {"message": text}})


def test_a_busy_server_loses_nothing_and_answers_as_it_does_alone() -> None:
    found = soak_vllm.soak(500, loops=2, interval=1, stop=threading.Event(), of_each_task=6)
    assert found["problems"] == []
    assert found["requests"] == 500
    assert set(found["groups"]) == {
        *(f"{picture}, {how}" for picture in ("read", "find", "blank", "photograph") for how in ("pruned", "unpruned")),
        "bad options",
        "truncated image",
    }
    assert found["right_alone"] > 0.8
    assert all(sum(mib) > 100 for _, _, mib in found["memory"])
    # The pixels of a request are about a megabyte, so that 500 of them would show if they were never released.
    assert sum(found["memory"][-1][2]) < sum(found["memory"][0][2]) + 250
    assert not [loop for loop in psutil.Process().children() if "getppid" in " ".join(loop.cmdline())]


def test_an_answer_that_differs_is_wrong() -> None:
    assert soak_vllm.judge(KIND, reply(), reply()) == ""
    assert soak_vllm.judge(KIND, reply("4 8"), reply()).startswith("wrong answer")
    assert soak_vllm.judge(KIND, reply(ids=(1, 3)), reply()).startswith("wrong answer")
    assert soak_vllm.judge(KIND, reply(prompt_tokens=41), reply()) == "wrong number of prompt tokens: 41 instead of 40"
    assert soak_vllm.judge(KIND, refusal(400, "no"), reply()).startswith("wrong status: 400")


def test_a_refusal_must_be_ours() -> None:
    assert soak_vllm.judge(BAD, refusal(400, "threshold must be a number, got 5")) == ""
    assert soak_vllm.judge(BAD, refusal(400, "bad request")) == "wrong refusal: 400 bad request"
    assert soak_vllm.judge(BAD, refusal(422, "threshold must be a number, got 5")).startswith("wrong refusal: 422")
    assert soak_vllm.judge(BAD, reply()).startswith("wrong refusal: 200")


@pytest.mark.parametrize("kind", [KIND, BAD])
def test_an_error_of_the_server_or_of_the_connection_is_a_loss(kind: Any) -> None:
    assert soak_vllm.judge(kind, refusal(500, "EngineCore died")).startswith("lost: 500")
    assert soak_vllm.judge(kind, soak_vllm.post("http://127.0.0.1:1", b"")).startswith("lost: 0 ConnectionRefusedError")


def test_problems_are_counted_and_a_run_ends_early(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, done, sent = threading.Event(), Counter[str](), []

    def post(_: str, body: bytes) -> Any:
        sent.append(body)
        if len(sent) == 50:
            stop.set()
        return reply("4 8" if len(sent) % 10 == 0 else "4 7")

    monkeypatch.setattr(soak_vllm, "post", post)
    problems = soak_vllm.send("", [KIND], [reply()], 1000, done, stop)
    assert 50 <= done.total() == len(sent) < 100
    assert len(problems) == len(sent) // 10
    assert all("read, pruned: wrong answer" in problem for problem in problems)
    assert len(set(sent)) == len(sent)  # so that none is found in a cache


def test_memory_that_grows_shows() -> None:
    flat = [(30.0 * i, 100 * i, [900.0 if i else 500.0, 9.0]) for i in range(21)]
    assert soak_vllm.growth(flat) == {"first_mib": 909, "last_mib": 909, "mib_per_1000": 0}
    leak = [(seconds, count, [*mib, 0.5 * count]) for seconds, count, mib in flat]
    assert soak_vllm.growth(leak)["mib_per_1000"] == 500


def test_memory_of_all_processes_of_a_session_counts() -> None:
    code = "import subprocess, sys, time; x = bytearray(b'1' * 2**26); print(flush=True); {}"
    parent = f"subprocess.run([sys.executable, '-c', {code.format('time.sleep(60)')!r}])"
    process = subprocess.Popen(
        [soak_vllm.sys.executable, "-c", code.format(parent)], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        assert [size > 2**26 for size in soak_vllm.resident(process.pid)] == [True, True]
    finally:
        soak_vllm.os.killpg(process.pid, 9)
        process.wait()
        process.stdout.close()
