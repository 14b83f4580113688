"""The order of rows: shuffled, yet batches are made of rows of alike length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class KeptLengthSampler(Sampler[int]):
    """Rows in the order in which each batch holds rows of alike length after pruning.

    Rows are shuffled, cut into pieces of 50 batches (or fewer of a small set), and sorted within these, the longest
    batch first. The order is a function of seed and epoch alone, so that a run that goes on from a
    checkpoint, and every process of one run, meets the same.

    Args:
        lengths: tokens of each row.
        batch_size: rows of a step over all processes, and over all batches that are accumulated.
        seed: of the order.

    Example:
        >>> sampler = KeptLengthSampler([3, 90, 4, 80, 5, 85], batch_size=3, seed=0)
        >>> list(sampler) == list(sampler), len(list(sampler))
        (True, 6)
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = list(lengths), batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch_size, generator=generator))
