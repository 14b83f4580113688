"""Where the compiled kernels are stored, and what happens where they cannot be."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import pixelprune
from pixelprune.selection import _native

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
    assert list((copy / "pixelprune" / "selection" / "__pycache__").glob("scan-*.o"))
    assert run(copy, tmp_path / "cache") == "[] False"
    assert not (tmp_path / "cache").exists()


def test_read_only_package_uses_the_users_cache(copy: Path, tmp_path: Path) -> None:
    # A file in the folder's place: unlike file modes, this also stops an administrator.
    (copy / "pixelprune" / "selection" / "__pycache__").write_text("")
    assert run(copy, tmp_path / "cache") == "[] True"
    assert list((tmp_path / "cache" / "pixelprune").glob("scan-*.o"))
    assert run(copy, tmp_path / "cache") == "[] False"


def test_where_nothing_can_be_written_it_works_and_says_so(copy: Path, tmp_path: Path) -> None:
    (copy / "pixelprune" / "selection" / "__pycache__").write_text("")
    (tmp_path / "cache").write_text("")
    for _ in range(2):
        output = run(copy, tmp_path / "cache")
        assert output.startswith("[] True")
        assert "the compiled kernels could not be stored, so every process will compile them again" in output


PAGE = """
import os, signal, threading
import numpy as np
import pixelprune
page = np.random.default_rng(0).integers(0, 2, (320, 320, 3), np.uint8)
"""
FIRST_CALLS_AT_ONCE = """
start, counts = threading.Barrier(4), []
def work():
    start.wait()
    for _ in range(50):
        counts.append(pixelprune.select(page, block=4).kept)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(counts), len(set(counts)))
"""
FORKS_DURING_CALLS = """
running, stop = threading.Barrier(5), threading.Event()
def work():
    pixelprune.select(page, block=4)
    running.wait()
    while not stop.is_set():
        pixelprune.select(page, block=4)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
running.wait()
failed = 0
for _ in range(200):
    child = os.fork()
    if not child:
        signal.alarm(300)  # ends a child that hangs
        pixelprune.select(page, block=4)
        os._exit(0)
    failed += os.waitpid(child, 0)[1] != 0
    if failed:
        break
stop.set()
for thread in threads:
    thread.join()
print(failed)
"""


@pytest.mark.parametrize(
    ("script", "output"),
    [(FIRST_CALLS_AT_ONCE, "200 1"), (FORKS_DURING_CALLS, "0")],
    ids=["first calls at once", "forks during calls"],
)
def test_threads(script: str, output: str, copy: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(copy), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-W", "ignore", "-c", PAGE + script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.stdout == output + "\n", done.stderr


@pytest.mark.parametrize("home", ["/nonexistent/home", "~", ""])
def test_a_user_without_a_home(copy: Path, home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "pixelprune" / "selection" / "__pycache__").write_text("")
    monkeypatch.setattr(_native, "_PACKAGE", copy / "pixelprune" / "selection")
    monkeypatch.setattr(_native.platformdirs, "user_cache_dir", lambda *_, **__: f"{home}/.cache/pixelprune")
    assert all(folder.is_absolute() for folder in _native._folders())

    def no_home(*_: object, **__: object) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(_native.platformdirs, "user_cache_dir", no_home)
    assert _native._folders() == [copy / "pixelprune" / "selection" / "__pycache__"]


def test_the_function_is_called_without_the_gil() -> None:
    assert not _native._PROTOTYPE._flags_ & ctypes._FUNCFLAG_PYTHONAPI  # type: ignore[attr-defined]


class TestOtherMachines:
    """numba's own function in place of stored code."""

    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(_native, "_loaded", [])
        monkeypatch.setattr(_native, "_folders", lambda: [tmp_path / "store"])

    def keep(self) -> list[list[bool]]:
        generator = np.random.default_rng(0)
        image = generator.integers(0, 2, (64, 96, 1), np.uint8).repeat(3, axis=2)
        image[:32, 32:] = 7
        return pixelprune.select(image).keep.tolist()  # type: ignore[no-any-return]

    def test_a_mac(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(sys, "platform", "darwin")
        assert not _native.is_stored()
        assert self.keep() == [[True, True, False], [True, True, True]]
        assert _native._loaded[0][1] is import_module("pixelprune.selection._kernels").scan
        assert _native.is_stored()  # nothing is left to compile in this process
        assert not (tmp_path / "store").exists()
        assert caplog.messages == []

    @pytest.mark.parametrize("function", ["_target_machine", "_compile", "_file_name"])
    def test_code_that_cannot_be_made_or_loaded(
        self, function: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def broken() -> None:
            raise RuntimeError("LLVM does not know\nthis machine")

        monkeypatch.setattr(_native, function, broken)
        assert self.keep() == [[True, True, False], [True, True, True]]
        assert self.keep() == [[True, True, False], [True, True, True]]
        assert caplog.messages == [
            "stored kernels cannot be loaded on this machine, so every process will compile them (a few seconds): "
            "LLVM does not know this machine"
        ]


class TestStore:
    @pytest.fixture
    def folders(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        folders = [tmp_path / "first", tmp_path / "second"]
        monkeypatch.setattr(_native, "_folders", lambda: folders)
        return folders

    def test_first_folder_that_can_be_written(self, folders: list[Path]) -> None:
        _native._write("a.o", b"code", [])
        assert _native._read("a.o") == (b"code", [])
        assert [file.name for file in folders[0].iterdir()] == ["a.o"]
        assert not folders[1].exists()

    def test_damaged_files_are_not_run(self, folders: list[Path], caplog: pytest.LogCaptureFixture) -> None:
        _native._write("a.o", b"code", [])
        path = folders[0] / "a.o"
        good = path.read_bytes()
        for bad in (b"", good[:-1], good[:20], good[:-1] + b"x", b"x" + good[1:]):
            path.write_bytes(bad)
            assert _native._read("a.o") == (None, [f"{path} is damaged"])
        _native._write("a.o", b"code", [f"{path} is damaged"])
        assert _native._read("a.o") == (b"code", [])
        line = f"stored kernels were compiled again instead of loaded: {path} is damaged"
        assert caplog.messages == [line]

    def test_other_users_can_read_it(self, folders: list[Path]) -> None:
        _native._write("a.o", b"code", [])
        umask = os.umask(0)
        os.umask(umask)
        assert (folders[0] / "a.o").stat().st_mode & 0o777 == 0o644 & ~umask

    def test_folder_that_others_may_write(self, folders: list[Path], caplog: pytest.LogCaptureFixture) -> None:
        """It is passed over, silently as long as no code lies there."""
        folders[0].mkdir()
        folders[0].chmod(0o777)
        assert _native._read("a.o") == (None, [])
        _native._write("a.o", b"code", [])
        assert not list(folders[0].iterdir())
        assert _native._read("a.o") == (b"code", [])
        assert caplog.messages == []


def forged(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put a file with a matching digest into `folder`, where this process finds it as a fresh one would."""
    (folder / _native._file_name()).write_bytes(hashlib.sha256(b"evil").digest() + b"evil")
    code = _native._compile()
    monkeypatch.setattr(_native, "_compile", lambda: code)
    monkeypatch.setattr(_native, "_loaded", [])


@pytest.mark.parametrize("elsewhere", ["stored elsewhere", "stored nowhere"])
def test_forged_code_is_compiled_instead_with_one_line(
    elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    open_to_all, own = tmp_path / "open", tmp_path / "own"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    folders = [open_to_all, own] if elsewhere == "stored elsewhere" else [open_to_all]
    monkeypatch.setattr(_native, "_folders", lambda: folders)
    forged(monkeypatch, open_to_all)
    assert not _native.is_stored()
    page = np.full((64, 96, 3), 255, np.uint8)
    page[40:50, 40:50] = 0
    assert pixelprune.select(page).keep.tolist() == [[1, 0, 0], [0, 1, 1]]
    begins = {
        "stored elsewhere": "stored kernels were compiled again instead of loaded",
        "stored nowhere": "the compiled kernels could not be stored, so every process will compile them again "
        "(a few seconds)",
    }[elsewhere]
    why = f"{open_to_all} can be written by other users (mode 777; chmod go-w changes that)"
    assert caplog.messages == [f"{begins}: {why}"]
    assert [file.read_bytes()[32:] for file in open_to_all.iterdir()] == [b"evil"]
    # The next process finds what this one stored, and has nothing to say.
    caplog.clear()
    monkeypatch.setattr(_native, "_loaded", [])
    assert _native.is_stored() == (elsewhere == "stored elsewhere")
    pixelprune.select(page)
    assert len(caplog.messages) == (elsewhere == "stored nowhere")


class TestName:
    """Whatever decides the machine code decides the name of its file."""

    @pytest.mark.parametrize("function", ["get_host_cpu_name", "get_process_triple"])
    def test_cpu_and_platform(self, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
        here = _native._file_name()
        monkeypatch.setattr(_native.llvm, function, lambda: "another")
        assert _native._file_name() != here

    def test_cpu_features(self, monkeypatch: pytest.MonkeyPatch) -> None:
        here, features = _native._file_name(), _native.llvm.get_host_cpu_features()
        features["sse2"] = not features.get("sse2")
        monkeypatch.setattr(_native.llvm, "get_host_cpu_features", lambda: features)
        assert _native._file_name() != here

    def test_llvmlite_and_what_numba_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = {_native._file_name()}
        monkeypatch.setattr(_native.llvmlite, "__version__", "0.1")
        names.add(_native._file_name())
        monkeypatch.setenv("NUMBA_OPT", "0")
        names.add(_native._file_name())
        assert len(names) == 3

    def test_source_of_the_kernels(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        assert {source.name for source in _native._SOURCES} == {"_kernels.py", "_codes.py", "_native.py"}
        here = _native._file_name()
        for n, source in enumerate(_native._SOURCES):
            changed = tmp_path / source.name
            changed.write_text(source.read_text() + "#")
            sources = [*_native._SOURCES]
            sources[n] = changed
            with monkeypatch.context() as patch:
                patch.setattr(_native, "_SOURCES", sources)
                assert _native._file_name() != here
