"""What an engine proves before it serves, with its own weights on its own device: pruned images are computed rightly.

Tests prove this for the versions, devices and models that they run on. Where somebody serves, all of these can be
others; so every worker compares once, when its weights are loaded, and a difference ends the start with a sentence:

- pixels, hashes and tokens of pruned images with those of unpruned ones;
- positions in the language model with the stock ones of the unpruned prompt;
- features of images whose blocks are all kept with the stock encoder's;
- features of kept blocks with those of the stock encoder whose attention is kept from looking at dropped blocks;
- features of copies with those of the blocks that they are copies of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from vllm.logger import init_logger
from vllm.model_executor.layers.attention.mm_encoder_attention import MMEncoderAttention
from vllm.multimodal.inputs import MultiModalFeatureSpec
from vllm.multimodal.utils import group_and_batch_mm_kwargs
from vllm.v1.attention.backends.registry import AttentionBackendEnum

from pixelprune.plan.token_map import IMAGE_MAP, encoded
from pixelprune.vllm import probes
from pixelprune.vllm.positions import MRopeMixin

_log = init_logger("vllm.pixelprune")

# Pruning may add as much to what rounding does without it; mistakes add far more.
MARGIN = 4
_FAR = 0.1  # two programs that compute the same are never as far apart


@dataclass(frozen=True)
class Distances:
    """How far features are apart, as shares of their length.

    Attributes:
        all_kept: with every block kept, from those of the stock encoder.
        rounding: those of the stock encoder with another implementation of attention, from its own.
        pruned: of kept blocks, from those of the stock encoder that does not see dropped ones; None where this cannot
            be measured.
        floor: what is rounding however little the others differ.
        copied: of tokens with copies among them, from those of the kept blocks that they should be.
        unequal: how many copies are not, bit for bit, the features of the block that they are copies of.
    """

    all_kept: float
    rounding: float
    pruned: float | None
    floor: float
    copied: float = 0.0
    unequal: int = 0

    @property
    def limit(self) -> float:
        """What the others may reach."""
        return MARGIN * max(self.rounding, self.floor)


def check(model: Any, model_config: Any) -> None:
    """Compare, and log one line.

    Args:
        model: one of ours, with its weights, on its device.
        model_config: vLLM's.

    Raises:
        RuntimeError: pruned images would not be computed rightly.
    """
    cause = None
    try:
        found = problem(model, model_config)
    except Exception as error:  # whatever a version of vLLM does when it is called in a wrong way
        found, cause = f"it ends in {type(error).__name__}: {error}", error
    if found:
        raise RuntimeError(
            f"pixelprune was requested, but {type(model).__name__} fails the check at start-up: {found}; start without "
            "the option pixelprune, and report this line together with the output of `pixelprune check vllm --json`"
        ) from cause


@torch.inference_mode()
def problem(model: Any, model_config: Any) -> str | None:
    """What is wrong, in words; None if nothing is."""
    made = probes.probes(model_config)
    if not made:
        return None
    for probe in made:
        found = probes.problem(probe) or _wrong_positions(model, probe)
        if found:
            return found
    distances = measure(model, [item for probe in made for item in probe.items])
    found = judge(distances)
    if not found:
        _log.info_once(_line(distances), scope="global")
    return found


def _line(found: Distances) -> str:
    line = f"pixelprune was checked: with every block kept, features are {found.all_kept:.2g} off the stock encoder's"
    if found.pruned is None:
        return f"{line}; those of pruned images could not be checked with this kind of attention"
    if found.rounding > _FAR:
        return f"{line}; those of pruned images could not be checked, since rounding alone is {found.rounding:.2g}"
    return f"{line}, those of pruned images {found.pruned:.2g} off what they should be (rounding: {found.rounding:.2g})"


def judge(found: Distances) -> str | None:
    """What distances mean.

    Example:
        >>> judge(Distances(all_kept=0.0, rounding=1e-3, pruned=2e-3, floor=2e-3))
        >>> judge(Distances(all_kept=0.5, rounding=1e-3, pruned=2e-3, floor=2e-3))
        "with every block kept, the encoder's features are 50.00% off the stock encoder's"
    """
    if not found.all_kept <= found.limit:
        return f"with every block kept, the encoder's features are {found.all_kept:.2%} off the stock encoder's"
    if found.pruned is not None and found.rounding <= _FAR and not found.pruned <= found.limit:
        return (
            f"features of kept blocks are {found.pruned:.2%} off those of the stock encoder when it does not see the "
            f"dropped blocks, where rounding alone is {found.rounding:.2%}: the encoder gets wrong positions or lengths"
        )
    if found.unequal:
        return f"features of {found.unequal} copies are not those of the blocks that rebuild them"
    if not found.copied <= found.limit:
        return f"features of copies and kept blocks together are {found.copied:.2%} off those of kept blocks alone"
    return None


# Positions in the language model


def _wrong_positions(model: Any, probe: probes.Probe) -> str | None:
    if not isinstance(model, MRopeMixin):
        return None
    tokens, features = list(probe.full["prompt_token_ids"]), _features(probe.full)
    stock: Any = super(MRopeMixin, model)
    expected, ahead = stock.get_mrope_input_positions(tokens, features)
    for made in (probe.pruned, probe.copied):
        short = list(made["prompt_token_ids"])
        positions, delta = model.get_mrope_input_positions(short, _features(made))
        stays = torch.ones(len(tokens), dtype=torch.bool)
        for feature, item in zip(features, made["mm_kwargs"]["image"], strict=True):
            place = feature.mm_position
            stays[place.offset : place.offset + place.length] = item[IMAGE_MAP].data >= 0
        if not torch.equal(expected[:, stays], positions) or len(tokens) + ahead != len(short) + delta:
            return "the language model gets positions that are not those of the unpruned prompt"
    return None


def _features(made: Any) -> list[Any]:
    parts = zip(made["mm_kwargs"]["image"], made["mm_placeholders"]["image"], made["mm_hashes"]["image"], strict=True)
    return [
        MultiModalFeatureSpec(data=data, modality="image", identifier=name, mm_position=place)
        for data, place, name in parts
    ]


# Features


def measure(model: Any, items: list[tuple[Any, Any, Any]]) -> Distances:
    """Encode images in some ways.

    Args:
        model: one of ours.
        items: of each image, what a worker gets without pruning, with it, and with copies.
    """
    full, pruned, copied = ([item[which] for item in items] for which in (0, 1, 2))
    everything = [_with_everything(*item[:2]) for item in items]
    stock, all_kept, kept, tokens = (_encode(model, part) for part in (full, everything, pruned, copied))
    masks = [encoded(item[IMAGE_MAP].data) for item in pruned]
    maps = [item[IMAGE_MAP].data for item in copied]
    shown: list[Tensor] = []
    hidden: list[Tensor] = []
    for item, mask in zip(full, masks, strict=True):
        for results, seen in ((shown, torch.ones_like(mask)), (hidden, mask)):
            with _hiding(model, model._in_attention(seen, item["image_grid_thw"].data.flatten())):
                results += _encode(model, [item])
    expected = [features[mask.to(features.device)] for features, mask in zip(hidden, masks, strict=True)]
    # Where attention is compiled or not vLLM's, nothing was hidden.
    was_hidden = not any(torch.equal(a, b) for a, b in zip(shown, hidden, strict=True))
    return Distances(
        _distance(all_kept, stock),
        _distance(shown, stock),
        _distance(kept, expected) if was_hidden else None,
        1e-4 if stock[0].dtype == torch.float32 else 2e-3,
        _distance(tokens, [_with_copies(*pair) for pair in zip(kept, maps, strict=True)]),
        sum(_unequal(*pair) for pair in zip(tokens, maps, strict=True)),
    )


def _with_copies(kept: Tensor, values: Tensor) -> Tensor:
    """Features (L, …) of the tokens of an image from those of its kept blocks (K, …) and its map (N,), by a loop."""
    own = [block for block, value in enumerate(values.tolist()) if value == block]
    return torch.stack([kept[own.index(value)] for value in values.tolist() if value >= 0])


def _unequal(tokens: Tensor, values: Tensor) -> int:
    """How many copies among the features (L, …) of an image with the map (N,) are not those of their blocks."""
    place = {block: row for row, block in enumerate((values >= 0).nonzero()[:, 0].tolist())}
    copies = [block for block in place if int(values[block]) != block]
    if len(tokens) != len(place):
        return len(copies)
    return sum(not torch.equal(tokens[place[block]], tokens[place[int(values[block])]]) for block in copies)


def _encode(model: Any, items: list[Any]) -> list[Tensor]:
    """Features (N or K, …) of each image, all in one batch."""
    device = next(model.parameters()).device
    ((_, _, batch),) = group_and_batch_mm_kwargs([("image", item) for item in items], device=device)
    return list(model.embed_multimodal(**batch))


def _with_everything(full: Any, pruned: Any) -> Any:
    """`full`, with a map that keeps every block; in the form of `pruned`."""
    own = torch.arange(len(pruned[IMAGE_MAP].data), dtype=torch.int32)
    parts = {name: replace(part, data=full[name].data) for name, part in pruned.items() if name != IMAGE_MAP}
    return type(pruned)({**parts, IMAGE_MAP: replace(pruned[IMAGE_MAP], data=own)})


def _distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """The largest share of an image; infinite if anything is not a number or has another shape."""
    largest = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.shape != b.shape:
            return float("inf")
        a, b = a.double(), b.double()
        share = float((a - b).norm() / b.norm().clamp(min=1e-12))
        largest = max(largest, share) if share == share else float("inf")
    return largest


@contextmanager
def _hiding(model: Any, seen: Tensor) -> Iterator[None]:
    """Keep the attention of the vision encoder from looking at patches that are not `seen` (n,)."""
    layers = [part for part in model._tower().modules() if isinstance(part, MMEncoderAttention)]
    hooks = [
        part.register_forward_hook(partial(_attend, seen=seen), with_kwargs=True)
        for part in layers
        if part.attn_backend != AttentionBackendEnum.FLASHINFER  # which gets lengths in another unit
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _attend(layer: Any, args: Any, kwargs: Any, output: Tensor, *, seen: Tensor) -> Tensor:
    given = signature(layer.forward_native).bind(*args, **kwargs).arguments
    shapes = [(layer.num_heads, layer.head_size), *[(layer.num_kv_heads, layer.head_size)] * 2]
    query, key, value = (
        given[name].unflatten(-1, shape).transpose(1, 2) if given[name].dim() == 3 else given[name].transpose(1, 2)
        for name, shape in zip(("query", "key", "value"), shapes, strict=True)
    )  # (1, heads, n, width)
    starts = given.get("cu_seqlens")
    seen, result = seen.to(query.device), torch.zeros_like(query)
    for begin, end in pairwise([0, len(seen)] if starts is None else starts.tolist()):
        stays = seen[begin:end].nonzero()[:, 0] + begin
        if len(stays):
            result[:, :, begin:end] = F.scaled_dot_product_attention(
                query[:, :, begin:end],
                key[:, :, stays],
                value[:, :, stays],
                scale=layer.scale,
                enable_gqa=layer.num_heads > layer.num_kv_heads,
            )
    return result.transpose(1, 2).reshape(output.shape)
