from __future__ import annotations

import numpy as np
import pytest

from pixelprune import PruneConfig, select
from pixelprune.images.overlay import overlay


def test_kept_blocks_keep_their_colours_and_dropped_ones_are_grey(sample: np.ndarray) -> None:
    selection = select(sample)
    picture = np.asarray(overlay(sample, selection))
    kept = np.kron(selection.keep, np.ones((32, 32), bool))
    assert (picture[kept] == sample[kept]).all()
    dropped = picture[~kept].astype(int)
    assert (dropped == dropped[:, :1]).all()
    assert (np.abs(dropped - sample[~kept]).max(axis=1) > 20).mean() > 0.99


def test_copies_are_blue(sample: np.ndarray) -> None:
    plain, selection = select(sample), select(sample, PruneConfig(restore=0.25))
    with_copies, without = (np.asarray(overlay(sample, one)).astype(int) for one in (selection, plain))
    copied = np.kron(selection.restored, np.ones((32, 32), bool))
    assert copied.any()
    assert (with_copies[~copied] == without[~copied]).all()
    red, green, blue = with_copies[copied].T
    assert ((blue - green > 40) & (green - red > 30)).all()


def test_the_image_itself_is_left_alone(sample: np.ndarray) -> None:
    before = sample.copy()
    overlay(sample, select(sample), grid=True)
    assert (sample == before).all()


def test_grid_lines_are_on_block_edges_only(sample: np.ndarray) -> None:
    selection = select(sample)
    plain, lined = np.asarray(overlay(sample, selection)), np.asarray(overlay(sample, selection, grid=True))
    changed = (plain != lined).any(axis=2)
    edges = np.zeros_like(changed)
    edges[::32], edges[:, ::32] = True, True
    assert not changed[~edges].any()
    assert changed[edges].mean() > 0.95


def test_grey_images_and_other_blocks() -> None:
    image = np.random.default_rng(0).integers(0, 255, (56, 84), np.uint8)
    picture = np.asarray(overlay(image, select(image, block=28)))
    assert (picture == image[:, :, None]).all()


def test_a_selection_of_another_image_is_refused(page: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"image must be 1696 x 1184, as its selection says, got \(1664, 1184\)"):
        overlay(page[:-32], select(page))
