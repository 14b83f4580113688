"""Predictors, model families and presets: three registries that behave alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import pytest

from pixelprune.selection.errors import OptionError


@dataclass
class Case:
    """One registry.

    Attributes:
        module: where `get`, `register`, `unregister` and `names` are.
        what: what its entries are called in errors.
        option: what takes the name of an entry.
        where: the public name of the module.
        arguments: those of `register`, for an entry of a given name.
    """

    module: Any
    what: str
    option: str
    where: str
    arguments: Callable[[str], tuple[Any, ...]]


def predictors() -> Case:
    module = import_module("pixelprune.selection.predictors")
    return Case(module, "predictor", "predictor", "pixelprune.predictors", lambda name: (name, module.raster))


def families() -> Case:
    pytest.importorskip("transformers", reason="the families are those of the transformers adapter")
    module = import_module("pixelprune.transformers.families")
    return Case(module, "model family", "family", "pixelprune.transformers", lambda name: (module.Family(name),))


def presets() -> Case:
    module = import_module("pixelprune.images.sizes")

    def arguments(name: str) -> tuple[Any, ...]:
        return (replace(module.get("qwen3-vl"), name=name),)

    return Case(module, "preset", "model", "pixelprune.images.sizes", arguments)


@pytest.fixture(params=[predictors, families, presets], ids=lambda make: make.__name__)
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    case: Case = request.param()
    before = case.module.names()
    yield case
    for name in case.module.names():
        if name not in before:
            case.module.unregister(name)
    assert case.module.names() == before


def exactly(text: str) -> str:
    return f"^{re.escape(text)}$"


def test_entries_come_and_go(case: Case) -> None:
    before = case.module.names()
    case.module.register(*case.arguments("mine"))
    assert case.module.names() == [*before, "mine"]
    assert case.module.get("mine").name == "mine"
    case.module.unregister("mine")
    assert case.module.names() == before
    with pytest.raises(ValueError, match="got 'mine'"):
        case.module.get("mine")
    case.module.register(*case.arguments("mine"))


def test_names_are_a_copy(case: Case) -> None:
    case.module.names().clear()
    assert case.module.names()


@pytest.mark.parametrize("name", ["none", "", None, 3, []])
def test_unknown_names(case: Case, name: Any) -> None:
    with pytest.raises(OptionError) as caught:
        case.module.get(name)
    known = ", ".join(f"'{known}'" for known in case.module.names())
    assert str(caught.value) == (
        f"{case.option} must be one of {known}, got {name!r}; add your own with {case.where}.register"
    )
    assert caught.value.worded("--name") == f"--name must be one of {known}, got {name!r}"
    text = f"name must be that of a {case.what} added with {case.where}.register, got {name!r}"
    with pytest.raises(ValueError, match=exactly(text)):
        case.module.unregister(name)


def test_duplicates(case: Case) -> None:
    case.module.register(*case.arguments("mine"))
    entry = case.module.get("mine")
    remedy = f"choose another name, or call {case.where}.unregister first"
    with pytest.raises(ValueError, match=exactly(f"name must be new, got 'mine', which is a {case.what}; {remedy}")):
        case.module.register(*case.arguments("mine"))
    assert case.module.get("mine") is entry


def test_built_in_entries_stay(case: Case) -> None:
    for name in case.module.names():
        entry = case.module.get(name)
        assert entry.name == name
        text = f"name must be new, got {name!r}, which is a built-in {case.what}; choose another name"
        with pytest.raises(ValueError, match=exactly(text)):
            case.module.register(*case.arguments(name))
        with pytest.raises(ValueError, match=f"added with {case.where}.register, got '{name}'"):
            case.module.unregister(name)
        assert case.module.get(name) is entry


@pytest.mark.parametrize("name", ["", None, 3])
def test_names_that_cannot_be(case: Case, name: Any) -> None:
    with pytest.raises(ValueError, match=exactly(f"name must be a non-empty string, got {name!r}")):
        case.module.register(*case.arguments(name))


def test_functions_are_reachable_where_errors_say(case: Case) -> None:
    place: Any = import_module("pixelprune")
    for part in case.where.split(".")[1:]:
        place = getattr(place, part)
    assert (place.register, place.unregister) == (case.module.register, case.module.unregister)
