"""What the benchmarks measured, on the screen."""

from __future__ import annotations

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
    """Print a table with its title above and its notes below; headings wrap before numbers do."""
    title = common.printable(table.title)
    shown = RichTable(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for place, (heading, side) in enumerate(table.columns):
        widest = max((len(row[place]) for row in table.rows), default=0)
        width = widest if side == "right" else None
        shown.add_column(common.printable(heading), justify=side, min_width=width, overflow="fold", header_style="dim")
    for row in table.rows:
        shown.add_row(*map(common.printable, row))
    common.out.print(shown)
    for note in table.notes:
        common.out.print(common.printable(note))
