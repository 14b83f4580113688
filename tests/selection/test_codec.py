from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from pixelprune import Compressed, PruneConfig, decode, encode, select
from tests.support.reference import matches
from tests.support.strategies import METRICS, PREDICTORS, Case, cases


@pytest.mark.parametrize("predictor", PREDICTORS)
@given(case=cases())
@settings(max_examples=100)
def test_proposition_1(case: Case, predictor: str) -> None:
    decoded = decode(encode(case.image, PruneConfig(predictor=predictor), block=case.block))
    assert decoded.dtype == np.uint8
    assert decoded.shape == case.image.shape
    assert (decoded == case.image).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("predictor", PREDICTORS)
@given(case=cases())
@settings(max_examples=100)
def test_proposition_2(case: Case, predictor: str, metric: str) -> None:
    config = PruneConfig(threshold=float(case.threshold), metric=metric, predictor=predictor)
    decoded = decode(encode(case.image, config, block=case.block))
    for row in range(0, case.image.shape[0], case.block):
        for column in range(0, case.image.shape[1], case.block):
            cell = np.s_[row : row + case.block, column : column + case.block]
            original, rebuilt = case.image[cell].ravel().tolist(), decoded[cell].ravel().tolist()
            assert matches(original, rebuilt, metric, case.threshold)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("predictor", PREDICTORS)
@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 1.0])
def test_decoding_gives_what_the_sources_say(sample: np.ndarray, predictor: str, metric: str, threshold: float) -> None:
    config = PruneConfig(threshold, metric, predictor)
    selection = select(sample, config)
    rows, columns = selection.grid
    cells = sample.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    expected = cells[selection.source.ravel()].reshape(rows, columns, 32, 32, 3).swapaxes(1, 2).reshape(sample.shape)
    assert (decode(encode(sample, config)) == expected).all()


def test_a_budget_decodes_with_the_threshold_in_force(page: np.ndarray) -> None:
    config = PruneConfig(max_tokens=int(0.95 * select(page).kept), max_threshold=0.5)
    compressed = encode(page, config)
    assert compressed.threshold > config.threshold
    error = np.abs(decode(compressed).astype(int) - page).max()
    assert 0 < error <= round(compressed.threshold * 255)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_decoding_without_the_first_block(page: np.ndarray, predictor: str) -> None:
    compressed = encode(page, PruneConfig(0.02, predictor=predictor))
    beheaded = replace(compressed, blocks=compressed.blocks[1:], positions=compressed.positions[1:])
    with pytest.raises(ValueError, match=f"compressed must hold the blocks that '{predictor}' starts from"):
        decode(beheaded)


def test_decoding_something_else() -> None:
    with pytest.raises(ValueError, match="compressed must be a Compressed, as encode returns, got NoneType"):
        decode(None)  # type: ignore[arg-type]


def test_holds_kept_blocks_and_positions_only(page: np.ndarray) -> None:
    compressed, selection = encode(page), select(page)
    assert compressed.blocks.shape == (selection.kept, 32, 32, 3)
    assert compressed.positions.tolist() == selection.indices.tolist()
    assert compressed.grid == selection.grid
    assert compressed.block == 32
    assert compressed.retain_ratio == selection.retain_ratio
    last_row, last_column = divmod(int(compressed.positions[-1]), selection.grid[1])
    cell = page[32 * last_row : 32 * last_row + 32, 32 * last_column : 32 * last_column + 32]
    assert (compressed.blocks[-1] == cell).all()


class TestFile:
    @pytest.fixture
    def path(self, tmp_path: Path, page: np.ndarray) -> Path:
        path = tmp_path / "page.pixelprune"
        encode(page[:128, :256], PruneConfig(threshold=0.02, metric="mae")).save(path)
        return path

    def test_comes_back_as_it_was(self, tmp_path: Path, sample: np.ndarray) -> None:
        grey = np.ascontiguousarray(sample[:, :, 1])
        for image in (sample, grey):
            compressed = encode(image, PruneConfig(threshold=0.02, predictor="serpentine", max_tokens=10**6))
            compressed.save(tmp_path / "one file")
            assert [file.name for file in tmp_path.iterdir()] == ["one file"]
            loaded = Compressed.load(str(tmp_path / "one file"))
            assert (loaded.grid, loaded.config, loaded.threshold) == (
                compressed.grid,
                compressed.config,
                compressed.threshold,
            )
            assert (loaded.positions == compressed.positions).all()
            assert (decode(loaded) == decode(compressed)).all()

    def test_is_smaller_than_its_pixels(self, tmp_path: Path, page: np.ndarray) -> None:
        encode(page).save(tmp_path / "page")
        assert (tmp_path / "page").stat().st_size < page.size / 4

    def test_truncated(self, path: Path) -> None:
        data = path.read_bytes()
        for length in range(0, len(data), max(1, len(data) // 200)):
            path.write_bytes(data[:length])
            with pytest.raises(ValueError, match="not a readable PixelPrune file: "):
                Compressed.load(path)

    def test_any_flipped_byte_is_noticed_or_harmless(self, path: Path) -> None:
        data, expected = path.read_bytes(), decode(Compressed.load(path))
        refused = 0
        for position in range(0, len(data), max(1, len(data) // 700)):
            path.write_bytes(data[:position] + bytes([data[position] ^ 0x5A]) + data[position + 1 :])
            try:
                loaded = Compressed.load(path)
            except ValueError:
                refused += 1
            else:
                assert (decode(loaded) == expected).all()
        assert refused > 500

    @pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04" + bytes(60)])
    def test_foreign_bytes(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(ValueError, match="file is not a readable PixelPrune file"):
            Compressed.load(tmp_path / "file")

    def test_foreign_archives(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "other.npz", weights=np.zeros(3))
        np.save(tmp_path / "array.npy", np.zeros(3))
        np.savez(tmp_path / "pickle.npz", header=np.array([{}], object))
        with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
            archive.writestr("readme.txt", "hello")
        for name in ("other.npz", "array.npy", "pickle.npz", "some.zip"):
            with pytest.raises(ValueError, match=f"{name} is not a readable PixelPrune file"):
                Compressed.load(tmp_path / name)

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"format": "other"}, "format is 'other'"),
            ({"version": 2}, "format version 2; update pixelprune"),
            ({"version": 0}, "format version 0, which does not exist; write it again"),
            ({"version": -5}, "format version -5, which does not exist; write it again"),
            ({"version": 0.5}, "format version 0.5, which does not exist; write it again"),
            ({"version": True}, "format version True, which does not exist; write it again"),
            ({"grid": [1, 2**31 - 1]}, r"at most 2147483647 pixels, got \(1, 2147483647\) blocks of side 32"),
            ({"grid": [2**20, 2]}, r"at most 2147483647 pixels, got \(1048576, 2\) blocks of side 32"),
            ({"grid": [10**30, 10**30]}, "grid must have at most 2147483647 pixels"),
            ({"config": {"treshold": 0}}, "unknown option 'treshold'; known options: threshold, metric"),
            (
                {"config": {"predictor": "mine"}},
                "predictor must be one of 'pred2d', 'raster', 'serpentine', got 'mine'",
            ),
            ({"grid": [0, 8]}, "grid must be two whole numbers of at least 1"),
            ({"grid": [1, 2]}, "ascend within 0 to 1"),
            ({"threshold": 7}, r"threshold must be a number in \[0, 1\], got 7"),
        ],
    )
    def test_header_that_does_not_fit(self, path: Path, change: dict[str, object], text: str) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        arrays["header"] = np.array(json.dumps(json.loads(str(arrays["header"])) | change))
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        path.write_bytes(buffer.getvalue())
        with pytest.raises(ValueError, match=text):
            Compressed.load(path)

    def test_missing_file_and_unwritable_place(self, tmp_path: Path, page: np.ndarray) -> None:
        with pytest.raises(FileNotFoundError):
            Compressed.load(tmp_path / "none")
        with pytest.raises(FileNotFoundError, match=r"no folder/file'$"):
            encode(page).save(tmp_path / "no folder" / "file")

    def test_nothing_else_is_touched(self, path: Path, page: np.ndarray) -> None:
        neighbours = [path.with_name(path.name + suffix) for suffix in (".part", ".tmp")]
        for neighbour in neighbours:
            neighbour.write_text("mine")
        encode(page[:64]).save(path)
        assert [neighbour.read_text() for neighbour in neighbours] == ["mine", "mine"]
        assert len(list(path.parent.iterdir())) == 3

    def test_a_failed_save_leaves_the_old_file(
        self, path: Path, page: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = path.read_bytes()

        def fail(*_: object, **__: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(np, "savez_compressed", fail)
        with pytest.raises(OSError, match="disk full"):
            encode(page).save(path)
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"positions": np.array([-1, 2, 3], np.int32)}, "positions must ascend within 0 to 5"),
        ({"positions": np.array([0, 4, 4], np.int32)}, "positions must ascend within 0 to 5"),
        ({"positions": np.array([0, 4, 6], np.int32)}, "positions must ascend within 0 to 5"),
        ({"positions": [0, 4, 5]}, "positions must be a numpy array, got list"),
        ({"grid": (2.0, 3)}, "grid must be two whole numbers"),
        ({"positions": np.array([0, 2**31 - 1, -(2**31)], np.int32)}, "positions must ascend within 0 to 5"),
        ({"grid": (2**16, 2**16)}, r"grid must have at most 2147483647 pixels, got \(65536, 65536\) blocks of side 32"),
        ({"config": {}}, "config must be a PruneConfig, got {}"),
        ({"threshold": "0"}, r"threshold must be a number in \[0, 1\], got '0'"),
        ({"positions": np.array([0, 4], np.int32)}, r"positions must be int32 \(3,\), got int32 \(2,\)"),
        ({"positions": np.array([0, 4, 5])}, "positions must be int32"),
        ({"blocks": np.zeros((3, 32, 16, 3), np.uint8)}, r"blocks must be uint8 \(K, B, B, channels\)"),
        ({"blocks": np.zeros((3, 32, 32, 4), np.uint8)}, "1 or 3 channels"),
    ],
)
def test_parts_that_do_not_fit_together(change: dict[str, object], text: str) -> None:
    image = np.full((64, 96, 3), 255, np.uint8)
    image[40:50, 40:50] = 0
    with pytest.raises(ValueError, match=text):
        replace(encode(image), **change)  # type: ignore[arg-type]


def test_what_does_not_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    compressed = encode(np.full((64, 96, 3), 255, np.uint8))

    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 6.00 GiB")

    monkeypatch.setattr(np, "empty", fail)
    with pytest.raises(ValueError, match=r"compressed needs more memory than there is, got an image of \(64, 96, 3\)"):
        decode(compressed)
