from __future__ import annotations

import random as stdlib_random

import numpy as np
import pytest
from hypothesis import given, settings

from pixelprune import PruneConfig, baselines, select
from tests.support.strategies import Case, cases


def _flood(image: np.ndarray, block: int, level: int) -> list[list[int]]:
    """Row-major first block of each 4-connected group, by flood filling."""
    rows, columns = image.shape[0] // block, image.shape[1] // block
    pixels = image.astype(int)

    def cell(i: int, j: int) -> np.ndarray:
        return pixels[i * block : (i + 1) * block, j * block : (j + 1) * block]

    label = [[-1] * columns for _ in range(rows)]
    for i in range(rows):
        for j in range(columns):
            if label[i][j] >= 0:
                continue
            queue = [(i, j)]
            label[i][j] = i * columns + j
            while queue:
                y, x = queue.pop()
                for v, u in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                    inside = 0 <= v < rows and 0 <= u < columns
                    if inside and label[v][u] < 0 and np.abs(cell(v, u) - cell(y, x)).max() <= level:
                        label[v][u] = i * columns + j
                        queue.append((v, u))
    return label


@given(case=cases(blocks=(1, 4)))
@settings(max_examples=150)
def test_components_are_the_connected_groups(case: Case) -> None:
    level = int(case.level)
    chosen = baselines.components(case.image, PruneConfig(threshold=level / 255), block=case.block)
    first = np.array(_flood(case.image, case.block, level)).ravel()
    budget = select(case.image, PruneConfig(threshold=level / 255), block=case.block).kept
    groups = set(first.tolist())
    assert chosen.kept == max(budget, len(groups))
    assert groups <= set(chosen.indices.tolist())
    dropped = ~chosen.keep.ravel()
    assert (chosen.source.ravel()[dropped] == first[dropped]).all()
    if level == 0:
        assert len(groups) <= budget


def test_same_count_as_pred2d_and_only_kept_sources(sample: np.ndarray) -> None:
    for make in (baselines.random, baselines.components):
        chosen = make(sample, seed=3)
        assert chosen.kept == select(sample).kept
        flat = chosen.source.ravel()
        assert chosen.keep.ravel()[flat].all()
        assert (flat[chosen.indices] == chosen.indices).all()


def test_seeds_decide_and_global_generators_are_left_alone(sample: np.ndarray) -> None:
    np.random.seed(5)
    stdlib_random.seed(5)
    before = np.random.get_state()[1].tolist(), stdlib_random.getstate()
    for make in (baselines.random, baselines.components):
        assert (make(sample, seed=1).keep == make(sample, seed=1).keep).all()
        assert (make(sample, seed=1).keep != make(sample, seed=2).keep).any()
    assert (np.random.get_state()[1].tolist(), stdlib_random.getstate()) == before


def test_random_spreads_over_the_whole_image(page: np.ndarray) -> None:
    shares = [baselines.random(page, seed=seed).keep[:10].mean() for seed in range(20)]
    assert np.mean(shares) == pytest.approx(select(page).retain_ratio, abs=0.03)


def test_a_budget_counts_for_them_too(page: np.ndarray) -> None:
    config = PruneConfig(max_tokens=500)
    for make in (baselines.random, baselines.components):
        chosen = make(page, config)
        assert chosen.budget_met == (chosen.kept <= 500)
