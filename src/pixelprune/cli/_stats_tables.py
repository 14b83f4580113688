"""What `pixelprune stats` found, on the screen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.markup import render

from pixelprune.cli import _common as common
from pixelprune.cli._measuring import Task
from pixelprune.stats.advice import name_of
from pixelprune.stats.tally import QUANTILES

Totals = Mapping[str, Any]

# Rows of the table; what is in smaller categories is added up in one more.
_MOST = 25
# Room for names of categories.
_NAME = 12
# The screen on which costs are amounts and shares, not shares alone.
_WIDE = 76
_COSTS = {"vision_flops": "vision encoder", "language_flops": "prefill", "kv_bytes": "KV cache, 16 bits"}


def print_tables(total: Totals, categories: Mapping[str, Totals], task: Task, advice: str) -> None:
    """Print savings by category, costs if there is a geometry, and the advice."""
    _print_savings(total, categories, task)
    if task.geometry:
        common.out.print()
        _print_costs(total, task)
    common.out.print()
    common.out.print(common.printable(advice), soft_wrap=not common.out.is_terminal)


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: Callable[[Totals], str]
    optional: int = 0  # which goes first where the screen is too narrow; 0: none

    def width(self, rows: Iterable[Totals]) -> int:
        cells = (render(self.cell(row)).cell_len for row in rows)
        return max(*cells, *map(len, self.heading.split("\n")))


def _print_savings(total: Totals, categories: Mapping[str, Totals], task: Task) -> None:
    shown = sorted(categories, key=lambda name: (-categories[name]["tokens"], name))[:_MOST]
    rows = {name: categories[name] for name in categories if name in shown}
    columns = _that_fit(_columns(task), [*rows.values(), total])
    config = task.configs[0]
    title = f"What {task.model} would see, {config.predictor}, {config.metric}"
    lines = [[common.printable(name), *(column.cell(row) for column in columns)] for name, row in rows.items()]
    footer = [_counted(total["images"]), *(column.cell(total) for column in columns)] if len(categories) > 1 else []
    headings = [("category", "left"), *((column.heading, "right") for column in columns)]
    common.print_table(title, headings, lines, footer)
    if len(categories) > len(shown):
        common.out.print(f"{len(categories) - len(shown):,} smaller categories are counted in the last row only.")
    over = total["settings"][0]["over_budget"]
    if over:
        common.out.print(
            f"[red]{over:,} of {total['images']:,}[/] could not meet --max-tokens {config.max_tokens} with τ up to "
            f"{config.max_threshold:g}; raise --max-threshold.",
            soft_wrap=True,
        )


def _columns(task: Task) -> list[_Column]:
    config = task.configs[0]
    copies = config.restore > 0 or config.min_tokens is not None
    columns = [
        _Column("images", lambda row: f"{row['images']:,}", 2),
        _Column("blank", lambda row: f"{row['blank']:,}", 4),
        _Column("lossy\nfiles", lambda row: f"{row['lossy']:,}", 5),
        _Column("tokens", lambda row: f"{row['tokens']:,}"),
        _Column("distinct", lambda row: f"{row['distinct_ratio']:.3f}", 3),
    ]
    for n, one in enumerate(task.configs):
        columns.append(_Column(f"kept,\n{name_of(one)}", partial(_ratio, n, "retain_ratio", "[bold]{:.3f}[/]")))
        if copies:
            columns.append(_Column("with\ncopies", partial(_ratio, n, "language_ratio", "{:.3f}"), 1))
    percent = " / ".join(f"{100 * share:.0f}" for share in QUANTILES)
    return [*columns, _Column(f"{percent} % of images,\n{name_of(config)}", _quantiles, 6)]


def _that_fit(columns: list[_Column], rows: list[Totals]) -> list[_Column]:
    """The columns that the screen has room for besides the names, which fold."""
    while True:
        needed = _NAME + sum(column.width(rows) + 2 for column in columns)
        last = max(reversed(columns), key=lambda column: column.optional)
        if needed <= common.out.width or not last.optional:
            return columns
        columns = [column for column in columns if column is not last]


def _ratio(n: int, key: str, form: str, row: Totals) -> str:
    return form.format(row["settings"][n][key])


def _quantiles(row: Totals) -> str:
    return " / ".join(f"{value:.2f}" for value in row["settings"][0]["quantiles"].values())


def _print_costs(total: Totals, task: Task) -> None:
    assert task.geometry
    full, names = total["full"], ["all tokens", *map(name_of, task.configs)]
    lines = [
        [name, *(_cost(key, costs[key], full[key] if costs is not full else 0) for key in _COSTS)]
        for name, costs in zip(names, [full, *total["settings"]], strict=True)
    ]
    headings = [("", "left"), *((heading, "right") for heading in _COSTS.values())]
    common.print_table(f"Costs of {task.geometry.model_type}, summed over images, without text", headings, lines, [])


def _cost(key: str, value: int, full: int) -> str:
    """A cost, and its share of the one without pruning."""
    amount = _scaled(value, "B" if key == "kv_bytes" else "FLOP")
    if not full:
        return amount
    share = f"[bold]{value / full:.3f}[/]"
    return share if common.out.width < _WIDE else f"{amount}  {share}"


def _scaled(value: float, unit: str) -> str:
    """A number with a prefix that leaves at most four digits; bytes in steps of 1,024."""
    step = 1024 if unit == "B" else 1000
    prefixes = ("", *("KMGTPE" if unit == "FLOP" else ("Ki", "Mi", "Gi", "Ti", "Pi", "Ei")))
    place = 0
    while value >= step and place < len(prefixes) - 1:
        value, place = value / step, place + 1
    return f"{value:.{max(0, 2 - (value >= 10) - (value >= 100))}f} {prefixes[place]}{unit}"


def _counted(number: int) -> str:
    return f"{number:,} image{'' if number == 1 else 's'}"
