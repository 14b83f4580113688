"""A class that passes for its stock class: its objects do more, and what is made by calling it is stock.

Stock code makes objects by calling the class of another one: `from_pretrained` does, and so does a user who writes
`type(model)(config)`. `enable` changes several objects together, so one that such a call made would be enabled in part.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Hashable
from typing import Any, cast


class _Disguise(type):
    """The type of such classes."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        # A class that others made of this one is theirs.
        return vars(cls).get("_pixelprune_base", super().__call__)(*args, **kwargs)

    @property
    def __signature__(cls) -> inspect.Signature:
        return inspect.signature(cls._pixelprune_base)  # type: ignore[attr-defined]


@functools.cache
def _disguise_over(kind: Any) -> Any:
    return type("_Disguise", (_Disguise, kind), {})


def disguised(base: Any, before: tuple[type, ...], added: dict[str, Any]) -> type:
    """A subclass of `base` under its name.

    Args:
        base: the stock class.
        before: classes whose methods come first.
        added: attributes of the new class.
    """
    # The stock name: checkpoints record it, and other libraries look classes up by it.
    same = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    own = {**same, "_pixelprune_base": base, **added}
    made: type = _disguise_over(cast("Hashable", type(base)))(base.__name__, (*before, base), own)
    return made
