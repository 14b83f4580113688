"""Floating-point operations, counted: the speed-up that arithmetic alone would give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


def counted_flops(run: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in `run`, backward ones included."""
    with FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION) as counter:
        run()
    return int(counter.get_total_flops())


def speed_up(seconds: tuple[float, float], flops: tuple[int, int]) -> dict[str, float]:
    """Seconds with all tokens and with the kept ones, their quotient, and the one that `flops` lead to expect."""
    (full, pruned), (all_flops, kept_flops) = seconds, flops
    return {"full": full, "pruned": pruned, "speed_up": full / pruned, "flops": all_flops / kept_flops}


def _attention(query: Any, key: Any, value: Any, dropout: float = 0, causal: bool = False, **rest: Any) -> int:
    every: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]
    return every // 2 if causal else every


def _attention_backward(
    gradient: Any, query: Any, key: Any, value: Any, output: Any, sums: Any, dropout: float, causal: bool, **rest: Any
) -> int:
    every: int = sdpa_backward_flop_count(gradient, query, key, value)  # type: ignore[no-untyped-call]
    return every // 2 if causal else every


# The counter of torch 2.14 knows attention on GPUs only. The kernel leaves out the half that a causal mask hides.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
