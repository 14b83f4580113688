from __future__ import annotations

import sys
import threading
import tracemalloc
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelprune import PruneConfig, decode, encode, select
from pixelprune.selection.select import largest_error, select_patches
from tests.support.reference import reference
from tests.support.strategies import METRICS, PREDICTORS, Case, cases


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("predictor", PREDICTORS)
@given(case=cases())
@settings(max_examples=120)
def test_equals_the_reference(case: Case, predictor: str, metric: str) -> None:
    config = PruneConfig(threshold=float(case.threshold), predictor=predictor, metric=metric)
    selection = select(case.image, config, block=case.block)
    expected = reference(case.image, case.block, predictor, metric, case.threshold)
    assert selection.source.tolist() == expected
    assert selection.keep.tolist() == [
        [source == row * len(line) + column for column, source in enumerate(line)] for row, line in enumerate(expected)
    ]


@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("level", [0, 5])
def test_equals_the_reference_on_real_pixels(page: np.ndarray, predictor: str, level: int) -> None:
    crop = page[320:704, 64:544]
    config = PruneConfig(threshold=level / 255, predictor=predictor)
    assert select(crop, config).source.tolist() == reference(crop, 32, predictor, "max", Fraction(level, 255))


@pytest.mark.parametrize("block", [28, 32])
def test_no_sample_of_a_block_is_overlooked(block: int) -> None:
    image = np.full((block, 3 * block, 3), 100, np.uint8)
    for position in np.ndindex(block, block, 3):
        cell = image[:, block : 2 * block][position]
        image[:, block : 2 * block][position] = cell + 1
        assert select(image, block=block).keep.tolist() == [[True, True, True]], position
        image[:, block : 2 * block][position] = cell + 6
        assert select(image, PruneConfig(threshold=6 / 255), block=block).kept == 1, position
        assert select(image, PruneConfig(threshold=5.99 / 255), block=block).kept == 3, position
        image[:, block : 2 * block][position] = cell


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("level", range(1, 256))
def test_blocks_at_exactly_the_threshold_match(metric: str, level: int) -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, 32:] = level
    assert select(image, PruneConfig(threshold=level / 255, metric=metric)).kept == 1
    image[7, 40, 1] = min(level + 1, 255)
    assert select(image, PruneConfig(threshold=level / 255, metric=metric)).kept == (2 if level < 255 else 1)


def test_pred2d_predicts_from_above_where_the_row_above_changes() -> None:
    def column(level: int) -> np.ndarray:
        return np.full((64, 32, 3), level, np.uint8)

    image = np.concatenate([column(10), column(10), column(200), column(200)], axis=1)
    selection = select(image)
    assert selection.source.tolist() == [[0, 0, 2, 2], [0, 0, 2, 2]]
    assert select(image, PruneConfig(predictor="raster")).kept == 4


def test_errors_do_not_add_up_along_a_gradient() -> None:
    levels = np.repeat(np.arange(0, 60, 2, dtype=np.uint8), 32)
    image = np.repeat(levels[None, :], 32, axis=0)
    selection = select(image, PruneConfig(threshold=5 / 255))
    assert selection.source.ravel().tolist() == [n - n % 3 for n in range(30)]
    assert largest_error(image, selection) == pytest.approx(4 / 255)


def test_largest_error_is_bounded_and_zero_if_exact(sample: np.ndarray) -> None:
    assert largest_error(sample, select(sample)) == 0
    for metric in METRICS:
        selection = select(sample, PruneConfig(threshold=0.05, metric=metric))
        assert 0 < largest_error(sample, selection, metric) <= 0.05


def test_largest_error_of_another_image_is_refused(page: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"image must be 1696 x 1184, as its selection says, got \(1664, 1184\)"):
        largest_error(page[:-32], select(page))


def test_figures_of_a_selection(sample: np.ndarray) -> None:
    selection = select(sample)
    assert selection.grid == (sample.shape[0] // 32, sample.shape[1] // 32) == selection.keep.shape
    assert selection.total == selection.keep.size
    assert selection.kept == selection.keep.sum() == len(selection.indices)
    assert 0.2 < selection.retain_ratio == selection.kept / selection.total < 0.7
    assert selection.keep.ravel()[selection.indices].all()
    assert (np.diff(selection.indices) > 0).all()
    assert selection.source.dtype == np.int32
    assert selection.keep.dtype == np.bool_
    assert selection.keep.ravel()[selection.source.ravel()].all(), "a source is a kept block"
    assert selection.budget_met


def _layouts(image: np.ndarray) -> dict[str, np.ndarray]:
    wide = np.concatenate([image, image[:, :37]], axis=1)
    read_only = image.copy()
    read_only.setflags(write=False)
    return {
        "crop of a wider image": wide[:, : image.shape[1]],
        "crop of a taller image": np.concatenate([image[:5], image])[5:],
        "flipped twice": image[::-1, ::-1].copy()[::-1, ::-1],
        "column-major": np.asfortranarray(image),
        "channels first": np.ascontiguousarray(image.transpose(2, 0, 1)).transpose(1, 2, 0),
        "BGR": image[:, :, ::-1].copy()[:, :, ::-1],
        "read-only": read_only,
        "every other column": np.repeat(image, 2, axis=1)[:, ::2],
        "every other row": np.repeat(image, 2, axis=0)[::2],
        "one byte off": np.frombuffer(b"\0" + image.tobytes(), np.uint8)[1:].reshape(image.shape),
    }


@pytest.mark.parametrize("layout", _layouts(np.zeros((1, 1, 3), np.uint8)))
def test_memory_layout_makes_no_difference(page: np.ndarray, layout: str) -> None:
    crop = page[:512, :512]
    image = _layouts(crop)[layout]
    assert (image == crop).all()
    assert (select(image).source == select(crop.copy()).source).all()


def test_broadcast_images_of_one_pixel_or_row() -> None:
    pixel = np.broadcast_to(np.array([1, 2, 3], np.uint8), (64, 96, 3))
    assert select(pixel).kept == 1
    row = np.broadcast_to(np.arange(96, dtype=np.uint8), (64, 96))
    assert select(row).source.tolist() == [[0, 1, 2], [0, 1, 2]]


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int64])
def test_block_may_be_a_numpy_integer(page: np.ndarray, kind: type) -> None:
    for metric in METRICS:
        config = PruneConfig(0.02, metric)
        selection = select(page, config, block=kind(32))
        assert (selection.source == select(page, config).source).all()
        assert largest_error(page, selection, metric) <= 0.02


def test_subclasses_of_arrays_are_taken_as_arrays(page: np.ndarray) -> None:
    masked = np.ma.MaskedArray(page, mask=page > 100)
    assert (select(masked).source == select(page).source).all()

    class Tagged(np.ndarray):
        pass

    assert (decode(encode(page.view(Tagged))) == page).all()


def test_a_block_of_exactly_half_a_step() -> None:
    image = np.zeros((64, 128), np.uint8)
    image[:, 64:96] = 1
    assert select(image, PruneConfig(0.5 / 255, "mae"), block=64).kept == 1
    image[5, 100] = 1
    assert select(image, PruneConfig(0.5 / 255, "mae"), block=64).kept == 2


def test_grey_images_are_selected_like_their_rgb_copies(page: np.ndarray) -> None:
    grey = np.asarray(PIL.Image.fromarray(page).convert("L"))
    rgb = np.repeat(grey[:, :, None], 3, axis=2)
    for metric in METRICS:
        config = PruneConfig(threshold=0.03, metric=metric)
        assert (select(grey, config).source == select(rgb, config).source).all()


def test_memory_above_the_image_is_a_few_bytes_a_block() -> None:
    image = np.zeros((4096, 4096, 3), np.uint8)
    select(image)
    tracemalloc.start()
    select(image, PruneConfig(threshold=0.02))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 * (4096 // 32) ** 2


def test_threads_get_the_answers_of_one(sample: np.ndarray) -> None:
    crops = [sample[: 32 * rows] for rows in range(4, 20)]
    expected = [select(crop).source for crop in crops]
    results: list[np.ndarray | None] = [None] * len(crops)

    def work(n: int) -> None:
        for _ in range(20):
            results[n] = select(crops[n]).source

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(crops))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all((a == b).all() for a, b in zip(results, expected, strict=True))


class TestBudget:
    @pytest.mark.parametrize("share", [0.99, 0.95, 0.9, 0.8, 0.75])
    @pytest.mark.parametrize(("metric", "steps"), [("max", 255), ("mae", 255 * 4), ("rmse", 255 * 4)])
    def test_smallest_threshold_that_meets_it(self, page: np.ndarray, metric: str, steps: int, share: float) -> None:
        grain = np.random.default_rng(0).normal(0, 3, (512, 512, 1))
        crop = (page[320:832, :512] + grain).clip(0, 255).astype(np.uint8)
        budget = int(share * select(crop).kept)
        selection = select(crop, PruneConfig(metric=metric, max_tokens=budget, max_threshold=0.5))
        assert selection.budget_met
        assert selection.kept <= budget
        step = round(selection.threshold * steps)
        assert selection.threshold == step / steps
        for smaller in range(step):
            assert select(crop, PruneConfig(smaller / steps, metric)).kept > budget, smaller

    @pytest.mark.parametrize(("metric", "steps"), [("max", 255), ("mae", 255 * 4), ("rmse", 255 * 4)])
    @given(case=cases(blocks=(1, 4), most=4), budget=st.integers(1, 16), level=st.integers(0, 6))
    @settings(max_examples=60)
    def test_any_budget(self, case: Case, budget: int, level: int, metric: str, steps: int) -> None:
        start, largest = float(case.threshold), max(float(case.threshold), level / 255)
        ladder = [start, *(step / steps for step in range(steps) if start < step / steps <= largest), largest]
        within = [
            threshold
            for threshold in ladder
            if select(case.image, PruneConfig(threshold, metric), block=case.block).kept <= budget
        ]
        config = PruneConfig(start, metric, max_tokens=budget, max_threshold=largest)
        selection = select(case.image, config, block=case.block)
        assert selection.budget_met == bool(within)
        assert selection.threshold == (within[0] if within else largest)

    def test_no_search_if_the_threshold_is_enough(self, page: np.ndarray) -> None:
        selection = select(page, PruneConfig(threshold=0.013, max_tokens=page.size))
        assert (selection.threshold, selection.budget_met) == (0.013, True)

    @pytest.mark.parametrize("metric", METRICS)
    @pytest.mark.parametrize("largest", [0.0301, 5 / 255])
    def test_says_so_if_it_cannot_be_met(self, page: np.ndarray, metric: str, largest: float) -> None:
        config = PruneConfig(metric=metric, max_tokens=1, max_threshold=largest)
        selection = select(page, config)
        assert (selection.threshold, selection.budget_met) == (largest, False)
        assert (selection.source == select(page, PruneConfig(largest, metric)).source).all()

    def test_can_equal_the_largest_threshold(self) -> None:
        image = np.zeros((32, 64), np.uint8)
        image[:, 32:] = 9
        selection = select(image, PruneConfig(max_tokens=1, max_threshold=9 / 255))
        assert (selection.kept, selection.threshold, selection.budget_met) == (1, 9 / 255, True)

    def test_a_copy_that_must_be_made_is_made_once(self, page: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
        flipped, config = page[:320, ::-1], PruneConfig(metric="mae", max_tokens=1)
        expected = select(flipped.copy(), config)
        copies: list[np.ndarray] = []

        def counted(image: np.ndarray) -> np.ndarray:
            copies.append(image)
            return np.ascontiguousarray(image)

        monkeypatch.setattr(sys.modules["pixelprune.selection.select"], "with_contiguous_rows", counted)
        assert (select(flipped, config).source == expected.source).all()
        assert len(copies) == 1

    @pytest.mark.parametrize("level", [33, 37, 41, 66])
    def test_never_above_the_largest_threshold_by_a_hair(self, page: np.ndarray, level: int) -> None:
        config = PruneConfig(max_tokens=1, max_threshold=level * (1 / 255))
        assert select(page[:320, :320], config).threshold <= config.max_threshold

    def test_a_budget_met_at_once_needs_no_step(self, page: np.ndarray) -> None:
        config = PruneConfig(max_tokens=select(page).kept)
        assert (select(page, config).threshold, select(page, config).budget_met) == (0, True)

    def test_starts_above_the_configured_threshold(self) -> None:
        image = np.zeros((32, 64), np.uint8)
        image[:, 32:] = 9
        selection = select(image, PruneConfig(threshold=8.5 / 255, max_tokens=1))
        assert selection.threshold == 9 / 255


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ([[0]], "image must be a numpy array, got list; .*pixelprune.fit_image"),
        (PIL.Image.new("RGB", (32, 32)), "image must be a numpy array, got Image; .*pixelprune.fit_image"),
        (
            np.zeros((32, 32, 3), np.float32),
            "image must be uint8, got float32; scale it to 0..255 and convert it, then",
        ),
        (np.zeros((32, 32, 4), np.uint8), r"shape \(H, W, 3\) or \(H, W\), got \(32, 32, 4\); .*pixelprune.fit_image"),
        (np.zeros((1, 32, 32, 3), np.uint8), r"shape \(H, W, 3\) or \(H, W\), got \(1, 32, 32, 3\)"),
        (
            np.zeros((33, 32, 3), np.uint8),
            r"multiples of block \(32\) and not 0, got 33 x 32 \(H x W\); pixelprune.fit",
        ),
        (
            np.zeros((32, 0, 3), np.uint8),
            r"multiples of block \(32\) and not 0, got 32 x 0 \(H x W\); pixelprune.fit",
        ),
    ],
)
def test_refuses_what_is_no_image(image: object, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        select(image)  # type: ignore[arg-type]


@pytest.mark.parametrize("block", [0, -32, 1.5, "32", True, None])
def test_refuses_what_is_no_block_side(block: object) -> None:
    with pytest.raises(ValueError, match="block must be a whole number of pixels of at least 1, got"):
        select(np.zeros((32, 32), np.uint8), block=block)  # type: ignore[arg-type]


def test_refuses_a_dict_as_config() -> None:
    with pytest.raises(ValueError, match=r"config must be a PruneConfig, got \{'threshold': 0\}; .*from_dict"):
        select(np.zeros((32, 32), np.uint8), {"threshold": 0})  # type: ignore[arg-type]


def cut(image: np.ndarray, patch: int, merge: int, order: str, frames: int) -> np.ndarray:
    """(h·w, D): the patches of an image (H, W, 3), channels first in each, as processors cut them."""
    rows, columns = (side // (patch * merge) for side in image.shape[:2])
    pixels = image.reshape(rows, merge, patch, columns, merge, patch, 3)
    axes = (0, 3, 1, 4) if order == "block" else (0, 1, 3, 4)
    patches = pixels.transpose(*axes, 6, 2, 5).reshape(-1, 3, 1, patch * patch)
    return np.repeat(patches, frames, axis=2).reshape(len(patches), -1)


@pytest.mark.parametrize("order", ["block", "row"])
@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("level", [0, 5])
def test_patches_select_as_their_image(
    sample: np.ndarray, order: str, frames: int, metric: str, predictor: str, level: int
) -> None:
    crop = sample[: 32 * 20, : 32 * 17]
    config = PruneConfig(threshold=level / 255, metric=metric, predictor=predictor)
    wanted = select(crop, config)
    got = select_patches(cut(crop, 16, 2, order, frames), (40, 34), config, patch=16, merge=2, patch_order=order)
    assert np.array_equal(got.source, wanted.source)
    assert (got.block, got.threshold) == (wanted.block, wanted.threshold)
    assert 0 < got.kept < got.total


def test_patches_to_a_budget(sample: np.ndarray) -> None:
    crop = sample[: 32 * 20, : 32 * 17]
    config = PruneConfig(max_tokens=select(crop).kept - 5)
    got = select_patches(cut(crop, 16, 2, "block", 2), (40, 34), config, patch=16, merge=2)
    assert got.threshold == select(crop, config).threshold > 0


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"patch_order": "spiral"}, "patch_order must be 'block' or 'row', got 'spiral'"),
        ({"merge": 3}, r"grid must have sides that are multiples of merge \(3\) and not 0, got \(4, 6\)"),
        ({"merge": 0}, "merge must be a whole number of at least 1, got 0"),
        ({"grid": (4, 8)}, r"patches must have shape \(h·w, D\) = \(32, D\), got \(24, 768\)"),
        ({"patches": np.zeros((24, 768), np.float32)}, "patches must be a uint8 array, got float32"),
        ({"patches": [[0]]}, "patches must be a uint8 array, got list"),
        ({"patch": 32}, "patch must fit patches: D = 768 is not a multiple of 32²"),
        ({"patch": True}, "patch must be a whole number of at least 1, got True"),
        ({"grid": 4}, r"grid must be \(h, w\), rows and columns of patches, got 4"),
        ({"grid": (4, 6.0)}, r"grid must be \(h, w\), rows and columns of patches, got \(4, 6.0\)"),
        ({"config": 0.1}, "config must be a PruneConfig"),
    ],
)
def test_refused_patches(changes: dict, text: str) -> None:
    arguments = {"patches": np.zeros((24, 768), np.uint8), "grid": (4, 6), "patch": 16, "merge": 2, **changes}
    with pytest.raises(ValueError, match=text):
        select_patches(**arguments)
