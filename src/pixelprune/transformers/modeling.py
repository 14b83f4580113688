"""A model of transformers that takes pruned inputs: one object gets a subclass of its own class.

The subclass adds one named input, `image_kept`, to `forward` and `generate`, turns it and the kept
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
    """The subclass of `base` whose instances take `image_kept`."""
    added = {"forward": _pruned_forward(base), "__reduce_ex__": _reduce}
    if hasattr(base, "generate"):
        added["generate"] = _pruned_generate(base)
    return disguised(base, (), added)


def _pruned_forward(base: Any) -> Any:
    signature = inspect.signature(base.forward)
    parameters = list(signature.parameters.values())
    place = next((i for i, p in enumerate(parameters) if p.kind is p.VAR_KEYWORD), len(parameters))
    parameters.insert(place, inspect.Parameter("image_kept", inspect.Parameter.KEYWORD_ONLY, default=None))

    def forward(self: Any, *args: Any, image_kept: Tensor | None = None, **kwargs: Any) -> Any:
        if args:
            kwargs = {**signature.bind_partial(self, *args).arguments, **kwargs}
            kwargs.pop("self")
        checked = kwargs.pop(_CHECKED, False)
        if image_kept is not None:
            kwargs, dropped = stock_inputs(self, kwargs, image_kept)
            if not dropped and self.base_model is not self:
                kwargs[_CHECKED] = True
        elif not checked:
            _check_pruned(self, kwargs)
        # Looked up at each call: other libraries replace methods of stock classes at any time.
        return base.forward(self, **kwargs)

    functools.update_wrapper(forward, base.forward)
    # Trainer and generate() read the names of inputs here.
    forward.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return forward


def _pruned_generate(base: Any) -> Any:
    def generate(
        self: Any, inputs: Tensor | None = None, *args: Any, image_kept: Tensor | None = None, **kwargs: Any
    ) -> Any:
        if inputs is not None and kwargs.get("pixel_values") is not None:
            kwargs["input_ids"], inputs = inputs, None
        caches.restore(self, kwargs.get("past_key_values"))
        given = {**kwargs, "input_ids": kwargs.get("input_ids", inputs)}
        if image_kept is not None:
            caches.check_prompt(given)
            with torch.no_grad():
                kwargs, _ = stock_inputs(self, kwargs, image_kept, generating=True)
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
            "pixel_values came without image_kept, so they are not from a processor that prunes; pass the "
            "processor to pixelprune.transformers.enable too, or the model to pixelprune.transformers.disable"
        )


def _is_generating(model: Any) -> bool:
    """Whether stock `generate` of this model, or of the one around it, runs."""
    outer = _generating.get()
    return outer is not None and (outer is model or outer.base_model is model)
