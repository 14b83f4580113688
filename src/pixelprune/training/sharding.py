"""The head of a model whose weights are spread over processes by FSDP2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp import FSDPModule


def is_sharded(head: Any) -> bool:
    """Whether FSDP2 holds the weights of this head."""
    return isinstance(head, FSDPModule) or hasattr(head.weight, "full_tensor")


def sharded_head(head: Any) -> Callable[[Tensor], Tensor]:
    """From hidden states (…, width) to logits, by weights that are gathered once, here.

    Each call of the module would gather and reduce, and processes differ in the number of their chunks.
    """
    weight, bias = (part.full_tensor() if hasattr(part, "full_tensor") else part for part in (head.weight, head.bias))
    return lambda states: F.linear(states.to(weight.dtype), weight, bias)


def gather_head_in_forward(model: Any) -> None:
    """Gather the head of a sharded model whenever its backbone has run.

    TRL reads the weight of a head that it does not call. If TRL gathers it, its gradient is that of one process
    alone; FSDP averages those of what it gathers itself.

    Args:
        model: of transformers, before or after it is sharded.
    """

    def gather(*_: Any) -> None:
        head = model.get_output_embeddings()
        if isinstance(head, FSDPModule):
            head.unshard()

    model.base_model.register_forward_hook(gather)
