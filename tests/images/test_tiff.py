"""Every kind of TIFF that a writer other than Pillow writes: the right picture, or the line that refuses it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile

from pixelprune import fit_image, load_image
from pixelprune.images.errors import ImageError
from pixelprune.images.modes import to_rgb

H, W = 12, 17
FULL_SCALE = {
    "uint8": 255, "uint16": 2**16 - 1, "uint32": 2**32 - 1, "uint64": 2**64 - 1, "int8": 2**7 - 1, "int16": 2**15 - 1,
    "int32": 2**31 - 1, "float16": 1, "float32": 1, "float64": 1,
}  # fmt: skip
COLORS = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}


def samples_of(dtype: str, channels: int) -> np.ndarray[Any, Any]:
    """Samples (H, W, channels) over the full scale, no two rows, columns or channels alike."""
    ramp = np.random.default_rng(0).permutation(H * W * channels).reshape(H, W, channels) / (H * W * channels - 1)
    # As a float, the largest 64-bit integer is one too large.
    return (ramp * (FULL_SCALE[dtype] if dtype != "uint64" else 2**63)).astype(dtype)


def picture_of(samples: np.ndarray[Any, Any], color: str) -> np.ndarray[Any, Any]:
    """What they look like, from the definitions of the TIFF specification; alpha over white."""
    shares = samples.astype(np.float64) / FULL_SCALE[samples.dtype.name]
    count = COLORS[color]
    if color == "separated":
        rgb = (1 - shares[:, :, :3]) * (1 - shares[:, :, 3:4])
    else:
        rgb = shares[:, :, :count].repeat(3 // count, axis=2)
    if color == "miniswhite":
        rgb = 1 - rgb
    if samples.shape[2] > count:
        rgb = 1 - (1 - rgb) * shares[:, :, count : count + 1]
    return 255 * rgb


def refusal(dtype: str, color: str, channels: int, planar: str, byte_order: str, compression: str | None) -> str | None:
    """The line for what is not read."""
    bits, gray = np.dtype(dtype).itemsize * 8, channels == 1
    if gray:
        known = dtype in ("uint8", "uint16", "int16", "int32", "float32") or (dtype, color) == ("int8", "minisblack")
        known = known or (dtype, byte_order) == ("uint32", "<")
        if known and bits > 8 and dtype != "uint16" and byte_order == ">" and compression:
            return (
                "a compressed big-endian TIFF with signed or 32-bit samples is not supported; convert it to PNG first"
            )
    else:
        known = dtype in ("uint8", "uint16") and (color, channels) in (("rgb", 3), ("rgb", 4), ("separated", 4))
        if known and bits == 16 and planar == "separate" and not compression:
            return "an uncompressed TIFF with separate planes of 16 bits is not supported; convert it to PNG first"
        if (dtype, color, channels) == ("uint8", "minisblack", 2):
            known = planar == "contig"
            if not known:
                return "a TIFF with gray and alpha in separate planes is not supported; convert it to PNG first"
    if known:
        return None
    kind = {"u": "", "i": "signed ", "f": "floating point "}[np.dtype(dtype).kind]
    order, plural = "big" if byte_order == ">" else "little", "" if gray else "s"
    described = f"a {order}-endian TIFF with {channels} {kind}{bits}-bit sample{plural} per pixel"
    return f"{described} is not supported; convert it to PNG first"


def kinds() -> Iterator[tuple[str, str, int, str]]:
    for dtype, color in product(FULL_SCALE, COLORS):
        yield dtype, color, COLORS[color], "contig"
        if COLORS[color] > 1:
            yield dtype, color, COLORS[color], "separate"
        if color != "separated":
            for planar in ("contig", "separate"):
                yield dtype, color, COLORS[color] + 1, planar


@pytest.mark.parametrize(("dtype", "color", "channels", "planar"), list(kinds()))
def test_right_or_refused(dtype: str, color: str, channels: int, planar: str, tmp_path: Path) -> None:
    samples = samples_of(dtype, channels)
    stored = samples.transpose(2, 0, 1) if planar == "separate" else samples
    options: dict[str, Any] = {"photometric": color}
    if channels > 1:
        options["planarconfig"] = planar
    else:
        stored = stored[:, :, 0]
    if channels > COLORS[color]:
        options["extrasamples"] = ["unassalpha"]
    for byte_order, compression, tile in product("<>", (None, "zlib"), (None, (16, 16))):
        path = tmp_path / "a.tif"
        tifffile.imwrite(path, stored, byteorder=byte_order, compression=compression, tile=tile, **options)
        assert (tifffile.imread(path) == stored).all()
        line = refusal(dtype, color, channels, planar, byte_order, compression)
        if line:
            with pytest.raises(ImageError) as caught:
                load_image(path)
            assert str(caught.value) == f"{path}: {line}"
        else:
            image = load_image(path)
            assert (image.shape, image.dtype) == ((H, W, 3), np.uint8)
            # Of 16 bits in color, Pillow keeps the upper 8; ink is multiplied, and alpha composited, in 8 bits.
            slack = 0.5 if channels == 1 else 2 if dtype == "uint16" else 1
            assert np.abs(image - picture_of(samples, color)).max() <= slack + 1e-6, (byte_order, compression, tile)


def tiff(bits: int, photometric: int, data: bytes, **options: Any) -> bytes:
    """A TIFF of one sample per pixel, by hand, with tags that no common writer combines."""
    order, big = options.get("byte_order", "<"), options.get("big", False)
    if options.get("compressed"):
        data = zlib.compress(data)
    data += bytes(len(data) % 2)
    start = 16 if big else 8
    entries = [
        (256, 4, W), (257, 4, H), (258, 3, bits), (259, 3, 8 if options.get("compressed") else 1),
        (262, options.get("type", 3), photometric), (266, 3, options.get("fill_order", 1)), (273, 4, start),
        (277, 3, 1), (278, 4, H), (279, 4, len(data)), (284, 3, options.get("planar", 1)),
        (339, 3, options.get("format", 1)),
    ]  # fmt: skip
    directory = struct.pack(order + ("Q" if big else "H"), len(entries))
    for tag, kind, value in entries:
        packed = struct.pack(order + ("H" if kind == 3 else "I"), value).ljust(8 if big else 4, b"\0")
        directory += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, 1) + packed
    mark = b"II" if order == "<" else b"MM"
    header = mark + (
        struct.pack(order + "HHHQ", 43, 8, 0, start + len(data))
        if big
        else struct.pack(order + "HI", 42, 8 + len(data))
    )
    return header + data + directory + bytes(8)


@pytest.mark.parametrize("fill_order", [1, 2])
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("kind", ["bit", "u1", "u2", "i4", "f4"])
def test_one_plane_marked_as_separate(
    kind: str, byte_order: str, photometric: int, fill_order: int, tmp_path: Path
) -> None:
    """The mark means nothing where there is one sample per pixel; Pillow 13 inverts some, and makes noise of others."""
    shares = np.linspace(0, 1, H * W).reshape(H, W)
    if kind == "bit":
        bits, samples = 1, np.rint(shares)
        data = np.packbits(samples.astype(np.uint8), axis=1).tobytes()
    else:
        bits = 8 * int(kind[1])
        samples = shares * {"u1": 255, "u2": 65535, "i4": 65535, "f4": 1}[kind]
        samples = samples.astype(np.dtype(kind).newbyteorder(byte_order))
        data = samples.tobytes()
    if fill_order == 2:
        data = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)
    options = {"byte_order": byte_order, "fill_order": fill_order, "format": {"i": 2, "f": 3}.get(kind[0], 1)}
    for planar in (1, 2):
        path = tmp_path / f"{planar}.tif"
        path.write_bytes(tiff(bits, photometric, data, planar=planar, **options))
        if fill_order == 1:
            assert (tifffile.imread(path) == samples).all()
    expected = picture_by_hand(samples, kind, photometric)
    if fill_order == 2 and not_in_reverse(kind, byte_order, photometric):
        for planar in (1, 2):
            with pytest.raises(
                ImageError, match=r"is not supported; convert it to PNG|not supported: unknown raw mode"
            ):
                load_image(tmp_path / f"{planar}.tif")
        return
    for planar in (1, 2):
        assert np.abs(load_image(tmp_path / f"{planar}.tif")[:, :, 0] - expected).max() <= 0.5001, planar


def not_in_reverse(kind: str, byte_order: str, photometric: int) -> bool:
    """What Pillow does not read with the bits of each byte in reverse."""
    return not (kind == "bit" or (kind, photometric) == ("u1", 1) or (kind, byte_order) == ("u2", "<"))


def picture_by_hand(samples: np.ndarray[Any, Any], kind: str, photometric: int) -> np.ndarray[Any, Any]:
    gray = samples.astype(np.float64) * 255 / {"bit": 1, "u1": 255, "u2": 65535, "i4": 65535, "f4": 1}[kind]
    return gray if photometric else 255 - gray


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", [3, 4])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_white_is_zero(byte_order: str, compressed: bool, kind: int, big: bool, tmp_path: Path) -> None:
    """With 32-bit tags too, and in a BigTIFF."""
    samples = samples_of("uint16", 1)[:, :, 0]
    data = samples.astype(np.dtype("u2").newbyteorder(byte_order)).tobytes()
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(16, 0, data, byte_order=byte_order, compressed=compressed, type=kind, big=big))
    assert (tifffile.imread(path) == samples).all()
    if big and byte_order == ">":
        with pytest.raises(ImageError, match=r"a.tif: a big-endian BigTIFF is not supported; convert it to PNG first"):
            load_image(path)
    else:
        assert np.abs(load_image(path)[:, :, 0] - (255 - samples / 257)).max() <= 0.5


def test_each_page_has_its_own_sense(tmp_path: Path) -> None:
    """White is zero on the first and the last page; the second one is of another depth."""
    path, samples = tmp_path / "a.tif", samples_of("uint16", 1)[:, :, 0]
    with tifffile.TiffWriter(path, byteorder=">") as writer:
        writer.write(samples, photometric="miniswhite", metadata=None)
        writer.write(samples, photometric="minisblack", metadata=None)
        writer.write((samples >> 8).astype(np.uint8), photometric="miniswhite", metadata=None)
        writer.write(samples, photometric="miniswhite", metadata=None, compression="zlib")
    gray = np.rint(samples / 257)
    for page, expected in ((1, 255 - gray), (2, gray), (3, 255 - (samples >> 8)), (4, 255 - gray), (1, 255 - gray)):
        assert (load_image(path, page=page)[:, :, 0] == expected).all(), page


def test_white_is_zero_and_turned(tmp_path: Path) -> None:
    samples = samples_of("uint16", 1)[:, :, 0]
    for byte_order in "<>":
        path = tmp_path / "a.tif"
        extra = [(274, 3, 1, 6, True)]
        tifffile.imwrite(path, samples, photometric="miniswhite", byteorder=byte_order, extratags=extra)
        assert (load_image(path)[:, :, 0] == 255 - np.rint(samples / 257)[::-1].T).all()


def test_signed_samples_of_8_bits(tmp_path: Path) -> None:
    samples = samples_of("int8", 1)[:, :, 0]
    samples[2, 3] = -7
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="minisblack")
    line = "a.tif: signed samples reach -7, and nothing says which is black; convert it to 8 bits first"
    with pytest.raises(ImageError, match=line):
        load_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("bits", "photometric", "fill_order"), [(8, 0, 1), (8, 1, 2), (1, 0, 1), (4, 1, 1), (16, 1, 1)]
)
def test_what_pillow_has_opened_cannot_be_corrected(
    bits: int, photometric: int, fill_order: int, tmp_path: Path
) -> None:
    data = bytes(range(H * ((W * bits + 7) // 8) % 256)) * 9
    (tmp_path / "a.tif").write_bytes(tiff(bits, photometric, data, planar=2, fill_order=fill_order))
    with PIL.Image.open(tmp_path / "a.tif") as image:
        with pytest.raises(ImageError, match="single plane that is marked as separate; pass its path to load_image"):
            to_rgb(image)
        with pytest.raises(ImageError, match="single plane"):
            fit_image(image)
