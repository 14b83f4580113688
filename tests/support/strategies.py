"""Images for property tests: small grids in which blocks match often, and sometimes just so."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

PREDICTORS = ("pred2d", "raster", "serpentine")
METRICS = ("max", "mae", "rmse")


@dataclass(frozen=True)
class Case:
    """An image with the block side and the threshold, in gray levels, to select it with."""

    image: np.ndarray
    block: int
    level: Fraction

    @property
    def threshold(self) -> Fraction:
        return self.level / 255


@st.composite
def cases(draw: st.DrawFn, blocks: tuple[int, ...] = (1, 3, 4, 8, 22, 32), most: int = 6) -> Case:
    """A `Case`: a few base patterns in a layout, with steps of about τ between them."""
    rows, columns = draw(st.integers(1, most)), draw(st.integers(1, most))
    block, channels = draw(st.sampled_from(blocks)), draw(st.sampled_from((1, 3)))
    level = draw(st.sampled_from((Fraction(0), Fraction(1), Fraction(5), Fraction(9, 2), Fraction(1, 4))))
    cell = {"layout": _layout(draw, rows, columns), "step": draw(st.integers(0, 2 * int(level) + 2))}
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    base = rng.integers(30, 90, (block, block, channels))
    blocks_ = base + cell["step"] * cell["layout"][:, :, None, None, None]
    if draw(st.booleans()):  # a few samples are off by one more
        blocks_ = blocks_ + (rng.random(blocks_.shape) < draw(st.sampled_from((0.001, 0.05)))).astype(int)
    image = blocks_.swapaxes(1, 2).reshape(rows * block, columns * block, channels).astype(np.uint8)
    return Case(image[:, :, 0] if channels == 1 else image, block, level)


def _layout(draw: st.DrawFn, rows: int, columns: int) -> np.ndarray:
    i, j = np.indices((rows, columns))
    kind = draw(st.sampled_from(("equal", "different", "checkers", "stripes", "columns", "gradient", "free")))
    if kind == "equal":
        return np.zeros((rows, columns), int)
    if kind == "different":
        return i * columns + j
    if kind == "checkers":
        return (i + j) % 2
    if kind == "stripes":
        return i % 2
    if kind == "columns":
        return j % 3
    if kind == "gradient":
        return i + j
    values = draw(st.lists(st.integers(0, 3), min_size=rows * columns, max_size=rows * columns))
    return np.array(values).reshape(rows, columns)
