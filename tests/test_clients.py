"""The pages about clients say what scripts/run_clients.py saw, and when; the image has the vLLM that was tested."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import pixelprune
from pixelprune.images.samples import SAMPLES, sample_path
from pixelprune.vllm.coverage import TESTED

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs" / "clients").glob("*.md"))
CLIENTS = [page for page in PAGES if page.stem != "index"]
MEASURED = re.compile(r"Measured on \d{4}-\d\d-\d\d: .+, vLLM \d+\.\d+\.\d+")
# The cells that end a row: visual tokens, kept ones, and their ratio.
COUNTS = re.compile(r"\| ([\d,]+) \| ([\d,]+) \| (\d\.\d\d) \|$", re.MULTILINE)

each_client = pytest.mark.parametrize("page", CLIENTS, ids=lambda page: page.stem)


def table_of(page: Path, name: str) -> str:
    (table,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", page.read_text(encoding="utf-8"), re.DOTALL)
    return table


def counts_of(table: str) -> list[tuple[int, int, float]]:
    return [
        (int(full.replace(",", "")), int(kept.replace(",", "")), float(ratio))
        for full, kept, ratio in COUNTS.findall(table)
    ]


def test_every_client_of_the_script_has_a_page() -> None:
    calls = runpy.run_path(str(ROOT / "scripts" / "client_calls.py"))["CALLS"]
    assert sorted(calls) == [page.stem for page in CLIENTS]


@each_client
def test_a_page_says_when_and_with_which_version_it_was_run(page: Path) -> None:
    table = table_of(page, "run")
    assert MEASURED.search(table)
    assert re.search(r"; [\w-]+ \d+\.\d+[\w.]*\.\n$", table), "the client's version ends the note"


@each_client
def test_every_request_of_a_page_was_pruned(page: Path) -> None:
    table = table_of(page, "run")
    counts = counts_of(table)
    assert len(counts) == table.count("\n| "), "each row but the heading, which no line precedes, ends with counts"
    assert counts
    for full, kept, ratio in counts:
        assert 0 < kept < full
        assert ratio == pytest.approx(kept / full, abs=0.0051)


@each_client
def test_a_page_has_the_line_of_a_server_that_prunes(page: Path) -> None:
    commands = re.findall(r"^vllm serve (?:.*\\\n)*.*", page.read_text(encoding="utf-8"), re.MULTILINE)
    served = [command for command in commands if """--hf-overrides '{"pixelprune": {""" in command]
    assert served or page.stem in ("openai", "langchain"), "these two have the line of the index"
    assert served == commands


def test_the_index_has_the_first_line_of_each_page() -> None:
    table = table_of(ROOT / "docs" / "clients" / "index.md", "clients")
    assert MEASURED.search(table)
    linked = re.findall(r"^\| \[\S+ [\w.]+\]\((\w+)\.md\)", table, re.MULTILINE)
    assert sorted(linked) == [page.stem for page in CLIENTS]
    for name, counts in zip(linked, counts_of(table), strict=True):
        assert counts == counts_of(table_of(ROOT / "docs" / "clients" / f"{name}.md", "run"))[0]


def test_what_the_server_kept_of_the_samples_is_what_select_keeps() -> None:
    table = table_of(ROOT / "docs" / "clients" / "openai.md", "run")
    rows = [line for line in table.split("\n") if "PNG" in line and "pixelprune" not in line]
    assert len(rows) == len(SAMPLES)
    for name, row in zip(SAMPLES, rows, strict=True):
        selection = pixelprune.select(pixelprune.fit_image(pixelprune.load_image(sample_path(name)), "qwen3-vl"))
        ((full, kept, _),) = counts_of(row)
        assert full == selection.total
        assert kept == pytest.approx(selection.kept, abs=5), "versions of Pillow may resize a few blocks otherwise"


def test_the_answers_on_the_index_get_longer_and_gain_less() -> None:
    table = table_of(ROOT / "docs" / "clients" / "index.md", "answers")
    assert MEASURED.search(table)
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+) s \| ([\d.]+) s \| ([\d.]+) × \|$", table, re.MULTILINE)
    assert [row[0] for row in rows] == ["4", "100", "1,000"]
    for _, stock, pruned, ratio in rows:
        assert float(ratio) == pytest.approx(float(stock) / float(pruned), rel=0.01)


def test_the_image_has_a_vllm_that_was_tested() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (version,) = re.findall(r"^FROM vllm/vllm-openai:v(\S+)$", text, re.MULTILINE)
    assert TESTED.contains(version)
    copied = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    assert [name for names in copied for name in names.split() if not (ROOT / name).exists()] == []
