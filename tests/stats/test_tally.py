"""Sums over many images: against numpy, and in memory that does not grow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pixelprune.stats.tally import QUANTILES, Tally


def row(tokens: int, kept: int, cost: int = 0) -> dict[str, Any]:
    setting = {"kept": kept, "language_tokens": kept, "retain_ratio": kept / tokens, "budget_met": True}
    costs = {"vision_flops": cost, "language_flops": 2 * cost, "kv_bytes": 3 * cost}
    return {"tokens": tokens, "distinct": kept, "blank": kept == 1, "lossy": False, "page": None,
            "full": costs, "settings": [setting | costs]}  # fmt: skip


@pytest.mark.parametrize("images", [1, 2, 3, 10, 1001])
def test_quantiles(images: int) -> None:
    random = np.random.default_rng(images)
    tokens = random.integers(4, 3000, images)
    kept = np.maximum(1, random.random(images) ** 2 * tokens).astype(int)
    tally = Tally(1)
    for total, some in zip(tokens.tolist(), kept.tolist(), strict=True):
        tally.add(row(total, some))
    (setting,) = tally.to_dict()["settings"]
    for share in QUANTILES:
        exact = np.quantile(kept / tokens, share, method="inverted_cdf")
        assert setting["quantiles"][f"{share:g}"] == pytest.approx(exact, abs=0.5e-4)


def test_parts_add_up_to_the_whole() -> None:
    whole, parts = Tally(1), [Tally(1), Tally(1)]
    for number in range(1, 50):
        whole.add(row(100 + number, number, number))
        parts[number % 2].add(row(100 + number, number, number))
    merged = Tally(1)
    for part in parts:
        merged.merge(part)
    assert merged.to_dict() == whole.to_dict()
    assert whole.to_dict()["full"] == {"vision_flops": 1225, "language_flops": 2450, "kv_bytes": 3675}


def test_memory_does_not_grow() -> None:
    tally = Tally(1)
    for number in range(50_000):
        tally.add(row(100_000, 1 + number))
    assert len(tally.settings[0].ratios) <= 10_001


def test_without_images() -> None:
    result = Tally(2).to_dict()
    assert (result["images"], result["distinct_ratio"]) == (0, 0)
    assert result["settings"][1]["quantiles"] == {"0.1": 0, "0.5": 0, "0.9": 0}
