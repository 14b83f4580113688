"""What a Python package defines, read from its text: nothing of it is imported, so any version can be read anywhere."""

from __future__ import annotations

import ast
import copy
import functools
import hashlib
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What the interpreter adds to a syntax tree, and what a program does not do.
_LEFT_OUT = {"annotation", "ctx", "kind", "returns", "type_comment", "type_params"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definitions = Mapping[str, list[ast.stmt]]


@dataclass(frozen=True)
class Module:
    """One file.

    Attributes:
        name: as it is imported.
        path: from the folder that holds the package.
        tree: its syntax tree.
        definitions: statements that define each of its names, but for imports.
        imports: from each imported name to a module, and a name in it or None for the module itself.
    """

    name: str
    path: str
    tree: ast.Module
    definitions: Definitions
    imports: Mapping[str, tuple[str, str | None]]


class Source:
    """The Python files of one package, in a folder or a wheel that holds it, with others or alone."""

    def __init__(self, place: Path, package: str = "vllm") -> None:
        self.place, self._package = place, package
        self._wheel = None if place.is_dir() else zipfile.ZipFile(place)
        self._names = set(self._wheel.namelist()) if self._wheel else set()
        self.module = functools.cache(self._module)

    def _module(self, name: str) -> Module | None:
        """A module by its dotted name; None if this package does not have it."""
        if name.partition(".")[0] != self._package:
            return None
        base = name.replace(".", "/")
        for path in (f"{base}.py", f"{base}/__init__.py"):
            if (text := self.text(path)) is not None:
                tree = ast.parse(text)
                package = name if path.endswith("/__init__.py") else name.rpartition(".")[0]
                return Module(name, path, tree, definitions(tree.body), _imports(tree, package))
        return None

    def text(self, path: str) -> str | None:
        """The text of a file by its path from this place; None if it does not exist."""
        if self._wheel is not None:
            return self._wheel.read(path).decode() if path in self._names else None
        file = self.place / path
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def find(self, module: str, name: str) -> tuple[Module, str] | None:
        """Where a name is defined that can be imported from `module`; None if that is not in this package."""
        found = self.module(module)
        for _ in range(10):  # of modules that import it from each other
            if found is None or name in found.definitions:
                break
            there, symbol = found.imports.get(name, ("", None))
            if symbol is None:
                return None
            found, name = self.module(there), symbol
        return None if found is None or name not in found.definitions else (found, name)

    def classes(self, module: Module, node: ast.ClassDef) -> Iterator[tuple[Module, ast.ClassDef]]:
        """A class and the classes that it inherits from, as far as they are in this package, each once."""
        seen = set()
        rest = [(module, node)]
        while rest:
            module, node = rest.pop(0)
            if (module.name, node.name) not in seen:
                seen.add((module.name, node.name))
                yield module, node
                rest += [found for base in node.bases for found in self.named(module, base)]

    def named(self, module: Module, expression: ast.AST) -> Iterator[tuple[Module, ast.ClassDef]]:
        """The class that an expression in `module` names: `Name`, `module.Name` or `Name[…]`."""
        if isinstance(expression, ast.Subscript):
            expression = expression.value
        if isinstance(expression, ast.Name):
            yield from self.named_in(module.name, expression.id)
        elif isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
            there, symbol = module.imports.get(expression.value.id, ("", None))
            yield from self.named_in(f"{there}.{symbol}" if symbol else there, expression.attr)

    def named_in(self, module: str, name: str) -> Iterator[tuple[Module, ast.ClassDef]]:
        """The class that can be imported from `module` as `name`."""
        if found := self.find(module, name):
            for statement in found[0].definitions[found[1]]:
                if isinstance(statement, ast.ClassDef):
                    yield found[0], statement


def definitions(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """The statements of a module or a class that define each name, those under conditions too.

    Example:
        >>> sorted(definitions(ast.parse("A = 1\\nif A:\\n    def f(): pass").body))
        ['A', 'f']
    """
    found: dict[str, list[ast.stmt]] = {}
    for statement in body:
        names: list[str] = []
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names = [] if any(_is_overload(one) for one in statement.decorator_list) else [statement.name]
            case ast.AnnAssign(target=ast.Name(name)):
                names = [name]
            case ast.Assign():
                names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            case ast.If() | ast.Try():
                parts = [statement.body, statement.orelse, *(one.body for one in getattr(statement, "handlers", []))]
                for part in parts:
                    for name, more in definitions(part).items():
                        found.setdefault(name, []).extend(more)
        for name in names:
            found.setdefault(name, []).append(statement)
    return found


def _is_overload(decorator: ast.expr) -> bool:
    return "overload" in (getattr(decorator, "id", ""), getattr(decorator, "attr", ""))


def _imports(tree: ast.Module, package: str) -> dict[str, tuple[str, str | None]]:
    found: dict[str, tuple[str, str | None]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*up, *([node.module] if node.module else [])])
            found |= {alias.asname or alias.name: (module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname: (alias.name, None) for alias in node.names if alias.asname}
    return found


def fingerprint(nodes: list[Any]) -> str:
    """Of statements, 16 hexadecimal digits of SHA-256: the same for programs that do the same by the same steps.

    Docstrings, comments, annotations and layout do not change it, nor does the version of Python. An annotation in a
    class does if it calls something: programs read such annotations.

    Example:
        >>> texts = "def f(a):\\n    return a  # the same", "def f(a: int) -> int:\\n    'Says so.'\\n    return a"
        >>> len({fingerprint(ast.parse(text).body) for text in texts})
        1
    """
    return hashlib.sha256(_plain(nodes).encode()).hexdigest()[:16]


def _plain(node: Any, in_function: bool = False) -> str:
    if isinstance(node, list):
        parts = (_plain(part, in_function) for part in node)
        return f"[{','.join(part for part in parts if part)}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    kind, values = type(node).__name__, dict(ast.iter_fields(node))
    if isinstance(node, ast.AnnAssign):
        if in_function and node.value is None:
            return ""
        if in_function:
            kind, values = "Assign", {"targets": [node.target], "value": node.value}
        elif any(isinstance(part, ast.Call) for part in ast.walk(node.annotation)):
            values["declared"] = values["annotation"]  # read by the program: the shape of a tensor, for example
    if isinstance(node, Function | ast.ClassDef | ast.Module):
        in_function = isinstance(node, Function)
        if ast.get_docstring(node, clean=False) is not None:
            values["body"] = node.body[1:]
    shown = (
        f"{name}={_plain(value, in_function)}"
        for name, value in values.items()
        if name not in _LEFT_OUT and value is not None and value != []
    )
    return f"{kind}({','.join(shown)})"


def signature(node: ast.stmt) -> str:
    """The parameters of a function without annotations, in parentheses; empty for everything else.

    Example:
        >>> signature(ast.parse("def f(a: int, /, *, b=2): pass").body[0])
        '(a, /, *, b=2)'
    """
    if not isinstance(node, Function):
        return ""
    arguments = copy.deepcopy(node.args)
    for part in ast.walk(arguments):
        if isinstance(part, ast.arg):
            part.annotation = None
    return f"({ast.unparse(arguments)})"
