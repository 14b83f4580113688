"""Checked where a pruning class is made: what it overrides exists in the stock class, and is called as we expect.

A method that vLLM no longer has would never be called, and one with other parameters would fail at the first request.
"""

from __future__ import annotations

import ast
import functools
from inspect import Parameter, isfunction, signature
from typing import Any

from pixelprune.vllm.coverage import TESTED
from pixelprune.vllm.source import definitions
from pixelprune.vllm.surface import own_source


class Contract:
    """Base of the mixins: a class that puts them in front of stock classes is checked."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if problems := broken(cls):
            import vllm

            raise ImportError(
                f"pixelprune cannot extend {cls.__name__} of vLLM {vllm.__version__}: {'; '.join(problems)}; install "
                f"vLLM {TESTED} or a newer pixelprune, or start without the plugin, with VLLM_PLUGINS= in the "
                "environment"
            )


def broken(cls: type) -> list[str]:
    """What is not as our methods expect it, in words; empty for a mixin that has no stock class behind it."""
    ours = [base for base in cls.__mro__ if _is_ours(base)]
    if all(base in (*ours, object) for base in cls.__mro__):
        return []
    problems: dict[str, None] = {}  # in order, each once
    for base in ours:
        behind = cls.__mro__[cls.__mro__.index(base) + 1 :]
        for name, method in vars(base).items():
            if not isfunction(method):
                continue
            for called in _of_super(base.__module__, base.__qualname__, name):
                if not any(called in vars(other) for other in behind):
                    problems[f"it has no {called}, which pixelprune overrides"] = None
            stock = next((vars(other)[name] for other in behind if name in vars(other)), None)
            if isfunction(stock) and not fits(method, stock):
                problems[f"its {name} takes {_shown(stock)}, where pixelprune expects {_shown(method)}"] = None
    return list(problems)


def _is_ours(base: type) -> bool:
    return base.__module__.startswith("pixelprune.")


@functools.cache
def _of_super(module: str, name: str, method: str) -> frozenset[str]:
    """The names that a method of ours takes from `super()`."""
    source = own_source().module(module)
    found: set[str] = set()
    for node in source.definitions.get(name, ()) if source else ():
        for statement in definitions(node.body).get(method, ()) if isinstance(node, ast.ClassDef) else ():
            found |= {part.attr for part in ast.walk(statement) if isinstance(part, ast.Attribute) and _is_super(part)}
    return frozenset(found)


def _is_super(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super"


def fits(ours: Any, stock: Any) -> bool:
    """Whether a method can stand in for another: the same parameters in the same order, and not fewer defaults.

    Example:
        >>> fits(lambda self, items, result: 0, lambda self, items, result: 1)
        True
        >>> fits(lambda self, items, result: 0, lambda self, items, answer: 1)
        False
        >>> fits(lambda self, *args, **kwargs: 0, lambda self, items, answer: 1)
        True
    """
    mine, theirs = (list(signature(function).parameters.values())[1:] for function in (ours, stock))
    if {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD} <= {one.kind for one in mine}:
        mine = [one for one in mine if one.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]
        theirs = theirs[: len(mine)]
    # vLLM builds models by the names of arguments.
    by_name = stock.__name__ == "__init__"
    return len(mine) == len(theirs) and all(_is_like(*pair, by_name) for pair in zip(mine, theirs, strict=True))


def _is_like(mine: Parameter, theirs: Parameter, by_name: bool) -> bool:
    if Parameter.VAR_POSITIONAL in (mine.kind, theirs.kind) or Parameter.VAR_KEYWORD in (mine.kind, theirs.kind):
        return mine.kind == theirs.kind
    # What can be given in both ways can also be given by name only.
    same_way = by_name or mine.kind == theirs.kind or mine.kind is Parameter.POSITIONAL_OR_KEYWORD
    optional = theirs.default is Parameter.empty or mine.default is not Parameter.empty
    return mine.name == theirs.name and same_way and optional


def _shown(function: Any) -> str:
    parameters = [one.replace(annotation=Parameter.empty) for one in signature(function).parameters.values()]
    return str(signature(function).replace(parameters=parameters, return_annotation=Parameter.empty))
