"""The paper's representation of an image: kept blocks and their positions, nothing else.

`encode` shows what a selection keeps, `decode` that it is enough: applying the same rule in the
same order to the kept blocks rebuilds the image, equal at τ = 0 (Proposition 1) and within τ in
every block otherwise (Proposition 2).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from pixelprune import predictors
from pixelprune._engine import Image, in_blocks, repeat_sources
from pixelprune.config import PruneConfig
from pixelprune.selection import select

_FORMAT = "pixelprune"
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Compressed:
    """An image as its kept blocks {(P_k, p_k)}.

    Attributes:
        blocks: uint8 (K, B, B, channels), the kept blocks in row-major order; channels is 3 or 1.
        positions: int32 (K,), their row-major indices in the grid, ascending.
        grid: (R, C), rows and columns of blocks of the whole image.
        config: the config that selected.
        threshold: τ that was in force, in [0, 1]; with a budget it can be above `config.threshold`.

    Raises:
        ValueError: the parts do not fit together.
    """

    blocks: npt.NDArray[np.uint8]
    positions: npt.NDArray[np.int32]
    grid: tuple[int, int]
    config: PruneConfig
    threshold: float

    def __post_init__(self) -> None:
        blocks, positions = self.blocks, self.positions
        if blocks.dtype != np.uint8 or blocks.ndim != 4 or blocks.shape[1] != blocks.shape[2]:
            raise ValueError(f"blocks must be uint8 (K, B, B, channels), got {blocks.dtype} {blocks.shape}")
        if blocks.shape[1] < 1 or blocks.shape[3] not in (1, 3):
            raise ValueError(f"blocks must have sides of at least 1 and 1 or 3 channels, got {blocks.shape}")
        if positions.dtype != np.int32 or positions.shape != blocks.shape[:1]:
            raise ValueError(f"positions must be int32 ({len(blocks)},), got {positions.dtype} {positions.shape}")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise ValueError(f"grid must be two numbers of at least 1, got {self.grid}")
        total = self.grid[0] * self.grid[1]
        if not len(positions) or positions[0] != 0 or positions[-1] >= total or (np.diff(positions) <= 0).any():
            raise ValueError(f"positions must start with 0 and ascend to at most {total - 1}, got {positions}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be in [0, 1], got {self.threshold}")

    @property
    def block(self) -> int:
        """B, side of a block in pixels."""
        return int(self.blocks.shape[1])

    @property
    def retain_ratio(self) -> float:
        """K / N."""
        return len(self.positions) / (self.grid[0] * self.grid[1])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one file, a zip of numpy arrays; the suffix is yours to choose.

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
        path = Path(path)
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                np.savez_compressed(file, header=json.dumps(header), blocks=self.blocks, positions=self.positions)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Compressed:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged, was not written by `save`, or needs a newer version.
            OSError: the file cannot be opened.
        """
        # Opened here since numpy leaves a file open that it opened and could not read.
        with Path(path).open("rb") as file:
            try:
                return cls._read(file)
            except Exception as error:  # zipfile, numpy and json raise nearly anything on damaged bytes
                raise ValueError(f"{os.fspath(path)} is not a readable PixelPrune file: {error}") from error

    @classmethod
    def _read(cls, file: BinaryIO) -> Compressed:
        with np.load(file, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            if header["format"] != _FORMAT:
                raise ValueError(f"format is {header['format']!r}")
            if header["version"] > _VERSION:
                raise ValueError(f"written in format version {header['version']}; update pixelprune to read it")
            return cls(
                archive["blocks"],
                archive["positions"],
                (int(header["grid"][0]), int(header["grid"][1])),
                PruneConfig.from_dict(header["config"]),
                float(header["threshold"]),
            )


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
        ValueError: a block is missing that the rule needs, or the predictor is not registered.
    """
    rows, columns = compressed.grid
    block, config = compressed.block, compressed.config
    pixels = compressed.blocks.shape[3]
    shape = (rows * block, columns * block) + ((3,) if pixels == 3 else ())
    image = np.empty(shape, np.uint8)
    keep = np.zeros(rows * columns, np.bool_)
    keep[compressed.positions] = True
    cells = in_blocks(image, block)
    cells[np.divmod(compressed.positions, columns)] = compressed.blocks
    predictor = predictors.get(config.predictor)
    source = repeat_sources(image, keep.reshape(rows, columns), block, predictor, compressed.threshold, config.metric)
    dropped = np.flatnonzero(~keep)
    cells[np.divmod(dropped, columns)] = cells[np.divmod(source.ravel()[dropped], columns)]
    return image
