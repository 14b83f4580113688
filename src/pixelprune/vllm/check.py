"""Whether the plugin is in force: what `pixelprune check vllm` reports."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

import pixelprune
from pixelprune._processes import last_error
from pixelprune.vllm.coverage import ARCHITECTURES, TESTED
from pixelprune.vllm.plugin import GROUP
from pixelprune.vllm.versions import is_older, is_tested, listed, moved


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was checked.
        good: whether it is as it should be.
        text: what was found, and what to do if it is not good.
    """

    name: str
    good: bool
    text: str


def check(model: str | None = None, options: Mapping[str, Any] = MappingProxyType({})) -> list[Finding]:
    """Check versions, entry point, registry and classes, then run a model on the real engine.

    Args:
        model: name or folder of a checkpoint; None for a small random model.
        options: of vLLM's `LLM`.

    Returns:
        Findings in order; those after the first one that is not good are left out.
    """
    findings = [versions(), tested_version()]
    if not findings[-1].good:
        return findings
    for step in (announced, allowed, registered, importable, partial(self_test, model, options)):
        finding = step()
        findings.append(finding)
        if not finding.good:
            break
    return findings


def versions() -> Finding:
    found = [f"pixelprune {pixelprune.__version__}", f"Python {platform.python_version()}"]
    for module in ("vllm", "torch", "transformers"):
        found.append(f"{module} {import_module(module).__version__}")
    return Finding("versions", True, ", ".join(found))


def tested_version() -> Finding:
    version = import_module("vllm").__version__
    if is_tested(version):
        return Finding("vLLM", True, f"{version} is in the tested range, {TESTED}")
    if is_older(version):
        return Finding("vLLM", False, f"{version} was not tested, so pruning is refused; install vLLM {TESTED}")
    refused = {name: problems for name in ARCHITECTURES if (problems := moved(name))}
    if not refused:
        return Finding(
            "vLLM", True, f"{version} was not tested, but all code that pruning relies on is that of {TESTED}"
        )
    return Finding(
        "vLLM",
        len(refused) < len(ARCHITECTURES),
        f"{version} was not tested, and code that pruning relies on is not that of {TESTED}, so it is refused for "
        + "; ".join(f"{name} ({listed(problems)})" for name, problems in refused.items()),
    )


def announced() -> Finding:
    ours = [point for point in entry_points(group=GROUP) if point.value == "pixelprune.vllm:register"]
    if len(ours) == 1:
        return Finding("plugin", True, f"announced to vLLM as {ours[0].name!r} in {GROUP}")
    return Finding(
        "plugin",
        False,
        f"announced {len(ours)} times in {GROUP}, not once; reinstall pixelprune in this environment: "
        f"{sys.executable} -m pip install --force-reinstall --no-deps pixelprune",
    )


def allowed() -> Finding:
    names = import_module("vllm.envs").VLLM_PLUGINS
    if names is None or "pixelprune" in names:
        return Finding("permission", True, "vLLM may load it")
    return Finding("permission", False, f"VLLM_PLUGINS names {names} only; add pixelprune to it, or unset it")


def registered() -> Finding:
    """Whether vLLM, with no help, uses our classes."""
    import_module("vllm.plugins").load_general_plugins()
    models = import_module("vllm").ModelRegistry.models
    ours = "pixelprune.vllm.models." if is_tested(import_module("vllm").__version__) else "pixelprune.vllm.guard"
    others = [name for name in ARCHITECTURES if not getattr(models.get(name), "module_name", "").startswith(ours)]
    if not others:
        return Finding("architectures", True, ", ".join(ARCHITECTURES))
    return Finding(
        "architectures",
        False,
        f"vLLM would not prune {', '.join(others)}: another plugin has registered them, or ours failed to load, which "
        "vLLM only logs",
    )


def importable() -> Finding:
    for name, module in ARCHITECTURES.items():
        try:
            getattr(import_module(f"pixelprune.vllm.models.{module}"), name)
        except Exception as error:  # a server would only log it, whatever it is
            return Finding("classes", False, f"{name} cannot be loaded: {type(error).__name__}: {error}")
    return Finding("classes", True, f"{len(ARCHITECTURES)} load")


def self_test(model: str | None = None, options: Mapping[str, Any] = MappingProxyType({})) -> Finding:
    """A model on the real engine, in separate processes: see `pixelprune.vllm.selftest`."""
    command = [sys.executable, "-m", "pixelprune.vllm.selftest", json.dumps([model, dict(options)])]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return Finding("self-test", False, f"the engine did not run: {last_error(done.stdout + done.stderr)}")
    if problem := found.get("problem"):
        return Finding("self-test", False, str(problem))
    compared = "" if model else ", with the log-probabilities of a model in which dropped blocks are hidden"
    return Finding(
        "self-test",
        True,
        f"{found['loaded'][1]} passed the check at start-up; a page went through the engine with {found['kept']} of "
        f"{found['total']} visual tokens{compared}; a photograph with {found['photograph']} and the same answer as "
        "without pruning",
    )
