"""A model of transformers that takes pruned inputs: one object gets a subclass of its own class.

The subclass adds one named input, `image_map`, to `forward` and `generate`, turns it and the kept
pixels into arguments that the stock methods know (`mm_encoder_outputs`, `position_ids`), and calls
those. `generate` needs it as much as `forward`: it encodes images before it calls `forward`. The model
without its head (`base_model`) gets the same, since trainers that fuse head and loss call it directly.
"""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from pixelprune.plan.token_map import IMAGE_MAP
from pixelprune.transformers import caches
from pixelprune.transformers._disguise import disguised
from pixelprune.transformers.inputs import stock_inputs

# An argument that stock code passes on from a model to its `base_model`: nothing is dropped from its pixels, and
# that has been checked.
_CHECKED = "_pixelprune_checked"

# The enabled model whose stock generate() runs in this context. It may pass pixels on to forward(): those from which
# nothing was dropped.
_generating: ContextVar[Any] = ContextVar("_generating", default=None)


@functools.cache
def pruned_class(base: Any) -> type:
    """The subclass of `base` whose instances take `image_map`."""
    added = {"forward": _pruned_forward(base), "__reduce_ex__": _reduce}
    if hasattr(base, "generate"):
        added["generate"] = _pruned_generate(base)
    return disguised(base, (), added)


def _pruned_forward(base: Any) -> Any:
    signature = inspect.signature(base.forward)
    parameters = list(signature.parameters.values())
    place = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_KEYWORD), len(parameters))
    parameters.insert(place, inspect.Parameter("image_map", inspect.Parameter.KEYWORD_ONLY, default=None))

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        # Looked up at each call: other libraries replace methods of stock classes at any time.
        return _forward(self, functools.partial(base.forward, self), args, kwargs, signature)

    functools.update_wrapper(forward, base.forward)
    # Trainer and generate() read the names of inputs here.
    forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return forward


def _forward(model: Any, stock: Any, args: Any, kwargs: dict[str, Any], signature: Any, wrapped: bool = False) -> Any:
    """Call `stock`, a forward without `image_map`, in place of one with it.

    Args:
        model: whose forward it is.
        stock: the forward, or what others put around it (`wrapped`), around which there may be this one once more.
        args, kwargs: the arguments of the call.
        signature: that of the stock method.
    """
    if not hasattr(type(model), "_pixelprune_base"):  # disabled, and called by what was put around it before
        return stock(*args, **kwargs)
    if args:
        kwargs = {**signature.bind_partial(model, *args).arguments, **kwargs}
        kwargs.pop("self")
    image_map, checked = kwargs.pop(IMAGE_MAP, None), kwargs.pop(_CHECKED, False)
    if image_map is not None:
        kwargs, dropped = stock_inputs(model, kwargs, image_map)
        checked = not dropped
    elif not checked:
        _check_pruned(model, kwargs)
    if checked and (wrapped or model.base_model is not model):
        kwargs[_CHECKED] = True
    return stock(**kwargs)


class OwnForward:
    """The forward of a model that had one of its own, which hides that of its class, before it was enabled.

    `own` is called with what a stock model takes: it may be anything around the stock method.
    """

    def __init__(self, model: Any, own: Any) -> None:
        self.model, self.own = model, own

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(functools.partial(type(self.model).forward, self.model))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        base = getattr(type(self.model), "_pixelprune_base", type(self.model))
        return _forward(self.model, self.own, args, kwargs, inspect.signature(base.forward), wrapped=True)


def _pruned_generate(base: Any) -> Any:
    def generate(
        self: Any, inputs: Tensor | None = None, *args: Any, image_map: Tensor | None = None, **kwargs: Any
    ) -> Any:
        if not hasattr(type(self), "_pixelprune_base"):  # as in _forward
            kwargs = kwargs if image_map is None else {**kwargs, IMAGE_MAP: image_map}
            return base.generate(self, inputs, *args, **kwargs)
        if inputs is not None and kwargs.get("pixel_values") is not None:
            kwargs["input_ids"], inputs = inputs, None
        caches.restore(self, kwargs.get("past_key_values"))
        given = {**kwargs, "input_ids": kwargs.get("input_ids", inputs)}
        if image_map is not None:
            caches.check_prompt(given)
            with torch.no_grad():
                kwargs, _ = stock_inputs(self, kwargs, image_map, generating=True)
        else:
            _check_pruned(self, kwargs)
        # Stock code sets this where it finds positions itself; another thread may set it meanwhile.
        deltas = getattr(self.base_model, "rope_deltas", None) if "position_ids" in kwargs else None
        token = _generating.set(self)
        try:
            result = base.generate(self, inputs, *args, **kwargs)
        finally:
            _generating.reset(token)
        caches.note(result, given, getattr(self.base_model, "rope_deltas", None) if deltas is None else deltas)
        return result

    return functools.update_wrapper(generate, base.generate)


def _reduce(self: Any, protocol: Any) -> Any:
    if "_pixelprune_base" not in vars(type(self)):  # someone made a class of this one
        return object.__reduce_ex__(self, protocol)
    # The subclass cannot be found by its name, so copies and pickles are built from the stock class.
    return _rebuild, (self._pixelprune_base,), self.__dict__


def _rebuild(base: Any) -> Any:
    return base.__new__(pruned_class(base))


def _check_pruned(model: Any, inputs: dict[str, Any]) -> None:
    """Raise a ValueError if `inputs` hold pixels without a mask, unless stock code passes on what was checked."""
    if inputs.get("pixel_values") is not None and not _is_generating(model):
        raise ValueError(
            "pixel_values came without image_map, so they are not from a processor that prunes; pass the "
            "processor to pixelprune.transformers.enable too, or the model to pixelprune.transformers.disable"
        )


def _is_generating(model: Any) -> bool:
    """Whether stock `generate` of this model, or of the one around it, runs."""
    outer = _generating.get()
    return outer is not None and (outer is model or outer.base_model is model)
