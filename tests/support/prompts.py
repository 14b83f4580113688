"""Prompts with images, in full and pruned, made without any code of the package."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.support.tiny_models import END, IMAGE, START, VIDEO, Tiny

# A row is a list of text ids, images (h, w) in patches, and videos (t, h, w).
Row = list[Any]
ROWS: list[Row] = [[5, 6, (8, 12), 7, 8, 9], [10, (4, 8), 11, 12, (8, 4), 13, 14, 15, 16]]
# Rows with other counts of images, one without any.
MIXED: list[Row] = [[5, (4, 4), 6, (8, 8), (4, 12), 7], [21, 22, 23], [9, (12, 4), 8], [3, 4, 5, 6, 7, 8, 9, 10, 11]]


@dataclass
class Prompt:
    """A batch, padded: arguments of `forward`, and what the tests need to know about its tokens.

    Attributes:
        inputs: arguments.
        keep: the blocks of each image that the encoder sees, bool (N,).
        selected: bool (batch, S of the full prompt), the tokens that pruning leaves.
        maps: of each image, the block whose feature stands at each block, −1 where no token is, int32 (N,); by default
            nothing is copied.
    """

    inputs: dict[str, Tensor]
    keep: list[Tensor] = field(default_factory=list)
    selected: Tensor | None = None
    maps: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.maps = self.maps or token_maps(self.keep)


def patch_places(grid: tuple[int, int], merge: int, order: str) -> Tensor:
    """(N, m²): where the patches of each block stand among those of an image, by plain counting."""
    height, width = grid
    places = []
    for row in range(height // merge):
        for column in range(width // merge):
            if order == "block":
                first = (row * (width // merge) + column) * merge**2
                places.append([first + i for i in range(merge**2)])
            else:
                places.append(
                    [(row * merge + i) * width + column * merge + j for i in range(merge) for j in range(merge)]
                )
    return torch.tensor(places)


def _generator(seed: int, row: int, image: int) -> torch.Generator:
    """Randomness of its own for each image of a row: a longer conversation begins as a shorter one."""
    return torch.Generator().manual_seed(1000 * seed + 100 * row + image)


def masks(rows: list[Row], merge: int, share: float = 0.5, seed: int = 3) -> list[Tensor]:
    """A random keep mask for each image, at least one block each."""
    keep = []
    for i, row in enumerate(rows):
        images = [part for part in row if isinstance(part, tuple) and len(part) == 2]
        for n, (h, w) in enumerate(images):
            generator = _generator(seed, i, n)
            mask = torch.rand(h * w // merge**2, generator=generator) < share
            mask[int(torch.randint(len(mask), (1,), generator=generator))] = True
            keep.append(mask)
    return keep


def token_maps(keep: list[Tensor], restore: float = 0.0, seed: int = 0) -> list[Tensor]:
    """A map for each image in which a random share of the dropped blocks are copies, of any blocks that are kept.

    The same image gets the same map wherever it stands: a longer conversation begins as a shorter one.
    """
    maps = []
    for mask in keep:
        bits = int("".join(str(int(flag)) for flag in mask), 2)
        generator = torch.Generator().manual_seed((1000 * seed + bits) % 2**31)
        own, kept = torch.arange(len(mask)), mask.nonzero()[:, 0]
        source = kept[torch.randint(len(kept), (len(mask),), generator=generator)]
        back = torch.rand(len(mask), generator=generator) < restore
        maps.append(torch.where(mask, own, torch.where(back, source, -1)).int())
    return maps


def encoded(image_map: Tensor, grids: Tensor, merge: int = 2) -> Tensor:
    """Which blocks a map keeps for the encoder, bool (N,): those that stand for themselves, by plain counting."""
    own = [i for t, h, w in grids.tolist() for i in range(t * h * w // merge**2)]
    return torch.tensor([value == i for value, i in zip(image_map.tolist(), own, strict=True)], dtype=torch.bool)


def prompts(
    tiny: Tiny,
    rows: list[Row],
    keep: list[Tensor],
    *,
    restore: float = 0.0,
    order: str = "block",
    side: str = "left",
    seed: int = 0,
) -> tuple[Prompt, Prompt]:
    """The same prompts in full and pruned."""
    merge, maps = tiny.merge, token_maps(keep, restore, seed)
    tokens: list[list[tuple[int, int, bool]]] = []  # id, type, kept
    pixels, kept_pixels, grids, frames, video_grids = [], [], [], [], []
    image = 0
    for i, row in enumerate(rows):
        line: list[tuple[int, int, bool]] = []
        pictures = 0
        for part in row:
            if not isinstance(part, tuple):
                line.append((part, 0, True))
                continue
            line.append((START, 0, True))
            generator = _generator(seed, i, pictures)
            pictures += 1
            if len(part) == 2:
                mask, places = keep[image], patch_places(part, merge, order)
                line += [(IMAGE, 1, bool(block >= 0)) for block in maps[image]]
                patches = torch.randn(places.numel(), *tiny.patch, generator=generator)
                stays = torch.zeros(places.numel(), dtype=torch.bool)
                stays[places[mask].flatten()] = True
                pixels.append(patches)
                kept_pixels.append(patches[stays])
                grids.append((1, *part))
                image += 1
            else:
                t, h, w = part
                frame = [(VIDEO, 2, True)] * (h * w // merge**2)
                shown = t // 2 if tiny.videos == "pairs" else t
                gap = [(END, 0, True), (START, 0, True)] if tiny.videos == "frames" else []
                line += [token for f in range(shown) for token in [*(gap if f else []), *frame]]
                frames.append(torch.randn(t * h * w, *tiny.patch, generator=generator))
                video_grids.append(part)
            line.append((END, 0, True))
        tokens.append(line)
    common: dict[str, Tensor] = {}
    if frames:
        common = {
            "pixel_values_videos": torch.cat(frames),
            "video_grid_thw": torch.tensor(video_grids),
            "video_second_per_grid": torch.ones(len(video_grids)),
        }
        if tiny.merge_input:
            blocks = sum(t * h * w for t, h, w in video_grids) // merge**2
            common["video_merge_sizes"] = torch.full((len(video_grids),), merge)
            common["video_compression_mask"] = torch.ones(blocks, dtype=torch.bool)
    if grids:
        common["image_grid_thw"] = torch.tensor(grids)
        if tiny.merge_input:
            common["image_merge_sizes"] = torch.full((len(grids),), merge)
    full = {**common, **_padded(tiny, tokens, side)}
    pruned = {**common, **_padded(tiny, [[token for token in line if token[2]] for line in tokens], side)}
    if grids:
        full["pixel_values"], pruned["pixel_values"] = torch.cat(pixels), torch.cat(kept_pixels)
        pruned["image_map"] = torch.cat(maps)
    length = full["input_ids"].shape[1]
    selected = torch.zeros(len(tokens), length, dtype=torch.bool)
    for i, line in enumerate(tokens):
        start = length - len(line) if side == "left" else 0
        selected[i, start : start + len(line)] = torch.tensor([flag for _, _, flag in line])
    return Prompt(full, keep, selected, maps), Prompt(pruned, keep, None, maps)


def _padded(tiny: Tiny, lines: list[list[tuple[int, int, bool]]], side: str) -> dict[str, Tensor]:
    length = max(len(line) for line in lines)
    ids = torch.zeros(len(lines), length, dtype=torch.long)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, line in enumerate(lines):
        start = length - len(line) if side == "left" else 0
        place = slice(start, start + len(line))
        ids[i, place] = torch.tensor([token for token, _, _ in line])
        types[i, place] = torch.tensor([kind for _, kind, _ in line])
        mask[i, place] = 1
    padded = {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types.int()}
    if tiny.token_types:
        padded["moe_mm_token_type_ids"] = types.int()
    return padded


def known(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`inputs` without what the stock `forward` of the model has no name for."""
    names = inspect.signature(getattr(type(model), "_pixelprune_base", type(model)).forward).parameters
    allowed = {*names, "image_map", "moe_mm_token_type_ids"}
    return {name: value for name, value in inputs.items() if name in allowed}
