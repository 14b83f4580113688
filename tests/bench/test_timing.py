"""The one timer: who runs when, and which rounds count."""

from __future__ import annotations

import gc

import numpy
import pytest

from pixelprune.bench import _timing as timing


def test_contenders_take_turns_and_warm_up_does_not_count() -> None:
    calls: list[str] = []
    contenders = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.seconds_in_turns(contenders, rounds=2, warm_up=1, before=lambda: calls.append("-"))
    assert "".join(calls) == 3 * "-a-b"
    assert {name: len(taken) for name, taken in times.items()} == {"a": 2, "b": 2}
    assert gc.isenabled()


def test_what_runs_before_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def wait(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    taken = iter([100.0, 1.0, 3.0, 2.0])  # the first one is the warm-up
    medians = timing.median_seconds({"a": lambda: wait(next(taken))}, rounds=3, before=lambda: wait(50))
    assert medians == {"a": 2.0}


def test_machine_has_the_versions_asked_for() -> None:
    about = timing.machine("numpy", "pytest")
    assert about["numpy"] == numpy.__version__
    assert about["pytest"] == pytest.__version__
    assert set(timing.machine()) == {"date", "cpu", "cores", "python", "numpy"}
