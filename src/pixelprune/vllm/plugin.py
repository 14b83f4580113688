"""What vLLM calls in each of its processes: the registry gets names of subclasses, and nothing is imported yet."""

from __future__ import annotations

import logging

from pixelprune.vllm import guard, versions
from pixelprune.vllm.coverage import ARCHITECTURES

# Under vLLM's own logger, so that its settings apply to our lines too.
_log = logging.getLogger("vllm.pixelprune")

GROUP = "vllm.general_plugins"


def register() -> None:
    """Replace vLLM's own entries with pruning subclasses, and guard those that cannot be pruned.

    The entry point of the group `vllm.general_plugins`: called in every process of vLLM, possibly more than once.
    Entries that another plugin has registered stay as they are.
    """
    import vllm
    from vllm import ModelRegistry

    tested, media = versions.is_tested(vllm.__version__), guard.multimodal()
    for architecture, known in list(ModelRegistry.models.items()):
        module, name = getattr(known, "module_name", ""), getattr(known, "class_name", "")
        owner, covered = module.partition(".")[0], architecture in ARCHITECTURES
        if owner == "vllm" and covered and tested:
            ours = f"pixelprune.vllm.models.{ARCHITECTURES[architecture]}:{architecture}"
            ModelRegistry.register_model(architecture, ours)
        elif owner == "vllm" and (covered or architecture in media):
            ModelRegistry.register_model(architecture, guard.entry(architecture, module, name, vllm.__version__))
        elif owner not in ("vllm", "pixelprune") and covered:
            _log.warning(
                "pixelprune does not prune %s, which %s has registered", architecture, module or "another plugin"
            )
