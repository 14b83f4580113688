"""Stock models under a guard: pruning that is requested but not available stops the server at start-up.

For an architecture that is not covered, or a version of vLLM that was not tested, the stock class is used, except
that it checks the options when it is built. Nothing else is touched, so this works in future versions too.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from pixelprune.vllm.coverage import ARCHITECTURES, TESTED
from pixelprune.vllm.options import is_asked


def multimodal() -> set[str]:
    """The architectures that read images or other media, according to vLLM."""
    registry = import_module("vllm.model_executor.models.registry")
    own = set(getattr(registry, "_MULTIMODAL_MODELS", ()))
    # Those that run models of transformers by their own code, whatever they read.
    return own | {name for name in getattr(registry, "_TRANSFORMERS_BACKEND_MODELS", ()) if "MultiModal" in name}


def entry(architecture: str, module: str, name: str, version: str) -> str:
    """What to register for `architecture`, whose stock class is `name` of `module`.

    The name holds all of it, so that each process can make the class; and the version, since vLLM caches what it finds
    out about a class under its name and the text of its module.

    Example:
        >>> entry("LlavaForConditionalGeneration", "vllm.llava", "Llava", "0.32.0")
        'pixelprune.vllm.guard:LlavaForConditionalGeneration@vllm.llava@Llava@0.32.0'
    """
    return f"{__name__}:{architecture}@{module}@{name}@{version}"


def __getattr__(name: str) -> Any:
    parts = name.split("@")
    if len(parts) != 4:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _guarded(*parts[:3])


@functools.cache
def _guarded(architecture: str, module: str, name: str) -> type:
    stock: Any = getattr(import_module(module), name)

    @functools.wraps(stock.__init__)  # vLLM looks at the names of its arguments
    def initialize(self: Any, *args: Any, **kwargs: Any) -> None:
        if "vllm_config" in kwargs:
            refuse(architecture, kwargs["vllm_config"].model_config)
        super(guarded, self).__init__(*args, **kwargs)

    same = {"__module__": stock.__module__, "__qualname__": stock.__qualname__, "__doc__": stock.__doc__}
    guarded: Any = type(stock)(stock.__name__, (stock,), {**same, "__init__": initialize})
    if hasattr(stock, "_processor_factory"):
        _refuse_in_front(guarded, architecture, stock._processor_factory)
    return guarded  # type: ignore[no-any-return]


def _refuse_in_front(guarded: Any, architecture: str, stock: Any) -> None:
    """Let the front end refuse too: it starts before any worker, and its error is the last line of the log."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    def processor(info: Any, *args: Any, **kwargs: Any) -> Any:
        refuse(architecture, info.ctx.model_config)
        return stock.processor(info, *args, **kwargs)

    MULTIMODAL_REGISTRY.register_processor(processor, info=stock.info, dummy_inputs=stock.dummy_inputs)(guarded)


def refuse(architecture: str, model_config: Any) -> None:
    """Raise a ValueError if an engine requests pruning that it would not get."""
    # A drafter is built with the config of the model that it drafts for.
    if model_config.architecture == architecture and is_asked(model_config):
        raise ValueError(reason(architecture))


def reason(architecture: str) -> str:
    """Why `architecture` cannot be pruned here, and what to do."""
    import vllm

    if architecture not in ARCHITECTURES:
        return (
            f"pixelprune was requested, but cannot prune {architecture}; start without the option pixelprune, or use "
            f"one of {', '.join(ARCHITECTURES)}"
        )
    return (
        f"pixelprune was requested, but was tested only with vLLM {TESTED}, this is {vllm.__version__}; install such a "
        "version or a newer pixelprune, or start without the option pixelprune"
    )
