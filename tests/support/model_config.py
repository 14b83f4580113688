"""The part of vLLM's model config that the plugin reads."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


def model_config(hf: dict[str, Any] | None = None, processor: dict[str, Any] | None = None, **more: Any) -> Any:
    return SimpleNamespace(
        hf_config=SimpleNamespace(**(hf or {})),
        hf_overrides=hf or {},
        multimodal_config=SimpleNamespace(mm_processor_kwargs=processor),
        **more,
    )
