"""The names of vLLM that pruning relies on, for each architecture, with a fingerprint of the code behind each.

The names are found in this package's own code: what it imports from vLLM, the classes that it extends, the parts of
models that it reaches into, and of each of these what it mentions. Both sides are read as text; nothing is imported.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelprune.vllm.coverage import ARCHITECTURES
from pixelprune.vllm.source import Function, Module, Source, definitions, fingerprint, signature

# From a name, "file:class.method", to the fingerprint of its code (16 digits) and, of a function, its parameters.
Surface = Mapping[str, str]

# Classes whose objects the plugin is handed, so it does not import them.
_HANDED = frozenset(
    {
        ("vllm.config.compilation", "CompilationConfig"),
        ("vllm.config.multimodal", "MultiModalConfig"),
        ("vllm.model_executor.models.registry", "_LazyRegisteredModel"),
        ("vllm.model_executor.models.registry", "_ModelRegistry"),
        ("vllm.multimodal.inputs", "MultiModalFeatureSpec"),
        ("vllm.multimodal.inputs", "PlaceholderRange"),
        ("vllm.multimodal.processing.context", "InputProcessingContext"),
        ("vllm.multimodal.processing.inputs", "ProcessorInputs"),
        ("vllm.multimodal.processing.processor", "MultiModalProcessingResult"),
        ("vllm.multimodal.processing.processor", "PromptReplacement"),
        ("vllm.multimodal.processing.processor", "ResolvedPromptUpdate"),
        ("vllm.multimodal.registry", "_ProcessorFactories"),
        ("vllm.plugins", "load_general_plugins"),
    }
)
# What goes to the log does not change what is computed.
_UNSEEN = {"vllm.logger"}
# Modules of this package that only compare code: what they mention is not vLLM's.
_COMPARING = {f"pixelprune.vllm.{name}" for name in ("contract", "source", "surface", "versions")}
# Of a part of a model, these run without being named.
_CALLED = frozenset({"__call__", "forward"})
_BUILT = frozenset({"__init__"})


def installed() -> Source:
    """The vLLM of this environment.

    Raises:
        ModuleNotFoundError: there is none.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("vLLM is not installed in this environment", name="vllm")
    return Source(Path(spec.origin).parents[1])


def surface(vllm: Source, architecture: str) -> Surface:
    """What pruning of `architecture` relies on in a version of vLLM. Takes about a second."""
    reading = _Reading(vllm, ours(ARCHITECTURES[architecture]))
    return dict(sorted(reading.found.items()))


@dataclass(frozen=True)
class Ours:
    """What the modules that prune an architecture say.

    Attributes:
        used: (module, name) of what they use from vLLM, or are handed.
        extended: those of `used` that they inherit from.
        methods: names of the methods that they define.
        mentioned: these, and every attribute that they read.
    """

    used: frozenset[tuple[str, str]]
    extended: frozenset[tuple[str, str]]
    methods: frozenset[str]
    mentioned: frozenset[str]


@functools.cache
def own_source() -> Source:
    """The code of this package."""
    return Source(Path(__file__).parents[2], "pixelprune")


@functools.cache
def ours(name: str) -> Ours:
    """What the module `name` of `pixelprune.vllm.models` and all that it imports say, and the plugin itself."""
    used, extended, methods, mentioned = set(_HANDED), set(), set(), set()
    for module in _reached(f"pixelprune.vllm.models.{name}", "pixelprune.vllm.plugin"):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Name | ast.Attribute) and (place := _in_vllm(module, node)):
                used.add(place)
            if isinstance(node, ast.Attribute):
                mentioned.add(node.attr)
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr"):
                mentioned |= {str(part.value) for part in node.args[1:2] if isinstance(part, ast.Constant)}
            elif isinstance(node, ast.ClassDef):
                methods |= {name for name, nodes in definitions(node.body).items() if isinstance(nodes[0], Function)}
                extended |= {place for base in node.bases if (place := _in_vllm(module, base))}
    unseen = {place for place in used if place[0] in _UNSEEN}
    return Ours(frozenset(used - unseen), frozenset(extended), frozenset(methods), frozenset(mentioned | methods))


def _reached(*names: str) -> Iterator[Module]:
    """Modules of the plugin, and those of it that they import."""
    seen, rest = {*names, *_COMPARING}, list(names)
    while rest:
        module = own_source().module(rest.pop())
        if module is None:
            continue
        yield module
        for there, symbol in module.imports.values():
            more = {there, f"{there}.{symbol}"} - seen
            rest += sorted(name for name in more if name.startswith("pixelprune.vllm."))
            seen |= more


def _in_vllm(module: Module, node: ast.expr) -> tuple[str, str] | None:
    """The module of vLLM and the name in it that an expression stands for."""
    whole = isinstance(node, ast.Attribute)
    name = node.value if isinstance(node, ast.Attribute) else node
    there, symbol = module.imports.get(name.id, ("", None)) if isinstance(name, ast.Name) else ("", None)
    if symbol is None or there.partition(".")[0] != "vllm":
        return None
    return (f"{there}.{symbol}", node.attr) if whole else (there, symbol)  # type: ignore[attr-defined]


class _Reading:
    """Collects names of a vLLM in `found`."""

    def __init__(self, vllm: Source, ours: Ours) -> None:
        self._vllm, self._ours = vllm, ours
        self.found: dict[str, str] = {}
        for module, name in ours.used:
            if place := vllm.find(module, name):
                self._use(*place, fields=(module, name) not in _HANDED)
        for module, name in ours.extended:
            for there, node in vllm.named_in(module, name):
                self._extend(there, node)
                self._reach(there, node)

    def _use(self, module: Module, name: str, *, fields: bool) -> None:
        """All of a function; of a class, its fields and what we mention; of an object, the same of its class."""
        for statement in module.definitions[name]:
            if isinstance(statement, ast.ClassDef):
                self._members(module, statement, self._ours.mentioned, fields=fields)
                continue
            self._add(module.definitions[name], module, name)
            if not isinstance(statement, Function):
                for made in self._called(module, statement):
                    self._members(*made, self._ours.mentioned, fields=False)

    def _members(self, module: Module, node: ast.ClassDef, names: frozenset[str], *, fields: bool) -> None:
        for there, one in self._vllm.classes(module, node):
            members = definitions(one.body)
            for name in members.keys() & names:
                # We build none of these, and how they build themselves is not our concern.
                self._add(members[name], there, one.name, name, only_parameters=name in _BUILT)
            if fields:
                header = [*one.bases, *one.keywords, *one.decorator_list]
                self._add(header + [part for part in one.body if isinstance(part, ast.AnnAssign)], there, one.name)

    def _extend(self, module: Module, node: ast.ClassDef) -> None:
        """Of a class that we extend: methods that call one of ours, and what the stock version of ours calls."""
        everything = [(there, one.name, definitions(one.body)) for there, one in self._vllm.classes(module, node)]
        for there, name, members in everything:
            for method, nodes in members.items():
                if isinstance(nodes[0], Function) and method not in _BUILT | _CALLED:
                    if _own_attributes(nodes) & self._ours.methods:
                        self._add(nodes, there, name, method)
                    if method in self._ours.methods:
                        self._callees(there, nodes, everything)

    def _callees(self, module: Module, nodes: list[ast.stmt], everything: list[tuple[Module, str, Any]]) -> None:
        called = _own_attributes(nodes)
        for there, name, members in everything:
            for method in called & {key for key, found in members.items() if isinstance(found[0], Function)}:
                self._add(members[method], there, name, method)
        for part in (part for node in nodes for part in ast.walk(node)):
            function = part.func if isinstance(part, ast.Call) else None
            if isinstance(function, ast.Name) and (place := self._vllm.find(module.name, function.id)):
                self._use(*place, fields=True)

    def _reach(self, module: Module, node: ast.ClassDef) -> None:
        """Attributes that we mention, the classes of their values with what we mention of these, and so on."""
        for there, one in self._vllm.classes(module, node):
            for assignment in (part for made in definitions(one.body).get("__init__", ()) for part in ast.walk(made)):
                if not isinstance(assignment, ast.Assign):
                    continue
                attributes = _own_attributes(assignment.targets) & self._ours.mentioned
                for name in attributes:
                    self.found.setdefault(f"{there.path}:{one.name}.{name}", "exists")
                for part in self._called(there, assignment.value) if attributes else ():
                    self._members(*part, (self._ours.mentioned | _CALLED) - _BUILT, fields=False)
                    self._reach(*part)

    def _called(self, module: Module, node: ast.AST) -> Iterator[tuple[Module, ast.ClassDef]]:
        for part in ast.walk(node):
            if isinstance(part, ast.Call):
                yield from self._vllm.named(module, part.func)

    def _add(self, nodes: list[Any], module: Module, *names: str, only_parameters: bool = False) -> None:
        parameters = signature(nodes[-1]) if nodes else ""
        code = fingerprint([parameters] if only_parameters and parameters else nodes)
        self.found[f"{module.path}:{'.'.join(names)}"] = code + parameters


def _own_attributes(nodes: Iterable[ast.AST]) -> set[str]:
    """NAME of each `self.NAME`."""
    parts = (part for node in nodes for part in ast.walk(node) if isinstance(part, ast.Attribute))
    return {part.attr for part in parts if isinstance(part.value, ast.Name) and part.value.id == "self"}
