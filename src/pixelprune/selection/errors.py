"""Errors about options, in parts, so that each way of setting an option can word its own sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class OptionError(ValueError):
    """An option has a value that it cannot have.

    `str()` is a sentence for people who write Python. A command line or a server, which spells options
    differently and runs no code of the reader, words its own with `worded`.

    Attributes:
        option: the name of the option, such as "max_tokens".
        problem: what is wrong, to be read after the name: "must be a number in [0, 1], got 5".
        hint: a way out that helps wherever the option is set; empty if `problem` says enough.
        in_python: a way out that takes code; empty if there is none.

    Example:
        >>> error = OptionError("max_tokens", "must be at least 1, got 0", "leave it out for no budget")
        >>> str(error)
        'max_tokens must be at least 1, got 0; leave it out for no budget'
        >>> error.worded("--max-tokens")
        '--max-tokens must be at least 1, got 0; leave it out for no budget'
    """

    def __init__(self, option: str, problem: str, hint: str = "", in_python: str = "") -> None:
        super().__init__(option, problem, hint, in_python)  # as `args`, by which exceptions are pickled and copied
        self.option, self.problem, self.hint, self.in_python = option, problem, hint, in_python

    def __str__(self) -> str:
        return _joined(self.worded(self.option), self.in_python)

    def worded(self, name: str) -> str:
        """The sentence for a reader who knows the option as `name` and cannot run code."""
        return _joined(f"{name} {self.problem}", self.hint)


def not_one_of(option: str, value: Any, known: Iterable[str], in_python: str = "") -> OptionError:
    """The error of an option that names something that does not exist.

    Example:
        >>> raise not_one_of("metric", "l2", ["max", "mae"])
        Traceback (most recent call last):
            ...
        pixelprune.selection.errors.OptionError: metric must be one of 'max', 'mae', got 'l2'
    """
    return OptionError(option, f"must be one of {listed(known)}, got {value!r}", in_python=in_python)


def check_name(name: Any, argument: str = "name") -> None:
    """Raise a ValueError unless `name` is a string with something in it."""
    if not isinstance(name, str) or not name:
        raise ValueError(f"{argument} must be a non-empty string, got {name!r}")


def listed(names: Iterable[Any]) -> str:
    """The names in quotes, with commas between."""
    return ", ".join(map(repr, names))


def _joined(*parts: str) -> str:
    return "; ".join(filter(None, parts))
