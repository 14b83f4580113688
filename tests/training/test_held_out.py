"""The images that accuracy is measured on are what they are said to be, and none of them is trained on."""

from __future__ import annotations

import itertools
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import pixelprune
from tiny_model import rows
from tiny_model.accuracy import mcnemar, together
from tiny_model.restored import VARIANTS, chooser
from tiny_model.tasks import BLOCK, TASKS, held_out, held_out_sparse


def digests(images: Any) -> set[int]:
    return {zlib.crc32(np.ascontiguousarray(image).tobytes()) for image in images}


def colors(image: Any) -> int:
    return len(np.unique(image.astype(np.int32) @ (1, 256, 256**2)))


@pytest.mark.parametrize("task", TASKS)
def test_sparse_images(task: Any) -> None:
    """Size, fields and noise, read from the pixels; pruning drops most of each image."""
    samples = held_out_sparse(task, 150)
    shapes = [tuple(side / BLOCK for side in one.image.shape[:2]) for one in samples]
    assert set(shapes) == set(itertools.product((7, 8), (8, 9, 10)))
    assert {len(one.turns) for one in samples} == {1, 2}
    assert {one.task for one in samples} == {task}
    for one in samples:
        assert len(one.turns) == len(one.boxes)
        # Noise puts more than a thousand colors into an image; ink and faces of buttons have fewer.
        assert colors(one.image) < 500
        assert pixelprune.select(one.image).retain_ratio < 0.4


def test_noise_is_what_is_left_out() -> None:
    """What the test above counts does tell noisy images from others."""
    for one in held_out("find", 40):
        assert (colors(one.image) < 500) == (not one.noisy)


@pytest.mark.parametrize("task", TASKS)
def test_sets_are_fixed_and_separate(task: Any, tmp_path: Path) -> None:
    sparse = digests(one.image for one in held_out_sparse(task, 100))
    assert len(sparse) == 100
    assert digests(one.image for one in held_out_sparse(task, 100)) == sparse
    assert digests(one.image for one in held_out_sparse(task, 40)) < sparse
    others = digests(one.image for one in held_out(task, 400))
    for seed in (1, 2):
        rows.write(tmp_path / str(seed), 100, seed)
        others |= digests(np.asarray(Image.open(path)) for path in (tmp_path / str(seed)).glob("*.png"))
    assert len(others) == 400 + 2 * 100
    assert not sparse & others


@pytest.mark.parametrize("variant", VARIANTS[1:])
def test_variants_are_their_options(variant: str) -> None:
    """Tokens counted by hand from what plain pruning keeps."""
    choose = chooser(variant)
    assert choose is not None
    for one in held_out_sparse("find", 20):
        plain, chosen = pixelprune.select(one.image), choose(one.image)
        dropped = plain.total - plain.kept
        expected = {
            "restore=0": plain.kept,
            "restore=0.25": plain.kept + int(dropped / 4 + 0.5),
            "restore=0.5": plain.kept + int(dropped / 2 + 0.5),
            "restore=1": plain.total,
            "min_tokens=24": max(24, plain.kept),
            "min_tokens=40": max(40, plain.kept),
        }[variant.rpartition(" ")[2]]
        at_random = " " in variant
        assert chosen.tokens == expected
        assert chosen.kept == (expected if at_random else plain.kept)
        assert bool((plain.keep <= chosen.keep).all())
        assert bool((chosen.token_map >= 0).sum() == expected)


def test_mcnemar() -> None:
    """Against a list of all ways in which the samples that turned could have turned."""
    for won, lost in [(0, 0), (1, 0), (5, 5), (3, 9), (11, 2), (12, 0)]:
        before = [False] * won + [True] * lost + [True, False]
        after = [True] * won + [False] * lost + [True, False]
        ways = [sum(way) for way in itertools.product((0, 1), repeat=won + lost)]
        apart = abs(won - lost)
        as_far = sum(abs(2 * ups - won - lost) >= apart for ups in ways)
        assert mcnemar(before, after) == (won, lost, pytest.approx(as_far / len(ways)))


def test_several_pairs_together() -> None:
    """Against a list of all signs that the sums of the samples could have had."""
    draw = np.random.default_rng(3).integers
    for pairs in (1, 2, 3):
        differences = draw(-1, 2, (pairs, 12))
        sums = differences.sum(0)
        ways = [abs(np.dot(signs, sums)) >= abs(sums.sum()) for signs in itertools.product((1, -1), repeat=12)]
        won, lost, p = together(*differences.tolist())
        assert (won, lost) == ((differences == 1).sum(), (differences == -1).sum())
        assert p == pytest.approx(np.mean(ways))


def test_the_same_answers_again_prove_nothing_more() -> None:
    """Three models that turn on the same samples are as significant as one; on other samples, as one test of all."""
    before, after = [True] * 9 + [False] * 20, [False] * 7 + [True] * 3 + [False] * 19
    turned = [b - a for a, b in zip(before, after, strict=True)]
    won, lost, p = mcnemar(before, after)
    assert together(turned) == (won, lost, pytest.approx(p))
    assert together(turned, turned, turned) == (3 * won, 3 * lost, pytest.approx(p))
    apart = [[*[0] * 29 * place, *turned, *[0] * 29 * (2 - place)] for place in range(3)]
    assert together(*apart) == (3 * won, 3 * lost, pytest.approx(mcnemar(before * 3, after * 3)[2]))
