from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelprune import select
from pixelprune.selection import _codes, metrics
from pixelprune.selection.metrics import limit, on_unit_scale, totals
from pixelprune.selection.select import largest_error
from tests.support.strategies import METRICS


@given(level=st.fractions(0, 255, max_denominator=1000), block=st.integers(1, 5000))
def test_limits_are_the_floor_of_the_exact_bound(level: Fraction, block: int) -> None:
    samples = 3 * block * block
    threshold = float(level / 255)
    assert limit(threshold, "max", samples) == level // 1
    assert limit(threshold, "mae", samples) == level * samples // 1
    assert limit(threshold, "rmse", samples) == level**2 * samples // 1


@pytest.mark.parametrize("metric", METRICS)
def test_totals_do_not_overflow(metric: str) -> None:
    black, white = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)
    for x, y in ((black, white), (white, black)):
        total = int(totals(x, y, metric, (0, 1, 2)))
        assert on_unit_scale(total, metric, x.size) == 1
        assert total == limit(1.0, metric, x.size)


def test_table() -> None:
    assert metrics.names() == list(METRICS)
    for name in METRICS:
        assert metrics.get(name).name == name
        assert metrics.get(name).code == getattr(_codes, name.upper())


@pytest.mark.parametrize("name", ["l2", "", None, 3, []])
def test_unknown_names(name: Any) -> None:
    with pytest.raises(ValueError, match=r"^metric must be one of 'max', 'mae', 'rmse', got ") as refused:
        metrics.get(name)
    assert str(refused.value).endswith(f"got {name!r}")


def test_errors_are_measured_in_a_known_metric() -> None:
    image = np.zeros((64, 64), np.uint8)
    with pytest.raises(ValueError, match="metric must be one of 'max', 'mae', 'rmse', got 'l2'"):
        largest_error(image, select(image), "l2")
