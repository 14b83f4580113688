"""Named entries that users can add to: predictors, model families, image sizes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from pixelprune.selection.errors import check_name, not_one_of


class Named(Protocol):
    """What a registry holds."""

    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)


class Registry(Generic[Entry]):
    """Entries by name; those that the package brings stay, others come and go.

    Args:
        what: what an entry is, in one or two words.
        option: the name of the option, or of the argument, that takes the name of an entry.
        where: the public module or package whose `register` adds entries.
        built_in: the entries that stay.
    """

    def __init__(self, what: str, option: str, where: str, built_in: Iterable[Entry]) -> None:
        self._what, self._option, self._where = what, option, where
        self._entries = {entry.name: entry for entry in built_in}
        self._built_in = frozenset(self._entries)

    def names(self) -> list[str]:
        """The names of all entries, built-in ones first."""
        return list(self._entries)

    def get(self, name: str) -> Entry:
        """The entry called `name`, or an OptionError that lists the known names."""
        try:
            return self._entries[name]
        except (KeyError, TypeError):  # TypeError: what cannot be hashed is not a name either
            in_python = f"add your own with {self._where}.register"
            raise not_one_of(self._option, name, self._entries, in_python) from None

    def register(self, entry: Entry) -> None:
        """Add an entry; a ValueError if its name is empty or taken."""
        check_name(entry.name)
        if entry.name in self._entries:
            built_in = entry.name in self._built_in
            kind, remedy = ("built-in ", "") if built_in else ("", f", or call {self._where}.unregister first")
            raise ValueError(
                f"name must be new, got {entry.name!r}, which is a {kind}{self._what}; choose another name{remedy}"
            )
        self._entries[entry.name] = entry

    def unregister(self, name: str) -> None:
        """Remove an added entry; a ValueError if `name` is unknown or built in."""
        if not isinstance(name, str) or name in self._built_in or name not in self._entries:
            raise ValueError(f"name must be that of a {self._what} added with {self._where}.register, got {name!r}")
        del self._entries[name]
