"""The keep mask against plain loops, for images and for items of several slices."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the plan is made of torch tensors")

import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelprune.plan.keep import KeepMask, merge_size

Shape = tuple[int, int, int]


@st.composite
def keep_masks(draw: st.DrawFn) -> KeepMask:
    side = st.integers(1, 3)
    shapes = draw(st.lists(st.tuples(side, side, side), min_size=1, max_size=4))
    blocks = sum(slices * rows * columns for slices, rows, columns in shapes)
    mask = draw(st.lists(st.booleans(), min_size=blocks, max_size=blocks))
    return KeepMask(torch.tensor(mask), tuple(shapes))


@given(keep_masks())
def test_items(keep: KeepMask) -> None:
    flags, start = keep.mask.tolist(), 0
    for i, (slices, rows, columns) in enumerate(keep.shapes):
        blocks = slices * rows * columns
        part = flags[start : start + blocks]
        start += blocks
        assert keep.parts[i].tolist() == part
        assert keep.totals[i] == blocks
        assert keep.counts[i] == sum(part)
        assert keep.each()[i].mask.tolist() == part
        assert keep.each()[i].shapes == ((slices, rows, columns),)
    assert keep.everything == all(flags)


@given(keep_masks(), st.data())
def test_some_items(keep: KeepMask, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(keep.shapes) - 1), min_size=1, unique=True))
    some = keep.only(chosen)
    assert some.mask.tolist() == [flag for i in chosen for flag in keep.parts[i].tolist()]
    assert some.shapes == tuple(keep.shapes[i] for i in chosen)


@given(keep_masks(), st.integers(1, 3), st.sampled_from(["block", "row"]))
def test_rows_of_patches(keep: KeepMask, merge: int, order: str) -> None:
    """A patch stays where its block does; slices follow each other."""
    expected, place, n = [], 0, 0
    for slices, rows, columns in keep.shapes:
        for _ in range(slices):
            part = keep.mask[n : n + rows * columns].view(rows, columns)
            n += rows * columns
            if order == "block":
                patches = [(r, c) for r in range(rows) for c in range(columns) for _ in range(merge**2)]
            else:
                patches = [(y // merge, x // merge) for y in range(rows * merge) for x in range(columns * merge)]
            for row, column in patches:
                if part[row, column]:
                    expected.append(place)
                place += 1
    assert keep.rows(merge, order).tolist() == expected


@given(keep_masks(), st.integers(1, 3))
def test_grids_there_and_back(keep: KeepMask, merge: int) -> None:
    grids = torch.tensor(keep.grids(merge))
    assert KeepMask.of_grids(keep.mask, grids, merge).shapes == keep.shapes
    assert KeepMask.of_grids(keep.mask, grids.tolist(), merge).shapes == keep.shapes
    assert merge_size(grids, len(keep.mask)) == merge


@pytest.mark.parametrize("blocks", [0, 5, 7, 25])
def test_grids_that_do_not_fit(blocks: int) -> None:
    with pytest.raises(ValueError, match=rf"{blocks} blocks do not fit grids of \[24\] patches"):
        merge_size(torch.tensor([[1, 4, 6]]), blocks)


def test_a_mask_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"mask must have shape \(4,\), got \(3,\)"):
        KeepMask(torch.ones(3, dtype=torch.bool), ((1, 2, 2),))


def test_grids_of_no_whole_blocks() -> None:
    grid = torch.tensor([[1, 2, 8]])  # 16 patches: one block of 4 × 4, by the count alone
    with pytest.raises(ValueError, match=r"sides that are multiples of 4, got \[\[1, 2, 8\]\]"):
        KeepMask.of_grids(torch.ones(1, dtype=torch.bool), grid, 4)
    with pytest.raises(ValueError, match="1 blocks do not fit"):
        merge_size(grid, 1)


@pytest.mark.parametrize("grid", [[1, -4, -4], [-1, -4, 4], [1, 0, 4], [0, 4, 4]])
def test_grids_of_no_patches(grid: list[int]) -> None:
    mask = torch.ones(grid[0] * grid[1] * grid[2] // 4, dtype=torch.bool)  # fits by the count alone
    with pytest.raises(
        ValueError, match=r"grid_thw must have frames and sides of at least 1, and .*, got \[\[-?[01], "
    ):
        KeepMask.of_grids(mask, [grid], 2)


def test_no_item() -> None:
    """vLLM asks about the images of a rank that has none."""
    for keep in (KeepMask.of_grids([], [], 2), KeepMask(torch.ones(2, dtype=torch.bool), ((1, 1, 2),)).only([])):
        assert (keep.totals, keep.counts, keep.each(), keep.grids(2)) == ([], [], [], [])
        assert keep.rows(2, "row").tolist() == keep.rows(2, "block").tolist() == []
