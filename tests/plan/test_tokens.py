"""Index arithmetic against plain loops."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the plan is made of torch tensors")

import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelprune.plan.keep import KeepMask
from pixelprune.plan.tokens import block_patches, cumulative_lengths, keep_patches, keep_windows, unpruned_places

Grid = tuple[int, int]


@st.composite
def kept_grids(draw: st.DrawFn) -> tuple[int, list[Grid], list[list[bool]]]:
    """m, sizes in blocks, keep masks with at least one block each."""
    merge = draw(st.integers(1, 3))
    grids = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=4))
    masks = []
    for rows, columns in grids:
        mask = draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
        mask[draw(st.integers(0, rows * columns - 1))] = True
        masks.append(mask)
    return merge, grids, masks


def places(merge: int, grids: list[Grid], order: str) -> list[list[int]]:
    """For each block of all images, where its patches stand."""
    found, start = [], 0
    for rows, columns in grids:
        for n in range(rows * columns):
            row, column = divmod(n, columns)
            if order == "block":
                found.append([start + n * merge**2 + i for i in range(merge**2)])
            else:
                width = columns * merge
                found.append(
                    [start + (row * merge + i) * width + column * merge + j for i in range(merge) for j in range(merge)]
                )
        start += rows * columns * merge**2
    return found


def keep_mask(grids: list[Grid], masks: list[list[bool]]) -> KeepMask:
    flat = [flag for mask in masks for flag in mask]
    return KeepMask(torch.tensor(flat), tuple((1, rows, columns) for rows, columns in grids))


@given(kept_grids(), st.sampled_from(["block", "row"]))
def test_patches_of_kept_blocks(case: tuple, order: str) -> None:
    merge, grids, masks = case
    wanted = places(merge, grids, order)
    keep = keep_mask(grids, masks)
    assert block_patches(keep.shapes, merge, order).tolist() == wanted
    patches = keep_patches(keep, merge, order)
    chosen = [patch for block, flag in zip(wanted, keep.mask, strict=True) if flag for patch in block]
    assert patches.index.tolist() == chosen
    assert keep.rows(merge, order).tolist() == sorted(chosen)
    assert patches.patches == sum(map(len, wanted))
    assert patches.rank.tolist() == [chosen.index(i) if i in chosen else -1 for i in range(patches.patches)]
    rows = patches.from_processor
    in_order = sorted(chosen)
    assert [in_order[i] for i in (range(len(chosen)) if rows is None else rows.tolist())] == chosen


def test_patches_regrouped_into_rows() -> None:
    """What a tower that cuts m × m blocks out of an m × (m·K) raster takes."""
    keep = keep_mask([(1, 4)], [[True, False, True, True]])
    patches = keep_patches(keep, 2, "row", regrouped=True)
    raster = patches.index.view(2, 6)  # m rows of m·K patches
    blocks = [raster[:, 2 * k : 2 * k + 2].flatten().tolist() for k in range(3)]
    assert blocks == [places(2, [(1, 4)], "row")[n] for n in (0, 2, 3)]


@given(kept_grids(), st.randoms(use_true_random=False), st.booleans())
def test_windows(case: tuple, random: object, of_patches: bool) -> None:
    merge, grids, masks = case
    flat = [flag for mask in masks for flag in mask]
    patches = keep_patches(keep_mask(grids, masks), merge, "block")
    unit = 1 if of_patches else merge**2
    units = list(range(patches.patches // unit))
    random.shuffle(units)  # type: ignore[attr-defined]
    cuts = sorted(random.sample(range(1, len(units)), min(2, len(units) - 1)))  # type: ignore[attr-defined]
    windows = [units[a:b] for a, b in zip([0, *cuts], [*cuts, len(units)], strict=True)]
    stays = {i for i, flag in enumerate(flat) if flag} if unit > 1 else set(patches.index.tolist())
    order = sorted(stays)
    wanted = [[order.index(u) for u in window if u in stays] for window in windows]
    wanted = [window for window in wanted if window]
    lengths = torch.tensor([len(window) * unit for window in windows])
    index, new_bounds = keep_windows(torch.tensor(units), cumulative_lengths(lengths), patches)
    assert index.tolist() == [u for window in wanted for u in window]
    assert new_bounds.diff().tolist() == [len(window) * unit for window in wanted]
    assert new_bounds.dtype == torch.int32


@given(
    st.lists(st.lists(st.one_of(st.none(), st.lists(st.booleans(), min_size=1, max_size=5)), max_size=5), min_size=1)
)
def test_places_before_pruning(rows: list[list[list[bool] | None]]) -> None:
    """Rows of text tokens (None) and images (masks), padded on the left."""
    rows = [[None, *(part if part is None or any(part) else [*part, True] for part in row)] for row in rows]
    lines, wanted, lengths = [], [], []
    for row in rows:
        line, at, place = [], [], 0
        for part in row:
            if part is None:
                line.append(False)
                at.append(place)
                place += 1
            else:
                line += [True] * sum(part)
                at += [place + i for i, flag in enumerate(part) if flag]
                place += len(part)
        lines.append(line)
        wanted.append(at)
        lengths.append(place)
    size = max(map(len, lines))
    is_image, is_token = torch.zeros(len(rows), size, dtype=torch.bool), torch.zeros(len(rows), size, dtype=torch.bool)
    for i, line in enumerate(lines):
        is_image[i, size - len(line) :] = torch.tensor(line)
        is_token[i, size - len(line) :] = True
    masks = [part for row in rows for part in row if part is not None]
    mask = torch.tensor([flag for mask in masks for flag in mask], dtype=torch.bool)
    keep = KeepMask(mask, tuple((1, 1, len(mask)) for mask in masks))
    found, found_lengths = unpruned_places(is_image, is_token, keep)
    assert [found[i][is_token[i]].tolist() for i in range(len(rows))] == wanted
    assert found_lengths.tolist() == lengths
    assert not found[~is_token].any()
