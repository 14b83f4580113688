"""The token map against plain loops."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the plan is made of torch tensors")

import torch
from hypothesis import given
from hypothesis import strategies as st

from pixelprune.plan.token_map import TokenMap

Shape = tuple[int, int, int]


@st.composite
def maps(draw: st.DrawFn) -> tuple[list[list[int]], list[Shape]]:
    """A valid map of each item, and its shape."""
    side = st.integers(1, 3)
    shapes = draw(st.lists(st.tuples(side, side, side), min_size=1, max_size=4))
    parts = []
    for slices, rows, columns in shapes:
        blocks = slices * rows * columns
        kept = draw(st.sets(st.integers(0, blocks - 1), min_size=1))
        choices = st.sampled_from([-1, *sorted(kept)])
        parts.append([block if block in kept else draw(choices) for block in range(blocks)])
    return parts, shapes


def token_map(parts: list[list[int]], shapes: list[Shape]) -> TokenMap:
    return TokenMap(torch.tensor([value for part in parts for value in part], dtype=torch.int32), tuple(shapes))


@given(maps())
def test_what_is_encoded_and_what_has_a_token(case: tuple) -> None:
    parts, shapes = case
    tokens = token_map(parts, shapes)
    assert [part.tolist() for part in tokens.parts] == parts
    assert [part.tolist() for part in tokens.encoded.parts] == [[v == i for i, v in enumerate(p)] for p in parts]
    assert [part.tolist() for part in tokens.present.parts] == [[v >= 0 for v in p] for p in parts]
    assert tokens.everything == all(v == i for p in parts for i, v in enumerate(p))
    assert tokens.problem() is None
    assert [one.values.tolist() for one in tokens.each()] == parts
    assert tokens.only([len(parts) - 1, 0]).values.tolist() == parts[-1] + parts[0]
    assert TokenMap.of_everything(tuple(shapes)).values.tolist() == [i for p in parts for i in range(len(p))]


@given(maps())
def test_features_of_tokens(case: tuple) -> None:
    """The feature of a block is its number; the encoder gives those of kept blocks, in order."""
    parts, shapes = case
    given_ = [torch.tensor([[float(i)] for i, v in enumerate(part) if v == i]) for part in parts]
    found = token_map(parts, shapes).with_copies(given_)
    assert [part.flatten().tolist() for part in found] == [[float(v) for v in part if v >= 0] for part in parts]


def test_items_without_copies_are_passed_on() -> None:
    features = torch.rand(2, 3)
    assert token_map([[0, -1, 2]], [(1, 1, 3)]).with_copies([features])[0] is features


@given(maps(), st.data())
def test_a_wrong_value_is_a_problem(case: tuple, data: st.DataObject) -> None:
    parts, shapes = case
    item = data.draw(st.integers(0, len(parts) - 1))
    place = data.draw(st.integers(0, len(parts[item]) - 1))
    value = data.draw(st.integers(-3, len(parts[item]) + 2))
    parts[item][place] = value
    part = parts[item]
    own = {i for i, v in enumerate(part) if v == i}
    valid = bool(own) and all(v == -1 or v in own for v in part)
    problem = token_map(parts, shapes).problem()
    assert (problem is None) == valid
    assert problem is None or f"image {item}" in problem


def test_a_map_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"values must have shape \(4,\), got \(3,\)"):
        TokenMap(torch.zeros(3, dtype=torch.int32), ((1, 2, 2),))


def test_no_item() -> None:
    tokens = TokenMap.of_grids([], [], 2)
    assert (tokens.totals, tokens.each(), tokens.with_copies([]), tokens.problem()) == ([], [], [], None)
