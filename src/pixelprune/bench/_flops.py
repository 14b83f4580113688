"""Floating-point operations, counted: the speed-up that arithmetic alone would give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counted_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in `run`, backward ones included."""
    with FlopCounterMode(display=False, custom_mapping=_ATTENTION) as counter:
        run()
    return int(counter.get_total_flops())


def speed_up(seconds: tuple[float, float], flops: tuple[int, int]) -> dict[str, float]:
    """Seconds with all tokens and with the kept ones, their quotient, and the one that `flops` lead to expect."""
    (full, pruned), (all_flops, kept_flops) = seconds, flops
    return {"full": full, "pruned": pruned, "speed_up": full / pruned, "flops": all_flops / kept_flops}


def _attention(is_causal: int, first: int, products: int) -> Callable[..., int]:
    """How to count an operator of attention from its arguments, in which tensors are shapes.

    Args:
        is_causal: place of the argument that hides the half above the diagonal, which the kernel leaves out.
        first: place of the query, followed by key and value.
        products: how many products of matrices as large as queries with keys it computes.
    """

    def count(*given: Any, **rest: Any) -> int:
        (batch, heads, queries, width), (_, _, keys, _) = given[first : first + 2]
        causal = rest.get("is_causal", is_causal < len(given) and given[is_causal])
        every: int = products * 2 * batch * heads * queries * keys * width
        return every // 2 if causal else every

    return count


# The counter of torch knows attention on GPUs only, and there not with fewer heads of keys than of queries.
_ATEN = torch.ops.aten
_ATTENTION = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention(4, 0, 2),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention(7, 1, 5),
    _ATEN._scaled_dot_product_flash_attention: _attention(4, 0, 2),
    _ATEN._scaled_dot_product_flash_attention_backward: _attention(11, 1, 5),
    _ATEN._scaled_dot_product_efficient_attention: _attention(6, 0, 2),
    _ATEN._scaled_dot_product_efficient_attention_backward: _attention(11, 1, 5),
    _ATEN._scaled_dot_product_cudnn_attention: _attention(6, 0, 2),
    _ATEN._scaled_dot_product_cudnn_attention_backward: _attention(14, 1, 5),
}
