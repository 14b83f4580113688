"""Files that are read only where no other user can have written them.

For what would be dangerous to read from anyone, such as machine code. A digest within such a file protects from
damage, not from an attacker, who writes a matching one.

Folder and file are checked on the opened descriptors, and the bytes come from the same descriptor, so nobody can put
something else in their place between check and use. Their parents do not matter then: whoever moves them can only
lead to another file that passes the same checks.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_HAS_OWNERS = hasattr(os, "geteuid")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH  # with an access list, the bit of the group is that of the list
# Without these, a link could lead out of the folder, and opening a pipe would wait for its writer.
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def read_trusted(path: Path) -> bytes:
    """The bytes of a file that belongs, with its folder, to this user or root, and that nobody else may write.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it or its folder could be another user's work; the text names it and says why. Always so on
            Windows, where Python shows no owner to check.
        OSError: it cannot be read.
    """
    with _folder(path.parent) as folder, open(_open(path, _READ, folder), "rb") as file:
        _check(path.parent, os.fstat(folder))
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise PermissionError(f"{path} is not a regular file")
        _check(path, status)
        return file.read()


def write_trusted(path: Path, data: bytes) -> None:
    """Write a file that `read_trusted` reads, in one step; folders that are missing are made, closed to others.

    Raises:
        PermissionError: the folder, or the one in which it would be made, could hold another user's work.
        OSError: it cannot be written.
    """
    if _HAS_OWNERS:
        _make(path.parent)
    with _folder(path.parent) as folder:
        _check(path.parent, os.fstat(folder))
        part = path.with_name(f".pixelprune-{secrets.token_hex(8)}")
        with open(_open(part, _CREATE, folder), "wb") as file:
            try:
                file.write(data)
                file.flush()
                os.replace(part.name, path.name, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as error:
                os.unlink(part.name, dir_fd=folder)
                # The caller knows `path`, not the name of the part.
                raise type(error)(error.errno, error.strerror, str(path)) from None


def _open(path: Path, flags: int, folder: int) -> int:
    try:
        return os.open(path.name, flags, 0o644, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise PermissionError(f"{path} is a symbolic link") from None
        raise type(error)(error.errno, error.strerror, str(path)) from None


def _make(folder: Path) -> None:
    """Make a folder and its missing parents, but nothing in a home that is not this user's."""
    if folder.exists():
        return
    if not folder.parent.exists():
        _make(folder.parent)
    _check_owner(folder.parent, folder.parent.stat())
    folder.mkdir(mode=0o755, exist_ok=True)


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    """A descriptor of the folder at `path`."""
    if not _HAS_OWNERS:
        raise PermissionError(f"the owner of {path} cannot be determined on this system")
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield folder
    finally:
        os.close(folder)


def _check(path: Path, status: os.stat_result) -> None:
    _check_owner(path, status)
    if status.st_mode & _OTHERS_WRITE:
        mode = stat.S_IMODE(status.st_mode)
        raise PermissionError(f"{path} can be written by other users (mode {mode:o}; chmod go-w changes that)")


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0):
        raise PermissionError(f"{path} belongs to user {status.st_uid}, and this is user {os.geteuid()}")
