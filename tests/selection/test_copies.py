"""Copies: how many dropped blocks come back, and which."""

from __future__ import annotations

from fractions import Fraction
from itertools import groupby, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelprune import PruneConfig, decode, encode, select
from pixelprune.selection import baselines
from pixelprune.selection.copies import count_copies, spread
from tests.support.reference import visits
from tests.support.strategies import Case, cases

MASKS = st.integers(1, 9).flatmap(
    lambda columns: st.lists(st.lists(st.booleans(), min_size=columns, max_size=columns), min_size=1, max_size=9)
)


def walked(keep: np.ndarray) -> list[tuple[int, int]]:
    """The dropped blocks, every second row backwards."""
    return [place for place in visits(*keep.shape, "serpentine") if not keep[place]]


@given(rows=MASKS, share=st.fractions(0, 1))
def test_copies_are_evenly_spaced(rows: list[list[bool]], share: Fraction) -> None:
    keep = np.array(rows)
    dropped = walked(keep)
    count = int(share * len(dropped))
    chosen = spread(keep, count)
    assert chosen.dtype == np.bool_
    assert chosen.sum() == count
    assert not (chosen & keep).any()
    ranks = [i for i, place in enumerate(dropped) if chosen[place]]
    # In the middle of each of `count` equal stretches, plain fractions say.
    assert ranks == [int(Fraction(2 * i + 1, 2 * count) * len(dropped)) for i in range(count)]
    for length in range(1, len(dropped) + 1):  # any stretch holds its share of them, give or take one
        for start in range(len(dropped) - length + 1):
            inside = sum(start <= rank < start + length for rank in ranks)
            assert abs(inside - Fraction(count, max(1, len(dropped))) * length) < 1


@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("columns", [7, 8, 9, 10, 12])
def test_copies_of_a_blank_page_do_not_line_up_in_columns(share: float, columns: int) -> None:
    keep = np.zeros((8, columns), np.bool_)
    chosen = spread(keep, int(share * keep.size))
    for upper, lower in pairwise(chosen):
        assert not (upper & lower).any()


def plain_count(kept: int, total: int, config: PruneConfig) -> int:
    """The largest number that the sentence in `PruneConfig` allows, found by trying."""
    best = 0
    for copies in range(total - kept + 1):
        if config.max_tokens is not None and kept + copies > config.max_tokens:
            break
        exact = Fraction(config.restore) * (total - kept)
        wanted = copies <= exact + Fraction(1, 2) or (
            config.min_tokens is not None and kept + copies <= config.min_tokens
        )
        best = copies if wanted else best
    return best


@given(
    sizes=st.integers(1, 60).flatmap(lambda total: st.tuples(st.integers(1, total), st.just(total))),
    restore=st.sampled_from((0, 0.25, 0.5, 1 / 3, 0.9, 1)),
    least=st.none() | st.integers(1, 70),
    more=st.none() | st.integers(0, 70),
)
def test_how_many_come_back(sizes: tuple[int, int], restore: float, least: int | None, more: int | None) -> None:
    kept, total = sizes
    most = None if more is None else (least or 1) + more
    config = PruneConfig(restore=restore, min_tokens=least, max_tokens=most)
    assert count_copies(kept, total, config) == plain_count(kept, total, config)


@given(case=cases(blocks=(1, 4)), restore=st.sampled_from((0.0, 0.25, 0.5, 1.0)), least=st.none() | st.integers(1, 40))
def test_copies_change_nothing_else(case: Case, restore: float, least: int | None) -> None:
    plain = PruneConfig(float(case.threshold))
    config = PruneConfig(float(case.threshold), restore=restore, min_tokens=least)
    before, selection = (select(case.image, one, block=case.block) for one in (plain, config))
    assert (selection.keep == before.keep).all()
    assert (selection.source == before.source).all()
    assert selection.tokens == selection.kept + selection.restored.sum()
    assert selection.tokens >= min(selection.total, least or 1)
    if restore == 1:
        assert selection.tokens == selection.total
    for n, value in enumerate(selection.token_map.ravel().tolist()):
        here = selection.keep.flat[n] or selection.restored.flat[n]
        assert value == (selection.source.flat[n] if here else -1)
    rebuilt = [decode(encode(case.image, one, block=case.block)) for one in (plain, config)]
    assert (rebuilt[0] == rebuilt[1]).all()


def test_a_row_gets_its_share() -> None:
    page = np.zeros((32, 64), np.uint8)
    selection = select(page, PruneConfig(restore=0.25), block=4)  # 8 x 16 blocks, one kept
    assert (selection.kept, selection.copies) == (1, 32)
    assert selection.restored.sum(axis=1).tolist() == [4] * 8
    gaps = [len(list(run)) for restored, run in groupby(selection.restored[3].tolist()) if not restored]
    assert set(gaps[1:-1]) == {3}


def test_kept_blocks_above_a_budget_that_cannot_be_met_get_no_copies() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16), np.uint8)
    image[:4] = 0
    selection = select(image, PruneConfig(max_tokens=3, restore=1, min_tokens=2), block=4)
    assert not selection.budget_met
    assert selection.tokens == selection.kept > 3


def test_baselines_have_copies_too() -> None:
    page = np.full((40, 40), 255, np.uint8)
    page[9:15, 9:15] = 0
    config = PruneConfig(min_tokens=30)
    counts = {make(page, config, block=4).tokens for make in (select, baselines.random, baselines.components)}
    assert counts == {30}
