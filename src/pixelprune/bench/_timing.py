"""One timer for every benchmark, and what is said about the machine that it ran on."""

from __future__ import annotations

import gc
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from importlib import import_module
from typing import Any, TypeVar

import numpy as np
import PIL.Image

from pixelprune.selection._blocks import Image

_Key = TypeVar("_Key", bound=Hashable)


def seconds_in_turns(
    contenders: Mapping[_Key, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    before: Callable[[], object] = lambda: None,
) -> dict[_Key, list[float]]:
    """Seconds of each contender in each round.

    Contenders take turns within each round, so that a slow moment of the machine hits all of them.

    Args:
        contenders: what to time, by name.
        rounds: timed rounds.
        warm_up: rounds before those, which are thrown away.
        before: runs ahead of each contender, untimed.
    """
    times: dict[_Key, list[float]] = {name: [] for name in contenders}
    gc.collect()
    gc.disable()
    try:
        for _ in range(warm_up + rounds):
            for name, run in contenders.items():
                before()
                start = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return {name: taken[warm_up:] for name, taken in times.items()}


def median_seconds(
    contenders: Mapping[_Key, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    before: Callable[[], object] = lambda: None,
) -> dict[_Key, float]:
    """Median seconds of each contender, with the arguments of `seconds_in_turns`."""
    times = seconds_in_turns(contenders, rounds, warm_up=warm_up, before=before)
    return {name: statistics.median(taken) for name, taken in times.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Pin torch to one thread: a second one makes timings jump and ratios no truer."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def square(image: Image, side: int) -> Image:
    """`image` resized to side × side pixels."""
    return np.array(PIL.Image.fromarray(image).resize((side, side), PIL.Image.Resampling.BICUBIC))


def machine(*packages: str) -> dict[str, Any]:
    """Where and when this runs, with the versions of numpy and of `packages`, which are imported."""
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        **{name: str(import_module(name).__version__) for name in packages},
    }


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
