"""What a `Family` refuses, which users write by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from pixelprune.transformers import Family, families


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": ""}, "name must be a non-empty string, got ''"),
        ({"name": None}, "name must be a non-empty string, got None"),
        ({"tower": ""}, "tower must be a non-empty string, got ''"),
        ({"tower": 3}, "tower must be a non-empty string, got 3"),
        ({"merge": 2}, "merge must be a non-empty string, got 2"),
        ({"patch_order": "spiral"}, "patch_order must be one of 'block', 'row', got 'spiral'"),
        ({"positions": "3d"}, "positions must be one of 'mrope', '1d', got '3d'"),
        ({"regrouped": "yes"}, "regrouped must be True or False, got 'yes'"),
        ({"sizes_first": 1}, "sizes_first must be True or False, got 1"),
        ({"transposed_table": None}, "transposed_table must be True or False, got None"),
        ({"since": "newest"}, "since must be a version such as '5.18.0', got 'newest'"),
        ({"since": None}, "since must be a version such as '5.18.0', got None"),
        ({"until": 5.24}, "until must be a version such as '5.18.0', got 5.24"),
        ({"since": "5.20", "until": "5.20.0"}, "until must be a later version than since (5.20), got '5.20.0'"),
    ],
)
def test_refused(fields: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Family(**{"name": "my_vl", **fields})


def test_built_in_families_pass_their_own_checks() -> None:
    for name in families.names():
        assert replace(families.get(name), name="my_vl").name == "my_vl"
