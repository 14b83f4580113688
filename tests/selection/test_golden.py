"""Parity with the published implementation, whose keep masks lie beside the project."""

from __future__ import annotations

import csv
from functools import cache

import numpy as np
import PIL.Image
import pytest

from pixelprune import PruneConfig, select
from tests.support.shared_folder import SHARED


def _rows() -> list[dict[str, str]]:
    try:
        with (SHARED / "golden" / "index.csv").open(newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


@cache
def _image(name: str) -> np.ndarray:
    return np.asarray(PIL.Image.open(SHARED / "corpus" / name).convert("RGB"))


@cache
def _masks() -> dict[str, np.ndarray]:
    return dict(np.load(SHARED / "golden" / "masks.npz"))


@pytest.mark.skipif(not _rows(), reason=f"the golden masks are not at {SHARED}")
@pytest.mark.parametrize("row", _rows(), ids=lambda row: row["key"])
def test_keep_mask_equals_the_published_one(row: dict[str, str]) -> None:
    image = _image(row["image"])[: int(row["height"]), : int(row["width"])]
    config = PruneConfig(threshold=float(row["threshold"]), metric=row["metric"], predictor=row["predictor"])
    selection = select(image, config)
    expected = np.unpackbits(_masks()[row["key"]])[: int(row["total"])].astype(bool)
    assert (selection.keep.ravel() == expected).all()
    assert selection.kept == int(row["kept"])
