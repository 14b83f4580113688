"""From arrays to kernel calls: the one place that passes memory to compiled code."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pixelprune.selection._blocks import Cell, Image, Source, block_at, channels
from pixelprune.selection._codes import EXACT
from pixelprune.selection.metrics import METRICS, limit, totals
from pixelprune.selection.predictors import Predictor, scan


def find_sources(image: Image, cell: Cell, predictor: Predictor, threshold: float, metric: str) -> Source:
    """Encoder: `source` (R, C) int32 of an array (H, W[, 3]) whose sides are multiples of those of `cell`.

    `image` is as `with_contiguous_rows` returns it.
    """
    return _sources(image, cell, predictor, threshold, metric, None)


def repeat_sources(
    image: Image, keep: npt.NDArray[np.bool_], block: int, predictor: Predictor, threshold: float, metric: str
) -> Source:
    """Decoder: `source` (R, C) int32, read from the kept blocks of `image` alone."""
    return _sources(image, (block, block), predictor, threshold, metric, keep)


def _sources(
    image: Image,
    cell: Cell,
    predictor: Predictor,
    threshold: float,
    metric: str,
    keep: npt.NDArray[np.bool_] | None,
) -> Source:
    (height, width), samples = cell, channels(image)
    rows, columns = image.shape[0] // height, image.shape[1] // width
    largest = limit(threshold, metric, height * width * samples)
    if predictor.kernel is None:
        return _scan_in_python(image, cell, predictor, largest, metric, keep)
    from pixelprune.selection import _native  # loads llvmlite, which `import pixelprune` need not wait for

    source = np.empty((rows, columns), np.int32)
    kept = np.empty(0, np.uint8) if keep is None else np.ascontiguousarray(keep).view(np.uint8)
    equal, runs = np.empty(columns, np.uint8), np.empty(4 * (columns + 1), np.int64)
    _native.scan_function()(
        image.ctypes.data,
        image.strides[0],
        width * samples,
        height,
        rows,
        columns,
        predictor.kernel,
        METRICS[metric].code if largest else EXACT,
        largest,
        keep is not None,
        kept.ctypes.data,
        source.ctypes.data,
        equal.ctypes.data,
        runs.ctypes.data,
    )
    return source


def _scan_in_python(
    image: Image,
    cell: Cell,
    predictor: Predictor,
    largest: int,
    metric: str,
    keep: npt.NDArray[np.bool_] | None,
) -> Source:
    rows, columns = image.shape[0] // cell[0], image.shape[1] // cell[1]

    def match(p: int, q: int) -> bool:
        if p == q:
            return True
        x, y = block_at(image, p, cell), block_at(image, q, cell)
        return int(totals(x, y, metric, tuple(range(x.ndim)))) <= largest

    drop = match if keep is None else lambda n, _: not keep.flat[n]
    source = scan(predictor, rows, columns, match, drop)
    return np.array(source, np.int32).reshape(rows, columns)
