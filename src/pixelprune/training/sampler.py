"""The order of rows: shuffled, but with rows of similar length in each batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices


class KeptLengthSampler(Sampler[int]):
    """Rows in an order that gives each batch rows of similar length after pruning.

    Rows are shuffled, cut into pieces of 50 batches (fewer for a small set), and sorted within these, with
    the longest batch first. The order depends only on seed and epoch, so a run that resumes from a
    checkpoint, and every process of a run, sees the same order.

    Args:
        lengths: tokens of each row.
        batch_size: rows per step, over all processes and all accumulated batches.
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
