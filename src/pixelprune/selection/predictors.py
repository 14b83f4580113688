"""The method: how a block is predicted from blocks that were scanned before it.

An image is a grid of R × C blocks, numbered row by row. Blocks are visited in a fixed order. The
predictor names an earlier block; if the visited block matches what that one is rebuilt as, it is
dropped and rebuilt the same way, otherwise it is kept and stands for itself. After the scan
``source[n]`` is the kept block whose pixels rebuild block n.

Everything is decided on *rebuilt* blocks, the only ones a decoder has. Hence the decoder can
repeat every prediction (Proposition 1), and errors cannot add up (Proposition 2): each dropped
block was compared with the very pixels that will stand in for it.

This file is the method in plain Python. The built-in predictors also exist compiled
(`pixelprune.selection._kernels`); tests hold the two equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from pixelprune.selection._codes import PRED2D, RASTER, SERPENTINE  # numbers that the compiled kernel knows
from pixelprune.selection._registry import Registry

_UNVISITED = -1

Same = Callable[[int, int], bool]
Rule = Callable[[int, int, Sequence[int], Same], int | None]
Order = Callable[[int, int], Iterable[int]]


def by_rows(rows: int, columns: int) -> Iterable[int]:
    """Row-major order: every row from left to right."""
    return range(rows * columns)


def by_snake(rows: int, columns: int) -> Iterable[int]:
    """Even rows from left to right, odd rows from right to left."""
    for row in range(rows):
        first = row * columns
        line = range(first, first + columns)
        yield from reversed(line) if row % 2 else line


def pred2d(n: int, columns: int, source: Sequence[int], same: Same) -> int | None:
    """Pred-2D, the rule of the PixelPrune paper, over left (A), upper (B) and upper-left (C).

    If C matches A but not B, the row above changes between C and B; the row of this block is
    taken to change at the same place, which makes B the prediction. In all other cases it is A.
    The first row has only A, the first column only B, and block 0 nothing.
    """
    row, column = divmod(n, columns)
    if n == 0:
        return None
    if row == 0:
        return source[n - 1]
    if column == 0:
        return source[n - columns]
    a, b, c = source[n - 1], source[n - columns], source[n - columns - 1]
    return b if same(c, a) and not same(c, b) else a


def raster(n: int, columns: int, source: Sequence[int], same: Same) -> int | None:
    """One run after another along the row-major sequence; a run may go on in the next row."""
    return source[n - 1] if n else None


def serpentine(n: int, columns: int, source: Sequence[int], same: Same) -> int | None:
    """The same runs along the snake, where successive blocks always touch."""
    row, column = divmod(n, columns)
    step, end = (1, columns - 1) if row % 2 else (-1, 0)
    if column != end:
        return source[n + step]
    return source[n - columns] if row else None


@dataclass(frozen=True)
class Predictor:
    """A named scan order and rule; `kernel` is the code of its compiled twin, if it has one."""

    name: str
    rule: Rule
    order: Order = by_rows
    kernel: int | None = None


_registry = Registry(
    "predictor",
    option="predictor",
    where="pixelprune.predictors",
    built_in=(
        Predictor("pred2d", pred2d, by_rows, kernel=PRED2D),
        Predictor("raster", raster, by_rows, kernel=RASTER),
        Predictor("serpentine", serpentine, by_snake, kernel=SERPENTINE),
    ),
)


def names() -> list[str]:
    """The names of all predictors, built-in ones first."""
    return _registry.names()


def get(name: str) -> Predictor:
    """The predictor called `name`.

    Raises:
        OptionError: no predictor has this name; the text lists the known ones.
    """
    return _registry.get(name)


def register(name: str, rule: Rule, order: Order = by_rows) -> Predictor:
    """Add your own predictor under `name`; every option that names a predictor then accepts it.

    Args:
        name: the name to use in `PruneConfig(predictor=...)`.
        rule: ``rule(n, columns, source, same)`` returns the index of the kept block that predicts
            block n, or None if nothing does. ``source[k]`` is set for every block k visited
            before; ``same(p, q)`` returns whether the kept blocks p and q match. A rule must be a
            pure function of these, since decoding calls it again.
        order: ``order(rows, columns)`` yields every block index once, in the order of the scan.

    Raises:
        ValueError: the name is taken or empty, or `rule` or `order` is not callable.

    Your rule runs in Python, at some microseconds per block; the built-in ones are compiled.

    Example:
        >>> import numpy as np
        >>> import pixelprune
        >>> def upper(n, columns, source, same):
        ...     return source[n - columns] if n >= columns else None
        >>> predictor = register("upper", upper)
        >>> stripes = np.zeros((64, 96, 3), np.uint8)
        >>> stripes[:, 32:64] = 255
        >>> pixelprune.select(stripes, pixelprune.PruneConfig(predictor="upper")).keep.astype(int)
        array([[1, 1, 1],
               [0, 0, 0]])
        >>> unregister("upper")
    """
    for argument, value in (("rule", rule), ("order", order)):
        if not callable(value):
            raise ValueError(f"{argument} must be a function, got {value!r}")
    predictor = Predictor(name, rule, order)
    _registry.register(predictor)
    return predictor


def unregister(name: str) -> None:
    """Remove a predictor that was added with `register`.

    Raises:
        ValueError: `name` is unknown or built in.
    """
    _registry.unregister(name)


def scan(
    predictor: Predictor,
    rows: int,
    columns: int,
    same: Same,
    drop: Callable[[int, int], bool],
) -> list[int]:
    """Visit all blocks in the predictor's order; the slow, obvious form of the whole method.

    Args:
        predictor: the rule and its order.
        rows, columns: the grid, R and C.
        same: whether two kept blocks match.
        drop: ``drop(n, p)``: whether block n may be rebuilt from kept block p. An encoder compares
            the pixels; a decoder looks up whether n was kept.

    Returns:
        source: for each block, row-major, the kept block that rebuilds it.

    Raises:
        ValueError: the rule names a block that is not kept, or the order does not visit every block once.
    """
    total = rows * columns
    source = [_UNVISITED] * total
    for n in predictor.order(rows, columns):
        if not _is_index(n, total) or source[n] != _UNVISITED:
            raise ValueError(f"predictor {predictor.name!r} must visit blocks 0 to {total - 1} once each, got {n!r}")
        p = predictor.rule(n, columns, source, same)
        if p is not None and not (_is_index(p, total) and source[p] == p):
            raise ValueError(
                f"predictor {predictor.name!r} must return None or the index of a block kept earlier, "
                f"got {p!r} for block {n}"
            )
        source[n] = p if p is not None and drop(n, p) else n
    if _UNVISITED in source:
        missing = source.index(_UNVISITED)
        raise ValueError(f"predictor {predictor.name!r} must visit every block, its order left out {missing}")
    return source


def _is_index(value: Any, total: int) -> bool:
    # A rule of the user's own may return anything; numpy's integers are fine.
    return isinstance(value, Integral) and value in range(total)
