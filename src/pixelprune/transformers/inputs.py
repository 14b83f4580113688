"""From the inputs of a pruning processor to those of a stock model.

Each function returns what it changes. One thing is set: `rope_deltas` of the model, from which stock code goes on.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pixelprune.plan.token_map import TokenMap
from pixelprune.transformers import caches
from pixelprune.transformers.encoding import encode_images
from pixelprune.transformers.families import Family, family_of
from pixelprune.transformers.positions import mrope_positions

Inputs = dict[str, Any]

# Data sets give whole numbers back in the widest type.
_WHOLE = (torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of `forward` or `generate` in which blocks are dropped.

    Attributes:
        model: the model, of any head.
        family: its entry.
        tokens: the map of all images of the call.
        is_image: bool (batch, S), the placeholders of images.
        cached: tokens that the cache holds.
        from_start: whether `input_ids` begin where the conversation does, and not behind the cache.
    """

    model: Any
    family: Family
    tokens: TokenMap
    is_image: Tensor
    cached: int
    from_start: bool

    @property
    def repeats_cache(self) -> bool:
        """Whether `input_ids` hold what the cache holds already, and more."""
        return bool(self.cached) and self.from_start


def stock_inputs(model: Any, inputs: Inputs, image_map: Tensor, generating: bool = False) -> tuple[Inputs, bool]:
    """What the stock `forward` (or `generate`) takes, from the inputs of a pruning processor.

    Args:
        model: the model, of any head.
        inputs: the arguments of the call, by name.
        image_map: int32 (N,), the token map of all images.
        generating: whether they are those of `generate`.

    Returns:
        The arguments, with features in place of pixels if a block is dropped; and whether one is.

    Raises:
        ValueError: the inputs contradict each other.
    """
    family = family_of(model)
    grids = _checked_grids(inputs)
    merge = family.merge_size(model, inputs.get("image_merge_sizes"))
    tokens = _checked_map(image_map, grids, inputs.get("pixel_values"), merge)
    embedded = _embedded(inputs)
    if embedded is not None and not tokens.everything:
        raise ValueError(
            f"{embedded} cannot be pruned, since placeholders are found by their ids and blocks are dropped before "
            "the encoder; pass input_ids and pixel_values, or let the processor keep everything (pixelprune=False)"
        )
    cached = caches.length(inputs.get("past_key_values"))
    # What comes as vectors was never pruned here, so stock code goes on from a cache as it always does.
    if embedded is not None or (tokens.everything and not cached and not _in_step()):
        return inputs, False
    call, inputs = find_placeholders(model, family, inputs, tokens.to(grids.device), cached, generating)
    if family.positions == "mrope":
        positions, deltas = positions_of(call, inputs)
        if hasattr(model.base_model, "rope_deltas"):
            model.base_model.rope_deltas = deltas
        if inputs.get("position_ids") is None:
            inputs = {**inputs, "position_ids": positions}
    return encode_new(call, inputs), True


def _in_step() -> bool:
    """Whether there are several processes, which gather sharded weights (FSDP, ZeRO-3) from each other in one order.

    Stock code embeds tokens before it runs the encoder, and after it if it gets features: a process whose images drop
    nothing must not differ from the others.
    """
    group = torch.distributed
    return bool(group.is_available() and group.is_initialized() and group.get_world_size() > 1)


def find_placeholders(
    model: Any, family: Family, inputs: Inputs, tokens: TokenMap, cached: int, generating: bool
) -> tuple[Call, Inputs]:
    """Match placeholders with the tokens of images.

    Returns:
        The call, and `inputs`; what the cache holds is cut off those where only images behind it were given.

    Raises:
        ValueError: placeholders, blocks and attention mask do not fit together.
    """
    token = _image_token(model.config)
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    from_start = not cached or (generating and caches.is_whole(ids, mask))
    _check_attention_mask(mask, ids, 0 if from_start else cached)
    lengths = tokens.present.counts
    wanted = sum(lengths)
    is_image = _is_image(inputs, token)
    if int(is_image.sum()) != wanted and from_start and cached:
        inputs, from_start = _behind_cache(inputs, cached), False
        is_image = _is_image(inputs, token)
    found = int(is_image.sum())
    _check_hidden(inputs, is_image)
    if found != wanted:
        raise ValueError(
            f"input_ids hold {found} image placeholders (id {token}), but image_map has {wanted} "
            "tokens; pass all that the processor returned for these prompts, and truncate none of it"
        )
    ends = torch.tensor(lengths).cumsum(0)
    ends_of_rows = is_image.sum(1).cpu().cumsum(0)
    if not bool(torch.isin(ends_of_rows[ends_of_rows > 0], ends).all()):
        raise ValueError(
            "image_map does not fit input_ids row by row: the tokens of one image would be in two rows; "
            "put the images of a batch in the order of their prompts"
        )
    return Call(model, family, tokens, is_image, cached, from_start), inputs


def _check_hidden(inputs: Inputs, is_image: Tensor) -> None:
    mask = inputs.get("attention_mask")
    if mask is not None and (hidden := int((is_image & (mask[:, -is_image.shape[1] :] == 0)).sum())):
        raise ValueError(
            f"attention_mask is 0 at {hidden} image placeholders, as if they were padding; pass the attention_mask of "
            "the processor"
        )


def _behind_cache(inputs: Inputs, cached: int) -> Inputs:
    """`inputs` without the tokens that the cache holds, and with an attention mask over all of them."""
    names = [name for name in ("input_ids", "mm_token_type_ids") if inputs.get(name) is not None]
    cut = {name: inputs[name][:, cached:] for name in names}
    mask = inputs.get("attention_mask")
    if mask is None:
        mask = torch.ones_like(inputs["input_ids"])
    return {**inputs, **cut, "attention_mask": mask}


def _image_token(config: Any) -> int:
    token = getattr(config, "image_token_id", None)
    return int(config.image_token_index if token is None else token)


def _is_image(inputs: Inputs, token: int) -> Tensor:
    ids, types = inputs["input_ids"], inputs.get("mm_token_type_ids")
    found: Tensor = ids == token
    # Some models use one placeholder for images and video frames.
    return found if types is None else found & (types == 1).to(found.device)


def positions_of(call: Call, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Positions of tokens, and what stock code adds to a count of tokens to go on from there.

    Returns:
        Long (3, batch, S) and long (batch, 1).
    """
    mask = inputs.get("attention_mask")
    if not call.from_start and mask is not None:
        inputs = {**inputs, "attention_mask": mask[:, -inputs["input_ids"].shape[1] :]}
    token = _image_token(call.model.config)
    positions, deltas = mrope_positions(call.model, inputs, token, call.is_image, call.tokens.present)
    if call.from_start:
        return positions, deltas
    before = call.cached if mask is None else mask[:, : call.cached].sum(1, keepdim=True)
    known = caches.deltas_behind(call.model, inputs.get("past_key_values"))
    past_deltas = 0 if known is None else known.to(deltas.device)
    return positions + (before + past_deltas), deltas + past_deltas


def encode_new(call: Call, inputs: Inputs) -> Inputs:
    """`inputs` with the features of images, and those of videos next to them, in place of their pixels."""
    inputs = dict(inputs)
    pixel_values, grids = inputs.pop("pixel_values"), inputs.pop("image_grid_thw")
    merge_sizes = inputs.pop("image_merge_sizes", None)
    features = dict(inputs.get("mm_encoder_outputs") or {})
    if new := _new_images(call):
        tokens = call.tokens
        if len(new) < len(tokens.shapes):
            counts = tokens.encoded.counts
            patches = len(pixel_values) // sum(counts)
            pixels = torch.split(pixel_values, [patches * count for count in counts])
            pixel_values, tokens, grids = torch.cat([pixels[i] for i in new]), tokens.only(new), grids[new]
            merge_sizes = None if merge_sizes is None else merge_sizes[new]
        features["image"] = encode_images(call.model, call.family, pixel_values, grids, tokens, merge_sizes)
    if inputs.get("pixel_values_videos") is not None:
        # Stock code takes either pixels or features, for images and videos alike.
        encode, given = _video_inputs(call, inputs)
        features["video"] = encode(**given, return_dict=True)
        inputs = {name: value for name, value in inputs.items() if name not in given}
    return {**inputs, "mm_encoder_outputs": features}


def _new_images(call: Call) -> Sequence[int]:
    """The images that are not in the cache yet."""
    if not call.repeats_cache:
        return range(len(call.tokens.shapes))
    columns = torch.split(call.is_image.nonzero()[:, 1], call.tokens.present.counts)
    new = [bool((column >= call.cached).all()) for column in columns]
    begun = [bool((column >= call.cached).any()) for column in columns]
    if new != begun:
        raise ValueError("past_key_values end within an image; crop the cache to before the image, or keep all of it")
    return [i for i, is_new in enumerate(new) if is_new]


def _video_inputs(call: Call, inputs: Inputs) -> tuple[Any, Inputs]:
    """The model's encoder of videos, and those of `inputs` that it takes."""
    types = inputs.get("mm_token_type_ids")
    if call.repeats_cache and types is not None and bool((types[:, : call.cached] == 2).any()):
        raise ValueError(
            "pixel_values_videos came again for videos that past_key_values hold; pass only what is new of the "
            "conversation, with an attention_mask over the cache and the new tokens"
        )
    encode = call.model.base_model.get_video_features
    return encode, {name: inputs[name] for name in inspect.signature(encode).parameters if name in inputs}


def _check_attention_mask(mask: Any, ids: Tensor, cached: int) -> None:
    expected = (len(ids), cached + ids.shape[1])
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != expected):
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask must have shape {expected}, one entry for each token of past_key_values and of "
            f"input_ids, got {got}"
        )


def _image_features(inputs: Inputs) -> Any:
    return (inputs.get("mm_encoder_outputs") or {}).get("image")


def _embedded(inputs: Inputs) -> str | None:
    """The name of what comes as vectors already: the text, or the images."""
    if inputs.get("inputs_embeds") is not None:
        return "inputs_embeds"
    return None if _image_features(inputs) is None else "mm_encoder_outputs['image']"


def _checked_grids(inputs: Inputs) -> Tensor:
    needed = ("image_grid_thw",) if _embedded(inputs) else ("pixel_values", "image_grid_thw", "input_ids")
    for name in needed:
        if inputs.get(name) is None:
            raise ValueError(f"image_map came without {name}; pass all that the processor returned")
    if _image_features(inputs) is not None and inputs.get("pixel_values") is not None:
        raise ValueError(
            "pixel_values came with mm_encoder_outputs['image'], which stands for them; pass one of the two"
        )
    grids: Tensor = inputs["image_grid_thw"]
    if bool((grids[:, 0] != 1).any()):
        raise ValueError(
            f"image_grid_thw must have one frame per image, got {grids[:, 0].tolist()}; "
            "pass moving images as videos, which are not pruned"
        )
    return grids


def _checked_map(values: Any, grids: Tensor, pixel_values: Tensor | None, merge: int) -> TokenMap:
    blocks = int(grids.prod(-1).sum()) // merge**2
    if not isinstance(values, Tensor) or values.dtype not in _WHOLE or values.shape != (blocks,):
        got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"image_map must be a tensor of shape ({blocks},), one whole number per block of image_grid_thw "
            f"{grids.tolist()}, got {got}"
        )
    tokens = TokenMap.of_grids(values.cpu(), grids, merge)  # a device is asked once, not for each of these checks
    if problem := tokens.problem():
        raise ValueError(f"image_map is not valid: {problem}; pass it as the processor returned it")
    wanted = sum(tokens.encoded.counts) * merge**2
    if pixel_values is not None and len(pixel_values) != wanted:
        raise ValueError(
            f"pixel_values must hold the {wanted} patches of the {wanted // merge**2} blocks that image_map keeps, "
            f"got {len(pixel_values)}; take both from the same call of the processor"
        )
    return tokens
