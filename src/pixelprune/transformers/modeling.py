"""A model of transformers that takes pruned inputs: one object gets a subclass of its own class.

The subclass adds one named input, `image_kept`, to `forward` and `generate`, turns it and the kept
pixels into arguments that the stock methods know (`mm_encoder_outputs`, `position_ids`), and calls
those. `generate` needs it as much as `forward`: it encodes images before it calls `forward`. The model
without its head (`base_model`) gets the same, since trainers that fuse head and loss call it directly.
"""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from pixelprune.plan.tokens import blocks_per_image
from pixelprune.transformers import caches
from pixelprune.transformers.encoding import encode_images
from pixelprune.transformers.families import Family, family_of
from pixelprune.transformers.positions import mrope_positions

# The enabled model whose stock generate() runs in this context: it may hand pixels, of which nothing was
# dropped, on to forward().
_generating: ContextVar[Any] = ContextVar("_generating", default=None)


@functools.cache
def pruned_class(base: Any) -> type:
    """The subclass of `base` whose instances take `image_kept`."""
    # The stock name: checkpoints record it, and so does whatever looks a model up by it.
    same = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    added = {"forward": _pruned_forward(base), "__reduce_ex__": _reduce, "_pixelprune_base": base}
    if hasattr(base, "generate"):
        added["generate"] = _pruned_generate(base)
    return type(base.__name__, (base,), {**same, **added})


def _pruned_forward(base: Any) -> Any:
    signature = inspect.signature(base.forward)
    parameters = list(signature.parameters.values())
    place = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_KEYWORD), len(parameters))
    parameters.insert(place, inspect.Parameter("image_kept", inspect.Parameter.KEYWORD_ONLY, default=None))

    def forward(self: Any, *args: Any, image_kept: Tensor | None = None, **kwargs: Any) -> Any:
        if args:
            kwargs = {**signature.bind_partial(self, *args).arguments, **kwargs}
            kwargs.pop("self")
        kwargs = stock_inputs(self, kwargs, image_kept)
        if kwargs.get("pixel_values") is not None and image_kept is not None and self.base_model is not self:
            # Nothing was dropped: stock code hands this on to `base_model`, which asks, and need not look again.
            kwargs["image_kept"] = True
        # Looked up at each call: other libraries replace methods of stock classes when they like.
        return base.forward(self, **kwargs)

    functools.update_wrapper(forward, base.forward)
    # Trainer and generate() read the names of inputs here.
    forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return forward


def _pruned_generate(base: Any) -> Any:
    def generate(
        self: Any, inputs: Tensor | None = None, *args: Any, image_kept: Tensor | None = None, **kwargs: Any
    ) -> Any:
        if inputs is not None and kwargs.get("pixel_values") is not None:
            kwargs["input_ids"], inputs = inputs, None
        caches.restore(self, kwargs.get("past_key_values"))
        given = {**kwargs, "input_ids": kwargs.get("input_ids", inputs)}
        if image_kept is not None:
            caches.check_prompt(given)
        with torch.no_grad():
            kwargs = stock_inputs(self, kwargs, image_kept, generating=True)
        # Stock code sets this where it is left to find positions; another thread may set it meanwhile.
        deltas = getattr(self.base_model, "rope_deltas", None) if "position_ids" in kwargs else None
        token = _generating.set(self)
        try:
            result = base.generate(self, inputs, *args, **kwargs)
        finally:
            _generating.reset(token)
        caches.note(result, given, getattr(self.base_model, "rope_deltas", None) if deltas is None else deltas)
        return result

    return functools.update_wrapper(generate, base.generate)


def _reduce(self: Any, protocol: Any) -> Any:
    if "_pixelprune_base" not in vars(type(self)):  # someone made a class of this one
        return object.__reduce_ex__(self, protocol)
    # The subclass cannot be found by its name, so copies and pickles are built from the stock class.
    return _rebuild, (self._pixelprune_base,), self.__dict__


def _rebuild(base: Any) -> Any:
    return base.__new__(pruned_class(base))


def stock_inputs(model: Any, inputs: dict[str, Any], image_kept: Any, generating: bool = False) -> dict[str, Any]:
    """What the stock `forward` (or `generate`) takes, from the inputs of a pruning processor.

    Raises:
        ValueError: the inputs contradict each other.
    """
    if image_kept is None:
        if inputs.get("pixel_values") is not None and not _is_generating(model):
            raise ValueError(
                "pixel_values came without image_kept, so they are not from a processor that prunes; pass the "
                "processor to pixelprune.transformers.enable too, or the model to pixelprune.transformers.disable"
            )
        return inputs
    if image_kept is True and model.base_model is model:
        return inputs
    family = family_of(model)
    grids = _checked_grids(inputs)
    merge = family.merge_size(model, inputs.get("image_merge_sizes"))
    _check_kept(image_kept, grids, inputs["pixel_values"], merge)
    cached = caches.length(inputs.get("past_key_values"))
    if not cached and bool(image_kept.all()):
        return inputs
    return _Pruned(model, family, inputs, image_kept, blocks_per_image(grids, merge), cached, generating).arguments()


def _is_generating(model: Any) -> bool:
    """Whether stock `generate` of this model, or of the one around it, runs."""
    outer = _generating.get()
    return outer is not None and (outer is model or outer.base_model is model)


class _Pruned:
    """The inputs of one call, of which something has been dropped."""

    def __init__(
        self,
        model: Any,
        family: Family,
        inputs: dict[str, Any],
        kept: Tensor,
        totals: list[int],
        cached: int,
        generating: bool,
    ) -> None:
        self.model, self.family, self.inputs, self.totals, self.cached = model, family, dict(inputs), totals, cached
        self.kept = kept.to(inputs["image_grid_thw"].device)
        self.parts = torch.split(self.kept, totals)
        self.lengths = [int(part.sum()) for part in self.parts]
        config = model.config
        token = getattr(config, "image_token_id", None)
        self.image_token = token if token is not None else config.image_token_index
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        self.whole = not cached or (generating and caches.is_whole(ids, mask))
        _check_mask(mask, ids, 0 if self.whole else cached)
        self._find_placeholders()

    def arguments(self) -> dict[str, Any]:
        arguments = self.inputs
        if self.family.positions == "mrope":
            positions = self._positions()
            if arguments.get("position_ids") is None:
                arguments["position_ids"] = positions
        pixel_values, grids = arguments.pop("pixel_values"), arguments.pop("image_grid_thw")
        merge_sizes = arguments.pop("image_merge_sizes", None)
        outputs = dict(arguments.get("mm_encoder_outputs") or {})
        new = self._new_images()
        if any(new):
            pixel_values, grids, kept, merge_sizes = self._only(new, pixel_values, grids, merge_sizes)
            outputs["image"] = encode_images(self.model, self.family, pixel_values, grids, kept, merge_sizes)
        if arguments.get("pixel_values_videos") is not None:
            # Stock code takes either pixels or features, for images and videos alike.
            outputs["video"] = self._encode_videos(arguments)
        arguments["mm_encoder_outputs"] = outputs
        return arguments

    def _find_placeholders(self) -> None:
        """Match placeholders with kept blocks, and leave aside what is in the cache already."""
        wanted = sum(self.lengths)
        is_image = self._is_image()
        if int(is_image.sum()) != wanted and self.whole and self.cached:
            # Only the images behind the cache were given.
            for name in ("input_ids", "mm_token_type_ids"):
                if self.inputs.get(name) is not None:
                    self.inputs[name] = self.inputs[name][:, self.cached :]
            self.inputs.setdefault("attention_mask", None)
            if self.inputs["attention_mask"] is None:
                length = self.cached + self.inputs["input_ids"].shape[1]
                self.inputs["attention_mask"] = self.inputs["input_ids"].new_ones((len(is_image), length))
            is_image, self.whole = self._is_image(), False
        found = int(is_image.sum())
        if found != wanted:
            raise ValueError(
                f"input_ids hold {found} image placeholders (id {self.image_token}), but image_kept keeps {wanted} "
                "blocks; pass all that the processor returned for these prompts, and truncate none of it"
            )
        ends = torch.tensor(self.lengths).cumsum(0)
        rows = is_image.sum(1).cpu().cumsum(0)
        if not bool(torch.isin(rows[rows > 0], ends).all()):
            raise ValueError(
                "image_kept does not fit input_ids row by row: the blocks of one image would stand in two rows; "
                "put the images of a batch in the order of their prompts"
            )
        self.is_image = is_image

    def _is_image(self) -> Tensor:
        ids, types = self.inputs["input_ids"], self.inputs.get("mm_token_type_ids")
        found: Tensor = ids == self.image_token
        # Some models use one placeholder for images and video frames.
        return found if types is None else found & (types == 1).to(found.device)

    def _positions(self) -> Tensor:
        """(3, batch, S); sets `rope_deltas`, from which stock code goes on."""
        base, mask = self.model.base_model, self.inputs.get("attention_mask")
        inputs = dict(self.inputs)
        if not self.whole:
            tokens = inputs["input_ids"].shape[1]
            inputs["attention_mask"] = None if mask is None else mask[:, -tokens:]
        positions, deltas = mrope_positions(self.model, inputs, self.image_token, self.is_image, self.kept, self.totals)
        if not self.whole:
            before = mask[:, : self.cached].sum(1, keepdim=True) if mask is not None else self.cached
            known = caches.deltas_behind(self.model, inputs.get("past_key_values"))
            past_deltas = 0 if known is None else known.to(deltas.device)
            positions = positions + (before + past_deltas)
            deltas = deltas + past_deltas
        if hasattr(base, "rope_deltas"):
            base.rope_deltas = deltas
        return positions

    def _new_images(self) -> list[bool]:
        """Which images are not in the cache yet."""
        if not (self.cached and self.whole):
            return [True] * len(self.totals)
        columns = torch.split(self.is_image.nonzero()[:, 1], self.lengths)
        new = [bool((column >= self.cached).all()) for column in columns]
        if any(not is_new and bool((column >= self.cached).any()) for is_new, column in zip(new, columns, strict=True)):
            raise ValueError(
                "past_key_values end within an image; crop the cache to before the image, or keep all of it"
            )
        return new

    def _only(
        self, new: list[bool], pixel_values: Tensor, grids: Tensor, merge_sizes: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        if all(new):
            return pixel_values, grids, self.kept, merge_sizes
        patches = len(pixel_values) // sum(self.lengths)
        pixels = torch.split(pixel_values, [patches * length for length in self.lengths])
        chosen = [i for i, is_new in enumerate(new) if is_new]
        return (
            torch.cat([pixels[i] for i in chosen]),
            grids[chosen],
            torch.cat([self.parts[i] for i in chosen]),
            None if merge_sizes is None else merge_sizes[chosen],
        )

    def _encode_videos(self, arguments: dict[str, Any]) -> Any:
        types = self.inputs.get("mm_token_type_ids")
        if self.cached and self.whole and types is not None and bool((types[:, : self.cached] == 2).any()):
            raise ValueError(
                "pixel_values_videos came again for videos that past_key_values hold; pass only what is new of the "
                "conversation, with an attention_mask over the cache and the new tokens"
            )
        encode = self.model.base_model.get_video_features
        names = [name for name in inspect.signature(encode).parameters if name in arguments]
        return encode(**{name: arguments.pop(name) for name in names}, return_dict=True)


def _check_mask(mask: Any, ids: Tensor, cached: int) -> None:
    if mask is not None and (not isinstance(mask, Tensor) or mask.shape != (len(ids), cached + ids.shape[1])):
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask must have shape {(len(ids), cached + ids.shape[1])}, one entry for each token of "
            f"past_key_values and of input_ids, got {got}"
        )


def _checked_grids(inputs: dict[str, Any]) -> Tensor:
    if inputs.get("inputs_embeds") is not None:
        raise ValueError("inputs_embeds cannot be pruned, since placeholders are found by their ids; pass input_ids")
    for name in ("pixel_values", "image_grid_thw", "input_ids"):
        if inputs.get(name) is None:
            raise ValueError(f"image_kept came without {name}; pass all that the processor returned")
    if (inputs.get("mm_encoder_outputs") or {}).get("image") is not None:
        raise ValueError(
            "pixel_values came with mm_encoder_outputs['image'], which stands for them; pass one of the two"
        )
    grids: Tensor = inputs["image_grid_thw"]
    if bool((grids[:, 0] != 1).any()):
        raise ValueError(
            f"image_grid_thw must have one frame an image, got {grids[:, 0].tolist()}; "
            "hand moving images over as videos, which pass unpruned"
        )
    return grids


def _check_kept(kept: Any, grids: Tensor, pixel_values: Tensor, merge: int) -> None:
    blocks = int(grids.prod(-1).sum()) // merge**2
    if not isinstance(kept, Tensor) or kept.dtype != torch.bool or kept.shape != (blocks,):
        got = f"{kept.dtype} {tuple(kept.shape)}" if isinstance(kept, Tensor) else type(kept).__name__
        raise ValueError(
            f"image_kept must be a bool tensor of shape ({blocks},), one entry a block of image_grid_thw "
            f"{grids.tolist()}, got {got}"
        )
    totals = blocks_per_image(grids, merge)
    if empty := [i for i, part in enumerate(torch.split(kept, totals)) if not bool(part.any())]:
        raise ValueError(f"image_kept must keep at least one block of each image, got none of image {empty[0]}")
    wanted = int(kept.sum()) * merge**2
    if len(pixel_values) != wanted:
        raise ValueError(
            f"pixel_values must hold the {wanted} patches of the {wanted // merge**2} blocks that image_kept keeps, "
            f"got {len(pixel_values)}; take both from the same call of the processor"
        )
