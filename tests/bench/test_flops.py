"""Counted operations of attention: against the schemas of torch's operators, and a count by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pixelprune.bench._flops import _ATTENTION, counted_flops


@pytest.mark.parametrize("operator", _ATTENTION, ids=str)
def test_arguments_are_where_torch_has_them(operator: torch._ops.OpOverloadPacket) -> None:
    count = _ATTENTION[operator]
    given: list[object] = []
    for argument in operator.default._schema.arguments:
        shape = {"query": (2, 4, 6, 8), "key": (2, 1, 10, 8), "value": (2, 1, 10, 8)}
        given.append(shape.get(argument.name, False if argument.name == "is_causal" else (7, 7, 7, 7)))
    products = 5 if "backward" in str(operator) else 2
    every = products * 2 * (2 * 4 * 6 * 10 * 8)
    assert count(*given) == every
    place = [argument.name for argument in operator.default._schema.arguments].index("is_causal")
    assert count(*given[:place], True, *given[place + 1 :]) == every // 2
    assert count(*given[:place], is_causal=True) == every // 2
    assert count(*given[:place]) == every


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fewer_heads_of_keys(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    query, key = torch.ones(1, 4, 16, 8, device=device), torch.ones(1, 2, 16, 8, device=device)
    if device == "cuda":
        query, key = query.bfloat16(), key.bfloat16()
    counted = counted_flops(lambda: F.scaled_dot_product_attention(query, key, key, enable_gqa=True, is_causal=True))
    assert counted == 2 * 2 * (4 * 16 * 16 * 8) // 2
