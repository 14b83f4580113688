"""A processor of transformers that prunes: it and its image processor each get a subclass of their class.

The image processor runs its stock code up to the resized uint8 patches, selects, and normalizes
what is kept. The processor shortens the placeholders to match. All else is stock.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import PIL.Image
import torch

from pixelprune.plan.keep import shapes_of
from pixelprune.plan.pixels import ImagePruner, Layout, PerImage, check_bytes, check_rgb, stock_patches
from pixelprune.plan.token_map import IMAGE_MAP, TokenMap
from pixelprune.selection.config import PruneConfig, resolve
from pixelprune.transformers._disguise import disguised

# Whether an image processor's stock code is running to get the pixels to select from.
_selecting = ContextVar("_selecting", default=False)

# Image processors that for now prune in another way than they were enabled for: the options of each image, or None to
# keep everything.
_for_now: ContextVar[tuple[tuple[Any, PerImage | None], ...]] = ContextVar("_for_now", default=())


@contextmanager
def keeping_all(processor: Any) -> Iterator[None]:
    """Within it, an enabled processor keeps every block, unless a call asks for pruning.

    What it returns still holds `image_map`, so it can go through an enabled model. Other threads, other processors and
    deep copies of this one go on pruning. Do not suspend a generator within it: its caller would be within it too.

    Args:
        processor: enabled with `pixelprune.transformers.enable`.

    Raises:
        ValueError: it is not enabled.

    Example (`processor` enabled):

        with pixelprune.transformers.keeping_all(processor):
            reference = processor(text=text, images=images)
    """
    with _pruning_as(processor, None):
        yield


@contextmanager
def pruning_each(processor: Any, configs: PerImage) -> Iterator[None]:
    """Within it, a call of an enabled processor without options prunes each image by a config for it alone.

    As in `keeping_all`, this holds for this processor and thread.

    Args:
        processor: enabled with `pixelprune.transformers.enable`.
        configs: what may be dropped from each image, in order; None to keep every block of it.

    Raises:
        ValueError: the processor is not enabled; or, from a call, it has another number of images.
    """
    with _pruning_as(processor, configs):
        yield


def configured(processor: Any) -> PruneConfig:
    """The options that a processor was enabled with."""
    config: PruneConfig = processor.image_processor._pixelprune_config
    return config


@contextmanager
def _pruning_as(processor: Any, configs: PerImage | None) -> Iterator[None]:
    image_processor = getattr(processor, "image_processor", processor)
    if not isinstance(image_processor, PrunedImageProcessor):
        raise ValueError(
            f"processor must be enabled with pixelprune.transformers.enable, got a {type(processor).__name__} "
            "that is not"
        )
    before = _for_now.set((*_for_now.get(), (image_processor, configs)))
    try:
        yield
    finally:
        _for_now.reset(before)


class _Swapped:
    """What both subclasses add: copies and pickles that start from the stock class."""

    _pixelprune_base: type
    _pixelprune_added: dict[str, Any]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        own = next(cls for cls in type(self).__mro__ if cls in (PrunedImageProcessor, PrunedProcessor))
        return _rebuild, (own, self._pixelprune_base, self._pixelprune_added), self.__dict__


class PrunedProcessor(_Swapped):
    """What the subclass of a processor adds."""

    def replace_image_token(self: Any, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        text: str = super().replace_image_token(image_inputs, image_idx, **kwargs)  # type: ignore[misc]
        values = image_inputs.get(IMAGE_MAP)
        if values is None:
            return text
        merge = self.image_processor._pixelprune_pruner.layout.merge
        tokens = TokenMap.of_grids(torch.as_tensor(values), np.asarray(image_inputs["image_grid_thw"]).tolist(), merge)
        part = tokens.parts[image_idx]  # not `present.counts`, which would count every image again for each one
        unpruned = self.image_token * len(part)
        if text.count(self.image_token) != len(part) or unpruned not in text:
            raise RuntimeError(
                f"{type(self).__name__} does not write one {self.image_token} per block, so its prompts cannot be "
                "shortened; pass pixelprune=False, and please report this"
            )
        return text.replace(unpruned, self.image_token * int((part >= 0).sum()))


class PrunedImageProcessor(_Swapped):
    """What the subclass of an image processor adds."""

    _pixelprune_config: PruneConfig
    _pixelprune_pruner: ImagePruner

    def process_image(self: Any, image: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(image, PIL.Image.Image) and image.mode == "RGB" and "transparency" not in image.info:
            # What stock code gives, in one copy instead of four: for a large image, copies are the cost.
            rows = np.asarray(image)
            image = np.empty((3, *rows.shape[:2]), np.uint8)
            for channel in range(3):
                image[channel] = rows[:, :, channel]
            kwargs["input_data_format"] = "channels_first"
        pixels = super().process_image(image, *args, **kwargs)  # type: ignore[misc]
        if _selecting.get():
            check_rgb(pixels)
        return pixels

    def patchify(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        if _selecting.get() and "temporal_patch_size" in kwargs:
            # The frames of an image are copies of one: they are made from the kept patches.
            kwargs["temporal_patch_size"] = 1
        return super().patchify(images, *args, **kwargs)  # type: ignore[misc]

    def preprocess(self: Any, images: Any, *args: Any, pixelprune: Any = None, **kwargs: Any) -> Any:
        """The stock `preprocess`, pruned: `pixel_values` of kept blocks, and `image_map`.

        Args:
            images: as for the stock method.
            pixelprune: options that override those of `enable` for this call, as a dict or a
                PruneConfig; False to keep every block.
            args, kwargs: as for the stock method.

        Raises:
            ValueError: an option is out of its range, or the pixels are not 8-bit RGB.
        """
        config = self._pixelprune_of_call(pixelprune)
        stock, pruner = super().preprocess, self._pixelprune_pruner  # type: ignore[misc]
        _check_geometry(self, pruner.layout, kwargs)
        if config is None:
            output = stock(images, *args, **kwargs)
            shapes = shapes_of(np.asarray(output["image_grid_thw"]).tolist(), pruner.layout.merge)
            output[IMAGE_MAP] = TokenMap.of_everything(shapes).values
            return output.convert_to_tensors(kwargs.get("return_tensors"))
        check_bytes(images)
        device, tensors = kwargs.pop("device", None), kwargs.pop("return_tensors", None)
        selecting = _selecting.set(True)
        try:
            output = stock_patches(functools.partial(stock, *args), images, **kwargs)
        finally:
            _selecting.reset(selecting)
        values, token_map = pruner.prune(output["pixel_values"], output["image_grid_thw"], config, self, kwargs)
        output["pixel_values"] = values if device is None else values.to(device)
        output[IMAGE_MAP] = token_map.values
        return output.convert_to_tensors(tensors)

    def _pixelprune_of_call(self: Any, requested: Any) -> PruneConfig | PerImage | None:
        """What a call that requests this, or nothing, prunes by; None to keep all."""
        for image_processor, configs in reversed(_for_now.get()):
            if image_processor is self:
                return configs if requested is None else resolve(requested, None)
        return resolve(requested, self._pixelprune_config)


def _rebuild(own: type, base: Any, added: dict[str, Any]) -> Any:
    return base.__new__(swapped_class(own, base, added))


def swapped_class(own: type, base: Any, added: dict[str, Any]) -> type:
    """A subclass of `base` under its name, with what `own` and `added` add."""
    hidden: dict[str, Any] = {"_pixelprune_added": added}
    if own is PrunedImageProcessor:
        # Names that are listed here reach the image processor through the calls of the processor.
        class Options(base.valid_kwargs, total=False):  # type: ignore[misc, call-arg]
            pixelprune: Any

        hidden["valid_kwargs"] = Options
        hidden["model_input_names"] = [*base.model_input_names, IMAGE_MAP]
    return disguised(base, (own,), {**hidden, **added})


def pruned_image_processor_class(image_processor: Any, config: PruneConfig) -> Any:
    """The subclass that makes one image processor prune.

    Raises:
        ValueError: it cannot.
    """
    base = getattr(image_processor, "_pixelprune_base", type(image_processor))
    pruner = ImagePruner.of(image_processor, functools.partial(base.preprocess, image_processor))
    added = {"_pixelprune_config": config, "_pixelprune_pruner": pruner}
    return swapped_class(PrunedImageProcessor, base, added)


def _check_geometry(image_processor: Any, layout: Layout, options: dict[str, Any]) -> None:
    """Raise a ValueError if patches are to be cut in another way than when the layout was learned."""
    expected = {"patch_size": layout.patch, "merge_size": layout.merge, "temporal_patch_size": layout.temporal}
    for name, known in expected.items():
        now = options.get(name)
        now = getattr(image_processor, name, None) if now is None else now
        if now != known:
            raise ValueError(
                f"{name} must be {known}, as when pruning was enabled, got {now!r}; set it on the image processor "
                "and enable again"
            )
