"""The paper's representation of an image: kept blocks and their positions, nothing else.

`encode` shows what a selection keeps, `decode` that it is enough: applying the same rule in the
same order to the kept blocks rebuilds the image, equal at τ = 0 (Proposition 1) and within τ in
every block otherwise (Proposition 2).
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from pixelprune._atomic import write_whole
from pixelprune.selection import predictors
from pixelprune.selection._blocks import Image, in_blocks
from pixelprune.selection._engine import repeat_sources
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.select import check_config, check_image, select

_FORMAT = "pixelprune"
_VERSION = 1
# A square of 46,340: a small file could claim any grid, since what is dropped takes no room in it.
_MOST_PIXELS = np.iinfo(np.int32).max


@dataclass(frozen=True, eq=False, repr=False)
class Compressed:
    """An image as its kept blocks {(P_k, p_k)}.

    It shows what a model no longer has to process; as a file it is larger than a PNG.

    Attributes:
        blocks: uint8 (K, B, B, channels), the kept blocks in row-major order; channels is 3 or 1.
        positions: int32 (K,), their row-major indices in the grid, ascending.
        grid: (R, C), rows and columns of blocks of the whole image, of at most 2³¹ − 1 pixels.
        config: the config that selected.
        threshold: τ that was in force, in [0, 1]; with a budget it can be above `config.threshold`.

    Raises:
        ValueError: the parts do not fit together.

    Example:
        >>> encode(np.zeros((64, 96), np.uint8))
        <Compressed: 1 of 6 blocks, grid (2, 3), threshold 0>
    """

    blocks: npt.NDArray[np.uint8]
    positions: npt.NDArray[np.int32]
    grid: tuple[int, int]
    config: PruneConfig
    threshold: float

    def __post_init__(self) -> None:
        blocks, positions = self.blocks, self.positions
        for name, array in (("blocks", blocks), ("positions", positions)):
            if not isinstance(array, np.ndarray):
                raise ValueError(f"{name} must be a numpy array, got {type(array).__name__}")
        if blocks.dtype != np.uint8 or blocks.ndim != 4 or blocks.shape[1] != blocks.shape[2]:
            raise ValueError(f"blocks must be uint8 (K, B, B, channels), got {blocks.dtype} {blocks.shape}")
        if blocks.shape[1] < 1 or blocks.shape[3] not in (1, 3):
            raise ValueError(f"blocks must have sides of at least 1 and 1 or 3 channels, got {blocks.shape}")
        if positions.dtype != np.int32 or positions.shape != blocks.shape[:1]:
            raise ValueError(f"positions must be int32 ({len(blocks)},), got {positions.dtype} {positions.shape}")
        if len(self.grid) != 2 or not all(type(side) is int and side >= 1 for side in self.grid):
            raise ValueError(f"grid must be two whole numbers of at least 1, got {self.grid}")
        total = self.grid[0] * self.grid[1]
        if total * blocks.shape[1] ** 2 > _MOST_PIXELS:
            raise ValueError(
                f"grid must have at most {_MOST_PIXELS} pixels, got {self.grid} blocks of side {blocks.shape[1]}; "
                "cut the image into smaller ones"
            )
        ascending = bool((positions[1:] > positions[:-1]).all())
        if not len(positions) or positions[0] < 0 or positions[-1] >= total or not ascending:
            raise ValueError(f"positions must ascend within 0 to {total - 1}, got {positions}")
        check_config(self.config)
        is_number = isinstance(self.threshold, int | float) and not isinstance(self.threshold, bool)
        if not is_number or not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be a number in [0, 1], got {self.threshold!r}")

    def __repr__(self) -> str:
        return f"<Compressed: {self.kept} of {self.total} blocks, grid {self.grid}, threshold {self.threshold:g}>"

    @property
    def total(self) -> int:
        """N = R·C, the blocks of the whole image."""
        return self.grid[0] * self.grid[1]

    @property
    def kept(self) -> int:
        """K, the kept blocks."""
        return len(self.positions)

    @property
    def block(self) -> int:
        """B, side of a block in pixels."""
        return int(self.blocks.shape[1])

    @property
    def retain_ratio(self) -> float:
        """K / N."""
        return self.kept / self.total

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file, a zip of numpy arrays; any suffix will do.

        Raises:
            OSError: the file cannot be written.
        """
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "grid": self.grid,
            "config": self.config.to_dict(),
            "threshold": self.threshold,
        }

        def write(file: BinaryIO) -> None:
            np.savez_compressed(file, header=json.dumps(header), blocks=self.blocks, positions=self.positions)

        write_whole(Path(path), write)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Compressed:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged, was not written by `save`, needs a newer version of
                pixelprune, or a predictor that is not registered.
            OSError: the file cannot be opened.
        """
        # Opened here since numpy leaves a file open that it opened and could not read.
        with Path(path).open("rb") as file:
            try:
                header, blocks, positions = _read(file)
            except Exception as error:  # zipfile, numpy and json raise nearly anything on damaged bytes
                raise ValueError(f"{os.fspath(path)} is not a readable PixelPrune file: {error}") from error
        try:
            config = PruneConfig.from_dict(header["config"])
            return cls(blocks, positions, tuple(header["grid"]), config, header["threshold"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{os.fspath(path)} cannot be used: {error}") from error


def _read(file: BinaryIO) -> tuple[dict[str, Any], npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    if not zipfile.is_zipfile(file):
        raise ValueError("it is damaged, or not a PixelPrune file")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        header = json.loads(str(archive["header"]))
        if header["format"] != _FORMAT:
            raise ValueError(f"its format is {header['format']!r}")
        if type(header["version"]) is not int or header["version"] < 1:
            raise ValueError(f"it has format version {header['version']!r}, which does not exist; write it again")
        if header["version"] > _VERSION:
            raise ValueError(f"it has format version {header['version']}; update pixelprune to read it")
        return header, archive["blocks"], archive["positions"]


def encode(image: Image, config: PruneConfig = PruneConfig(), *, block: int = 32) -> Compressed:
    """Keep the blocks that `select` keeps, and their positions.

    Args, Raises: as `pixelprune.select`.

    Example:
        >>> import numpy as np
        >>> page = np.full((64, 96, 3), 255, np.uint8)
        >>> page[40:50, 40:50] = 0
        >>> compressed = encode(page)
        >>> compressed.blocks.shape, compressed.positions
        ((3, 32, 32, 3), array([0, 4, 5], dtype=int32))
        >>> bool((decode(compressed) == page).all())
        True
    """
    image, block = check_image(image, block)
    selection = select(image, config, block=block)
    rows, columns = np.nonzero(selection.keep)
    return Compressed(
        blocks=in_blocks(image, block)[rows, columns],
        positions=selection.indices.astype(np.int32),
        grid=selection.grid,
        config=config,
        threshold=selection.threshold,
    )


def decode(compressed: Compressed) -> Image:
    """Rebuild the image from kept blocks and positions alone.

    Returns:
        uint8 (H, W, 3), or (H, W) if the blocks have one channel.

    Raises:
        ValueError: `compressed` is not a Compressed, lacks a block that the rule needs, or its
            predictor is not registered; the image does not fit in memory.
    """
    if not isinstance(compressed, Compressed):
        raise ValueError(f"compressed must be a Compressed, as encode returns, got {type(compressed).__name__}")
    rows, columns = compressed.grid
    block, config = compressed.block, compressed.config
    pixels = compressed.blocks.shape[3]
    shape = (rows * block, columns * block) + ((3,) if pixels == 3 else ())
    try:
        image, keep = np.empty(shape, np.uint8), np.zeros(rows * columns, np.bool_)
    except MemoryError:
        raise ValueError(f"compressed needs more memory than there is, got an image of {shape}") from None
    keep[compressed.positions] = True
    cells = in_blocks(image, block)
    cells[np.divmod(compressed.positions, columns)] = compressed.blocks
    predictor = predictors.get(config.predictor)
    source = repeat_sources(image, keep.reshape(rows, columns), block, predictor, compressed.threshold, config.metric)
    if not keep[source].all():
        raise ValueError(f"compressed must hold the blocks that {predictor.name!r} starts from, got {compressed!r}")
    dropped = np.flatnonzero(~keep)
    cells[np.divmod(dropped, columns)] = cells[np.divmod(source.ravel()[dropped], columns)]
    return image
