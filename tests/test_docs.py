"""What README and docs/ say is run, counted again, and compared with the code."""

from __future__ import annotations

import re
import runpy
import shutil
import tomllib
from pathlib import Path
from types import CodeType

import pytest

import pixelprune
from pixelprune.images.samples import SAMPLES, sample_path
from pixelprune.selection import predictors

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/**/*.md"), *ROOT.glob("tiny_model/*.md")]
)


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def code_of(page: str) -> CodeType:
    """All Python of a page, in order, as a reader would paste it."""
    return compile("\n".join(re.findall(r"```python\n(.*?)```", text_of(page), re.DOTALL)), page, "exec")


def table_of(page: str, name: str) -> str:
    """What stands between the comments of that name, which a script fills."""
    (table,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- /{name} -->", text_of(page), re.DOTALL)
    return table


def numbers_in(table: str) -> list[int]:
    """The counts of a table: whole numbers of three digits or more."""
    return [int(number.replace(",", "")) for number in re.findall(r" ([\d,]{3,}) [|(]", table)]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to work in, with the file that the pages read."""
    shutil.copy(sample_path("page"), tmp_path / "page.png")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> None:
    """A tiny random model under the name that the pages load, where from_pretrained looks first."""
    pytest.importorskip("transformers", reason="the pages load a model")
    from tests.support.checkpoints import model_and_processor

    for part in model_and_processor("qwen3_vl"):
        part.save_pretrained(tmp_path / "Qwen" / "Qwen3-VL-2B-Instruct")


@pytest.mark.usefixtures("page", "checkpoint")
def test_python_in_the_readme_runs() -> None:
    names: dict[str, object] = {}
    exec(code_of("README.md"), names)
    assert hasattr(type(names["model"]), "generate")
    assert names["model"].config.model_type == "qwen3_vl"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("page")
def test_python_in_the_api_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(code_of("docs/api.md"), names)
    assert re.fullmatch(r"\d+ of 1961\n", capsys.readouterr().out)
    assert names["restored"].shape == (1696, 1184, 3)  # type: ignore[attr-defined]
    assert names["selection"].block == 28  # type: ignore[attr-defined]


@pytest.mark.usefixtures("page", "checkpoint")
def test_python_in_the_transformers_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    from pixelprune.transformers import unregister

    try:
        exec(code_of("docs/transformers.md"), {})
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
    exec(code_of("docs/training.md"), names)
    assert names["trainer"].state.global_step == 2  # type: ignore[attr-defined]


def test_python_in_the_method_page_runs() -> None:
    names: dict[str, object] = {}
    exec(code_of("docs/method.md"), names)
    try:
        assert predictors.get("upper").rule is names["upper"]
    finally:
        predictors.unregister("upper")


@pytest.mark.usefixtures("checkpoint")
def test_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(tmp_path / "Qwen" / "Qwen3-VL-2B-Instruct")
    arguments = [model, str(sample_path("page")), "What is the total?", "--threshold", "0.02", "--max-new-tokens", "3"]
    monkeypatch.setattr("sys.argv", ["chat.py", *arguments])
    runpy.run_path(str(ROOT / "examples" / "chat.py"), run_name="__main__")
    assert re.search(r"visual tokens: \d+ → \d+ \(\d+% retained\)", capsys.readouterr().out)


def test_options_of_the_training_page_exist() -> None:
    pytest.importorskip("trl", reason="the options are those of TRL, and ours")
    from trl import TrlParser

    from pixelprune import PruneConfig
    from pixelprune.training import SelfDistillationConfig
    from pixelprune.training.run import Data, Student, Teacher

    parser = TrlParser([Data, PruneConfig, Student, SelfDistillationConfig, Teacher])
    known = {option for action in parser._actions for option in action.option_strings} | {"--help-all", "--config"}
    page = re.sub(r"^(swift|pip) .*$", "", text_of("docs/training.md"), flags=re.MULTILINE)
    page = page.replace("--config_file", "")  # accelerate's
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page)) - {"--out", "--count"}  # tiny_model's
    assert named <= known
    assert not [option for option in named if "_" in option]


def test_family_table_is_what_the_code_knows() -> None:
    pytest.importorskip("transformers", reason="the families are those of the transformers adapter")
    from pixelprune.transformers import families

    table = runpy.run_path(str(ROOT / "scripts" / "make_figures.py"))["families_table"]()
    assert table in text_of("docs/transformers.md")
    assert f"prunes {len(families.names())} model families" in " ".join(text_of("README.md").split())


def test_architectures_are_what_the_plugin_knows() -> None:
    from pixelprune.vllm import ARCHITECTURES, TESTED

    table = table_of("docs/vllm.md", "architectures")
    assert re.findall(r"^\| (\w+) \|", table, re.MULTILINE)[1:] == list(ARCHITECTURES)
    assert "not run" not in table
    assert f"prunes {len(ARCHITECTURES)} architectures" in " ".join(text_of("README.md").split())
    minors = [f"0.{minor}" for minor in range(100) if TESTED.contains(f"0.{minor}.0")]
    for page in ("README.md", "docs/vllm.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        assert f"vLLM {minors[0]} to {minors[-1]}" in text_of(page), page
    script = text_of("scripts/vllm_env.sh")
    (installed,) = re.findall(r"^release=(0\.\d+)", script, re.MULTILINE)
    others = re.findall(r"^other (\S+)", script, re.MULTILINE)
    assert sorted([installed, *others]) == minors
    assert re.findall(r"test-vllm-(0\.\d+)", text_of("Makefile").split("\ntest-vllm:")[1]) == others


def test_samples_table_is_what_the_script_counts() -> None:
    counted = numbers_in(runpy.run_path(str(ROOT / "scripts" / "make_figures.py"))["samples_table"]())
    assert len(counted) == 4 * 4
    assert numbers_in(table_of("docs/method.md", "samples")) == pytest.approx(counted, abs=5), (
        "versions of Pillow may resize a few blocks otherwise"
    )


def test_samples_in_the_readme_are_counted() -> None:
    counted = []
    for name in SAMPLES:
        selection = pixelprune.select(pixelprune.fit_image(pixelprune.load_image(sample_path(name)), "qwen3-vl"))
        counted += [selection.total, selection.kept]
    table = table_of("README.md", "samples")
    assert numbers_in(table) == pytest.approx(counted, abs=5)
    assert re.findall(r"^\| (\w+) \|", table, re.MULTILINE)[1:] == list(SAMPLES)


def test_figures_in_the_readme_stand_in_a_table() -> None:
    prose = re.sub(r"<!-- samples -->.*<!-- /samples -->", "", text_of("README.md"), flags=re.DOTALL)
    rows = "\n".join(line for page in PAGES for line in page.read_text(encoding="utf-8").split("\n") if line[:1] == "|")
    figures = re.findall(r"\d[\d.,]* [×%]", prose)
    assert len(figures) >= 5
    assert [figure for figure in figures if not re.search(rf"\| {re.escape(figure)}( \(.*?\))? \|", rows)] == []


def test_readme_is_short() -> None:
    lines = text_of("README.md").split("\n")
    assert len(lines) <= 130
    first_screen = "\n".join(lines[:20])
    assert "pip install '.[pdf]'" in first_screen
    assert "pixelprune show page.png" in first_screen


def test_index_begins_as_the_readme_does() -> None:
    beginning = text_of("README.md").replace("docs/", "").split("The two sample")[0]
    assert beginning == text_of("docs/index.md").split("| I want")[0]


def test_every_module_is_on_the_map() -> None:
    package = ROOT / "src" / "pixelprune"
    (modules,) = re.findall(r"\n## Modules\n(.*?)\n## ", text_of("docs/architecture.md"), re.DOTALL)
    cells = re.findall(r"^\| (.*?) \|", modules, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    folders = tuple(name for name in named if name.endswith("/"))
    paths = {path.relative_to(package).as_posix() for path in package.rglob("*.py")}
    assert sorted(path for path in paths - named if not path.startswith(folders)) == [], "not on the map"
    assert sorted(named - paths - {*folders}) == [], "no such module"
    assert all((package / folder).is_dir() for folder in folders)


def test_the_map_shows_the_layers_of_the_contract() -> None:
    contracts = tomllib.loads(text_of("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    (picture,) = re.findall(r"## Layers\n\n```text\n(.*?)```", text_of("docs/architecture.md"), re.DOTALL)
    places = [picture.index(f"│ {name.strip()} ") for layer in layers for name in layer.split("|")]
    assert places == sorted(places)


def test_paths_named_in_the_pages_exist() -> None:
    for page in PAGES:
        if page.name in ("decisions.md", "CHANGELOG.md"):  # they also name what is no longer there
            continue
        named = re.findall(
            r"`((?:src|tests|scripts|examples|tiny_model|docs)/[\w./]*)`", page.read_text(encoding="utf-8")
        )
        missing = [path for path in named if not (ROOT / path).exists()]
        assert missing == [], page.name


def anchors_of(page: Path) -> set[str]:
    """The anchors that code hosts and the site give to the headings of a page."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors_of(target), link


def test_figures_of_the_page_of_settings_stand_in_the_table_of_copies() -> None:
    measured = table_of("docs/training.md", "restored")
    section = text_of("docs/settings.md").partition("## What copies win back")[2].partition("## What copies cost")[0]
    assert len(shares := re.findall(r"\d+\.\d %", section)) >= 5
    assert all(share in measured for share in shares)
    pairs = re.findall(r"`restore` ([\d.]+)\) \| (\d+\.\d %) \| ([\d.]+) \|", section)
    assert len(pairs) == 4
    for restore, right, tokens in pairs:
        assert re.search(rf"\| sparse \| restore={restore} \| 0\.17 / {tokens} \| {right} \(", measured), restore
