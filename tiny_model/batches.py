"""Samples to tensors for training: what the processor would make of them, computed faster.

All fields of an image are asked in one sequence, turn after turn, in the exact tokens of the chat template. A test
compares this with the processor. Letters: B sequences of S tokens, N patches of all images together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from tiny_model.checkpoint import WORD_IDS
from tiny_model.tasks import LETTERS, PATCH, Layout, Sample, Task, sample

IGNORED = -100
MERGE = 2  # patches a side of a block
IMAGE = WORD_IDS["<|image_pad|>"]
PAD = WORD_IDS["<|endoftext|>"]


@dataclass(frozen=True, eq=False)
class Batch:
    """One training step."""

    inputs: dict[str, Tensor]  # keywords of the model
    targets: Tensor  # (B, S) the word at its own position, IGNORED where it is not part of an answer
    labels: Tensor  # (N, 3) of the patches, block by block
    turn_tasks: list[Task]  # one a turn, in the order in which answers stand in `targets`
    turn_names: Tensor  # (turns,) which letter was asked for


def words(text: str) -> list[int]:
    return [WORD_IDS[word] for word in text.split()]


def conversation(sample: Sample, order: Sequence[int], blocks: int) -> tuple[list[int], list[int]]:
    """Tokens and targets of a conversation about one image, by the chat template."""
    ids = [*words("<|im_start|> user <|vision_start|>"), *[IMAGE] * blocks, *words("<|vision_end|>")]
    targets = [IGNORED] * len(ids)
    for number, field in enumerate(order):
        question, answer = sample.turns[field]
        opening = "" if number == 0 else "<|im_start|> user "
        asked = words(f"{opening}{question} <|im_end|> <|im_start|> assistant")
        said = words(f"{answer} <|im_end|>")
        ids += asked + said
        targets += [IGNORED] * len(asked) + said
    return ids, targets


def by_block(values: np.ndarray[Any, Any], side: int) -> np.ndarray[Any, Any]:
    """(2R * side, 2C * side, ...) to (4RC, ..., side * side), patches in the processor's order: block by block."""
    height, width, depth = values.shape
    rows, columns = height // side // MERGE, width // side // MERGE
    split = values.reshape(rows, MERGE, side, columns, MERGE, side, depth)
    return split.transpose(0, 3, 1, 4, 6, 2, 5).reshape(rows * columns * MERGE**2, -1)


@cache
def tables(rows: int, columns: int, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the vision encoder needs to place the patches of a grid of blocks; `side` of its position grid."""
    grid = torch.tensor([[1, MERGE * rows, MERGE * columns]])
    indices, weights = get_vision_interpolation_indices_and_weights(
        grid, num_grid_per_side=side, mode="bilinear", align_corners=True, spatial_merge_size=MERGE
    )
    return indices, weights, get_vision_position_ids(grid, MERGE)


def collate(samples: Sequence[Sample], rng: Random, side: int) -> Batch:
    """Tensors for one step: left padding, fields in random order, one frame of pixels instead of two equal ones."""
    pixels, labels, placing, grids, lines = [], [], [], [], []
    turn_tasks: list[Task] = []
    turn_names: list[int] = []
    for item in samples:
        rows, columns = (extent // PATCH // MERGE for extent in item.image.shape[:2])
        pixels.append(by_block(item.image, PATCH))
        labels.append(by_block(item.labels, 1))
        placing.append(tables(rows, columns, side))
        grids.append([1, MERGE * rows, MERGE * columns])
        order = rng.sample(range(len(item.turns)), len(item.turns))
        ids, targets = conversation(item, order, rows * columns)
        turn_tasks += [item.task] * len(order)
        turn_names += [LETTERS.index(item.turns[field][0][-1]) for field in order]
        first, last = ids.index(IMAGE), ids.index(IMAGE) + rows * columns
        block = np.arange(rows * columns)
        positions = np.empty((3, len(ids)), np.int64)
        positions[:, :first] = np.arange(first)
        positions[:, first:last] = first + np.stack([0 * block, block // columns, block % columns])
        positions[:, last:] = first + max(rows, columns) + np.arange(len(ids) - last)
        lines.append((ids, targets, positions))
    longest = max(len(ids) for ids, _, _ in lines)
    ids_all = torch.full((len(lines), longest), PAD)
    targets_all = torch.full_like(ids_all, IGNORED)
    positions_all = torch.zeros(3, *ids_all.shape, dtype=torch.long)
    for number, (ids, targets, positions) in enumerate(lines):
        ids_all[number, -len(ids) :] = torch.tensor(ids)
        targets_all[number, -len(ids) :] = torch.tensor(targets)
        positions_all[:, number, -len(ids) :] = torch.from_numpy(positions)
    indices, weights, places = (torch.cat(parts) for parts in zip(*placing, strict=True))
    grid = torch.tensor(grids)
    inputs = {
        "input_ids": ids_all,
        "attention_mask": (ids_all != PAD).long(),
        "mm_token_type_ids": (ids_all == IMAGE).int(),
        "position_ids": positions_all,
        "pixel_values": torch.from_numpy(np.concatenate(pixels)).float().mul_(2 / 255).sub_(1),
        "image_grid_thw": grid,
        "image_interp_indices": indices,
        "image_interp_weights": weights,
        "image_position_ids": places,
        "image_cu_seqlens": torch.nn.functional.pad(grid.prod(1).cumsum(0), (1, 0)).int(),
    }
    return Batch(inputs, targets_all, torch.from_numpy(np.concatenate(labels)), turn_tasks, torch.tensor(turn_names))


def stream(rng: Random, size: int, layout: Layout, side: int, find_share: float, pool: int = 8) -> Iterator[Batch]:
    """Batches without end. Images of a pool are sorted by size, so that little of a batch is padding."""
    while True:
        drawn = [sample(rng, "find" if rng.random() < find_share else "read", layout) for _ in range(pool * size)]
        drawn.sort(key=lambda item: item.image.size)
        for start in rng.sample(range(0, len(drawn), size), pool):
            yield collate(drawn[start : start + size], rng, side)
