"""Before the first step: how long each row is after pruning, and which rows cannot be trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pixelprune.training.collator import Collator, RowError, check_aligned, row_label

# Named one by one; the rest are counted.
_SHOWN = 10


@dataclass(frozen=True)
class Measured:
    """What is known about rows.

    Attributes:
        good: places of the rows that can be trained on.
        lengths: their tokens after pruning.
        problems: one sentence for each of the other rows, which names it.
    """

    good: list[int]
    lengths: list[int]
    problems: list[str]

    def report(self) -> str:
        """The problems, one per line; only the first ones where there are many."""
        more = len(self.problems) - _SHOWN
        lines = [*self.problems[:_SHOWN], *([f"and {more} rows more"] if more > 0 else [])]
        return "\n".join(f"  {line}" for line in lines)


def measure(rows: Any, collator: Collator, workers: int = 0, quiet: bool = False) -> Measured:
    """Make a batch of each row alone, as training would, and check it.

    Args:
        rows: a data set with a length.
        collator: what training makes batches with.
        workers: processes that do so.
        quiet: without a progress bar.
    """
    loader = DataLoader(rows, batch_size=1, collate_fn=_Look(collator), num_workers=workers)
    good, lengths, problems = [], [], []
    for place, (length, problem) in enumerate(tqdm(loader, "Checking rows", disable=quiet, leave=False)):
        if problem is None:
            good.append(place)
            lengths.append(length)
        else:
            problems.append(problem)
    return Measured(good, lengths, problems)


class _Look:
    """A class, so that it can be sent to worker processes."""

    def __init__(self, collator: Collator) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> tuple[int, str | None]:
        (row,) = rows
        try:
            if row.get("problem") is not None:
                raise RowError(f"{row_label(row)}: {row['problem']}")
            batch = self.collator([row])
            if "teacher" in batch:
                check_aligned(batch["labels"], batch["teacher"]["labels"])
        except RowError as error:
            return 0, str(error)
        except Exception as error:  # templates and processors raise anything at rows that they cannot take
            reason = " ".join(str(error).split()) or type(error).__name__
            return 0, f"{row_label(row)}: {reason}"
        return int(batch["attention_mask"].sum()), None
