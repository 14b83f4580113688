from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from strategies import METRICS, PREDICTORS

from pixelprune import PruneConfig, decode, encode, predictors, select
from pixelprune._engine import find_sources
from pixelprune.predictors import Same


@pytest.mark.parametrize("threshold", [0.0, 0.03])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", PREDICTORS)
def test_compiled_twin_equals_the_rule_in_python(sample: np.ndarray, name: str, metric: str, threshold: float) -> None:
    in_python = replace(predictors.get(name), kernel=None)
    slow = find_sources(sample, 32, in_python, threshold, metric)
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


def test_names_are_taken_once(registered: str) -> None:
    with pytest.raises(ValueError, match="name must be new, got 'by-columns', which is already a predictor"):
        predictors.register(registered, predictors.raster)


def test_unknown_and_built_in_names() -> None:
    with pytest.raises(ValueError, match="predictor must be one of 'pred2d', 'raster', 'serpentine', got 'none'"):
        predictors.unregister("none")
    with pytest.raises(ValueError, match="got 'pred2d', which is built in"):
        predictors.unregister("pred2d")


@pytest.mark.parametrize(
    ("rule", "order", "text"),
    [
        (
            lambda n, columns, source, same: n - 1 if n else None,
            predictors.by_rows,
            "must return kept blocks, got 1 for",
        ),
        (lambda n, columns, source, same: -1, predictors.by_rows, "must return kept blocks, got -1 for block 0"),
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
