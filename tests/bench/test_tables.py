"""A benchmark's table is the same in the terminal and in the docs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pixelprune.bench._tables import Table, measured_on, numbers, texts
from pixelprune.cli._tables import print_table

ROOT = Path(__file__).parents[2]
MACHINE = {"date": "2026-01-31", "cpu": "ARM [8]", "cores": 8, "python": "3.12.1", "numpy": "2.4.6"}
WITH_TORCH = {**MACHINE, "torch": "2.14.1", "transformers": "5.24.0"}
TIMES = {"full": 3.0, "pruned": 1.5, "speed_up": 2.0, "flops": 1.6}


def select_result() -> dict[str, Any]:
    names = ("exact", "bounded", "rmse", "photo_exact", "photo_bounded", "photo_rmse", "torch", "torch_compare")
    times = {"copy": 0.5, **{name: 0.25 * place for place, name in enumerate(names, 1)}}
    return {
        "machine": MACHINE,
        "milliseconds": {"1024": times, "2048": times},
        "threads": {"threads": 8, "speed_up": 7.5},
        "startup_milliseconds": {"import": 81.4, "first_call": 27.6},
    }


def processor_result() -> dict[str, Any]:
    case = {"stock_ms": 9.0, "pruned_ms": 4.5, "stock_bytes": 25e6, "pruned_bytes": 15e6, "retain_ratio": 0.6}
    return {"machine": WITH_TORCH, "pictures": {"page": {"1024": case}, "screen": {"1024": case}}}


def prefill_result() -> dict[str, Any]:
    language = {**TIMES, "full": 6.0, "restore": 0.25, "tokens": 702}
    case = {"tokens": 1024, "kept": 595, "vision": TIMES, "language": [language]}
    return {"machine": WITH_TORCH, "depth": 2, "sides": {"1024": case}}


def train_result() -> dict[str, Any]:
    memory = {"full": 2.5e9, "pruned": 1e9, "saving": 2.5, "fixed": 1.47e9}
    case = {"tokens": 1024, "kept": 500, **dict.fromkeys(("forward", "backward", "step"), TIMES), "memory": memory}
    about = {"machine": WITH_TORCH, "depth": 2, "rounds": 1, "device": "cpu"}
    return {**about, "pictures": {"page [1]": {"1024": case}}}


def serve_result() -> dict[str, Any]:
    stock = {"requests_per_second": 0.5, "first_token_ms": 1500.0, "prompt_tokens": 1041, "bytes": 6_300_000}
    pruned = {"requests_per_second": 1.0, "first_token_ms": 750.0, "prompt_tokens": 520, "bytes": 3_150_000}
    about = {"model": None, "rounds": 3, "requests": 5, "threshold": 0.02}
    machine = {**WITH_TORCH, "vllm": "0.32.0", "device": "cpu"}
    return {"machine": machine, **about, "pictures": {"page": {"size": [736, 1024], "stock": stock, "pruned": pruned}}}


def table_of(name: str) -> Table:
    """The table of a small result made by hand."""
    if name in ("processor", "prefill", "train"):
        pytest.importorskip("transformers", reason="these benchmarks import a model")
    result = globals()[f"{name}_result"]()
    table: Table = pytest.importorskip(f"pixelprune.bench.{name}").table(result)
    return table


def terminal(table: Table, monkeypatch: pytest.MonkeyPatch, width: int) -> list[str]:
    """The lines that `print_table` prints."""
    console = Console(width=width, emoji=False, highlight=False)
    monkeypatch.setattr("pixelprune.cli._common.out", console)
    with console.capture() as captured:
        print_table(table)
    return captured.get().splitlines()


def words(line: str) -> str:
    return " ".join(line.replace("|", " ").split())


BENCHMARKS = ["select", "processor", "prefill", "train", "serve"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_terminal_and_markdown_show_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(name)
    heading, _, *others = table.markdown().splitlines()
    expected = [words(line) for line in (table.title, heading, *others) if line]
    actual = [words(line) for line in terminal(table, monkeypatch, 200)]
    assert actual == expected


@pytest.mark.parametrize("name", BENCHMARKS)
def test_numbers_are_whole_on_a_narrow_screen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of(name)
    lines = terminal(table, monkeypatch, 80)
    assert max(map(len, lines)) <= 80
    shown = " ".join(map(words, lines))
    figures = [
        cell for row in table.rows for cell, (_, side) in zip(row, table.columns, strict=True) if side == "right"
    ]
    assert [cell for cell in figures if cell not in shown] == []
    for heading, _ in table.columns:
        assert all(word in shown for word in heading.split())


@pytest.mark.parametrize(("name", "marker"), [("select", "bench"), *((name, name) for name in BENCHMARKS[1:])])
def test_page_has_the_labels_of_the_code(name: str, marker: str) -> None:
    page = (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"<!-- {marker} -->\n(.*?)<!-- /{marker} -->", page, re.DOTALL)
    lines, expected = block.splitlines(), table_of(name).markdown().splitlines()
    if name == "select":  # the sizes are those of the benchmark, not those of the result above
        expected[:2] = ["| operation | 1024² | 2048² | 4096² |", "|---|---:|---:|---:|"]
        labels = [[line.split("|")[1] for line in part if line.startswith("|")] for part in (lines, expected)]
        assert labels[0] == labels[1]
    assert lines[:2] == expected[:2]


def test_cells_are_the_numbers_of_the_result() -> None:
    assert table_of("serve").rows == (
        ("page, 736 × 1024", "requests per second", "0.50", "1.00", "2.00 ×"),
        ("page, 736 × 1024", "time to first token", "1.50 s", "0.75 s", "0.50 ×"),
        ("page, 736 × 1024", "prompt tokens", "1,041", "520", "0.50 ×"),
        ("page, 736 × 1024", "image data between processes", "6.30 MB", "3.15 MB", "0.50 ×"),
    )
    assert table_of("processor").rows[0] == ("page, 1024²", "9.0 ms", "4.5 ms", "2.00 ×", "25 MB", "15 MB", "0.600")
    image = ("1024²", "1,024")
    assert table_of("prefill").rows == (
        (*image, "vision encoder", "595", "3.00 s", "1.50 s", "2.00 ×", "1.60 ×"),
        (*image, "language model, restore 0.25", "702", "6.00 s", "1.50 s", "2.00 ×", "1.60 ×"),
    )
    times = ("3.00 s", "1.50 s", "2.00 ×", "1.60 ×", "+25 %")
    image = ("page [1], 1024²", "1,024", "500")
    assert table_of("train").rows == (
        *((*image, part, *times) for part in ("forward", "backward", "step")),
        (*image, "memory", "2.50 GB", "1.00 GB", "2.50 ×", "", ""),
    )


def test_selection_is_shown_in_copies() -> None:
    rows = {row[0]: row[1] for row in table_of("select").rows}
    assert rows["copy the image: image.copy()"] == "0.500 ms"
    assert rows["select from page, τ = 0"] == "0.50 × copy"
    assert rows["float torch code, comparisons only"] == "4.00 × copy"
    assert rows["float torch code ÷ select, τ = 0.02"] == "4 ×"  # 1.75 ms by 0.5 ms


def test_selection_without_torch() -> None:
    from pixelprune.bench import select

    result = select_result()
    without = {name: taken for name, taken in result["milliseconds"]["1024"].items() if not name.startswith("torch")}
    table = select.table({**result, "milliseconds": {"1024": without}})
    assert len(table.rows) == len(table_of("select").rows) - 4
    assert table.notes[-1] == "torch is not installed, so the rows of float torch code are left out."


def test_notes_name_what_no_row_shows() -> None:
    assert table_of("train").notes[-1] == "Weights and gradients, which no row includes: 1.47 GB."
    assert table_of("serve").notes == (
        "Measured on 2026-01-31: ARM [8], 8 cores, Python 3.12.1, torch 2.14.1, transformers 5.24.0, vLLM 0.32.0; "
        "τ = 0.02, 3 rounds of 5 requests two at a time and 3 alone.",
    )
    assert measured_on({**WITH_TORCH, "device": "H100"}, "bfloat16").endswith("transformers 5.24.0, H100; bfloat16.")


def test_a_bar_does_not_split_a_cell() -> None:
    table = Table("t", texts("image") + numbers("kept"), (("a|b.png", "1"),))
    assert table.markdown().splitlines()[2] == r"| a\|b.png | 1 |"


def test_rows_must_fill_the_columns() -> None:
    with pytest.raises(ValueError, match=r"rows must have 2 cells, one per column, got \('page',\)"):
        Table("t", texts("image") + numbers("kept"), (("page",),))


def test_tables_of_the_trained_model() -> None:
    pytest.importorskip("trl", reason="the trained model is measured with the trainers")
    from tiny_model import accuracy, padding

    table = padding.table(
        {"random": {"padding": 0.476, "seconds": 0.1466}, "alike": {"padding": 0.04, "seconds": 0.128}}
    )
    assert table.rows == (
        ("in random order", "48 %", "0.147 s"),
        ("of similar length after pruning", "4 %", "0.128 s"),
    )
    cell = {"right": 998, "count": 1000, "retained": 0.54, "interval": (0.993, 0.999)}
    result = {
        "models": {"as trained": {"all tokens": {"read": cell, "find": {**cell, "right": 596}}}},
        "seconds per step": {"all tokens": 0.24, "kept tokens": 0.15},
        "batch": 16,
        "machine": WITH_TORCH,
    }
    table = accuracy.table(result)
    cells = ("99.8 % (99.3–99.9)", "0.54", "59.6 % (99.3–99.9)", "0.54")
    assert table.rows == (("as trained", "all tokens", *cells),)
    assert "; 1,000 held-out images per task. Forward and backward of 16 images: 0.24 s" in table.notes[0]
    assert table.notes[0].endswith("1.60 × faster (medians, one thread).")


def test_tables_that_compare_image_by_image() -> None:
    pytest.importorskip("trl", reason="the trained model is measured with the trainers")
    from tiny_model import mixed, restored

    cell = {"right": 992, "count": 1000, "retained": 0.171, "interval": (0.982, 0.995), "tokens": 0.378}
    found = {**cell, "won": 1, "lost": 13, "p": 0.00183}
    read = {**cell, "won": 0, "lost": 0, "p": 1.0}
    sets = {"sparse": {"all tokens": {"find": found, "read": read}, "restore=0.25": {"find": found, "read": read}}}
    table = restored.table({"sets": sets, "machine": WITH_TORCH})
    cells = ("0.17 / 0.38", "99.2 % (98.2–99.5)")
    assert table.rows == (
        ("sparse", "all tokens", *cells, "", *cells, ""),
        ("sparse", "restore=0.25", *cells, "+1 −13, p = 2e-03", *cells, "+0 −0"),
    )
    assert "; 1,000 held-out images of each kind per task; one thread." in table.notes[0]

    # Every image right, but for one of the three seeds of one recipe.
    models = {"as trained": dict.fromkeys(mixed.CASES, "1111111111")}
    models |= {f"{recipe} {seed}": dict(models["as trained"]) for recipe in mixed.RECIPES for seed in mixed.SEEDS}
    models["plain 2"]["standard, reading, all"] = "0011100111"
    answers, turned = mixed.table({"models": models, "machine": WITH_TORCH})
    assert [row[:3] for row in answers.rows if row[1] != "100.00"] == [("plain 2", "60.00", "100.00")]
    rows = {row[:3]: row[3:] for row in turned.rows}
    assert rows["as trained", "plain", "standard, reading, all"] == (
        "+0 −0",
        "+0 −4, p = 0.12",
        "+0 −0",
        "+0 −4, p = 0.12",
    )
    assert rows["plain", "mixed", "standard, reading, all"] == ("+0 −0", "+4 −0, p = 0.12", "+0 −0", "+4 −0, p = 0.12")
    assert all(
        row[3:] == ("+0 −0",) * 4 for row in turned.rows if "plain" not in row[:2] or row[2] != "standard, reading, all"
    )
    assert turned.notes[0].endswith("200 steps; 2,000 standard, 1,000 sparse images per task.")


def test_a_page_without_a_place_for_a_table(tmp_path: Path) -> None:
    with_table = runpy.run_path(str(ROOT / "scripts" / "make_figures.py"))["with_table"]
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- one -->\nold\n<!-- /one -->\nb\n", encoding="utf-8")
    assert with_table(page, "one", "new") == "a\n<!-- one -->\nnew\n<!-- /one -->\nb\n"
    with pytest.raises(SystemExit, match=r"page\.md must have a line <!-- two --> and later a line <!-- /two -->"):
        with_table(page, "two", "new")
