"""What the README says is run, and what it counts is counted again."""

from __future__ import annotations

import re
import runpy
import shutil
from pathlib import Path
from types import CodeType

import pytest

from pixelprune.images.samples import sample_path
from pixelprune.selection import predictors

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_of(page: str) -> CodeType:
    """All Python of a page, in order, as a reader would paste it."""
    return compile("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)), "page", "exec")


@pytest.fixture
def checkpoint(tmp_path: Path) -> None:
    """A tiny random model under the name that the pages load, where from_pretrained looks first."""
    pytest.importorskip("transformers", reason="the pages load a model")
    from tests.support.checkpoints import model_and_processor

    for part in model_and_processor("qwen3_vl"):
        part.save_pretrained(tmp_path / "Qwen" / "Qwen3-VL-2B-Instruct")


@pytest.mark.usefixtures("checkpoint")
def test_python_in_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(sample_path("page"), tmp_path / "page.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code_of(README), names)
    assert re.fullmatch(r"\d+ of 1961\n", capsys.readouterr().out)
    assert names["restored"].shape == (1696, 1184, 3)  # type: ignore[attr-defined]
    assert names["selection"].block == 28  # type: ignore[attr-defined]


@pytest.mark.usefixtures("checkpoint")
def test_python_in_the_transformers_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pixelprune.transformers import unregister

    shutil.copy(sample_path("page"), tmp_path / "page.png")
    monkeypatch.chdir(tmp_path)
    try:
        exec(code_of((ROOT / "docs" / "transformers.md").read_text(encoding="utf-8")), {})
    finally:
        unregister("my_vl")
    assert re.match(r"\d+ → \d+ \(0\.\d\d\)\n", capsys.readouterr().out)


def test_python_in_the_training_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl", reason="the page trains with TRL")
    from tiny_model import rows

    rows.write(tmp_path / "data", 8)
    (tmp_path / "tiny_model").symlink_to(ROOT / "tiny_model")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code_of((ROOT / "docs" / "training.md").read_text(encoding="utf-8")), names)
    assert names["trainer"].state.global_step == 2  # type: ignore[attr-defined]


def test_accuracy_table_stands_in_both_pages() -> None:
    pages = (README, (ROOT / "docs" / "training.md").read_text(encoding="utf-8"))
    tables = [re.findall(r"<!-- accuracy -->\n(.*?)<!-- /accuracy -->", page, re.DOTALL) for page in pages]
    assert tables[0] == tables[1]
    assert tables[0][0].count(" % (") == 2 * 11


@pytest.mark.usefixtures("checkpoint")
def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tmp_path / "Qwen" / "Qwen3-VL-2B-Instruct")
    arguments = [model, str(sample_path("page")), "What is the total?", "--threshold", "0.02", "--max-new-tokens", "3"]
    monkeypatch.setattr("sys.argv", ["chat.py", *arguments])
    runpy.run_path(str(ROOT / "examples" / "chat.py"), run_name="__main__")
    assert re.search(r"visual tokens: \d+ → \d+ \(\d+% retained\)", capsys.readouterr().out)


def test_family_table_is_what_the_code_knows() -> None:
    pytest.importorskip("transformers", reason="the families are those of the transformers adapter")
    table = runpy.run_path(str(ROOT / "scripts" / "make_figures.py"))["families_table"]()
    assert table in (ROOT / "docs" / "transformers.md").read_text(encoding="utf-8")
    assert f"prunes {table.count(' axis |') + table.count(' axes |')} model families" in README


def test_architectures_are_what_the_plugin_knows() -> None:
    from pixelprune.vllm import ARCHITECTURES, TESTED

    page = (ROOT / "docs" / "vllm.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"<!-- architectures -->\n(.*?)<!-- /architectures -->", page, re.DOTALL)
    assert re.findall(r"^\| (\w+) \|", table, re.MULTILINE)[1:] == list(ARCHITECTURES)
    assert "not run" not in table
    assert f"prunes {len(ARCHITECTURES)} architectures" in " ".join(README.split())
    assert TESTED.contains("0.32.0")
    assert "vLLM 0.32" in page


def test_python_in_the_method_page_runs() -> None:
    names: dict[str, object] = {}
    exec(code_of((ROOT / "docs" / "method.md").read_text(encoding="utf-8")), names)
    try:
        assert predictors.get("upper").rule is names["upper"]
    finally:
        predictors.unregister("upper")


def test_sample_table_is_what_the_script_counts() -> None:
    table = runpy.run_path(str(ROOT / "scripts" / "make_figures.py"))["samples_table"]()
    (shown,) = re.findall(r"<!-- samples -->\n(.*?)<!-- /samples -->", README, re.DOTALL)
    counted, told = (
        [int(n.replace(",", "")) for n in re.findall(r" ([\d,]{3,}) [|(]", text)] for text in (table, shown)
    )
    assert len(counted) == 4 * 4
    assert told == pytest.approx(counted, abs=5), "versions of Pillow may resize a few blocks otherwise"


@pytest.mark.parametrize("name", ["bench", "processor", "prefill", "serve"])
def test_benchmark_table_stands_in_both_pages(name: str) -> None:
    tables = [
        re.search(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text, re.DOTALL)
        for text in (README, (ROOT / "docs" / "benchmark.md").read_text(encoding="utf-8"))
    ]
    assert tables[0]
    assert tables[1]
    assert tables[0][1] == tables[1][1]
    assert re.search(r"1024²|× 1024 ", tables[0][1])


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
