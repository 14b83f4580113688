from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from pixelprune import PruneConfig, select
from pixelprune.bench import select as bench
from pixelprune.images.samples import photograph


def test_float_torch_selects_the_same(sample: np.ndarray) -> None:
    pytest.importorskip("torch", reason="the float implementation is in torch")
    assert (bench.float_torch_keep(sample).numpy() == select(sample).keep).all()


def test_nothing_can_be_dropped_from_the_photograph() -> None:
    image = photograph(1024)
    assert select(image, PruneConfig(threshold=0.02)).retain_ratio == 1
    assert image.std() > 20


def test_every_contender_is_timed(page: np.ndarray) -> None:
    times = bench.bench_select(page, 256, rounds=3)
    always = {"copy", "exact", "bounded", "rmse", "photo_exact", "photo_bounded", "photo_rmse"}
    assert set(times) == always | ({"torch", "torch_compare"} if find_spec("torch") else set())
    assert all(value > 0 for value in times.values())


def test_startup_leaves_torch_and_numba_alone() -> None:
    assert set(bench.bench_startup(rounds=1)) == {"import", "first_call"}
