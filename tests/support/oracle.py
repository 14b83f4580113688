"""What pruning must equal: the unmodified full model, in whose attention dropped blocks are no keys.

Nothing of the package is used. In the vision encoder an attention function, registered through
transformers' own interface, hides the dropped patches; in the language model the attention mask
hides the dropped tokens, and all others stay where they stand.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.exporters.utils import precompute_export_inputs

from tests.support.prompts import Prompt, known, patch_places
from tests.support.tiny_models import Tiny

_state: dict[str, Any] = {}


def _hiding(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any = None,  # noqa: ARG001  the interface has it
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor]:
    """Plain attention over the keys that are kept. Called for one segment of the sequence after the other."""
    start, length = _state["at"], key.shape[2]
    keep = _state["keep"][start : start + length]
    _state["at"] = (start + length) % len(_state["keep"])
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    # Segments of which nothing is kept have no answer that is read; −∞ would make them NaN.
    weights = scores.masked_fill(~keep, -1e9).softmax(-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


AttentionInterface.register("hiding", _hiding)


@contextlib.contextmanager
def hidden_patches(model: Any, tower_name: str, order: str, tiny: Tiny, prompt: Prompt) -> Iterator[None]:
    """Within, the vision encoder does not see the patches of dropped blocks."""
    tower = getattr(model.base_model, tower_name)
    grids = prompt.inputs["image_grid_thw"]
    parts = []
    for (_, h, w), mask in zip(grids.tolist(), prompt.keep, strict=True):
        keep = torch.zeros(h * w, dtype=torch.bool)
        keep[patch_places((h, w), tiny.merge, order)[mask].flatten()] = True
        parts.append(keep)
    sequence = torch.cat(parts)
    asked: dict[str, Any] = {"grid_thw": grids}
    if tiny.merge_input:
        asked["merge_sizes"] = prompt.inputs["image_merge_sizes"]
    precompute_export_inputs(tower, asked)
    if "window_index" in asked:
        # Windowed towers put the sequence in another order first.
        unit = len(sequence) // len(asked["window_index"])
        sequence = sequence.view(-1, unit)[asked["window_index"]].reshape(-1)
    configs = {id(part.config): part.config for part in tower.modules() if hasattr(part, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    for config in configs.values():
        config._attn_implementation = "hiding"
    _state.update(keep=sequence, at=0)
    try:
        yield
        assert _state["at"] == 0
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


def full_positions(model: Any, tiny: Tiny, prompt: Prompt) -> Tensor:
    """Positions in the full prompt. With one axis, tokens that are kept count on as if alone."""
    inputs = prompt.inputs
    if tiny.one_dimensional:
        positions = prompt.selected.long().cumsum(-1) - 1
        return positions.clamp(min=0)
    rope_index = (model if hasattr(model, "get_rope_index") else model.base_model).get_rope_index
    inputs = {**inputs, "second_per_grids": inputs.get("video_second_per_grid")}
    names = inspect.signature(rope_index).parameters
    return rope_index(**{name: value for name, value in inputs.items() if name in names})[0]


def has_copies(prompt: Prompt) -> bool:
    """Whether a dropped block has a token."""
    return any(bool(((values >= 0) & ~keep).any()) for values, keep in zip(prompt.maps, prompt.keep, strict=True))


def features(model: Any, tower: str, order: str, tiny: Tiny, full: Prompt, everywhere: bool = False) -> Any:
    """What the masked encoder says, in the order of tokens: that of the block which the map names.

    Args:
        model, tower, order, tiny, full: as for `masked_logits`.
        everywhere: whether to give features to blocks without a token as well, whatever those are.
    """
    asked = {
        name: full.inputs[name]
        for name in ("pixel_values", "image_grid_thw", "image_merge_sizes")
        if name in full.inputs
    }
    with hidden_patches(model, tower, order, tiny, full):
        output = model.base_model.get_image_features(**asked, return_dict=True)
    places = [(values.clamp(min=0) if everywhere else values[values >= 0]).tolist() for values in full.maps]
    output.pooler_output = [part[index] for part, index in zip(output.pooler_output, places, strict=True)]
    if getattr(output, "deepstack_features", None):
        output.deepstack_features = [
            [part[index] for part, index in zip(layer, places, strict=True)] for layer in output.deepstack_features
        ]
    return output


def masked_logits(model: Any, tower: str, order: str, tiny: Tiny, prompt: Prompt) -> Tensor:
    """Logits (tokens that are kept, vocabulary) of the full model with what is dropped hidden."""
    inputs = dict(known(model, prompt.inputs))
    inputs["attention_mask"] = prompt.inputs["attention_mask"] * prompt.selected
    inputs["position_ids"] = full_positions(model, tiny, prompt)
    if has_copies(prompt):
        inputs["mm_encoder_outputs"] = {"image": features(model, tower, order, tiny, prompt, everywhere=True)}
        inputs = {name: value for name, value in inputs.items() if name not in _ENCODED}
        return model(**inputs, use_cache=False).logits[prompt.selected]
    with hidden_patches(model, tower, order, tiny, prompt):
        return model(**inputs, use_cache=False).logits[prompt.selected]


_ENCODED = (
    "pixel_values",
    "image_grid_thw",
    "image_merge_sizes",
    "image_map",
    "pixel_values_videos",
    "video_grid_thw",
    "video_second_per_grid",
    "video_merge_sizes",
    "video_compression_mask",
)


def short_inputs(model: Any, tower: str, order: str, tiny: Tiny, full: Prompt, pruned: Prompt) -> dict[str, Any]:
    """Arguments of the stock model for the shortened sequence, with features of the masked encoder.

    For language models in which a hidden key is not the same as a missing token: linear attention
    carries a state through every token, sparse attention counts tokens.
    """
    encoded = {"image": features(model, tower, order, tiny, full)}
    if "pixel_values_videos" in full.inputs:
        encode = model.base_model.get_video_features
        asked = {name: full.inputs[name] for name in inspect.signature(encode).parameters if name in full.inputs}
        encoded["video"] = encode(**asked, return_dict=True)
    inputs = dict(known(model, pruned.inputs))
    mask = inputs["attention_mask"].bool()
    for name in _ENCODED:
        inputs.pop(name, None)
    if not tiny.one_dimensional:
        positions = full_positions(model, tiny, full)
        short = positions.new_zeros(3, *mask.shape)
        short[:, mask] = positions[:, full.selected]
        inputs["position_ids"] = short
    return {**inputs, "mm_encoder_outputs": encoded}


def short_logits(model: Any, tower: str, order: str, tiny: Tiny, full: Prompt, pruned: Prompt) -> Tensor:
    """Logits (tokens that are kept, vocabulary) of `short_inputs`."""
    inputs = short_inputs(model, tower, order, tiny, full, pruned)
    return model(**inputs, use_cache=False).logits[pruned.inputs["attention_mask"].bool()]
