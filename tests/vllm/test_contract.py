"""What vLLM must have for our classes to work: each method of it, taken away or changed, is missed by name."""

from __future__ import annotations

import inspect
from importlib import import_module
from inspect import Parameter, signature
from typing import Any
from unittest.mock import patch

import pytest
import vllm
from vllm.multimodal.processing import BaseMultiModalProcessor

from pixelprune.vllm import ARCHITECTURES
from pixelprune.vllm.contract import Contract, broken
from pixelprune.vllm.processing import PruningProcessor


def classes() -> list[type]:
    """Our models and processors, each once."""
    found: dict[type, None] = {}
    for architecture, module in ARCHITECTURES.items():
        model: Any = getattr(import_module(f"pixelprune.vllm.models.{module}"), architecture)
        found |= {model: None, model._processor_factory.processor: None}
    return list(found)


def is_ours(cls: type) -> bool:
    return cls.__module__.startswith("pixelprune.")


def overridden(cls: type) -> list[str]:
    """Methods of ours that ask for `super()` and that stock classes have."""
    stock = [base for base in cls.__mro__ if base.__module__.startswith("vllm.")]
    found: dict[str, None] = {}
    for base in filter(is_ours, cls.__mro__):
        for name, method in vars(base).items():
            asks = inspect.isfunction(method) and f"super().{name}" in inspect.getsource(method)
            if asks and any(name in vars(other) for other in stock):
                found[name] = None
    return list(found)


CASES = [(cls, name) for cls in classes() for name in overridden(cls) if name != "__init__"]


def stand_in(cls: type, **changed: Any) -> type:
    """A class like `cls` on a copy of its stock methods, some of them changed, or taken away by None; not checked."""
    methods: dict[str, Any] = {}
    for base in reversed([base for base in cls.__mro__ if not is_ours(base) and base is not object]):
        methods |= functions(base)
    stock = type("Stock", (), {name: value for name, value in {**methods, **changed}.items() if value is not None})
    with patch.object(Contract, "__init_subclass__", lambda **_options: None):
        return copied(cls, stock)


def functions(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if inspect.isfunction(value)}


def copied(cls: type, stock: type) -> type:
    if all(is_ours(base) or base is object for base in cls.__mro__):
        return cls
    bases = dict.fromkeys(copied(base, stock) if is_ours(base) else stock for base in cls.__bases__)
    names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__}
    return type(cls.__name__, tuple(bases), {**functions(cls), **names})


def renamed(function: Any) -> Any:
    """The same with another name of its last parameter."""

    def other(*_args: Any, **_kwargs: Any) -> None:
        pass

    *parameters, last = signature(function).parameters.values()
    other.__signature__ = signature(function).replace(parameters=[*parameters, last.replace(name="renamed")])  # type: ignore[attr-defined]
    return other


def stock_method(cls: type, name: str) -> Any:
    return next(vars(base)[name] for base in cls.__mro__ if not is_ours(base) and name in vars(base))


@pytest.mark.parametrize("cls", classes())
def test_nothing_is_broken_with_this_vllm(cls: type) -> None:
    assert broken(cls) == broken(stand_in(cls)) == []
    assert len(overridden(cls)) > 1


@pytest.mark.parametrize(("cls", "name"), CASES)
def test_a_method_that_vllm_does_not_have_is_missed(cls: type, name: str) -> None:
    assert broken(stand_in(cls, **{name: None})) == [f"it has no {name}, which pixelprune overrides"]


@pytest.mark.parametrize(("cls", "name"), CASES)
def test_other_parameters_are_found(cls: type, name: str) -> None:
    changed = stand_in(cls, **{name: renamed(stock_method(cls, name))})
    ours = next(vars(base)[name] for base in cls.__mro__ if is_ours(base) and name in vars(base))
    last = list(signature(stock_method(cls, name)).parameters.values())[-1]
    takes_anything = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD} <= {
        one.kind for one in signature(ours).parameters.values()
    }
    if takes_anything or last.kind is Parameter.VAR_KEYWORD:
        assert broken(changed) == []
    else:
        (problem,) = broken(changed)
        assert problem.startswith(f"its {name} takes (self, ")
        assert "renamed" in problem.partition(", where pixelprune expects (self, ")[0]


def test_what_the_seam_of_a_version_gives_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from pixelprune.vllm.seams import ProcessorSeam

    cls = next(cls for cls in classes() if issubclass(cls, PruningProcessor))
    monkeypatch.setattr(ProcessorSeam, "_get_mm_hashes", lambda self, inputs: None, raising=False)
    monkeypatch.delattr(BaseMultiModalProcessor, "_get_mm_hashes", raising=False)
    assert broken(stand_in(cls, _get_mm_hashes=None)) == []


def test_the_class_is_not_made_and_the_error_says_why() -> None:
    class Stock:
        def __init__(self, info: Any, dummy_inputs: Any) -> None: ...
        def _get_prompt_updates(self, items: Any) -> None: ...

    with pytest.raises(ImportError) as refused:
        type("Ours", (PruningProcessor, Stock), {})
    text = str(refused.value)
    assert text.startswith(f"pixelprune cannot extend Ours of vLLM {vllm.__version__}: it has no ")
    assert "it has no _maybe_apply_prompt_updates, which pixelprune overrides" in text
    assert "its _get_prompt_updates takes (self, items), where pixelprune expects (self, mm_items, " in text
    assert "install vLLM <0.34,>=0.31 or a newer pixelprune, or start without the plugin, with VLLM_PLUGINS= in" in text
