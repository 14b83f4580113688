"""The vLLM plugin, broken on purpose in one way at a time: python broken.py FAMILY CHECKPOINT RESULT.

One engine, in this process; RESULT is JSON, what the check at start-up says about each of the BREAKS, and whether the
worker `normalizes` pixels. With the name of a break in place of RESULT, the engine starts with
that break.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from pixelprune.plan.token_map import IMAGE_MAP, TokenMap
from pixelprune.vllm import ARCHITECTURES
from pixelprune.vllm.positions import MRopeMixin

Change = AbstractContextManager[Any]


def changed(target: Any, name: str, make: Callable[[Any], Any]) -> Change:
    return patch.object(target, name, make(getattr(target, name)))


def flipped(tokens: TokenMap) -> TokenMap:
    """A map that keeps as many blocks, the last ones in place of the first ones, without copies."""
    masks = [part.flip(0) for part in tokens.encoded.parts]
    own = [torch.arange(len(mask), dtype=torch.int32) for mask in masks]
    return TokenMap(torch.cat([torch.where(*pair, -1) for pair in zip(masks, own, strict=True)]).int(), tokens.shapes)


def nothing(model: Any) -> Change:
    return changed(model, "_encode", lambda stock: stock)


def black_pixels(model: Any) -> Change:
    def broken(self: Any, pixels: Any, keep: Any) -> Any:
        black = torch.zeros_like(pixels) if isinstance(pixels, Tensor) else [torch.zeros_like(part) for part in pixels]
        return stock(self, black, keep)

    stock = model._encode
    return changed(model, "_encode", lambda _: broken)


def front_end(model: Any) -> Change:
    """Pruned pixels are never normalized in the front end, although the engine asks for it."""
    from pixelprune.plan.pixels import ImagePruner
    from pixelprune.vllm.processing import PruningProcessor

    def broken(stock: Any) -> Any:
        def prune(self: Any, given: Any, grids: Any, config: Any, *_: Any, **__: Any) -> Any:
            values, keep = stock(self, given, grids, config)
            return values.float(), keep

        return prune

    processor = model._processor_factory.processor
    if "_apply_hf_processor_main" in vars(processor):  # which then normalizes after pruning
        return changed(processor, "_apply_hf_processor_main", lambda _: PruningProcessor._apply_hf_processor_main)
    return changed(ImagePruner, "prune", broken)


def worker(model: Any) -> Change:
    """Pruned pixels are never normalized in the worker, although they come in bytes."""

    def broken(stock: Any) -> Any:
        def encode(self: Any, pixels: Any, keep: Any) -> Any:
            norm = getattr(self._tower(), "input_norm", None)
            if norm is None:
                return stock(self, pixels, keep)
            with patch.object(norm, "forward", lambda values, dtype: values.to(dtype)):
                return stock(self, pixels, keep)

        return encode

    return changed(model, "_encode", broken)


def places(model: Any) -> Change:
    """Kept patches get the places of others."""

    def broken(stock: Any) -> Any:
        def token_map(self: Any, maps: Any, grids: Any) -> Any:
            tokens = stock(self, maps, grids)
            return tokens if tokens.everything else flipped(tokens)

        return token_map

    return changed(model, "_token_map", broken)


def one_sequence(_: Any) -> Change:
    """All images of a batch look at each other."""

    def broken(stock: Any) -> Any:
        return lambda lengths, sequences=None: stock([sum(lengths)], sequences)

    stack = ExitStack()
    for module in [module for name, module in sys.modules.items() if name.startswith("pixelprune.vllm.")]:
        if hasattr(module, "cumulative_lengths"):
            stack.enter_context(changed(module, "cumulative_lengths", broken))
    return stack


def one_axis(model: Any) -> Change:
    """The language model counts tokens of the pruned prompt."""

    def broken(stock: Any) -> Any:
        def positions(self: Any, input_tokens: list[int], mm_features: list[Any]) -> Any:
            if IMAGE_MAP not in mm_features[0].data:
                return stock(self, input_tokens, mm_features)
            return torch.arange(len(input_tokens)).expand(3, -1).contiguous(), 0

        return positions

    return changed(model, "get_mrope_input_positions", broken) if issubclass(model, MRopeMixin) else nullcontext()


def shifted(model: Any) -> Change:
    """Decoding goes on at a wrong position."""

    def broken(stock: Any) -> Any:
        def positions(self: Any, input_tokens: list[int], mm_features: list[Any]) -> Any:
            found, delta = stock(self, input_tokens, mm_features)
            return found, delta + (IMAGE_MAP in mm_features[0].data)

        return positions

    return changed(model, "get_mrope_input_positions", broken) if issubclass(model, MRopeMixin) else nullcontext()


def no_hash(_: Any) -> Change:
    """The name of an image in caches says nothing about pruning."""
    from pixelprune.vllm.processing import PruningProcessor

    def hashes(self: Any, inputs: Any) -> Any:
        rest = {name: value for name, value in inputs.hf_processor_mm_kwargs.items() if name != "pixelprune"}
        return super(PruningProcessor, self)._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=rest))  # type: ignore[misc]

    return changed(PruningProcessor, "_get_mm_hashes", lambda stock: hashes)


def no_engine_hash(_: Any) -> Change:
    """It says nothing about the options of the engine, only about those of a request."""
    from pixelprune.vllm.processing import PruningProcessor

    def hashes(self: Any, inputs: Any) -> Any:
        return super(PruningProcessor, self)._get_mm_hashes(inputs)  # type: ignore[misc]

    return changed(PruningProcessor, "_get_mm_hashes", lambda stock: hashes)


def stock_encoder(model: Any) -> Change:
    """Maps get lost on the way to the encoder."""

    def broken(stock: Any) -> Any:
        return lambda self, **kwargs: stock(self, **{k: v for k, v in kwargs.items() if k != IMAGE_MAP})

    return changed(model, "_parse_and_validate_image_input", broken)


def other_blocks(_: Any) -> Change:
    """Blocks are dropped that nothing rebuilds, as many as should be."""
    from pixelprune.plan.pixels import ImagePruner

    def broken(stock: Any) -> Any:
        def select(self: Any, *args: Any) -> Any:
            return flipped(stock(self, *args))

        return select

    return changed(ImagePruner, "_select", broken)


def other_sources(_: Any) -> Change:
    """Copies are of the kept block after the right one."""
    from pixelprune.plan.pixels import ImagePruner

    def broken(stock: Any) -> Any:
        def select(self: Any, *args: Any) -> Any:
            tokens, parts = stock(self, *args), []
            for values, mask in zip(tokens.parts, tokens.encoded.parts, strict=True):
                kept = mask.nonzero()[:, 0].int()
                later = kept[(torch.searchsorted(kept, values) + 1) % len(kept)]
                parts.append(torch.where((values >= 0) & ~mask, later, values))
            return TokenMap(torch.cat(parts), tokens.shapes)

        return select

    return changed(ImagePruner, "_select", broken)


def wrong_copies(_: Any) -> Change:
    """Copies are gathered one row too far."""

    def broken(stock: Any) -> Any:
        def with_copies(self: Any, features: Any) -> Any:
            parts = zip(stock(self, features), self.gathers, strict=True)
            return [part if gather is None else part.roll(1, 0) for part, gather in parts]

        return with_copies

    return changed(TokenMap, "with_copies", broken)


def wrong_rows(_: Any) -> Change:
    """All tokens of an image with copies get the features of its first block; so copies do equal their blocks."""

    def broken(stock: Any) -> Any:
        def with_copies(self: Any, features: Any) -> Any:
            parts = zip(stock(self, features), self.gathers, strict=True)
            return [part if gather is None else part[:1].expand_as(part) for part, gather in parts]

        return with_copies

    return changed(TokenMap, "with_copies", broken)


def unpruned(_: Any) -> Change:
    from pixelprune.vllm import processing

    return changed(processing, "split", lambda stock: lambda kwargs, config: (None, stock(kwargs, config)[1]))


BREAKS = {
    make.__name__: make
    for make in (
        nothing,
        black_pixels,
        front_end,
        worker,
        places,
        one_sequence,
        one_axis,
        shifted,
        no_hash,
        no_engine_hash,
        stock_encoder,
        other_blocks,
        other_sources,
        wrong_copies,
        wrong_rows,
        unpruned,
    )
}


def class_of(family: str) -> Any:
    from tests.support.small_models import APART, SMALL

    name = {**SMALL, **APART}[family].architecture
    return getattr(import_module(f"pixelprune.vllm.models.{ARCHITECTURES[name]}"), name)


def engine(family: str, checkpoint: str) -> Any:
    from vllm import LLM

    from tests.support.small_models import APART, SMALL

    small = {**SMALL, **APART}[family]
    return LLM(
        checkpoint,
        enforce_eager=True,
        max_model_len=2048,
        limit_mm_per_prompt={"image": 4, "video": 0},
        hf_overrides={"pixelprune": True},
        **{"dtype": small.dtype, **small.engine},
    )


def said(model: Any) -> str | None:
    """What the check says in the worker."""
    from pixelprune.vllm.startup import check

    try:
        check(model, model.pixelprune_config)
    except RuntimeError as error:
        return str(error)
    return None


def main(family: str, checkpoint: str) -> dict[str, Any]:
    llm = engine(family, checkpoint)
    config = llm.llm_engine.model_config

    def all_of(model: Any) -> dict[str, Any]:
        model.pixelprune_config = config
        found: dict[str, Any] = {
            "normalizes": config.multimodal_config.mm_device_do_normalize and hasattr(model._tower(), "input_norm")
        }
        for name, make in BREAKS.items():
            with make(type(model)):
                found[name] = said(model)
        return found

    (found,) = llm.apply_model(all_of)
    return found  # type: ignore[no-any-return]


if __name__ == "__main__":
    family, checkpoint, result = sys.argv[1:]
    if result in BREAKS:
        with BREAKS[result](class_of(family)):
            engine(family, checkpoint)
    else:
        Path(result).write_text(json.dumps(main(family, checkpoint)), encoding="utf-8")
