"""The method once more, in plain Python and exact fractions: the oracle of everything fast."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import numpy as np


def matches(x: list[int], y: list[int], metric: str, threshold: Fraction) -> bool:
    """Whether two blocks, as flat lists of samples, are within `threshold` of full scale."""
    differences = [abs(p - q) for p, q in zip(x, y, strict=True)]
    if metric == "max":
        return Fraction(max(differences), 255) <= threshold
    if metric == "mae":
        return Fraction(sum(differences), 255 * len(x)) <= threshold
    assert metric == "rmse", metric
    return Fraction(sum(d * d for d in differences), 255**2 * len(x)) <= threshold**2


def visits(rows: int, columns: int, predictor: str) -> Iterator[tuple[int, int]]:
    for row in range(rows):
        backwards = predictor == "serpentine" and row % 2
        for column in reversed(range(columns)) if backwards else range(columns):
            yield row, column


def reference(image: np.ndarray, block: int, predictor: str, metric: str, threshold: Fraction) -> list[list[int]]:
    """`source` of `image`: rows of row-major indices of the kept blocks that rebuild each block."""
    rows, columns = image.shape[0] // block, image.shape[1] // block

    def pixels(row: int, column: int) -> list[int]:
        return image[row * block : (row + 1) * block, column * block : (column + 1) * block].ravel().tolist()

    assert predictor in ("pred2d", "raster", "serpentine"), predictor
    rebuilt: dict[tuple[int, int], list[int]] = {}
    source = [[-1] * columns for _ in range(rows)]
    previous = None
    for row, column in visits(rows, columns, predictor):
        if predictor != "pred2d":
            prediction = previous
        elif row == 0:
            prediction = (row, column - 1) if column else None
        elif column == 0:
            prediction = (row - 1, column)
        else:
            a, b, c = (row, column - 1), (row - 1, column), (row - 1, column - 1)
            c_is_a = matches(rebuilt[c], rebuilt[a], metric, threshold)
            c_is_b = matches(rebuilt[c], rebuilt[b], metric, threshold)
            prediction = b if c_is_a and not c_is_b else a
        x = pixels(row, column)
        if prediction is not None and matches(x, rebuilt[prediction], metric, threshold):
            rebuilt[row, column] = rebuilt[prediction]
            source[row][column] = source[prediction[0]][prediction[1]]
        else:
            rebuilt[row, column] = x
            source[row][column] = row * columns + column
        previous = (row, column)
    return source
