"""Machine code of the kernels, compiled once per environment and stored as an object file.

numba's own cache still makes each process import numba, which takes far longer than the selections
of most processes. An object file needs only llvmlite, the library under numba; `pixelprune bench
select` times a first call. The file is looked up next to this module, then in the user's cache
folder, and is written to the first of the two that is writable and closed to other users. If neither
is, each process compiles the kernels for itself. `pixelprune._trusted` says what is closed.

The file name holds a digest of everything that determines the code: kernel source, llvmlite, CPU and its
features. The file starts with a digest of the code that follows, against damage, and is replaced in one step.

Where stored code cannot be loaded, numba's own function is used, which each process compiles; and always on macOS,
since a crash while loading could not be caught, and no Mac has been tried yet.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import platformdirs

from pixelprune._trusted import read_trusted, write_trusted

_log = logging.getLogger("pixelprune")
_SYMBOL = "pixelprune_scan"
_PACKAGE = Path(__file__).parent
_SOURCES = [_PACKAGE / name for name in ("_kernels.py", "_codes.py", "_native.py")]
_DIGEST_BYTES = 32
_C_FUNCTIONS = {"memset", "memcpy", "memcmp", "bcmp"}

_pointer, _int = ctypes.c_void_p, ctypes.c_int64
# The arguments are described at SIGNATURE in _kernels.py. ctypes releases the GIL during the call.
_PROTOTYPE = ctypes.CFUNCTYPE(None, _pointer, *[_int] * 9, *[_pointer] * 4)

_loaded: list[tuple[Callable[..., None], object]] = []
_lock = threading.Lock()


def _after_fork() -> None:
    # Another thread of the parent may have held the lock; the child has no such thread.
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def scan_function() -> Callable[..., None]:
    """The compiled `pixelprune.selection._kernels.scan`, as a ctypes function; thread-safe."""
    if not _loaded:
        with _lock:
            if not _loaded:
                _loaded.append(_load())
    return _loaded[0][0]


def is_stored() -> bool:
    """Whether `scan_function` finds its code, so that nothing needs compiling."""
    return bool(_loaded) or (_stores() and _read(_file_name())[0] is not None)


def _stores() -> bool:
    return sys.platform != "darwin"


def _load() -> tuple[Callable[..., None], object]:
    """The function, and what holds its code and must live as long."""
    if _stores():
        try:
            return _from_object_code()
        except Exception as error:  # whatever LLVM raises on a machine that nobody has tried
            _log.warning(
                "stored kernels cannot be loaded on this machine, so every process will compile them "
                "(a few seconds): %s",
                " ".join(str(error).split()) or type(error).__name__,
            )
    from pixelprune.selection import _kernels

    address = _kernels.scan.address
    assert address is not None
    return _PROTOTYPE(address), _kernels.scan


def _from_object_code() -> tuple[Callable[..., None], llvm.ExecutionEngine]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    name = _file_name()
    code, refused = _read(name)
    if code is None:
        code = _compile()
        _write(name, code, refused)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target_machine())
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return _PROTOTYPE(engine.get_function_address(_SYMBOL)), engine


def _folders() -> list[Path]:
    """Where the object file may lie, best first."""
    folders = [_PACKAGE / "__pycache__"]
    try:
        user = Path(platformdirs.user_cache_dir("pixelprune", appauthor=False))
    except RuntimeError:  # a user without a home
        return folders
    # Without a home, some versions give a relative path: code is not loaded from just anywhere.
    return [*folders, user] if user.is_absolute() else folders


def _file_name() -> str:
    parts = (
        *(source.read_text(encoding="utf-8") for source in _SOURCES),
        llvmlite.__version__,
        llvm.get_process_triple(),
        llvm.get_host_cpu_name(),
        llvm.get_host_cpu_features().flatten(),
        # Code made under numba's debugging variables must not reach other processes.
        *(f"{key}={value}" for key, value in sorted(os.environ.items()) if key.startswith("NUMBA_")),
    )
    return f"scan-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:32]}.o"


def _read(name: str) -> tuple[bytes | None, list[str]]:
    """The stored code, if there is any that can be used; and what is wrong with files that cannot be."""
    refused = []
    for folder in _folders():
        try:
            data = read_trusted(folder / name)
        except PermissionError as error:
            refused.append(str(error))
            continue
        except OSError:
            continue
        digest, code = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(code).digest() == digest:
            return code, refused
        refused.append(f"{folder / name} is damaged")
    return None, refused


def _write(name: str, code: bytes, refused: list[str]) -> None:
    """Store code that was compiled; log one line if it cannot be stored, or if stored files were refused (`_read`)."""
    failed = []
    for folder in _folders():
        try:
            write_trusted(folder / name, hashlib.sha256(code).digest() + code)
        except OSError as error:
            failed.append(str(error))
            continue
        if refused:
            _log.warning("stored kernels were compiled again instead of loaded: %s", "; ".join(refused))
        return
    _log.warning(
        "the compiled kernels could not be stored, so every process will compile them again (a few seconds): %s",
        "; ".join(dict.fromkeys([*refused, *failed])),
    )


def _target_machine() -> llvm.TargetMachine:
    return llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )


def _compile() -> bytes:
    """Object code of the scan, made by numba for this CPU."""
    from pixelprune.selection import _kernels

    module = llvm.parse_assembly(_kernels.scan.inspect_llvm())
    for function in module.functions:
        if function.name == _kernels.scan.native_name:
            function.name = _SYMBOL
        elif not function.is_declaration:
            # With only the entry visible from outside, LLVM sees that nothing here raises, and
            # drops numba's error handling with all it needs from numba's own library.
            function.linkage = llvm.Linkage.internal
    machine = _target_machine()
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(module, passes)
    foreign = [f.name for f in module.functions if f.is_declaration and not f.name.startswith("llvm.")]
    if not set(foreign) <= _C_FUNCTIONS:
        raise RuntimeError(f"numba made kernels that need more than the C library: {foreign}; please report this")
    return bytes(machine.emit_object(module))
