"""A vLLM server in its own processes, which end with it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from types import TracebackType
from typing import IO

from pixelprune._processes import last_error

HOST = "127.0.0.1"


class ServerError(RuntimeError):
    """A server did not start, or refused a request; the text is one line that says why."""


class Server:
    """Start `vllm serve` on a free port of this machine and wait until it answers.

    Args:
        model: name or folder.
        arguments: options of `vllm serve`.
        env: environment variables in addition to those of this process.
        patience: seconds to wait until the server answers.

    Attributes:
        url: http://HOST:PORT while the server runs, else empty.

    Raises:
        ServerError: on entering, if it does not start.
    """

    def __init__(
        self, model: str, arguments: Sequence[str] = (), env: Mapping[str, str] | None = None, patience: float = 1800
    ) -> None:
        self.model, self.arguments, self.env, self.patience = str(model), list(arguments), dict(env or {}), patience
        self.url = ""

    def __enter__(self) -> Server:
        port = free_port()
        # Later options win, so these hold whatever `arguments` say.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model, *self.arguments]
        command += ["--host", HOST, "--port", str(port)]
        self._log: IO[bytes] = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            env={"VLLM_NO_USAGE_STATS": "1", **os.environ, **self.env},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group that is stopped as one, and that Ctrl-C does not reach first
        )
        try:
            self._wait(port)
        except BaseException:
            self.stop()
            raise
        self.url = f"http://{HOST}:{port}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The first process of the server, and the session and group of all of them."""
        return self._process.pid

    @property
    def log(self) -> str:
        """The last megabyte of what the server has printed."""
        file = self._log.fileno()
        start = max(0, os.fstat(file).st_size - 2**20)
        # pread, since the server writes at the position of the file.
        return os.pread(file, 2**20, start).decode(errors="replace")

    def stop(self) -> None:
        """End every process of the server."""
        with suppress(subprocess.TimeoutExpired):
            self._process.terminate()
            self._process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()
        self.url = ""

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(last_error(self.log))
            if _is_healthy(port):
                return
            time.sleep(0.2)
        raise ServerError(f"the server has not answered for {self.patience:.0f} s")


def free_port() -> int:
    """A port of this machine that is not in use."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_healthy(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
