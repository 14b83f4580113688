"""How far apart two correct float32 results may lie, as the unpruned model shows it on the machine of the test."""

from __future__ import annotations

import copy
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

# Pruned and unpruned models sum in different orders. With three instruction sets, that moved logits at most four times
# as far as a change of the last bit of every weight; a mistake moves them much farther.
MARGIN = 16
_LAST_BIT = 2.0**-23


def difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference."""
    return float((a.double() - b.double()).abs().max())


def nudged(model: Any, count: int = 3, size: float = _LAST_BIT) -> list[Any]:
    """Copies of a model, each with every weight changed at random, by default in its last bit."""
    copies = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        twin = copy.deepcopy(model)
        with torch.no_grad():
            for weight in twin.parameters():
                signs = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
                weight.mul_(1 + size * signs)
        copies.append(twin)
    return copies


def limit(model: Any, twins: list[Any], run: Callable[[Any], Tensor]) -> float:
    """Below this, two results of `run(model)` differ by rounding.

    It is the median over the twins: an expert that is chosen by a hair in one of them does not widen it.
    """
    result = run(model)
    return MARGIN * median(difference(result, run(twin)) for twin in twins)


def settled(model: Any, run: Callable[[Any], Tensor], most: float) -> Tensor:
    """Bool (tokens,): where no expert is chosen by a hair, so that rounding cannot change the answer much.

    Args:
        model: the unpruned model.
        run: from a model to logits (tokens, vocabulary).
        most: the limit for rounding.
    """
    result = run(model)
    # Eight times the last bit moves logits by about half of `most`, unless another expert is chosen.
    changes = [(run(twin) - result).abs().amax(-1) for twin in nudged(model, 8, 8 * _LAST_BIT)]
    stays = torch.stack(changes).amax(0) < most
    assert float(stays.float().mean()) > 0.9, "too few tokens are settled"
    return stays
