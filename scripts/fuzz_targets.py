"""What is fuzzed: one function for each kind of data that comes from elsewhere, from bytes to a verdict.

A target returns True if the data was accepted, with the right result, and False if it was refused with the documented
exception. Whatever else happens is a finding, and leaves the target as an exception.
"""

from __future__ import annotations

import functools
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

import pixelprune
from pixelprune import Compressed, PruneConfig
from pixelprune.vllm.options import KEY, engine_config, split

# Between the parts of an archive that is put together here, so that checksums do not stop every change of a byte.
CUT = b"\xff\xfe\xfd"
_LARGEST = 1 << 24  # samples of an image that a target decodes


def load(data: bytes) -> bool:
    """`Compressed.load` on a file: `data` itself if it begins with "P", else an archive of its three parts."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(data if data[:1] == b"P" else archive(data))
        try:
            loaded = Compressed.load(path)
        except ValueError as error:
            assert str(path) in str(error), error
            return False
        loaded.save(path)
        again = Compressed.load(path)
    assert (loaded.grid, loaded.config, loaded.threshold) == (again.grid, again.config, again.threshold)
    assert (loaded.blocks == again.blocks).all()
    assert (loaded.positions == again.positions).all()
    rows, columns = loaded.grid
    if rows * columns * loaded.block**2 > _LARGEST:
        return True
    try:
        image = pixelprune.decode(loaded)
    except ValueError as error:
        assert "compressed must hold the blocks" in str(error), error
        return True
    side = loaded.block
    for block, position in zip(loaded.blocks, loaded.positions, strict=True):
        top, left = side * (int(position) // columns), side * (int(position) % columns)
        assert (image[top : top + side, left : left + side].reshape(block.shape) == block).all()
    return True


def archive(data: bytes) -> bytes:
    """A zip with the header and the two arrays that `data` holds, one after the other with CUT between."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, part in zip(("header", "blocks", "positions"), data.split(CUT, 2), strict=False):
            if name == "header":
                text = io.BytesIO()
                np.save(text, np.array(part.decode("utf-8", "replace")))
                part = text.getvalue()
            file.writestr(f"{name}.npy", part)
    return buffer.getvalue()


class _Bytes:
    """Numbers from bytes; zeros when these run out."""

    def __init__(self, data: bytes) -> None:
        self._rest: Iterator[int] = iter(data)

    def number(self) -> int:
        return next(self._rest, 0)

    def one_of(self, *choices: Any) -> Any:
        return choices[self.number() % len(choices)]


def request(data: bytes) -> bool:
    """The options of a request, as a server reads them from JSON: over those of an engine, and those of an engine.

    Data that begins with a byte below 8 picks keys and values from lists, since few changes of a byte leave JSON whole.
    """
    try:
        text = json.dumps(_picked(_Bytes(data))) if data[:1] < b"\x08" else data.decode()
        values = json.loads(text)
    except (ValueError, RecursionError):
        return False  # such a request reaches no option
    _check_text(text, values)
    if not isinstance(values, dict):
        return False
    engine = PruneConfig(threshold=0.02, metric="mae", max_tokens=500)
    accepted = False
    for base in (None, engine):
        try:
            config, rest = split(values, base)
        except ValueError as error:
            _check_error(error)
            continue
        accepted = True
        assert rest == {name: value for name, value in values.items() if name != KEY}
        assert _same(config, _expected(values.get(KEY), base)), (config, values)
    for options in ({}, values):
        model = SimpleNamespace(
            hf_config=SimpleNamespace(**{KEY: values.get(KEY)}),
            hf_overrides=options,
            multimodal_config=SimpleNamespace(mm_processor_kwargs=values),
        )
        try:
            config = engine_config(model)
        except ValueError as error:
            _check_error(error)
        else:
            assert _same(config, _expected(values.get(KEY), None)), (config, values)
    assert accepted or not _is_plain(values), values
    return accepted


def _picked(source: _Bytes, depth: int = 3) -> Any:
    """A value of JSON."""
    kind = source.number() % 8
    if kind < 4 and depth:
        names = [
            KEY,
            "threshold",
            "metric",
            "predictor",
            "max_tokens",
            "max_threshold",
            "restore",
            "min_tokens",
            "pixel_prune",
            "size",
            "",
            "\ud800",
        ]
        return {source.one_of(*names): _picked(source, depth - 1) for _ in range(source.number() % 6)}
    if kind == 4 and depth:
        return [_picked(source, depth - 1) for _ in range(source.number() % 4)]
    texts = ["max", "mae", "rmse", "pred2d", "raster", "serpentine", "", "MAX", "pixelprune", "\ud800\n\x00", "0.5"]
    numbers = [
        0,
        1,
        -1,
        2,
        10**400,
        0.5,
        0.1,
        1e-320,
        -0.0,
        1e308,
        float("nan"),
        float("inf"),
        float("-inf"),
        1.0,
        2**63,
    ]
    return source.one_of(*numbers, *texts, True, False, None, source.number() / 255, source.number())


def _check_text(text: str, values: Any) -> None:
    try:
        config = PruneConfig.from_json(text)
    except ValueError as error:
        _check_error(error)
        assert not isinstance(values, dict) or not _are_options(values, PruneConfig()), values
    else:
        assert _same(config, _expected(values, PruneConfig())), values
        assert PruneConfig.from_json(config.to_json()) == config


def _check_error(error: ValueError) -> None:
    """An answer to a request: a sentence that any transport can carry."""
    assert str(error).encode()
    assert "Traceback" not in str(error)


def _is_plain(values: dict[str, Any]) -> bool:
    """Whether a request with these values must be accepted: nothing but valid options."""
    return set(values) == {KEY} and isinstance(values[KEY], dict) and _are_options(values[KEY], PruneConfig())


def _expected(asked: Any, base: PruneConfig | None) -> dict[str, Any] | None:
    """The fields that come out of valid options."""
    if asked is None or asked is False:
        return None if asked is False or base is None else base.to_dict()
    given = {} if asked is True else asked
    assert _are_options(given, base or PruneConfig()), asked
    return {**(base or PruneConfig()).to_dict(), **given}


def _are_options(given: dict[str, Any], base: PruneConfig) -> bool:
    """Whether each option is valid, by the text of `PruneConfig` and not by its code."""
    values = {**base.to_dict(), **given}
    fractions = [values[name] for name in ("threshold", "max_threshold", "restore")]
    most, least = values["max_tokens"], values["min_tokens"]
    return (
        set(values) == {"threshold", "metric", "predictor", "max_tokens", "max_threshold", "restore", "min_tokens"}
        and all(type(value) in (int, float) and 0 <= value <= 1 for value in fractions)
        and values["metric"] in ["max", "mae", "rmse"]
        and values["predictor"] in ["pred2d", "raster", "serpentine"]
        and all(count is None or (type(count) is int and count >= 1) for count in (most, least))
        and (most is None or (fractions[0] <= fractions[1] and (least or 1) <= most))
    )


def _same(config: PruneConfig | None, expected: dict[str, Any] | None) -> bool:
    return (None if config is None else config.to_dict()) == expected


def wire(data: bytes) -> bool:
    """The token map as it travels: through an enabled model of transformers, and as vLLM's model side reads it."""
    import torch

    source = _Bytes(data)
    grids = [
        [source.one_of(1, 1, 1, 1, 1, 0, 2, -1), *(source.one_of(2, 4, 6, 2, 4, 1, 0, -2) for _ in range(2))]
        for _ in range(source.one_of(1, 2, 3, 0))
    ]
    totals = [max(0, frames * (height // 2) * (width // 2)) for frames, height, width in grids]
    own = [i for total in totals for i in range(total)]
    length = max(0, len(own) + source.one_of(0, 0, 0, 0, 1, -1))
    drawn = [
        source.one_of(*[None] * 6, -1, -1, -1, source.number() % 4, source.number() % 40 - 2) for _ in range(length)
    ]
    values = [(own[n] if n < len(own) else 0) if value is None else value for n, value in enumerate(drawn)]
    bits = [n < len(own) and value == own[n] for n, value in enumerate(values)]
    given: Any = torch.tensor(values, dtype=source.one_of(*[torch.int32] * 6, torch.bool, torch.float32))
    given = source.one_of(*[given] * 6, given[None], values)
    valid = all(frames == 1 and min(sides) > 0 and not any(s % 2 for s in sides) for frames, *sides in grids)
    fits = valid and isinstance(given, torch.Tensor) and given.dtype == torch.int32 and given.shape == (len(own),)
    keeps_all = fits and all(bits)
    _check_plan(grids, bits, fits)
    parts = [values[sum(totals[:i]) : sum(totals[: i + 1])] for i in range(len(totals))] if fits else []
    fits = bool(fits and parts and all(map(_is_map, parts)))
    counts = [sum(value >= 0 for value in part) for part in parts] if fits else []
    inputs, fits_too = _prompts(source, grids, counts or [2], sum(bits))
    if keeps_all and not (fits and fits_too):
        return False  # nothing is dropped, so the stock model answers
    try:
        logits = _model()(**inputs, image_map=given).logits
    except ValueError as error:
        assert not (fits and fits_too), (error, grids, values)
        return False
    assert fits, (grids, values)
    assert fits_too or fits_too is None, (grids, values, inputs)
    assert logits.shape[:2] == inputs["input_ids"].shape
    assert torch.isfinite(logits[inputs.get("attention_mask", inputs["input_ids"]).bool()]).all()
    return True


def _is_map(part: list[int]) -> bool:
    """Whether each block of an image has its own feature, that of a block which has its own, or none."""
    own = {i for i, value in enumerate(part) if value == i}
    return bool(own) and all(value == -1 or value in own for value in part)


def _check_plan(grids: list[list[int]], bits: list[bool], fits: bool) -> None:
    """A mask for each image, as in vLLM: which patches are kept, against a plain loop."""
    import torch

    from pixelprune.plan.keep import KeepMask

    try:
        keep = KeepMask.of_grids(torch.tensor(bits, dtype=torch.bool), grids, 2)
    except ValueError:
        assert not fits, (grids, bits)
        return
    expected, first, block = [], 0, 0
    for frames, height, width in grids:
        assert min(frames, height, width) > 0, grids
        for patch in range(frames * height * width):
            frame, place = divmod(patch, height * width)
            row, column = divmod(place, width)
            if bits[block + (frame * (height // 2) + row // 2) * (width // 2) + column // 2]:
                expected.append(first + patch)
        first, block = first + frames * height * width, block + frames * (height // 2) * (width // 2)
    assert keep.rows(2, "row").tolist() == expected, (grids, bits)


def _prompts(
    source: _Bytes, grids: list[list[int]], counts: list[int], kept: int
) -> tuple[dict[str, Any], bool | None]:
    """Inputs of a model, and whether they fit; None: nobody says."""
    import torch

    patches = max(0, 4 * kept + source.one_of(0, 0, 0, 0, 4, -4, 1))
    rows: list[list[int]] = [[5]]
    for count in counts:
        if source.one_of(False, False, True):
            rows.append([6])
        rows[-1] += [1001, *[1000] * count, 1002, 7]
    change = source.one_of("none", "none", "none", "more", "fewer", "split")
    at = source.number() % len(rows)
    if change == "more":
        rows[at].append(1000)
    elif change == "fewer":
        rows[at] = [token for token in rows[at] if token != 1000]
    elif change == "split":
        middle = 1 + source.number() % len(rows[at])
        rows[at : at + 1] = [[*rows[at][:middle], 8], [8, *rows[at][middle:]]]
    fits = patches == 4 * kept and _in_rows(rows, counts)
    width = max(map(len, rows))
    ids = torch.tensor([[9] * (width - len(row)) + row for row in rows])
    padding = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs: dict[str, Any] = {
        "input_ids": ids,
        "pixel_values": torch.zeros(patches, 3 * 2 * 16 * 16),
        "image_grid_thw": torch.tensor(grids, dtype=torch.long).reshape(-1, 3),
        "mm_token_type_ids": (ids == 1000).long(),
    }
    attention = source.one_of("padding", "padding", "none", "wide", "noise")
    if attention == "padding":
        inputs["attention_mask"] = padding
    elif attention == "wide":
        inputs["attention_mask"] = torch.ones(len(rows), width + 1, dtype=torch.long)
    elif attention == "noise":
        inputs["attention_mask"] = torch.tensor([[source.number() % 2 for _ in range(width)] for _ in rows])
    if attention == "wide":
        return inputs, False
    return inputs, None if fits and attention == "noise" else fits


def _in_rows(rows: list[list[int]], counts: list[int]) -> bool:
    """Whether the placeholders of rows are those of whole images, one after the other."""
    left = list(counts)
    for row in rows:
        found = row.count(1000)
        while found and left and found >= left[0]:
            found -= left.pop(0)
        if found:
            return False
    return not left


@functools.cache
def _model() -> Any:
    import torch

    from pixelprune.standins import small_model
    from pixelprune.transformers import enable

    torch.set_num_threads(1)
    model = small_model()
    model.config.image_token_id, model.config.vision_start_token_id, model.config.vision_end_token_id = 1000, 1001, 1002
    return enable(model.requires_grad_(False))


TARGETS: dict[str, Callable[[bytes], bool]] = {"load": load, "request": request, "wire": wire}


def seeds(name: str) -> list[bytes]:
    """Data to start from: mostly accepted, so that changes of it get far."""
    if name == "request":
        values: list[Any] = [
            {KEY: {"threshold": 0.02, "metric": "mae", "predictor": "raster", "max_tokens": 9, "max_threshold": 0.5}},
            {KEY: True, "fps": 2},
            {KEY: None},
            {KEY: False, "size": {"longest_edge": 5}},
            {"threshold": 1, "metric": "rmse", "predictor": "serpentine"},
            {"pixel_prune": {}, "images_kwargs": {KEY: {}}},
        ]
        picked = [bytes([0, n % 6, *[(n * k) % 97 for k in range(40)]]) for n in range(1, 30)]
        return [json.dumps(value).encode() for value in values] + picked + [b"[" * 900 + b"]" * 900]
    if name == "wire":
        return [
            bytes(30),
            bytes([1, 0, 1, 2, 0, 2, 1, *[1, 0, 2] * 12]),
            bytes([2, 0, 1, 1, 0, 2, 1, *[1, 1, 0, 5] * 9]),
        ]
    page = np.full((8, 12, 3), 255, np.uint8)
    page[5:7, 5:7] = 0
    made = [pixelprune.encode(page, block=4), pixelprune.encode(page[..., 0], PruneConfig(0.1, "rmse"), block=2)]
    return [form for compressed in made for form in _saved(compressed)]


def _saved(compressed: Compressed) -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        compressed.save(path)
        data = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        header = str(np.load(io.BytesIO(file.read("header.npy")))).encode()
        return [data, CUT.join([header, file.read("blocks.npy"), file.read("positions.npy")])]
