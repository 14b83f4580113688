"""Which versions of vLLM may prune: those that were tested, and newer ones in which nothing moved that we rely on."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from packaging.version import InvalidVersion, Version

from pixelprune.vllm.coverage import ARCHITECTURES, TESTED
from pixelprune.vllm.surface import Surface, installed, surface

TABLE = Path(__file__).with_name("surfaces.json")
_ALL = "all"
_SHOWN = 4  # names in an error
_SAID = {"gone": "is gone", "new": "is new", "parameters": "takes other parameters", "changed": "has changed"}


@dataclass(frozen=True)
class Moved:
    """A name whose code differs from that of a tested version.

    Attributes:
        name: as in a `Surface`.
        before: its fingerprint and parameters in that version; None if it was not there.
        now: the same in the other version.
    """

    name: str
    before: str | None
    now: str | None

    @property
    def what(self) -> str:
        """Happened to it: `gone`, `new`, `parameters` or `changed`."""
        if self.now is None or self.before is None:
            return "gone" if self.now is None else "new"
        return "changed" if parameters(self.before) == parameters(self.now) else "parameters"

    def __str__(self) -> str:
        """For example `Base._get_mm_hashes (processor.py) is gone`."""
        file, _, name = self.name.rpartition("/")[2].partition(":")
        return f"{name} ({file}) {_SAID[self.what]}"


def parameters(value: str | None) -> str:
    """The parameters in a value of a `Surface`; empty if there are none.

    Example:
        >>> parameters("5ef7645926a42b76(self, mm_items)")
        '(self, mm_items)'
    """
    found = (value or "").partition("(")
    return found[1] + found[2]


class Table:
    """The surfaces of tested versions.

    In the file: from the architectures that rely on a name, to its file, to the name, to its fingerprint and
    parameters, to the versions in which it has these, in one string.
    """

    def __init__(self, surfaces: Mapping[str, Mapping[str, Surface]]) -> None:
        """Args:
        surfaces: of each version and architecture.
        """
        self.surfaces = dict(sorted(surfaces.items(), key=lambda item: Version(item[0])))

    @classmethod
    def load(cls, path: Path) -> Table:
        surfaces: dict[str, dict[str, dict[str, str]]] = {}
        for names, files in json.loads(path.read_text(encoding="utf-8")).items():
            for file, members in files.items():
                for member, values in members.items():
                    for value, versions in values.items():
                        for version in versions.split():
                            for architecture in ARCHITECTURES if names == _ALL else names.split():
                                places = surfaces.setdefault(version, {}).setdefault(architecture, {})
                                places[f"{file}:{member}"] = value
        return cls(surfaces)

    def save(self, path: Path) -> None:
        made: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
        for version, surfaces in self.surfaces.items():
            for name in sorted(set(chain.from_iterable(surfaces.values()))):
                sharing = [architecture for architecture in ARCHITECTURES if name in surfaces.get(architecture, ())]
                group = _ALL if len(sharing) == len(ARCHITECTURES) else " ".join(sharing)
                file, _, member = name.partition(":")
                members = made.setdefault(group, {}).setdefault(file, {})
                values, value = members.setdefault(member, {}), surfaces[sharing[0]][name]
                values[value] = f"{values.get(value, '')} {version}".strip()
        path.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    def moved(self, architecture: str, found: Surface) -> list[Moved]:
        """What differs; empty if each file has what it has in some tested version. Otherwise from the nearest one.

        File by file: names of one file were tested together, and a file whose text goes back to that of an older
        tested version, as happens, does not make all others differ.
        """
        tested = [by_file(surfaces.get(architecture, {})) for surfaces in self.surfaces.values()]
        files, moved = by_file(found), []
        for file in sorted(files.keys() | set(chain.from_iterable(tested))):
            # The nearest version, of equally near ones the newest.
            compared = [differences(one.get(file, {}), files.get(file, {})) for one in reversed(tested)]
            nearest: list[Moved] = min(compared, key=len)
            moved += nearest
        return moved


def by_file(found: Surface) -> dict[str, dict[str, str]]:
    """A surface in parts."""
    parts: dict[str, dict[str, str]] = {}
    for name, value in found.items():
        parts.setdefault(name.partition(":")[0], {})[name] = value
    return parts


def differences(before: Surface, now: Surface) -> list[Moved]:
    """The names that differ, in order."""
    return [
        Moved(name, before.get(name), now.get(name))
        for name in sorted(before.keys() | now.keys())
        if _code(before.get(name)) != _code(now.get(name))
    ]


def _code(value: str | None) -> str | None:
    """Without parameters, which are for people and which versions of Python may write differently."""
    return value and value.partition("(")[0]


def is_tested(version: str) -> bool:
    return TESTED.contains(version)


def is_older(version: str) -> bool:
    """Whether a version comes before all tested ones.

    Example:
        >>> is_older("0.29.0"), is_older("99.0"), is_older("dev")
        (True, False, False)
    """
    try:
        found = Version(version)
    except InvalidVersion:  # of somebody's own build
        return False
    return all(found < Version(part.version) for part in TESTED)


@functools.cache
def moved(architecture: str) -> list[Moved]:
    """What the installed vLLM has moved of what pruning of `architecture` relies on. Takes about a second."""
    return Table.load(TABLE).moved(architecture, surface(installed(), architecture))


def listed(moved: Iterable[Moved]) -> str:
    """The first few of them in one line."""
    names = [str(one) for one in moved]
    more = f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more
