"""A benchmark's table: laid out once, where it is measured; shown in a terminal and in the docs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Column = tuple[str, Literal["left", "right"]]


@dataclass(frozen=True)
class Table:
    """A table as plain text, without the markup of any output format.

    Attributes:
        title: one line above the table; a page of the docs has its own heading instead.
        columns: heading and alignment of each column.
        rows: as many cells per row as there are columns.
        notes: sentences below the table: the machine, and what no row shows.

    Raises:
        ValueError: a row has too many or too few cells.

    Example:
        >>> rows = (("page", "1,961", "965"), ("screen", "1,260", "524"))
        >>> table = Table("Samples", texts("image") + numbers("visual tokens", "kept"), rows, ("τ = 0.",))
        >>> print(table.markdown())
        | image | visual tokens | kept |
        |---|---:|---:|
        | page | 1,961 | 965 |
        | screen | 1,260 | 524 |
        <BLANKLINE>
        τ = 0.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"rows must have {len(self.columns)} cells, one per column, got {row!r}")

    def markdown(self) -> str:
        """The table and its notes, each note a paragraph; without the title."""
        lines = [
            _markdown_row([heading for heading, _ in self.columns]),
            "|" + "|".join("---:" if side == "right" else "---" for _, side in self.columns) + "|",
            *(_markdown_row(row) for row in self.rows),
        ]
        return "\n\n".join(["\n".join(lines), *self.notes])


def texts(*headings: str) -> tuple[Column, ...]:
    """Columns of words."""
    return tuple((heading, "left") for heading in headings)


def numbers(*headings: str) -> tuple[Column, ...]:
    """Columns of numbers with their units."""
    return tuple((heading, "right") for heading in headings)


def measured_on(machine: Mapping[str, Any], *details: str) -> str:
    """The note on when and where something was measured, from `pixelprune.bench._timing.machine`.

    Example:
        >>> about = {"date": "2026-01-31", "cpu": "ARM", "cores": 8, "python": "3.12.1", "numpy": "2.4.6"}
        >>> measured_on(about, "one thread")
        'Measured on 2026-01-31: ARM, 8 cores, Python 3.12.1, numpy 2.4.6; one thread.'
    """
    packages = [name for name in ("torch", "transformers", "vllm") if name in machine] or ["numpy"]
    where = [machine["cpu"], f"{machine['cores']} cores", f"Python {machine['python']}"]
    where += [f"{'vLLM' if name == 'vllm' else name} {machine[name]}" for name in packages]
    if machine.get("device", "cpu") not in ("", "cpu"):
        where.append(machine["device"])
    return f"Measured on {machine['date']}: {', '.join(where)}{''.join(f'; {detail}' for detail in details)}."


def duration(seconds: float) -> str:
    """Seconds with a unit that suits them.

    Example:
        >>> duration(1.204), duration(0.0307)
        ('1.20 s', '30.7 ms')
    """
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1e3 * seconds:.1f} ms"


def counted(number: int, noun: str) -> str:
    """A number with its noun in singular or plural.

    Example:
        >>> counted(1, "round"), counted(3, "round")
        ('1 round', '3 rounds')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _markdown_row(cells: list[str] | tuple[str, ...]) -> str:
    return "|" + "".join(f" {cell.replace('|', chr(92) + '|')} |" if cell else " |" for cell in cells)
