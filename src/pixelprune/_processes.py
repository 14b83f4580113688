"""Work in another process, and the reason why a process ended."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

_T = TypeVar("_T")


def run_in_subprocess(function: Callable[..., _T], *arguments: object) -> _T:
    """Call a function that loads torch: in this process it would hold memory and clutter the output."""
    with ProcessPoolExecutor(1, get_context("spawn"), _keep_quiet) as other:
        return other.submit(function, *arguments).result()


def _keep_quiet() -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)


# The process that logs a line, and the time.
_PREFIX = re.compile(r"^(\(\S+( pid=\d+)?\) )?([A-Z]+ [\d:\-. ]+\[[^\]]*\] )?")
_ERROR = re.compile(r"^(?:(?:\S+: )?error|[\w.]*(?:Error|Exception)|  Value error,):? +(\S.*)")
# Repetitions of an error that was logged before.
_ECHO = re.compile("Engine core initialization failed|WorkerProc initialization failed|validation errors? for")


def last_error(log: str) -> str:
    """Why a server ended, in one line: the last error in its log that does not repeat another.

    Example:
        >>> last_error("Traceback (most recent call last):\\nValueError: no such model\\n")
        'no such model'
    """
    lines = [_PREFIX.sub("", line).rstrip() for line in log.splitlines()]
    errors = [match for line in lines if (match := _ERROR.match(line)) and not _ECHO.search(line)]
    if errors:
        text = errors[-1][1]
        return re.sub(r" \[type=\w+, input_value=.*", "", text)
    return next((line.strip() for line in reversed(lines) if line.strip()), "it exited without output")
