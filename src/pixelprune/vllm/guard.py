"""Stock models under a guard: pruning that is requested but not available stops the server at start-up.

For an architecture that is not covered, or a version of vLLM that was not tested, the stock class is used, except
that it checks the options when it is built. If these and the version allow it, the pruning class is built in its
place. Nothing else is touched, so this works in future versions too.
"""

from __future__ import annotations

import functools
from importlib import import_module
from typing import Any

from pixelprune.vllm import versions
from pixelprune.vllm.coverage import ARCHITECTURES, TESTED
from pixelprune.vllm.options import KEY, UNTESTED, is_asked, may_be_untested


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
    members = {"__module__": stock.__module__, "__qualname__": stock.__qualname__, "__doc__": stock.__doc__}

    @functools.wraps(stock.__init__)  # vLLM looks at the names of its arguments
    def initialize(self: Any, *args: Any, **kwargs: Any) -> None:
        if "vllm_config" in kwargs:
            pruning(architecture, kwargs["vllm_config"].model_config)
        super(guarded, self).__init__(*args, **kwargs)

    def make(cls: Any, *args: Any, **kwargs: Any) -> Any:
        other = pruning(architecture, kwargs["vllm_config"].model_config) if "vllm_config" in kwargs else None
        if other is None:
            # That of `object` takes no arguments, others look into them.
            more = ((), {}) if stock.__new__ is object.__new__ else (args, kwargs)
            return stock.__new__(cls, *more[0], **more[1])
        _announce(architecture)
        return other(*args, **kwargs)

    members |= {"__init__": initialize, **({"__new__": make} if architecture in ARCHITECTURES else {})}
    guarded: Any = type(stock)(stock.__name__, (stock,), members)
    if hasattr(stock, "_processor_factory"):
        _guard_processor(guarded, architecture, stock._processor_factory)
    return guarded  # type: ignore[no-any-return]


def _guard_processor(guarded: Any, architecture: str, stock: Any) -> None:
    """The same in the front end: it starts before any worker, and its error is the last line of the log."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    def processor(info: Any, *args: Any, **kwargs: Any) -> Any:
        other = pruning(architecture, info.ctx.model_config)
        factories = stock if other is None else other._processor_factory
        return factories.processor(info, *args, **kwargs)

    MULTIMODAL_REGISTRY.register_processor(processor, info=stock.info, dummy_inputs=stock.dummy_inputs)(guarded)


def pruning(architecture: str, model_config: Any) -> Any:
    """The class to build in place of the stock one; None if pruning was not requested.

    Raises:
        ValueError: an engine requests pruning that it would not get.
    """
    # A drafter is built with the config of the model that it drafts for.
    if model_config.architecture != architecture or not is_asked(model_config):
        return None
    if (problem := reason(architecture)) and not (is_newer(architecture) and may_be_untested(model_config)):
        raise ValueError(problem)
    try:
        return getattr(import_module(f"pixelprune.vllm.models.{ARCHITECTURES[architecture]}"), architecture)
    except Exception as error:  # whatever a version does that nobody has seen
        raise ValueError(
            f"pixelprune was requested, but {architecture} cannot be pruned with this version of vLLM: "
            f"{type(error).__name__}: {error}"
        ) from error


def is_newer(architecture: str) -> bool:
    """Whether `architecture` is covered, and this vLLM is not older than the tested ones."""
    return architecture in ARCHITECTURES and not versions.is_older(_version())


def reason(architecture: str) -> str | None:
    """Why `architecture` cannot be pruned here, and what to do; None if it can."""
    if architecture not in ARCHITECTURES:
        return (
            f"pixelprune was requested, but cannot prune {architecture}; start without the option pixelprune, or use "
            f"one of {', '.join(ARCHITECTURES)}"
        )
    untested = f"pixelprune was requested, but was tested only with vLLM {TESTED}, this is {_version()}"
    otherwise = "install such a version or a newer pixelprune, or start without the option pixelprune"
    if not is_newer(architecture):
        return f"{untested}; {otherwise}"
    if moved := versions.moved(architecture):
        return (
            f"{untested}, in which code that pruning of {architecture} relies on differs from that of all tested "
            f"versions: {versions.listed(moved)}; {otherwise}; or prune at your own risk, with "
            f'--hf-overrides \'{{"{KEY}": {{"{UNTESTED}": true}}}}\''
        )
    return None


def _announce(architecture: str) -> None:
    """One line in the log: that this version was not tested, and why it prunes."""
    from vllm.logger import init_logger

    log, line = init_logger("vllm.pixelprune"), f"pixelprune was not tested with vLLM {_version()}"
    if moved := versions.moved(architecture):
        log.warning_once(
            f"{line}, in which code that it relies on differs from that of all tested versions; it prunes because "
            f"{UNTESTED} is true: {versions.listed(moved)}",
            scope="global",
        )
    else:
        log.info_once(
            f"{line}; it prunes because all code of it that pruning of {architecture} relies on is that of tested "
            "versions",
            scope="global",
        )


def _version() -> str:
    import vllm

    return str(vllm.__version__)
