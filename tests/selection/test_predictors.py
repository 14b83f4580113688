from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pixelprune import PruneConfig, decode, encode, predictors, select
from pixelprune.selection._engine import find_sources
from pixelprune.selection.predictors import Same
from tests.support.strategies import METRICS, PREDICTORS


@pytest.mark.parametrize("threshold", [0.0, 0.03])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", PREDICTORS)
def test_compiled_twin_equals_the_rule_in_python(sample: np.ndarray, name: str, metric: str, threshold: float) -> None:
    in_python = replace(predictors.get(name), kernel=None)
    slow = find_sources(sample, (32, 32), in_python, threshold, metric)
    assert (select(sample, PruneConfig(threshold, metric, name)).source == slow).all()


@pytest.fixture
def registered() -> Iterator[str]:
    def columns_first(n: int, columns: int, source: Sequence[int], same: Same) -> int | None:
        if n >= columns:
            return source[n - columns]
        foot_of_column_before = len(source) - columns + n - 1
        return source[foot_of_column_before] if n else None

    def by_columns(rows: int, columns: int) -> Iterator[int]:
        for column in range(columns):
            yield from range(column, rows * columns, columns)

    predictors.register("by-columns", columns_first, by_columns)
    yield "by-columns"
    predictors.unregister("by-columns")


def test_a_predictor_of_ones_own_works_everywhere(registered: str, sample: np.ndarray) -> None:
    assert registered in predictors.names()
    for threshold in (0.0, 0.03):
        config = PruneConfig(threshold, predictor=registered)
        assert PruneConfig.from_json(config.to_json()) == config
        selection = select(sample, config)
        assert 0.2 < selection.retain_ratio < 0.9
        error = np.abs(decode(encode(sample, config)).astype(int) - sample).max()
        assert error <= threshold * 255


def test_a_scan_may_begin_anywhere(page: np.ndarray) -> None:
    def from_the_right(n: int, columns: int, source: Sequence[int], same: Same) -> int | None:
        return source[n + 1] if n + 1 < len(source) else None

    predictors.register("backwards", from_the_right, lambda rows, columns: range(rows * columns - 1, -1, -1))
    try:
        compressed = encode(page, PruneConfig(predictor="backwards"))
        assert compressed.positions[0] > 0
        assert (decode(compressed) == page).all()
        without_start = replace(compressed, blocks=compressed.blocks[:-1], positions=compressed.positions[:-1])
        with pytest.raises(ValueError, match="must hold the blocks that 'backwards' starts from, got <Compressed: "):
            decode(without_start)
    finally:
        predictors.unregister("backwards")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("new", 5), "rule must be a function, got 5"),
        (("new", predictors.raster, 3), "order must be a function, got 3"),
    ],
)
def test_what_cannot_be_registered(arguments: tuple[Any, ...], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        predictors.register(*arguments)
    assert "new" not in predictors.names()


@pytest.mark.parametrize(
    ("rule", "order", "text"),
    [
        (
            lambda n, columns, source, same: n - 1 if n else None,
            predictors.by_rows,
            "must return None or the index of a block kept earlier, got 1 for",
        ),
        (
            lambda n, columns, source, same: -1,
            predictors.by_rows,
            "must return None or the index of a block kept earlier, got -1 for block 0",
        ),
        (
            lambda n, columns, source, same: "a",
            predictors.by_rows,
            "must return None or the index of a block kept earlier, got 'a' for block",
        ),
        (
            lambda n, columns, source, same: 0.0,
            predictors.by_rows,
            "must return None or the index of a block kept earlier, got 0.0 for block",
        ),
        (
            lambda n, columns, source, same: 99,
            predictors.by_rows,
            "must return None or the index of a block kept earlier, got 99 for block 0",
        ),
        (predictors.raster, lambda rows, columns: np.arange(7), "must visit every block, its order left out 7"),
        (predictors.raster, lambda rows, columns: range(9), "must visit blocks 0 to 7 once each, got 8"),
        (predictors.raster, lambda rows, columns: [0, 0], "must visit blocks 0 to 7 once each, got 0"),
        (predictors.raster, lambda rows, columns: range(3), "must visit every block, its order left out 3"),
    ],
)
def test_a_rule_that_breaks_the_contract(rule: predictors.Rule, order: predictors.Order, text: str) -> None:
    predictors.register("broken", rule, order)
    try:
        with pytest.raises(ValueError, match=f"predictor 'broken' {text}"):
            select(np.zeros((64, 128), np.uint8), PruneConfig(predictor="broken"))
    finally:
        predictors.unregister("broken")
