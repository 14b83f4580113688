"""A multimodal processor of vLLM that prunes: it selects, and shortens what the stock class makes.

It runs in vLLM's front end, where an error is the answer to one request. Nothing is checked later: an error in a
worker would end the engine for everyone.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.processing import PromptUpdateDetails

from pixelprune.plan.pixels import ImagePruner, check_bytes
from pixelprune.plan.token_map import IMAGE_MAP, encoded
from pixelprune.selection.config import PruneConfig
from pixelprune.vllm.contract import Contract
from pixelprune.vllm.options import KEY, engine_config, fingerprint, is_asked, split
from pixelprune.vllm.positions import furthest_ahead, table_rows
from pixelprune.vllm.seams import ProcessorSeam

_log = logging.getLogger("vllm.pixelprune")

_RAW = {"do_rescale": False, "do_normalize": False}
# The options of an image processor that decide how pixels are normalized.
_NORMALIZING = {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"}


@dataclass
class _Shortened(PromptUpdateDetails):
    """The placeholders of a pruned image. vLLM caches it together with the image, which may then be elsewhere.

    Attributes:
        side: longer side of its grid, in blocks.
    """

    side: int = 0


class PruningProcessor(ProcessorSeam, Contract):
    """For a stock `…MultiModalProcessor`; comes before it in the bases.

    Attributes:
        rope_factor: rows of the stock table of rotations per `max_position_embeddings`; None where positions have
            one axis, and so count the tokens of the pruned prompt.
        gives_bytes: whether the processor of transformers never normalizes; the subclass does so at the end.
    """

    rope_factor: int | None = 4
    gives_bytes = False

    def __init__(self: Any, info: Any, *args: Any, **kwargs: Any) -> None:
        config = info.ctx.model_config
        self._pixelprune, self._is_ready = engine_config(config), is_asked(config)
        # The stock processor merges the engine's options into each call, and ours are not for it.
        info.ctx = replace(info.ctx, model_config=_without_key(config))
        super().__init__(info, *args, **kwargs)  # type: ignore[call-arg]
        if self._pixelprune is not None:
            self._check_engine()
            _ = self._pruner  # refuses now what cannot be pruned

    # Options

    def _split(self: Any, kwargs: Mapping[str, Any]) -> tuple[PruneConfig | None, dict[str, Any]]:
        config, rest = split(kwargs, self._pixelprune)
        if config is not None and self._pixelprune is None:
            self._check_engine()
        return config, rest

    def _check_engine(self: Any) -> None:
        """Raise a ValueError if pruning and another option of the engine exclude each other."""
        if self.info.ctx.get_mm_config().is_multimodal_pruning_enabled():
            raise ValueError(
                "pixelprune cannot be combined with --video-pruning-rate, which moves the positions of images; "
                "leave one of them out"
            )

    # The key of an image in vLLM's caches

    def _get_mm_hashes(self: Any, inputs: Any) -> Any:
        config, rest = self._split(inputs.hf_processor_mm_kwargs)
        if config is not None:
            rest[KEY] = fingerprint(config)
        return super()._get_mm_hashes(replace(inputs, hf_processor_mm_kwargs=rest))

    # Profiling: its images are flat, and would become one token each

    def get_dummy_inputs(self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = super().get_dummy_inputs(*args, **kwargs)  # type: ignore[misc]
        return replace(inputs, hf_processor_mm_kwargs={**inputs.hf_processor_mm_kwargs, KEY: False})

    # Pixels

    @functools.cached_property
    def _pruner(self: Any) -> ImagePruner:
        image_processor = self.info.get_hf_processor().image_processor
        return ImagePruner.of(image_processor, image_processor.preprocess, normalizes=not self.gives_bytes)

    def _apply_hf_processor_main(self: Any, mm_items: Any, hf_kwargs: Mapping[str, Any]) -> Any:
        config, rest = self._split(hf_kwargs)
        if config is None or "image" not in mm_items:
            return super()._apply_hf_processor_main(mm_items, rest)  # type: ignore[misc]
        check_bytes(list(mm_items["image"].get_processor_data().get("images", [])))
        raw = self.gives_bytes or self.info.ctx.get_mm_config().mm_device_do_normalize
        output = super()._apply_hf_processor_main(mm_items, rest if raw else self._in_bytes(rest))  # type: ignore[misc]
        if "pixel_values" in output:
            self._prune(output, config, None if raw else rest)
        return output

    def _in_bytes(self: Any, options: dict[str, Any]) -> dict[str, Any]:
        """Options of a request that make the stock processor leave pixels as they are, whatever those ask for."""
        engine = self.info.ctx.get_mm_config().mm_processor_kwargs or {}
        # An option may stand alone or among those for images, not in both places.
        alone = {name: value for name, value in _RAW.items() if name in engine}
        others = {name: value for name, value in options.items() if name not in _RAW}
        of_images = {name: value for name, value in options.get("images_kwargs", {}).items() if name not in _RAW}
        rest = {name: value for name, value in _RAW.items() if name not in alone}
        return {**others, **alone, "images_kwargs": {**of_images, **rest}}

    def _prune(self: Any, output: Any, config: PruneConfig, normalize: dict[str, Any] | None) -> None:
        """Leave kept patches in `output`, and the token map of each image unless nothing is dropped from any.

        Args:
            output: of the stock processor, patches not normalized.
            config: what may be dropped.
            normalize: options for normalizing what is kept; None if that is done later.
        """
        given, grids = output["pixel_values"], output["image_grid_thw"]
        if normalize is None:
            values, tokens = self._pruner.prune(given, grids, config, log=_log)
        else:
            image_processor = self.info.get_hf_processor(**normalize).image_processor
            asked = self.info.ctx.get_merged_mm_kwargs(normalize)  # over those of the engine
            flat = {name: value for name, value in asked.items() if name in _NORMALIZING}
            options = {**flat, **asked.get("images_kwargs", {})}
            values, tokens = self._pruner.prune(given, grids, config, image_processor, options, _log)
            values = values.to(self.info.ctx.model_config.dtype)
        kept = sum(tokens.encoded.counts)
        copies = sum(tokens.present.counts) - kept
        _log.debug(
            "%d of %d visual tokens are kept%s (images: %d)",
            kept,
            sum(tokens.totals),
            f", {copies} come back as copies" if copies else "",
            len(tokens.shapes),
        )
        if not tokens.everything:
            # Some processors put bytes into floats, and the worker gets what it gets without pruning.
            output["pixel_values"] = values.to(given[0].dtype) if normalize is None else values
            # Images are cached one by one, so no map may share memory with another.
            output[IMAGE_MAP] = [part.clone() for part in tokens.parts]
        elif normalize is not None:
            # Without a map, a photograph goes the stock way, and costs what it costs there.
            separate = not isinstance(given, Tensor)
            output["pixel_values"] = list(torch.split(values, [len(part) for part in given])) if separate else values

    def _get_mm_fields_config(self: Any, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, Any]) -> Any:
        _, rest = self._split(hf_processor_mm_kwargs)
        fields = dict(super()._get_mm_fields_config(hf_inputs, rest))  # type: ignore[misc]
        if (maps := hf_inputs.get(IMAGE_MAP)) is not None:
            sizes = torch.tensor([int(encoded(values).sum()) for values in maps]) * self._pruner.layout.merge**2
            fields["pixel_values"] = MultiModalFieldConfig.flat_from_sizes("image", sizes)
            fields[IMAGE_MAP] = MultiModalFieldConfig.batched("image", keep_on_cpu=True)
        return fields

    # Placeholders and positions

    def _get_prompt_updates(
        self: Any, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        _, rest = self._split(hf_processor_mm_kwargs)
        updates = super()._get_prompt_updates(mm_items, rest, out_mm_kwargs)  # type: ignore[misc]
        items = out_mm_kwargs.get("image", [])
        if not any(item is not None and IMAGE_MAP in item for item in items):
            return updates  # type: ignore[no-any-return]
        return [self._shortened(update, items) if update.modality == "image" else update for update in updates]

    def _shortened(self: Any, update: Any, items: Sequence[Any]) -> Any:
        unpruned, merge = update.replacement, self._pruner.layout.merge

        def shortened(item_idx: int) -> _Shortened:
            tokens = unpruned(item_idx) if callable(unpruned) else unpruned
            values, grid = items[item_idx][IMAGE_MAP].data, items[item_idx]["image_grid_thw"].data
            assert len(tokens) == len(values)
            assert len(set(tokens)) == 1
            side = int(grid.flatten()[-2:].max()) // merge
            return _Shortened(full=tokens[: int((values >= 0).sum())], side=side)

        return replace(update, replacement=shortened)

    def _maybe_apply_prompt_updates(self: Any, mm_items: Any, mm_res: Any) -> Any:
        if self.rope_factor is not None:
            contents = [update.content for item in mm_res.prompt_updates.get("image", ()) for update in item[:1]]
            self._check_positions([(c.side, len(c.full)) for c in contents if isinstance(c, _Shortened)])
        return super()._maybe_apply_prompt_updates(mm_items, mm_res)  # type: ignore[misc]

    def _check_positions(self: Any, images: list[tuple[int, int]]) -> None:
        """Raise a ValueError if a position could lie beyond the end of the model's table."""
        model_config = self.info.ctx.model_config
        ahead = furthest_ahead(images)
        rows = table_rows(model_config, self.rope_factor, self._is_ready)
        if not ahead or model_config.max_model_len + ahead <= rows:
            return
        advice = "send fewer images in one prompt, or start the server with a higher --max-model-len"
        if not self._is_ready:
            advice = (
                f"start the server with --hf-overrides '{{\"{KEY}\": false}}', which makes room for requests that "
                "switch pruning on, or with a lower --max-model-len"
            )
        raise ValueError(
            f"{KEY}: the images of this prompt have so few tokens that positions run {ahead} ahead of the tokens; with "
            f"--max-model-len {model_config.max_model_len} that may exceed the {rows} positions that this model has; "
            f"{advice}"
        )


def _without_key(model_config: Any) -> Any:
    """`model_config` without our options among those of the stock processor."""
    multimodal = model_config.multimodal_config
    if KEY not in (multimodal.mm_processor_kwargs or {}):
        return model_config
    changed, changed.multimodal_config = copy.copy(model_config), copy.copy(multimodal)
    changed.multimodal_config.mm_processor_kwargs = {
        name: value for name, value in multimodal.mm_processor_kwargs.items() if name != KEY
    }
    return changed
