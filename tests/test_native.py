"""Where the compiled kernels are stored, and what happens where they cannot be."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pixelprune
from pixelprune import _native

PACKAGE = Path(pixelprune.__file__).parent

SCRIPT = """
import sys
import numpy as np
import pixelprune
before = {name for name in ("torch", "numba", "llvmlite", "transformers") if name in sys.modules}
page = np.full((64, 96, 3), 255, np.uint8)
page[40:50, 40:50] = 0
assert pixelprune.select(page).keep.tolist() == [[1, 0, 0], [0, 1, 1]]
print(sorted(before), "numba" in sys.modules)
"""


def run(package_parent: Path, cache: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(package_parent), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip() + done.stderr.strip()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The parent of a fresh copy of the package in which nothing is compiled yet."""
    shutil.copytree(PACKAGE, tmp_path / "site" / "pixelprune", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "site"


def test_second_process_loads_what_the_first_one_compiled(copy: Path, tmp_path: Path) -> None:
    assert run(copy, tmp_path / "cache") == "[] True"
    assert list((copy / "pixelprune" / "__pycache__").glob("scan-*.o"))
    assert run(copy, tmp_path / "cache") == "[] False"
    assert not (tmp_path / "cache").exists()


def test_read_only_package_uses_the_users_cache(copy: Path, tmp_path: Path) -> None:
    # A file in the folder's place: unlike file modes, this also stops an administrator.
    (copy / "pixelprune" / "__pycache__").write_text("")
    assert run(copy, tmp_path / "cache") == "[] True"
    assert list((tmp_path / "cache" / "pixelprune").glob("scan-*.o"))
    assert run(copy, tmp_path / "cache") == "[] False"


def test_where_nothing_can_be_written_it_works_and_says_so(copy: Path, tmp_path: Path) -> None:
    (copy / "pixelprune" / "__pycache__").write_text("")
    (tmp_path / "cache").write_text("")
    for _ in range(2):
        output = run(copy, tmp_path / "cache")
        assert output.startswith("[] True")
        assert "the compiled kernels could be stored in none of" in output


class TestStore:
    @pytest.fixture
    def folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        folders = [tmp_path / "first", tmp_path / "second"]
        monkeypatch.setattr(_native, "_folders", lambda: folders)
        return folders

    def test_first_folder_that_can_be_written(self, folders: list[Path]) -> None:
        _native._write("a.o", b"code")
        assert _native._read("a.o") == b"code"
        assert [file.name for file in folders[0].iterdir()] == ["a.o"]
        assert not folders[1].exists()

    def test_damaged_files_are_not_run(self, folders: list[Path], caplog: pytest.LogCaptureFixture) -> None:
        _native._write("a.o", b"code")
        path = folders[0] / "a.o"
        good = path.read_bytes()
        for bad in (b"", good[:-1], good[:20], good[:-1] + b"x", b"x" + good[1:]):
            path.write_bytes(bad)
            caplog.clear()
            with caplog.at_level(logging.WARNING, "pixelprune"):
                assert _native._read("a.o") is None
            assert "a.o is damaged and will be made anew" in caplog.text
        _native._write("a.o", b"code")
        assert _native._read("a.o") == b"code"

    def test_other_users_can_read_it(self, folders: list[Path]) -> None:
        _native._write("a.o", b"code")
        umask = os.umask(0)
        os.umask(umask)
        assert (folders[0] / "a.o").stat().st_mode & 0o777 == 0o666 & ~umask


def test_the_name_depends_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    here = _native._file_name()
    monkeypatch.setattr(_native.llvm, "get_host_cpu_name", lambda: "another")
    assert _native._file_name() != here
