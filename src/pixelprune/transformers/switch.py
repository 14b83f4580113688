"""Switching pruning on and off for one model object and one processor object."""

from __future__ import annotations

import inspect
import logging
from typing import Any, TypeVar, overload

import transformers
from packaging.version import Version
from transformers import PreTrainedModel, ProcessorMixin

from pixelprune.plan.pixels import Layout
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.select import check_config
from pixelprune.transformers.families import family_of
from pixelprune.transformers.modeling import OwnForward, pruned_class
from pixelprune.transformers.processing import (
    PrunedProcessor,
    pruned_image_processor_class,
    swapped_class,
)

_log = logging.getLogger("pixelprune")

_Model = TypeVar("_Model")
_Processor = TypeVar("_Processor")

# The first version whose models take the outputs of their encoder in `forward` and `generate`.
OLDEST = "5.18.0"

# Where a disabled model holds the forward that was put around ours while it was enabled.
_INSIDE = "_pixelprune_inside"


@overload
def enable(model: _Model, processor: None = None, config: PruneConfig | None = None, **options: Any) -> _Model: ...


@overload
def enable(
    model: None = None, *, processor: _Processor, config: PruneConfig | None = None, **options: Any
) -> _Processor: ...


@overload
def enable(
    model: _Model, processor: _Processor, config: PruneConfig | None = None, **options: Any
) -> tuple[_Model, _Processor]: ...


def enable(model: Any = None, processor: Any = None, config: PruneConfig | None = None, **options: Any) -> Any:
    """Make a model and its processor prune images before the vision encoder.

    Both objects are changed in place, until `disable`: each gets a subclass of its own class under
    the same name. Nothing else in the process changes. Enabling again replaces the options.

    Args:
        model: a model of a known family (`pixelprune.transformers.families.names()`), on any device and in any
            dtype, under LoRA adapters too; None to enable a processor alone.
        processor: its processor; None to enable a model alone, whose inputs then come from a
            processor that was enabled elsewhere.
        config: what may be dropped; by default τ = 0, which drops equal pixels only.
        options: the fields of a PruneConfig instead of `config`.

    Returns:
        (model, processor), or the one that was given.

    Raises:
        ValueError: the model, the processor, both together, or an option cannot be used.
        RuntimeError: transformers is too old.

    Example (`model` and `processor` as loaded with `from_pretrained`):

        model, processor = pixelprune.transformers.enable(model, processor, threshold=0.02)
        inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
        model.generate(**inputs)
    """
    _check_version(transformers.__version__)
    config = _one_config(config, options)
    _check_given(model, processor)
    inner = None if model is None else _checked_model(model)
    # All checks come before the first change.
    classes = None if processor is None else _processor_classes(processor, config)
    if inner is not None and classes is not None:
        _check_pair(inner, classes[1]._pixelprune_pruner.layout)
    if inner is not None:
        for part in _parts(inner):
            _swap_model(part, pruned_class(_stock_class(part)))
    if classes is not None:
        processor.__class__, processor.image_processor.__class__ = classes
        _log.info("%s prunes images: %s", classes[0].__name__, config)
    return _given(model, processor)


@overload
def disable(model: _Model, processor: None = None) -> _Model: ...


@overload
def disable(model: None = None, *, processor: _Processor) -> _Processor: ...


@overload
def disable(model: _Model, processor: _Processor) -> tuple[_Model, _Processor]: ...


def disable(model: Any = None, processor: Any = None) -> Any:
    """Give a model and a processor their stock classes back.

    Args:
        model: a model, or None.
        processor: a processor, or None.

    Returns:
        (model, processor), or the one that was given. Objects that do not prune are returned unchanged.

    Raises:
        ValueError: neither is given, or one is not a model or processor.
    """
    _check_given(model, processor)
    if model is not None:
        for part in _parts(inner_model(model)):
            _swap_model(part, _stock_class(part))
    if processor is not None:
        for part in (processor, processor.image_processor):
            part.__class__ = _stock_class(part)
    return _given(model, processor)


def is_enabled(model_or_processor: Any) -> bool:
    """Whether `enable` made this model (under adapters of PEFT too) or processor prune.

    Args:
        model_or_processor: any object. What wraps an enabled model (`torch.compile`, DDP) is not enabled itself.

    Example:
        >>> is_enabled("a string")
        False
    """
    thing = model_or_processor
    thing = thing.get_base_model() if hasattr(thing, "get_base_model") else thing
    return hasattr(type(thing), "_pixelprune_base")


def _check_version(version: str) -> None:
    if Version(version) < Version(OLDEST):
        raise RuntimeError(
            f"pixelprune.transformers needs transformers {OLDEST} or newer, this is {version}: earlier models do not "
            "take the outputs of their vision encoder as an input; upgrade transformers"
        )


def _one_config(config: Any, options: dict[str, Any]) -> PruneConfig:
    if options and config is not None:
        raise ValueError(f"give either config or options, not both; got config and {', '.join(options)}")
    if config is None:
        return PruneConfig.from_dict(options)
    check_config(config)
    return config  # type: ignore[no-any-return]


def _check_given(model: Any, processor: Any) -> None:
    if model is None and processor is None:
        raise ValueError("give a model, a processor, or both; got neither")
    if isinstance(model, ProcessorMixin):
        raise ValueError("model is a processor; to use one without a model, write processor=...")
    if processor is not None and not (isinstance(processor, ProcessorMixin) and hasattr(processor, "image_processor")):
        raise ValueError(
            f"processor must be the processor of a vision-language model, got {type(processor).__name__}; "
            "load it with transformers.AutoProcessor"
        )


def _given(model: Any, processor: Any) -> Any:
    if model is None or processor is None:
        return processor if model is None else model
    return model, processor


def inner_model(model: Any) -> Any:
    """The model of transformers within one that PEFT wraps."""
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(
            f"model has a prompt-learning adapter ({model.active_peft_config.peft_type}), whose virtual tokens shift "
            "positions; merge or remove it, or use an adapter of weights such as LoRA"
        )
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(inner, PreTrainedModel):
        raise ValueError(
            f"model must be a model of transformers, got {type(model).__name__}; "
            "load it with from_pretrained, and enable it before it is wrapped (torch.compile, DDP, FSDP)"
        )
    return inner


def _parts(model: Any) -> list[Any]:
    """The model with its head, and the one below, which trainers that fuse head and loss call."""
    return [model] if model.base_model is model else [model, model.base_model]


def _checked_model(model: Any) -> Any:
    inner = inner_model(model)
    family = family_of(inner)
    name, base = type(inner).__name__, inner.base_model
    if Version(transformers.__version__) < Version(family.since):
        raise RuntimeError(
            f"model is a {name}, which can be pruned from transformers {family.since} on, this is "
            f"{transformers.__version__}; upgrade transformers"
        )
    if family.until is not None and Version(transformers.__version__) >= Version(family.until):
        raise RuntimeError(
            f"model is a {name}, which can be pruned only before transformers {family.until}, this is "
            f"{transformers.__version__}; use an older transformers"
        )
    if "mm_encoder_outputs" not in inspect.signature(_stock_class(inner).forward).parameters:
        raise ValueError(
            f"model is a {name}, whose forward takes no mm_encoder_outputs; use a model that generates text"
        )
    if not hasattr(base, family.tower) or not hasattr(base, "get_image_features"):
        raise ValueError(f"model is a {name} without {family.tower!r}, where family {family.name!r} has its encoder")
    return inner


def _stock_class(thing: Any) -> Any:
    """The class of an object without what `enable` added."""
    cls = type(thing)
    if "_pixelprune_base" not in vars(cls) and hasattr(cls, "_pixelprune_base"):
        raise ValueError(
            f"{cls.__name__} got another class after it was enabled (sharding does that); enable and disable before"
        )
    return vars(cls).get("_pixelprune_base", cls)


def _swap_model(model: Any, cls: Any) -> None:
    """Give a model its class, and what others put over the forward of its class the place that this asks for."""
    if type(model) is cls:
        return
    hook = model._hf_hook if _is_hooked(model) else None
    if hook is not None:
        # Loading with device_map puts a hook around everything else, which moves weights and inputs to their device.
        from accelerate.hooks import add_hook_to_module, remove_hook_from_module

        remove_hook_from_module(model)
    own = model.__dict__.pop("forward", None)
    is_of_class = getattr(own, "__func__", None) in (type(model).forward, cls.forward)
    model.__class__ = cls
    if own is not None and not is_of_class:
        model.forward = _own_forward(model, own)
    if hook is not None:
        add_hook_to_module(model, hook)


def _own_forward(model: Any, own: Any) -> Any:
    """What to put on a model that just got its class, in place of the forward `own` that others put on it."""
    if is_enabled(model):
        inside = model.__dict__.pop(_INSIDE, None)
        return own if own is inside else OwnForward(model, own)
    if isinstance(own, OwnForward):
        return own.own
    # It was put around our forward, which calls the stock one now. If the model is enabled again it does what it did.
    model.__dict__[_INSIDE] = own
    return own


def _is_hooked(model: Any) -> bool:
    """Whether the forward on the object is that of a hook of accelerate."""
    func = getattr(model.__dict__.get("forward"), "func", None)
    return hasattr(model, "_hf_hook") and getattr(func, "__module__", None) == "accelerate.hooks"


def _processor_classes(processor: Any, config: PruneConfig) -> tuple[type, Any]:
    """The classes that a processor and its image processor get."""
    base = _stock_class(processor)
    if base.replace_image_token is ProcessorMixin.replace_image_token:
        raise ValueError(
            f"processor is a {base.__name__}, which writes its image tokens in another way in transformers "
            f"{transformers.__version__}; upgrade transformers"
        )
    return swapped_class(PrunedProcessor, base, {}), pruned_image_processor_class(processor.image_processor, config)


def _check_pair(model: Any, layout: Layout) -> None:
    """Raise a ValueError if a model does not read patches the way a processor makes them."""
    family, vision = family_of(model), model.config.vision_config
    merge = getattr(vision, family.merge, None)  # some models learn it from their inputs
    expected = {
        "patch_size": (layout.patch, getattr(vision, "patch_size", layout.patch)),
        "merge_size": (layout.merge, layout.merge if merge is None else family.merge_size(model)),
        "order of patches": (layout.patch_order, family.patch_order),
    }
    for name, (made, read) in expected.items():
        if made != read:
            raise ValueError(
                f"processor does not belong to model: its {name} is {made!r}, the model's is {read!r}; "
                "load both from the same checkpoint"
            )
