"""Who may have written what is read as machine code. Owners are changed where the tests run as root, else shown so."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pixelprune import _trusted
from pixelprune._trusted import read_trusted, write_trusted


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of this user, in a folder of this user, closed to others."""
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o700)
    file = folder / "code.o"
    file.write_bytes(b"code")
    file.chmod(0o600)
    return file


def as_user(monkeypatch: pytest.MonkeyPatch, user: int) -> None:
    """Let this process look as if it ran as `user`, so that all its files are another user's."""
    monkeypatch.setattr(os, "geteuid", lambda: user)


def as_owned_by(monkeypatch: pytest.MonkeyPatch, owners: dict[Path, int]) -> None:
    """Let files and folders look as if they belonged to `owners`, and this user be number 1000."""
    real, real_stat = os.fstat, os.stat
    numbers = {(real_stat(path).st_dev, real_stat(path).st_ino): owner for path, owner in owners.items()}

    def shown(status: os.stat_result) -> os.stat_result:
        owner = numbers.get((status.st_dev, status.st_ino), 1000)
        return os.stat_result((*status[:4], owner, *status[5:]))

    as_user(monkeypatch, 1000)
    monkeypatch.setattr(os, "fstat", lambda descriptor: shown(real(descriptor)))


def test_own_files_are_read(path: Path) -> None:
    for mode in (0o600, 0o644, 0o444):
        path.chmod(mode)
        assert read_trusted(path) == b"code"
    for mode in (0o700, 0o755, 0o1755):
        path.parent.chmod(mode)
        assert read_trusted(path) == b"code"


@pytest.mark.parametrize("bit", [0o020, 0o002])
@pytest.mark.parametrize("what", ["file", "folder", "sticky folder"])
def test_what_others_may_write_is_neither_read_nor_written(path: Path, what: str, bit: int) -> None:
    target = path if what == "file" else path.parent
    sticky = 0o1000 if what == "sticky folder" else 0
    target.chmod(target.stat().st_mode & 0o777 | bit | sticky)
    with pytest.raises(
        PermissionError, match=r"can be written by other users \(mode [0-7]+; chmod go-w changes that\)$"
    ):
        read_trusted(path)
    if what == "file":
        write_trusted(path, b"new")  # one that nobody else may write takes its place
        assert read_trusted(path) == b"new"
        return
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(PermissionError, match="can be written by other users"):
        write_trusted(path, b"new")
    with pytest.raises(PermissionError, match="can be written by other users"):
        write_trusted(path.with_name("another.o"), b"new")
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


@pytest.mark.parametrize("what", ["file", "folder"])
@pytest.mark.parametrize(("owner", "is_read"), [(0, True), (1000, True), (1001, False), (65534, False)])
def test_owner(path: Path, what: str, owner: int, is_read: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    target = path if what == "file" else path.parent
    as_owned_by(monkeypatch, {target: owner})
    if is_read:
        assert read_trusted(path) == b"code"
        return
    with pytest.raises(PermissionError, match=f"^{target} belongs to user {owner}, and this is user 1000$"):
        read_trusted(path)
    if what == "folder":
        with pytest.raises(PermissionError, match=f"belongs to user {owner}"):
            write_trusted(path, b"new")
        assert path.read_bytes() == b"code"


def test_root_does_not_trust_other_users(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_owned_by(monkeypatch, {path: 1000})
    as_user(monkeypatch, 0)
    with pytest.raises(PermissionError, match="belongs to user 1000, and this is user 0"):
        read_trusted(path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_owner_without_stand_ins(path: Path, what: str) -> None:
    os.chown(path if what == "file" else path.parent, 12345, -1)
    with pytest.raises(PermissionError, match="belongs to user 12345, and this is user 0"):
        read_trusted(path)


def test_nothing_is_made_in_the_home_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    real = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        status = real(path, **options)
        return os.stat_result((*status[:4], 1001, *status[5:])) if path == home else status

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(PermissionError, match=f"^{home} belongs to user 1001"):
        write_trusted(home / ".cache" / "pixelprune" / "code.o", b"code")
    assert not list(home.iterdir())


def test_folders_and_files_are_closed_to_others_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "a" / "b" / "code.o"
        write_trusted(path, b"code")
    finally:
        os.umask(before)
    assert [p.stat().st_mode & 0o777 for p in (path.parent.parent, path.parent, path)] == [0o755, 0o755, 0o644]
    assert read_trusted(path) == b"code"
    assert [file.name for file in path.parent.iterdir()] == ["code.o"]


def test_links(path: Path, tmp_path: Path) -> None:
    link = path.with_name("link.o")
    link.symlink_to(path)
    with pytest.raises(PermissionError, match=r"link\.o is a symbolic link$"):
        read_trusted(link)
    write_trusted(link, b"new")
    assert not link.is_symlink()
    assert path.read_bytes() == b"code"
    # Of a linked folder, the one that it leads to counts.
    (tmp_path / "linked").symlink_to(path.parent)
    assert read_trusted(tmp_path / "linked" / "code.o") == b"code"
    path.parent.chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by other users"):
        read_trusted(tmp_path / "linked" / "code.o")


def test_pipes_and_sockets_do_not_block(path: Path) -> None:
    pipe = path.with_name("pipe")
    os.mkfifo(pipe, 0o600)
    with pytest.raises(PermissionError, match="pipe is not a regular file"):
        read_trusted(pipe)
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(path.parent)  # the name of a socket must be short
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
        with pytest.raises(OSError, match="socket"):
            read_trusted(path.with_name("socket"))


def test_what_is_swapped_after_the_check_is_not_read(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folder and file are replaced right after they were checked."""
    real = _trusted._check

    def swap(checked: Path, status: os.stat_result) -> None:
        real(checked, status)
        if checked == path:
            path.parent.rename(tmp_path / "moved")
            path.parent.mkdir()
            path.write_bytes(b"evil")

    monkeypatch.setattr(_trusted, "_check", swap)
    assert read_trusted(path) == b"code"
    assert path.read_bytes() == b"evil"


def test_what_is_not_there(path: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_trusted(path.with_name("b.o"))
    with pytest.raises(FileNotFoundError):
        read_trusted(tmp_path / "nowhere" / "code.o")
    path.parent.chmod(0o777)
    with pytest.raises(FileNotFoundError):  # nothing is refused here, since nothing is there
        read_trusted(path.with_name("b.o"))
    with pytest.raises(NotADirectoryError):
        read_trusted(path / "code.o")


def test_failed_writing_leaves_nothing(path: Path) -> None:
    target = path.with_name("target")
    target.mkdir()
    with pytest.raises(OSError, match="target"):
        write_trusted(target, b"new")
    assert sorted(file.name for file in path.parent.iterdir()) == ["code.o", "target"]


def test_systems_without_owners(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_trusted, "_HAS_OWNERS", False)
    for use in (lambda: read_trusted(path), lambda: write_trusted(path.parent / "new" / "b.o", b"code")):
        with pytest.raises(PermissionError, match=r"the owner of .* cannot be determined on this system"):
            use()
    assert [file.name for file in path.parent.iterdir()] == ["code.o"]
