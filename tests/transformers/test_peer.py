"""transformers' own model tests: what passes on the stock model passes on the enabled one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "peer_tests.py"
NO_TESTS = 3

pytest.importorskip("parameterized", reason="transformers' own tests need parameterized")


# One of each kind: deepstack features, sizes before frames, patches in rows with 1-D positions. In a process of its
# own: their markers and warnings are not ours.
@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v", "kimi_k25"])
def test_what_passes_stock_passes_enabled(name: str, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, name, "--json", tmp_path / "outcome.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == NO_TESTS:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    stock = json.loads((tmp_path / "outcome.json").read_text())[name]["stock"]
    passing = {test for test, outcome in stock.items() if outcome == "passed"}
    assert len(passing) > 60
    assert {"test_save_load", "test_determinism", "test_training", "test_hidden_states_output"} <= passing
