"""Which versions may prune, the table of tested ones, and the script that writes it."""

from __future__ import annotations

import re
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from pixelprune.vllm import ARCHITECTURES, TESTED, versions
from pixelprune.vllm.source import Source
from pixelprune.vllm.surface import installed, surface
from pixelprune.vllm.versions import TABLE, Table, is_older, is_tested, listed, parameters
from tests.support.vllm_tree import CONFIG, MODEL, PROCESSOR, SURFACE, Edited, save, with_another_body

SCRIPT = Path(__file__).parents[2] / "scripts" / "vllm_surface.py"
ALL = len(ARCHITECTURES)
NAME = "Qwen2VLForConditionalGeneration"
HOW = "python scripts/vllm_surface.py --write VERSION..., for all versions in the table, writes it again"


def test_the_table_has_every_tested_minor_version() -> None:
    minors = {version.rpartition(".")[0] for version in Table.load(TABLE).surfaces}
    assert minors == {f"0.{minor}" for minor in range(100) if TESTED.contains(f"0.{minor}.0")}
    for surfaces in Table.load(TABLE).surfaces.values():
        assert surfaces.keys() == ARCHITECTURES.keys()
        assert min(len(found) for found in surfaces.values()) > 100


@pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_table_is_what_the_plugin_relies_on_now(architecture: str) -> None:
    import vllm

    version = vllm.__version__.partition("+")[0]
    assert Table.load(TABLE).surfaces[version][architecture] == surface(installed(), architecture), HOW


def test_the_table_stays_as_it_is_when_written_again(tmp_path: Path) -> None:
    Table.load(TABLE).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == TABLE.read_bytes()


FIRST = {"a.py:A": "1" * 16, "a.py:A.f": "2" * 16 + "(self)", "b.py:g": "3" * 16 + "()"}
SECOND = {"a.py:A": "4" * 16, "a.py:A.f": "5" * 16 + "(self, x)", "b.py:g": "6" * 16 + "()"}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (FIRST, []),
        (SECOND, []),
        # Each file is that of one tested version, but not of the same.
        ({**FIRST, "b.py:g": SECOND["b.py:g"]}, []),
        # One file is a mixture that nobody tested. Of equally near versions, the newest is the one to compare with.
        ({**FIRST, "a.py:A": SECOND["a.py:A"]}, ["A.f (a.py) takes other parameters"]),
        ({**FIRST, "a.py:new": "9" * 16}, ["new (a.py) is new"]),
        ({**SECOND, "b.py:g": "7" * 16 + "()"}, ["g (b.py) has changed"]),
        ({name: FIRST[name] for name in FIRST if name != "b.py:g"}, ["g (b.py) is gone"]),
        ({**SECOND, "c.py:h": "8" * 16}, ["h (c.py) is new"]),
        # Parameters are for people: another version of Python may write them in another way.
        ({**SECOND, "a.py:A.f": "5" * 16 + "(self,x)"}, []),
    ],
)
def test_each_file_must_be_that_of_a_tested_version(found: dict[str, str], expected: list[str]) -> None:
    table = Table({"0.10.0": {NAME: SECOND}, "0.9.0": {NAME: FIRST}})
    assert list(table.surfaces) == ["0.9.0", "0.10.0"]
    assert [str(one) for one in table.moved(NAME, found)] == expected


def test_what_the_new_versions_of_the_past_would_have_met() -> None:
    known = Table.load(TABLE).surfaces
    if not {"0.31.0", "0.32.0", "0.33.0"} <= known.keys():
        pytest.skip("these versions have left the range")
    table = Table({version: known[version] for version in ("0.31.0", "0.32.0")})
    refused = [
        architecture for architecture in ARCHITECTURES if table.moved(architecture, known["0.33.0"][architecture])
    ]
    # The first normalizes in the worker since then; the second gets the pixels of several images as one tensor.
    assert refused == ["Exaone4_5_ForConditionalGeneration", "PaddleOCRVLForConditionalGeneration"]
    assert all(Table({"0.31.0": known["0.31.0"]}).moved(one, known["0.32.0"][one]) for one in ARCHITECTURES)


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "TESTED", SpecifierSet(">=0.31,<0.34", prereleases=True))
    assert is_tested("0.33.1+cpu")
    assert not is_tested("0.34.0")
    assert not is_tested("dev")
    assert is_older("0.30.9")
    assert is_older("0.31.0rc1")
    assert not is_older("0.34.0")
    assert not is_older("dev")


def test_an_error_names_the_first_few() -> None:
    found = dict.fromkeys((f"d/{letter}.py:{letter}" for letter in "abcdef"), "f" * 16)
    moved = Table({"1.0": {NAME: {}}}).moved(NAME, found)
    text = listed(moved)
    assert text == "a (a.py) is new; b (b.py) is new; c (c.py) is new; d (d.py) is new; and 2 more"
    assert parameters(None) == parameters("exists") == ""


# The script


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run it with a table of the small tree, and return the exit code and what it prints."""
    monkeypatch.setattr(versions, "TABLE", tmp_path / "table.json")
    monkeypatch.setattr(versions, "TESTED", SpecifierSet(">=0.32,<0.35"))
    found = {architecture: surface(Source(save(tmp_path / "old")), architecture) for architecture in ARCHITECTURES}
    Table({"0.32.0": found}).save(versions.TABLE)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vllm_surface.py", *arguments])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return end.value.code, capsys.readouterr().out  # type: ignore[return-value]

    return run


def edit(folder: Path, edits: dict[str, Any]) -> Path:
    save(folder)
    for path, change in edits.items():
        (folder / path).write_text(Edited(folder, {path: change}).text(path) or "", encoding="utf-8")
    return folder


def test_the_script_says_that_nothing_moved(script: Any, tmp_path: Path) -> None:
    code, out = script(str(tmp_path / "old"))
    assert code == 0
    assert re.fullmatch(
        rf"vLLM 0\.32\.0: what pruning relies on \(\d+ to {len(SURFACE)} names\) is as in tested versions \(0\.32\.0\) "
        rf"for {ALL} of {ALL} architectures\n",
        out,
    )


def test_the_script_names_architectures_that_are_not_in_the_table(script: Any, tmp_path: Path) -> None:
    known = Table.load(versions.TABLE).surfaces["0.32.0"]
    Table({"0.32.0": {name: found for name, found in known.items() if name != NAME}}).save(versions.TABLE)
    code, out = script(str(tmp_path / "old"))
    assert code == 1
    assert out.endswith(f"for {ALL - 1} of {ALL} architectures\n\n{NAME}\n  is not in the table\n")


def test_the_script_says_what_moved_and_adds_the_version(script: Any, tmp_path: Path) -> None:
    edits = {
        "vllm/_version.py": lambda text: text.replace("0.32", "0.34"),
        PROCESSOR: lambda text: text.replace("_get_mm_hashes(self, inputs)", "_get_mm_hashes(self, inputs, more)"),
        MODEL: with_another_body("Qwen2VisionTransformer.forward"),
        CONFIG: lambda text: text.replace("mm_processor_kwargs", "kwargs"),
    }
    new = str(edit(tmp_path / "new", edits))
    code, out = script(new)
    assert code == 1
    assert out.startswith("vLLM 0.34.0: ")
    assert f"is as in tested versions (0.32.0) for 0 of {ALL} architectures\n" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["gone", "config/multimodal.py", "MultiModalConfig.mm_processor_kwargs"] in lines
    assert [
        "parameters", "multimodal/processing/processor.py", "BaseMultiModalProcessor._get_mm_hashes",
        "(self,", "inputs)", "->", "(self,", "inputs,", "more)",
    ] in lines  # fmt: skip
    changed = ["changed", "model_executor/models/qwen2_vl.py", "Qwen2VisionTransformer.forward"]
    assert lines.count(changed) == 1
    assert lines[lines.index(changed) - 2][0].startswith(NAME)  # the names of its group come first

    assert script("--write", new)[0] == 1
    assert list(Table.load(versions.TABLE).surfaces) == ["0.32.0", "0.34.0"]
    assert script(new)[0] == script(str(tmp_path / "old"))[0] == 0


def test_only_tested_versions_are_in_the_table(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = str(edit(tmp_path / "new", {"vllm/_version.py": lambda text: text.replace("0.32", "0.35")}))
    code, _ = script("--write", new)
    assert "0.35.0 is not tested; first change TESTED" in str(code)
    monkeypatch.setattr(versions, "TESTED", SpecifierSet(">=0.33,<0.36"))
    assert script("--write", new)[0] == 0
    assert list(Table.load(versions.TABLE).surfaces) == ["0.35.0"]


def test_the_script_says_where_it_finds_no_vllm(script: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _ = script(str(tmp_path / "empty"))
    assert "does not hold vLLM" in str(code)
