"""The command through its entry point, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).with_name("pixelprune")


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([COMMAND, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert "Traceback" not in done.stderr + done.stdout
    return done


def run_json(*arguments: object, cwd: Path, code: int = 0) -> Any:
    done = run(*arguments, "--json", cwd=cwd)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)
