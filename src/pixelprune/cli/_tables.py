"""What the benchmarks measured, on the screen."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import Any

from rich.table import Table as RichTable

from pixelprune.bench._tables import Table
from pixelprune.cli import _common as common


def print_result(result: dict[str, Any], table: Callable[[dict[str, Any]], Table], as_json: bool) -> None:
    """Print a result as JSON, or as the table that `table` makes of it."""
    if as_json:
        common.print_json(result)
    else:
        print_table(table(result))


def print_table(table: Table) -> None:
    """Print a table with its title above and its notes below.

    Where the screen is too narrow, gaps shrink and headings wrap first, then names. Numbers are never broken.
    """
    widths = [max((len(row[place]) for row in table.rows), default=0) for place in range(len(table.columns))]
    columns = [(heading, side, width) for (heading, side), width in zip(table.columns, widths, strict=True)]
    narrow = sum(max(len(heading), width) + 2 for heading, _, width in columns) - 2 > common.out.width
    shown = RichTable(title=common.printable(table.title), title_justify="left", title_style="bold", box=None)
    shown.pad_edge, shown.padding = False, (0, 1 if narrow else 2, 0, 0)
    for heading, side, width in columns:
        lines = _wrapped(heading, width) if narrow else [heading]
        text = "\n".join(map(common.printable, lines))
        shown.add_column(text, justify=side, no_wrap=side == "right", overflow="fold", header_style="dim")
    for row in table.rows:
        shown.add_row(*map(common.printable, row))
    common.out.print(shown)
    for note in table.notes:
        common.out.print(common.printable(note))


def _wrapped(heading: str, width: int) -> list[str]:
    return textwrap.wrap(heading, max(width, 1), break_long_words=False, break_on_hyphens=False)
