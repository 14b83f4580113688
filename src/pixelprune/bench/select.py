"""How long a selection takes, compared with copying the image and with float torch code."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

import numpy as np

from pixelprune.bench._tables import Table, measured_on, numbers, texts
from pixelprune.bench._timing import median_seconds, one_thread, seconds_in_turns, square
from pixelprune.images.samples import photograph
from pixelprune.selection._blocks import Image
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.select import select

SIDES = (1024, 2048, 4096)
BLOCK = 32

# By contender, what it is called in a table.
_LABELS = {
    "exact": "select from page, τ = 0",
    "bounded": "select from page, τ = 0.02",
    "rmse": "select from page, τ = 0.02, rmse",
    "photo_exact": "select from photograph, τ = 0",
    "photo_bounded": "select from photograph, τ = 0.02",
    "photo_rmse": "select from photograph, τ = 0.02, rmse",
    "torch": "float torch code, τ = 0",
    "torch_compare": "float torch code, comparisons only",
}


def bench_select(image: Image, side: int, rounds: int = 21) -> dict[str, float]:
    """Median milliseconds of each contender on `image` at side × side pixels, on one thread.

    Contenders take turns within each round; two rounds of warm-up are thrown away. ``photo_*`` runs on
    an image from which nothing can be dropped at either threshold in the metric "max".

    Returns:
        Milliseconds by contender. If torch is installed, ``torch`` is `float_torch_keep`, which starts
        from the image, and ``torch_compare`` its comparisons only, on patches made beforehand.
    """
    page = square(image, side)
    photo = photograph(side)
    exact, bounded, rmse = PruneConfig(), PruneConfig(threshold=0.02), PruneConfig(threshold=0.02, metric="rmse")
    contenders: dict[str, Callable[[], object]] = {
        "copy": lambda: page.copy(),
        "exact": lambda: select(page, exact),
        "bounded": lambda: select(page, bounded),
        "rmse": lambda: select(page, rmse),
        "photo_exact": lambda: select(photo, exact),
        "photo_bounded": lambda: select(photo, bounded),
        "photo_rmse": lambda: select(photo, rmse),
    }
    result = _milliseconds(contenders, rounds)
    if find_spec("torch"):
        result |= _bench_torch(page)
    return result


def bench_threads(image: Image, side: int = 2048, rounds: int = 15, repeats: int = 100) -> dict[str, float]:
    """How many times as many selections all cores make as one thread does in the same time.

    One thread and one thread per core take turns; the median of their ratios counts. Where the system
    allows it, each thread is tied to a core: otherwise threads that pass a lock to each other are
    sometimes kept on one core.
    """
    page = square(image, side)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    threads = len(cores) or os.cpu_count() or 1

    def work(number: int) -> None:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {sorted(cores)[number % len(cores)]})
        for _ in range(repeats):
            select(page)

    with ThreadPoolExecutor(threads) as pool:
        contenders = {
            "every": lambda: list(pool.map(work, range(threads))),
            "one": lambda: list(pool.map(work, range(1))),
        }
        times = seconds_in_turns(contenders, rounds)
    ratios = [threads * one / every for one, every in zip(times["one"], times["every"], strict=True)]
    return {"threads": threads, "speed_up": statistics.median(ratios)}


def bench_startup(rounds: int = 7) -> dict[str, float]:
    """Median milliseconds of `import pixelprune`, then of a first call, each in a fresh process."""
    script = (
        "import time; start = time.perf_counter(); import pixelprune; loaded = time.perf_counter();"
        "import numpy, sys; page = numpy.full((1024, 1024, 3), 255, numpy.uint8); ready = time.perf_counter();"
        "pixelprune.select(page); done = time.perf_counter();"
        "assert 'torch' not in sys.modules and 'numba' not in sys.modules;"
        "print((loaded - start) * 1e3, (done - ready) * 1e3)"
    )
    select(np.zeros((BLOCK, BLOCK, 3), np.uint8))  # the kernels are compiled and stored by now
    runs = [
        [float(value) for value in subprocess.check_output([sys.executable, "-c", script], text=True).split()]
        for _ in range(rounds + 1)
    ][1:]
    imports, calls = zip(*runs, strict=True)
    return {"import": statistics.median(imports), "first_call": statistics.median(calls)}


def float_torch_keep(image: Image) -> Any:
    """Pred-2D at τ = 0 the way research code does it: on normalized float32 patches, in torch.

    Returns:
        keep, a bool tensor (R, C).
    """
    return float_torch_compare(float_torch_blocks(image))


def float_torch_blocks(image: Image, block: int = BLOCK, patch: int = 16) -> Any:
    """An image as Qwen-style processors pass it to the model: normalized, cut, with T = 2 equal frames.

    Returns:
        float32 tensor (R, C, D) whose last axis is (m, m) patches of (channel, T, P, P).
    """
    import torch

    merge, (height, width) = block // patch, image.shape[:2]
    rows, columns = height // block, width // block
    values = torch.from_numpy(image).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5)
    values = values.expand(2, 3, height, width)
    cut = values.reshape(2, 3, rows, merge, patch, columns, merge, patch)
    return cut.permute(2, 5, 3, 6, 1, 0, 4, 7).reshape(rows, columns, -1)


def float_torch_compare(blocks: Any) -> Any:
    """Pred-2D at τ = 0 on blocks (R, C, D), all comparisons at once; keep, bool (R, C)."""
    import torch

    rows, columns, _ = blocks.shape
    left = torch.zeros(rows, columns, dtype=torch.bool)
    upper = torch.zeros(rows, columns, dtype=torch.bool)
    left[:, 1:] = (blocks[:, 1:] == blocks[:, :-1]).all(-1)
    upper[1:] = (blocks[1:] == blocks[:-1]).all(-1)
    drop = left.clone()
    drop[1:, 0] = upper[1:, 0]
    from_above = upper[1:, :-1] & ~left[:-1, 1:]
    drop[1:, 1:] = torch.where(from_above, upper[1:, 1:], left[1:, 1:])
    return ~drop


def _bench_torch(page: Image) -> dict[str, float]:
    with one_thread():
        blocks = float_torch_blocks(page)
        contenders = {"torch": lambda: float_torch_keep(page), "torch_compare": lambda: float_torch_compare(blocks)}
        return _milliseconds(contenders, rounds=5)


def _milliseconds(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    return {name: 1e3 * taken for name, taken in median_seconds(contenders, rounds, warm_up=2).items()}


def table(result: Mapping[str, Any]) -> Table:
    """The table of a result of `pixelprune bench select`: times as multiples of copying the image."""
    sides, threads, startup = (result[key] for key in ("milliseconds", "threads", "startup_milliseconds"))
    times = list(sides.values())
    rows = [("copy the image: image.copy()", *(f"{t['copy']:.3f} ms" for t in times))]
    for name, label in _LABELS.items():
        if name in times[0]:
            rows.append((label, *(f"{t[name] / t['copy']:.2f} × copy" for t in times)))
    notes = [
        measured_on(result["machine"], "medians of one run on one thread"),
        f"{threads['threads']} threads, each tied to a core, make {threads['speed_up']:.2f} × the selections of one "
        "(2048², τ = 0).",
        f"Importing pixelprune takes {startup['import']:.0f} ms; the first call in a fresh process, with kernels "
        f"already stored, {startup['first_call']:.0f} ms.",
    ]
    if "torch" in times[0]:
        for name, label in (("exact", "τ = 0"), ("bounded", "τ = 0.02")):
            rows.append((f"float torch code ÷ select, {label}", *(f"{t['torch'] / t[name]:.0f} ×" for t in times)))
    else:
        notes.append("torch is not installed, so the rows of float torch code are left out.")
    return Table(
        "Selection, one thread, medians",
        texts("operation") + numbers(*(f"{side}²" for side in sides)),
        tuple(rows),
        tuple(notes),
    )
