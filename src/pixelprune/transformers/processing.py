"""A processor of transformers that prunes: it and its image processor get subclasses of their own classes.

The image processor runs its stock code up to the resized uint8 patches, selects, and normalises
what is kept. The processor shortens the placeholders to match. All else is stock.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from typing import Any

import numpy as np
import PIL.Image
import torch

from pixelprune.plan.pixels import (
    Layout,
    check_bytes,
    check_normalisation,
    find_layout,
    kept_rows,
    normalised,
    select_images,
    stock_patches,
)
from pixelprune.selection.config import PruneConfig, resolve

# Whether the stock code of an image processor runs to get the pixels that are to be selected from.
_selecting = ContextVar("_selecting", default=False)


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
        kept = image_inputs.get("image_kept")
        if kept is None:
            return text
        merge = self.image_processor._pixelprune_layout.merge
        grids = np.asarray(image_inputs["image_grid_thw"])
        ends = (grids.prod(-1) // merge**2).cumsum()
        start, end = int(ends[image_idx - 1]) if image_idx else 0, int(ends[image_idx])
        every, left = self.image_token * (end - start), self.image_token * int(kept[start:end].sum())
        if text.count(self.image_token) != end - start or every not in text:
            raise RuntimeError(
                f"{type(self).__name__} does not write one {self.image_token} a block, so its prompts cannot be "
                "shortened; pass pixelprune=False, and please report this"
            )
        return text.replace(every, left)


class PrunedImageProcessor(_Swapped):
    """What the subclass of an image processor adds."""

    _pixelprune_config: PruneConfig | None  # None keeps all unless a call asks otherwise
    _pixelprune_layout: Layout

    def process_image(self: Any, image: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(image, PIL.Image.Image) and image.mode == "RGB" and "transparency" not in image.info:
            # What stock code gives, in one copy instead of four: for a large image, copies are the cost.
            pixels = np.asarray(image)
            image = np.empty((3, *pixels.shape[:2]), np.uint8)
            for channel in range(3):
                image[channel] = pixels[:, :, channel]
            kwargs["input_data_format"] = "channels_first"
        return super().process_image(image, *args, **kwargs)  # type: ignore[misc]

    def patchify(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        if _selecting.get() and "temporal_patch_size" in kwargs:
            # The frames of an image are copies of one: they are made of what is kept.
            kwargs["temporal_patch_size"] = 1
        return super().patchify(images, *args, **kwargs)  # type: ignore[misc]

    def preprocess(self: Any, images: Any, *args: Any, pixelprune: Any = None, **kwargs: Any) -> Any:
        """The stock `preprocess`, pruned: `pixel_values` of kept blocks, and `image_kept`.

        Args:
            images: as ever.
            pixelprune: options that override those of `enable` for this call, as a dict or a
                PruneConfig; False to keep every block.
            args, kwargs: as ever.

        Raises:
            ValueError: an option is out of its range, or the pixels are not 8-bit.
        """
        config = resolve(pixelprune, self._pixelprune_config)
        stock = super().preprocess  # type: ignore[misc]
        layout: Layout = self._pixelprune_layout
        _check_geometry(self, layout, kwargs)
        if config is None:
            output = stock(images, *args, **kwargs)
            blocks = int(np.asarray(output["image_grid_thw"]).prod(-1).sum()) // layout.merge**2
            output["image_kept"] = torch.ones(blocks, dtype=torch.bool)
            return output.convert_to_tensors(kwargs.get("return_tensors"))
        check_bytes(images)
        device, tensors = kwargs.pop("device", None), kwargs.pop("return_tensors", None)
        selecting = _selecting.set(True)
        try:
            output = stock_patches(functools.partial(stock, *args), images, **kwargs)
        finally:
            _selecting.reset(selecting)
        patches, grids = output["pixel_values"], output["image_grid_thw"]
        selections = select_images(patches, grids, config, layout)
        kept = torch.from_numpy(np.concatenate([selection.keep.ravel() for selection in selections]))
        rows = None if bool(kept.all()) else kept_rows(selections, layout)
        values = normalised(self, layout, patches, rows, kwargs)
        output["pixel_values"] = values if device is None else values.to(device)
        output["image_kept"] = kept
        return output.convert_to_tensors(tensors)


def _rebuild(own: type, base: Any, added: dict[str, Any]) -> Any:
    return base.__new__(swapped_class(own, base, added))


def swapped_class(own: type, base: Any, added: dict[str, Any]) -> type:
    """A subclass of `base` under its name, with what `own` and `added` add."""
    same = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    hidden = {"_pixelprune_base": base, "_pixelprune_added": added}
    if own is PrunedImageProcessor:
        # Names that are listed here reach the image processor through the calls of the processor.
        class Options(base.valid_kwargs, total=False):  # type: ignore[misc, call-arg]
            pixelprune: Any

        hidden["valid_kwargs"] = Options
        hidden["model_input_names"] = [*base.model_input_names, "image_kept"]
    return type(base.__name__, (own, base), {**same, **hidden, **added})


def pruned_image_processor_class(image_processor: Any, config: PruneConfig | None) -> type:
    """The subclass that makes one image processor prune, or keep all and say so where `config` is None.

    Raises:
        ValueError: it cannot.
    """
    base = getattr(image_processor, "_pixelprune_base", type(image_processor))
    stock = functools.partial(base.preprocess, image_processor)
    layout = find_layout(image_processor, stock)
    check_normalisation(image_processor, stock, layout)
    added = {"_pixelprune_config": config, "_pixelprune_layout": layout}
    return swapped_class(PrunedImageProcessor, base, added)


def _check_geometry(image_processor: Any, layout: Layout, options: dict[str, Any]) -> None:
    """Raise a ValueError if patches are to be cut otherwise than when the layout was learnt."""
    expected = {"patch_size": layout.patch, "merge_size": layout.merge, "temporal_patch_size": layout.temporal}
    for name, known in expected.items():
        now = options.get(name)
        now = getattr(image_processor, name, None) if now is None else now
        if now != known:
            raise ValueError(
                f"{name} must be {known}, as when pruning was enabled, got {now!r}; set it on the image processor "
                "and enable again"
            )
