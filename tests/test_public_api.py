"""The names that README calls stable: these, importable, with a docstring, and on the API page."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

PUBLIC = {
    "pixelprune": [
        "Compressed",
        "PruneConfig",
        "Selection",
        "baselines",
        "decode",
        "encode",
        "fit_image",
        "load_image",
        "overlay",
        "predictors",
        "preset",
        "select",
        "verify",
    ],
    "pixelprune.transformers": [
        "Family",
        "Kept",
        "disable",
        "enable",
        "is_enabled",
        "keeping_all",
        "kept",
        "register",
        "unregister",
    ],
    "pixelprune.training": [
        "Collator",
        "SFTConfig",
        "SFTTrainer",
        "SelfDistillationConfig",
        "SelfDistillationTrainer",
        "load_rows",
    ],
}
NEEDS = {"pixelprune": "numpy", "pixelprune.transformers": "transformers", "pixelprune.training": "trl"}


@pytest.mark.parametrize("module_name", PUBLIC)
def test_exported_names(module_name: str) -> None:
    pytest.importorskip(NEEDS[module_name])
    module = import_module(module_name)
    assert sorted(module.__all__) == PUBLIC[module_name]
    for name in PUBLIC[module_name]:
        assert (getattr(module, name).__doc__ or "").strip(), f"{module_name}.{name} has no docstring"


@pytest.mark.parametrize("module_name", PUBLIC)
def test_exported_names_are_on_the_api_page(module_name: str) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    rendered = re.findall(r"^::: ([\w.]+)$", page, re.MULTILINE)
    assert [name for name in PUBLIC[module_name] if f"{module_name}.{name}" not in rendered] == []


def test_the_key_of_the_vllm_option() -> None:
    from pixelprune.vllm.options import KEY

    assert KEY == "pixelprune"
