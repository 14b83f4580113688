"""`pixelprune check vllm`: what it finds where all is well, and one by one where it is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import vllm
from vllm import ModelRegistry

from pixelprune.vllm import ARCHITECTURES, check
from pixelprune.vllm.versions import Moved


def command(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1", **variables}
    line = [sys.executable, "-m", "pixelprune", "check", "vllm", *arguments]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=1800, check=False)


def test_all_is_well() -> None:
    done = command("--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["in_force"]
    texts = {finding["name"]: finding["text"] for finding in report["findings"]}
    assert vllm.__version__ in texts["versions"]
    assert texts["architectures"] == ", ".join(ARCHITECTURES)
    assert "149 of 192 visual tokens, with the log-probabilities of a model in which dropped" in texts["self-test"]


def test_a_list_of_plugins_without_ours() -> None:
    done = command(VLLM_PLUGINS="other")
    assert done.returncode == 1
    assert "VLLM_PLUGINS names ['other'] only; add pixelprune to it, or unset it" in done.stdout
    assert "Pruning is not in force." in done.stdout


def test_an_older_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "__version__", "0.1.0")
    *_, last = check.check()
    assert not last.good
    assert last.text.startswith("0.1.0 was not tested, so pruning is refused; install vLLM")


@pytest.mark.parametrize(
    ("refused", "good", "text"),
    [
        ([], True, "0.99.0 was not tested, but all code that pruning relies on is that of"),
        (
            ["Qwen2VLForConditionalGeneration"],
            True,
            "so it is refused for Qwen2VLForConditionalGeneration (f (a.py) is gone)",
        ),
        (list(ARCHITECTURES), False, "so it is refused for Qwen3VLForConditionalGeneration (f (a.py) is gone); "),
    ],
)
def test_a_newer_version(refused: list[str], good: bool, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    monkeypatch.setattr(check, "moved", lambda name: [Moved("vllm/a.py:f", "1", None)] if name in refused else [])
    finding = check.tested_version()
    assert finding.good == good
    assert text in finding.text


def test_what_is_registered_with_a_newer_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.plugins.load_general_plugins", lambda: None)
    entry = SimpleNamespace(module_name="pixelprune.vllm.guard")
    monkeypatch.setattr(ModelRegistry, "models", dict.fromkeys(ARCHITECTURES, entry))
    assert not check.registered().good
    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    assert check.registered().good


def test_a_plugin_that_is_not_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "entry_points", lambda group: [])
    *_, last = check.check()
    assert not last.good
    assert "announced 0 times in vllm.general_plugins, not once; reinstall pixelprune" in last.text


def test_architectures_that_somebody_else_has(monkeypatch: pytest.MonkeyPatch) -> None:
    others: Any = {**ModelRegistry.models, "GlmOcrForConditionalGeneration": SimpleNamespace(module_name="other.model")}
    monkeypatch.setattr(ModelRegistry, "models", others)
    monkeypatch.setattr("vllm.plugins.load_general_plugins", lambda: None)
    for architecture, module in ARCHITECTURES.items():
        if architecture not in ("GlmOcrForConditionalGeneration",):
            others[architecture] = SimpleNamespace(module_name=f"pixelprune.vllm.models.{module}")
    found = check.registered()
    assert not found.good
    assert found.text.startswith("vLLM would not prune GlmOcrForConditionalGeneration: another plugin")


def test_classes_that_do_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES, "NewForConditionalGeneration", "not_there")
    found = check.importable()
    assert not found.good
    assert found.text.startswith("NewForConditionalGeneration cannot be loaded: ModuleNotFoundError")


def test_an_engine_that_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.sys, "executable", "/bin/false")
    found = check.self_test()
    assert not found.good
    assert found.text.startswith("the engine did not run")
