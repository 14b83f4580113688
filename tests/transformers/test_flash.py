"""The variable-length branch of the encoders, driven by a stand-in for flash attention that checks what it is given."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AttentionInterface

from tests.support.cases import case
from tests.support.prompts import MIXED, ROWS

_calls: list[list[int]] = []


def _flash_stand_in(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,  # noqa: ARG001  the interface has it
    scaling: float | None = None,
    cu_seq_lens_q: Any = None,
    cu_seq_lens_k: Any = None,
    max_length_q: Any = None,
    max_length_k: Any = None,
    is_causal: bool = False,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    assert cu_seq_lens_q is not None, "the encoder did not take its flash branch"
    lengths = cu_seq_lens_q.diff()
    assert cu_seq_lens_q.dtype == torch.int32
    assert torch.equal(cu_seq_lens_q, cu_seq_lens_k)
    assert not is_causal
    assert int(cu_seq_lens_q[-1]) == query.shape[2]
    assert int(lengths.max()) == int(max_length_q) == int(max_length_k)
    assert int(lengths.min()) > 0
    _calls.append(lengths.tolist())
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    parts = zip(*(tensor.split(lengths.tolist(), dim=2) for tensor in (query, key, value)), strict=True)
    outputs = [(q @ k.transpose(2, 3) * scaling).softmax(-1) @ v for q, k, v in parts]
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


AttentionInterface.register("flash_attention_stand_in", _flash_stand_in)


@pytest.mark.parametrize("rows", [ROWS, MIXED])
def test_encoder_inputs_for_flash_attention(family_name: str, rows: list) -> None:
    model_case = case(family_name)
    full, pruned = model_case.prompts(rows)
    model = copy.deepcopy(model_case.pruned)
    tower = getattr(model.base_model, model_case.family.tower)
    for config in {id(part.config): part.config for part in tower.modules() if hasattr(part, "config")}.values():
        config._attn_implementation = "flash_attention_stand_in"
    _calls.clear()
    with torch.no_grad():
        actual = model(**model_case.inputs(pruned), use_cache=False).logits[pruned.inputs["attention_mask"].bool()]
    assert _calls
    assert all(sum(lengths) == 4 * sum(int(mask.sum()) for mask in pruned.keep) for lengths in _calls)
    model_case.check(actual, full, pruned)
