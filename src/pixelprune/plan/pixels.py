"""What the adapters do with an image processor of transformers: learn its layout, select, normalize what is kept.

No geometry is written down anywhere: a small image whose pixels show where they come from goes
through the stock code, and the patches that come back are read.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor

from pixelprune.plan.token_map import TokenMap
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.select import select_patches

_log = logging.getLogger("pixelprune")

# What may be dropped from each image of a call; None: nothing.
PerImage = Sequence[PruneConfig | None]

# Patches handled at a time: as many as fit into a cache, whatever the image's size.
_CHUNK = 1024


@dataclass(frozen=True)
class Layout:
    """What an image processor makes of an image.

    Attributes:
        patch: P.
        merge: m.
        patch_order: order of the patches, "block" or "row".
        axes: shape of a patch as (frames outside, 3 channels, frames inside, P²): its frames are
            equal, and come before or after the channels.
        temporal: `temporal_patch_size`, where there is one.
    """

    patch: int
    merge: int
    patch_order: str
    axes: tuple[int, int, int, int]
    temporal: int | None


@dataclass(frozen=True)
class ImagePruner:
    """From the stock patches of one image processor to those of kept blocks; adapters say only what they translate.

    Attributes:
        layout: what the image processor makes of an image.
    """

    layout: Layout

    @classmethod
    def of(cls, image_processor: Any, preprocess: Any, normalizes: bool = True) -> ImagePruner:
        """The pruner for `image_processor`, whose stock method is `preprocess`.

        Args:
            image_processor: of transformers.
            preprocess: its stock method.
            normalizes: whether `prune` is to normalize as the stock method does.

        Raises:
            ValueError: its patches cannot be pruned.
        """
        layout = find_layout(image_processor, preprocess)
        if normalizes:
            check_normalization(image_processor, preprocess, layout)
        return cls(layout)

    def prune(
        self,
        patches: Tensor | Sequence[Tensor],
        grids: Tensor,
        config: PruneConfig | PerImage,
        image_processor: Any = None,
        options: Mapping[str, Any] = MappingProxyType({}),
        log: logging.Logger = _log,
    ) -> tuple[Tensor, TokenMap]:
        """The patches of kept blocks, and the token map.

        Args:
            patches: (n, …), the stock patches of all images, not normalized; or those of each image.
            grids: (images, 3), frames, rows and columns of patches; one frame each.
            config: what may be dropped, from all images or from each.
            image_processor: normalizes what is kept, with its stock methods; None to leave it in bytes.
            options: options of the call that override those of `image_processor`.
            log: where to report a budget that cannot be met.

        Returns:
            (K·m², …) in the processor's order, uint8 or normalized; and the map of all images.

        Raises:
            ValueError: the values of `patches` are not 8-bit, or there is another number of configs than of images.
        """
        stock = in_bytes(patches)
        configs = [config] * len(grids) if isinstance(config, PruneConfig) else config
        if len(configs) != len(grids):
            raise ValueError(f"config must have one entry per image, {len(grids)}, got {len(configs)}")
        tokens = self._select(stock.cpu(), grids, configs, log)
        rows = None
        if not tokens.everything:
            rows = tokens.encoded.rows(self.layout.merge, self.layout.patch_order).to(stock.device)
        if image_processor is not None:
            return normalized(image_processor, self.layout, stock, rows, options), tokens
        return stock if rows is None else stock[rows], tokens

    def _select(self, patches: Tensor, grids: Tensor, configs: PerImage, log: logging.Logger) -> TokenMap:
        flat, layout = patches.flatten(1).numpy(), self.layout
        maps: list[Any] = []
        shapes, start = [], 0
        for image, ((_, height, width), config) in enumerate(zip(grids.tolist(), configs, strict=True)):
            part = flat[start : start + height * width]
            start += height * width
            shapes.append((1, height // layout.merge, width // layout.merge))
            if config is None:
                maps.append(np.arange(len(part) // layout.merge**2, dtype=np.int32))
                continue
            selection = select_patches(
                part, (height, width), config, patch=layout.patch, merge=layout.merge, patch_order=layout.patch_order
            )
            if not selection.budget_met:
                log.warning(
                    "image %d of this call keeps %d blocks at max_threshold %g, above max_tokens %d",
                    image,
                    selection.kept,
                    config.max_threshold,
                    config.max_tokens,
                )
            maps.append(selection.token_map.ravel())
        return TokenMap(torch.from_numpy(np.concatenate(maps)), tuple(shapes))


def stock_patches(preprocess: Any, images: Any, **options: Any) -> Any:
    """The stock output for `images` without rescaling and normalizing: uint8 wherever the values are 8-bit."""
    output = preprocess(images, **{**options, "do_rescale": False, "do_normalize": False, "return_tensors": "pt"})
    output["pixel_values"] = in_bytes(output["pixel_values"])
    return output


def in_bytes(values: Tensor | Sequence[Tensor]) -> Tensor:
    """Patches (n, …) of all images, as uint8 where they are 8-bit: some processors put bytes into floats."""
    joined = values if isinstance(values, Tensor) else torch.cat(list(values))
    if not joined.is_floating_point():
        return joined
    whole = torch.empty(joined.shape, dtype=torch.uint8, device=joined.device)
    for start in range(0, len(joined), _CHUNK):
        part, into = joined[start : start + _CHUNK], whole[start : start + _CHUNK]
        into.copy_(part)
        if not torch.equal(into.to(part.dtype), part):
            return joined
    return whole


def find_layout(image_processor: Any, preprocess: Any) -> Layout:
    """The layout of `image_processor`, whose stock method is `preprocess`.

    Raises:
        ValueError: its patches cannot be pruned.
    """
    name = type(image_processor).__name__
    try:
        patch, merge = int(image_processor.patch_size), int(image_processor.merge_size)
    except (AttributeError, TypeError):
        raise ValueError(_unsupported(name, "it has no patch_size and merge_size")) from None
    rows, columns = 2 * merge, 3 * merge
    try:
        # Red numbers the patches row by row; green and blue differ from it and from each other.
        numbers = np.arange(rows * columns, dtype=np.uint8).reshape(rows, columns)
        red = numbers.repeat(patch, 0).repeat(patch, 1)
        probe = np.stack([red, np.full_like(red, 254), np.full_like(red, 255)], axis=-1)
        output = stock_patches(preprocess, [PIL.Image.fromarray(probe)], do_resize=False)
        patches, grid = output["pixel_values"], output["image_grid_thw"]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(_unsupported(name, f"a test image could not be cut into patches ({error})")) from None
    if grid.tolist() != [[1, rows, columns]] or len(patches) != rows * columns or patches.dtype != torch.uint8:
        raise ValueError(_unsupported(name, f"a test image came back as {patches.dtype} on a grid {grid.tolist()}"))
    flat = patches.flatten(1).numpy()
    channel = np.where(flat[0] == 254, 1, np.where(flat[0] == 255, 2, 0))
    patch_order = _patch_order(flat[:, np.flatnonzero(channel == 0)[0]], numbers, merge)
    if patch_order is None:
        raise ValueError(_unsupported(name, "its patches are neither in block order nor in row order"))
    run = int(np.flatnonzero(np.diff(channel, append=-1))[0]) + 1
    outside, inside = channel.size // (3 * run), run // patch**2
    if channel.tolist() != np.tile(np.arange(3).repeat(inside * patch**2), outside).tolist():
        raise ValueError(_unsupported(name, "it mixes the channels of a patch"))
    temporal = getattr(image_processor, "temporal_patch_size", None)
    return Layout(patch, merge, patch_order, (outside, 3, inside, patch**2), temporal)


def check_normalization(image_processor: Any, preprocess: Any, layout: Layout) -> None:
    """Raise a ValueError unless `normalized` gives the stock values, bit for bit, for each gray level."""
    side = layout.patch * layout.merge
    levels = np.arange(3 * 256, dtype=np.int64).reshape(256, 3) * 7 % 256
    probe = np.resize(levels, (side * (2 + 256 // side**2), side, 3)).astype(np.uint8)
    images = [PIL.Image.fromarray(probe)]
    wanted = preprocess(images, do_resize=False, return_tensors="pt")["pixel_values"]
    patches = stock_patches(preprocess, images, do_resize=False)["pixel_values"]
    rows = torch.arange(len(patches))
    if not torch.equal(wanted, normalized(image_processor, layout, patches, rows, {})):
        name = type(image_processor).__name__
        raise ValueError(_unsupported(name, "its normalized values depend on more than value and channel"))


def check_bytes(images: Any) -> None:
    """Raise a ValueError unless arrays and tensors among `images` are uint8; Pillow images are converted."""
    if isinstance(images, list | tuple):
        for image in images:
            check_bytes(image)
    elif str(getattr(images, "dtype", "uint8")) not in ("uint8", "torch.uint8"):
        raise ValueError(
            f"images must be 8-bit to be compared pixel by pixel, got {images.dtype}; "
            "pass uint8 arrays or Pillow images, or pixelprune=False"
        )


def check_rgb(pixels: Any) -> None:
    """Raise a ValueError unless pixels (channels, H, W), as an image processor reads them, are 8-bit RGB."""
    if len(pixels) != 3:  # nothing that Pillow or `check_bytes` lets through has three channels of another type
        dtype = str(pixels.dtype).removeprefix("torch.")
        raise ValueError(
            f"images must be 8-bit RGB to be compared pixel by pixel, got {dtype} with {len(pixels)} channel(s), which "
            "the image processor does not convert; pass do_convert_rgb=True or RGB images, or pixelprune=False"
        )


def normalized(
    image_processor: Any, layout: Layout, patches: Tensor, rows: Tensor | None, options: Mapping[str, Any]
) -> Tensor:
    """uint8 patches normalized with the stock methods of an image processor, a few patches at a time.

    Args:
        image_processor: has `rescale_and_normalize`, or `rescale` and `normalize`.
        layout: its layout.
        patches: uint8 (n, …), all of them, with all frames or one.
        rows: long (k,), which of them to normalize; None for all.
        options: options of the call that override those of the processor.

    Returns:
        (k, …) with all frames, in the dtype that the stock processor gives.
    """

    def option(name: str) -> Any:
        value = options.get(name)
        return getattr(image_processor, name) if value is None else value

    changes = option("do_rescale") or option("do_normalize")
    mean, std = ((value,) * 3 if isinstance(value, float) else tuple(value) for value in _statistics(option))
    count = len(patches) if rows is None else len(rows)
    shape = patches.shape[1:] if patches.ndim > 2 else (math.prod(layout.axes),)
    result = torch.empty((count, *shape), dtype=torch.float32 if changes else torch.uint8)
    frames, one_frame = result.view(-1, *layout.axes), _first_frame(patches, layout)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        images = one_frame[start:stop] if rows is None else one_frame.index_select(0, rows[start:stop])
        if changes and hasattr(image_processor, "rescale_and_normalize"):
            images = image_processor.rescale_and_normalize(
                images, option("do_rescale"), option("rescale_factor"), option("do_normalize"), mean, std
            )
        elif changes:
            images = _with_numpy(image_processor, images, option, mean, std)
        frames[start:stop] = images.flatten(2)[:, None, :, None]
    return result


def _first_frame(patches: Tensor, layout: Layout) -> Tensor:
    """uint8 (n, 3, P, P)."""
    side = layout.patch
    if patches[0].numel() == 3 * side**2:
        return patches.view(-1, 3, side, side)
    return patches.view(-1, *layout.axes)[:, 0, :, 0].view(-1, 3, side, side)


def _statistics(option: Any) -> tuple[Any, Any]:
    if option("do_normalize"):
        return option("image_mean"), option("image_std")
    return 0.0, 1.0


def _with_numpy(image_processor: Any, images: Tensor, option: Any, mean: Any, std: Any) -> Tensor:
    side = images.shape[-1]
    values = images.numpy().swapaxes(0, 1).reshape(3, -1, side)  # all in one image, channels first
    if option("do_rescale"):
        values = image_processor.rescale(values, option("rescale_factor"))
    if option("do_normalize"):
        values = image_processor.normalize(values, mean, std)
    return torch.from_numpy(np.ascontiguousarray(values.reshape(3, -1, side, side).swapaxes(0, 1)))


def _patch_order(sequence: Any, numbers: Any, merge: int) -> str | None:
    rows, columns = numbers.shape
    blocks = numbers.reshape(rows // merge, merge, columns // merge, merge).swapaxes(1, 2)
    orders = {"block": blocks.ravel(), "row": numbers.ravel()}
    return next((name for name, wanted in orders.items() if np.array_equal(sequence, wanted)), None)


def _unsupported(name: str, reason: str) -> str:
    return f"processor has an image processor that cannot be pruned, {name}: {reason}"
