"""Samples of more than 8 bits, against a writer that is not Pillow, and PNG files made by hand."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile

from pixelprune import load_image
from pixelprune.images import modes
from pixelprune.images.errors import ImageError
from pixelprune.images.modes import to_rgb

H, W = 12, 17

SWAPPED = "a compressed big-endian TIFF with signed or 32-bit samples is not supported; convert it to PNG first"
# What Pillow reads from version 13 on.
GRAY_AND_ALPHA = "a little-endian TIFF with 2 8-bit samples per pixel is not supported; convert it to PNG first"
KNOWS_PREMULTIPLIED_GRAY = int(PIL.__version__.split(".")[0]) >= 13
UNKNOWN = "a big-endian TIFF with 1 32-bit sample per pixel is not supported; convert it to PNG first"


def shades(dtype: Any, largest: float, channels: int = 1) -> np.ndarray[Any, Any]:
    """Samples from 0 to `largest`, no two rows or columns alike."""
    ramp = np.linspace(0, 1, H * W * channels).reshape(H, W, channels)
    return (ramp * largest).astype(dtype)


def expected(samples: np.ndarray[Any, Any], largest: float, *, inverted: bool = False) -> np.ndarray[Any, Any]:
    """What they are in 8 bits, by exact arithmetic."""
    share = samples.astype(np.float64) / largest
    gray = np.rint(255 * share).astype(int)
    return 255 - gray if inverted else gray


def read(path: Path) -> np.ndarray[Any, Any] | str:
    """The picture, or the line that refuses."""
    try:
        return load_image(path).astype(int)
    except ImageError as error:
        return str(error).removeprefix(f"{path}: ")


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
class TestGrayTiff:
    """Right, or refused as a whole: Pillow does not know all combinations."""

    def check(self, path: Path, samples: np.ndarray[Any, Any], largest: float, **options: Any) -> bool:
        tifffile.imwrite(path, samples, **options)
        assert (tifffile.imread(path) == samples).all()
        outcome = read(path)
        if isinstance(outcome, str):
            swapped = options["byteorder"] == ">" and options["compression"]
            assert outcome in ((UNKNOWN, SWAPPED) if swapped else (UNKNOWN,))
            return False
        inverted = options["photometric"] == "miniswhite"
        assert (outcome == expected(samples, largest, inverted=inverted)[:, :, None]).all()
        return True

    @pytest.mark.parametrize(
        ("dtype", "largest"),
        [
            ("uint8", 255), ("uint16", 65535), ("uint32", 2**32 - 1), ("uint32", 65535), ("uint32", 255),
            ("int32", 2**31 - 1), ("int32", 65535), ("int32", 255), ("int16", 32767), ("int16", 255),
            ("float32", 1), ("float32", 255),
        ],
    )  # fmt: skip
    def test_depths(
        self, dtype: str, largest: float, photometric: str, byte_order: str, compression: str | None, tmp_path: Path
    ) -> None:
        samples = shades(dtype, largest)[:, :, 0]
        if dtype == "float32" and largest == 255:
            samples = np.rint(samples)
        options = {"photometric": photometric, "byteorder": byte_order, "compression": compression}
        was_read = self.check(tmp_path / "a.tif", samples, largest, **options)
        # What most scanners and cameras write must not be refused.
        if dtype in ("uint8", "uint16") or byte_order == "<":
            assert was_read
        if dtype != "uint32" and not compression:
            assert was_read

    @pytest.mark.parametrize(("dtype", "least"), [("int16", -5), ("int32", -70000)])
    def test_negative_samples_are_refused(
        self, dtype: str, least: int, photometric: str, byte_order: str, compression: str | None, tmp_path: Path
    ) -> None:
        samples = shades("int32", 200)[:, :, 0].astype(dtype)
        samples[3, 4] = least
        options = {"photometric": photometric, "byteorder": byte_order, "compression": compression}
        tifffile.imwrite(tmp_path / "a.tif", samples, **options)
        assert read(tmp_path / "a.tif") in (
            f"signed samples reach {least}, and nothing says which is black; convert it to 8 bits first",
            *([SWAPPED] if compression and byte_order == ">" else []),
        )

    @pytest.mark.parametrize("largest", [1.5, 20.25, 254.5, 70000, 1e30])
    def test_floats_of_unknown_range_are_refused(
        self, largest: float, photometric: str, byte_order: str, compression: str | None, tmp_path: Path
    ) -> None:
        options = {"photometric": photometric, "byteorder": byte_order, "compression": compression}
        tifffile.imwrite(tmp_path / "a.tif", shades("float32", largest)[:, :, 0], **options)
        line = f"floating point samples reach {largest:g}, where 0 is black and 1 is white; convert it to 8 bits first"
        assert read(tmp_path / "a.tif") == (SWAPPED if compression and byte_order == ">" else line)

    def test_negative_floats_are_refused(
        self, photometric: str, byte_order: str, compression: str | None, tmp_path: Path
    ) -> None:
        options = {"photometric": photometric, "byteorder": byte_order, "compression": compression}
        tifffile.imwrite(tmp_path / "a.tif", shades("float32", 2)[:, :, 0] - 1, **options)
        line = "floating point samples reach -1, where 0 is black and 1 is white; convert it to 8 bits first"
        assert read(tmp_path / "a.tif") == (SWAPPED if compression and byte_order == ">" else line)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [3, 4])
def test_color_tiff(
    channels: int, dtype: str, planar: str, byte_order: str, compression: str | None, tmp_path: Path
) -> None:
    largest = 255 if dtype == "uint8" else 65535
    samples = shades(dtype, largest, channels)
    if channels == 4:
        samples[:, :, 3] = largest  # opaque
    stored = samples.transpose(2, 0, 1) if planar == "separate" else samples
    options: dict[str, Any] = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, stored, photometric="rgb", planarconfig=planar, byteorder=byte_order, compression=compression, **options
    )
    assert (tifffile.imread(path) == stored).all()
    outcome = read(path)
    if (dtype, planar, compression) == ("uint16", "separate", None):
        assert outcome == (
            "an uncompressed TIFF with separate planes of 16 bits is not supported; convert it to PNG first"
        )
    else:
        # Pillow keeps the upper 8 bits, which is at most one level away.
        assert np.abs(outcome - expected(samples[:, :, :3], largest)).max() <= (dtype == "uint16")


def test_twelve_bits(tmp_path: Path) -> None:
    """Two samples in three bytes, written by hand: full scale is 4095."""
    samples = np.linspace(0, 4095, 8 * 6).astype(int).reshape(6, 8)
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255])
        for row in samples
        for a, b in zip(row[::2], row[1::2], strict=True)
    )
    entries = [(256, 4, 8), (257, 4, 6), (258, 3, 12), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 6),
               (279, 4, len(packed))]  # fmt: skip
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries) + bytes(4)
    path = tmp_path / "a.tif"
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + directory)
    assert (load_image(path)[:, :, 0] == expected(samples, 4095)).all()


def png(depth: int, color: int, samples: np.ndarray[Any, Any], key: tuple[int, ...], exif: bytes = b"") -> bytes:
    """A PNG with a transparent color; samples are (H, W) or (H, W, 3)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = samples.shape[:2]
    rows = b""
    for row in samples.reshape(height, -1):
        bits = "".join(format(int(sample), f"0{depth}b") for sample in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
        + (chunk(b"eXIf", exif) if exif else b"")
        + chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


class TestTransparentColor:
    @pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
    def test_gray(self, depth: int, tmp_path: Path) -> None:
        """At every depth, the pixels of this sample become white, and no other."""
        largest = 2**depth - 1
        samples = np.linspace(0, largest, min(largest + 1, 64)).astype(int).reshape(2, -1)
        for key in samples.ravel()[:: max(1, samples.size // 8)]:
            path = tmp_path / "a.png"
            path.write_bytes(png(depth, 0, samples, (int(key),)))
            gray = expected(samples, largest)
            assert (load_image(path, transparency="ignore")[:, :, 0] == gray).all()
            gray[samples == key] = 255
            image = load_image(path)
            assert (image == gray[:, :, None]).all(), (depth, key)

    def test_color_of_8_bits(self, tmp_path: Path) -> None:
        samples = np.array([[(0, 0, 0), (10, 20, 30), (10, 20, 31)]])
        (tmp_path / "a.png").write_bytes(png(8, 2, samples, (10, 20, 30)))
        assert load_image(tmp_path / "a.png")[0].tolist() == [[0, 0, 0], [255, 255, 255], [10, 20, 31]]

    @pytest.mark.parametrize("key", [(0, 0, 0), (1, 2, 3), (2560, 5120, 7680), (2561, 5121, 7681), (65535, 0, 300)])
    @pytest.mark.parametrize("source", ["path", "file", "image"])
    def test_color_of_16_bits(self, key: tuple[int, int, int], source: str, tmp_path: Path) -> None:
        """Pillow decodes the upper 8 bits, in which these neighbors look alike; its own answer is wrong for all."""
        neighbors = [
            [int(sample) + (step if channel == at else 0) for channel, sample in enumerate(key)]
            for step in (-256, -1, 1, 256)
            for at in range(3)
        ]
        samples = np.array([[key, (9, 9, 9), key, *neighbors]]).clip(0, 65535)
        path = tmp_path / "a.png"
        path.write_bytes(png(16, 2, samples, key))
        upper = samples >> 8
        assert (load_image(path, transparency="ignore") == upper).all()
        transparent = (samples == key).all(2)
        upper[transparent] = 255
        if source == "path":
            image = load_image(path)
        else:
            with PIL.Image.open(path if source == "image" else io.BytesIO(path.read_bytes())) as opened:
                image = to_rgb(opened)
                assert opened.mode == "RGB"  # what belongs to somebody else is left as it is
                assert opened.info["transparency"] == key
        assert (image == upper).all()

    def test_color_of_16_bits_and_orientation(self, tmp_path: Path) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = 6  # turned by 90 degrees
        samples = np.array([[(0, 0, 0), (2560, 5120, 7680)]])
        (tmp_path / "a.png").write_bytes(png(16, 2, samples, (2560, 5120, 7680), exif.tobytes()[6:]))
        assert load_image(tmp_path / "a.png").tolist() == [[[0, 0, 0]], [[255, 255, 255]]]

    def test_color_of_16_bits_that_is_decoded_already(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png(16, 2, np.array([[(0, 0, 0), (1, 2, 3)]]), (257, 2, 3)))
        with PIL.Image.open(tmp_path / "a.png") as image:
            image.load()
            with pytest.raises(ImageError, match=r"the transparent color has 16 bits per sample.*path of the file"):
                to_rgb(image)

    @pytest.mark.parametrize("depth", [2, 4])
    def test_the_image_of_somebody_else_is_left_alone(self, depth: int, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_bytes(png(depth, 0, np.array([[0, 1, 2]]), (1,)))
        with PIL.Image.open(tmp_path / "a.png") as image:
            assert to_rgb(image)[0, 1].tolist() == [255, 255, 255]
            assert image.info["transparency"] == 1


def test_ignored_transparency_is_what_convert_shows(tmp_path: Path) -> None:
    """`apply_chat_template` with a path sees this."""
    image = PIL.Image.new("RGBA", (20, 10), (200, 30, 60, 0))
    for mode in ("RGBA", "LA", "P"):
        image.convert(mode).save(tmp_path / "a.png")
        image_of_path = load_image(tmp_path / "a.png", transparency="ignore")
        with PIL.Image.open(tmp_path / "a.png") as reopened, warnings.catch_warnings(action="ignore"):
            assert (image_of_path == np.asarray(reopened.convert("RGB"))).all()
    assert (load_image(tmp_path / "a.png", transparency="ignore") != 255).any()
    with pytest.raises(ValueError, match="transparency must be one of 'white', 'ignore', got 'black'"):
        load_image(tmp_path / "a.png", transparency="black")


def test_premultiplied_gray(tmp_path: Path) -> None:
    """Pillow converts this mode to one other mode only."""
    samples = np.array([[(60, 128), (0, 0), (200, 255)]], np.uint8)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, samples, photometric="minisblack", planarconfig="contig", extrasamples=["assocalpha"])
    if not KNOWS_PREMULTIPLIED_GRAY:
        assert read(path) == GRAY_AND_ALPHA
        return
    with PIL.Image.open(path) as image:
        assert image.mode == "La"
    assert np.abs(load_image(path)[0, :, 0].astype(int) - [60 + 127, 255, 200]).max() <= 1
    assert np.abs(load_image(path, transparency="ignore")[0, :, 0].astype(int) - [60 * 255 // 128, 0, 200]).max() <= 1


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("extra", ["unassalpha", "assocalpha"])
def test_planes_of_gray_and_alpha_are_refused(extra: str, compression: str | None, tmp_path: Path) -> None:
    """Pillow would leave the alpha at 0, so that the picture is white."""
    samples = shades("uint8", 255, 2).transpose(2, 0, 1)
    options: dict[str, Any] = {"planarconfig": "separate", "extrasamples": [extra], "compression": compression}
    tifffile.imwrite(tmp_path / "a.tif", samples, photometric="minisblack", **options)
    line = "a TIFF with gray and alpha in separate planes is not supported; convert it to PNG first"
    known = extra == "unassalpha" or KNOWS_PREMULTIPLIED_GRAY
    assert read(tmp_path / "a.tif") == (line if known else GRAY_AND_ALPHA)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparency_as_transformers_sees_it(mode: str, tmp_path: Path) -> None:
    """Left out of what it reads by path; over white in a Pillow image that it is given, from 5.21 on."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    image_utils = pytest.importorskip("transformers.image_utils")
    path = tmp_path / "a.png"
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 20, 4), np.uint8), "RGBA")
    image = (noise if mode in ("RGBA", "LA") else noise.convert("RGB")).convert(mode)
    key = {"RGB": image.getpixel((3, 4)), "L": image.getpixel((3, 4)), "P": bytes(range(256))}
    image.save(path, **({"transparency": key[mode]} if mode in key else {}))
    ignored, over_white = load_image(path, transparency="ignore"), load_image(path)
    assert (ignored != over_white).any()
    assert (np.asarray(image_utils.load_image(str(path))) == ignored).all()
    processor = transformers.Qwen2VLImageProcessor()
    assert (np.moveaxis(np.asarray(processor.fetch_images(str(path))), 0, 2) == ignored).all()
    with PIL.Image.open(path) as opened:
        given = np.moveaxis(np.asarray(processor.process_image(opened, do_convert_rgb=True)), 0, 2)
    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    assert (given == (over_white if version >= (5, 21) else ignored)).all()


def test_transformers_clips_what_is_scaled_here(tmp_path: Path) -> None:
    """The docs say so; if this fails, they can say something better."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    samples = np.array([[0, 7, 255, 256, 40000, 65535]], np.uint16)
    PIL.Image.fromarray(samples).save(tmp_path / "a.png")
    with PIL.Image.open(tmp_path / "a.png") as opened:
        given = transformers.Qwen2VLImageProcessor().process_image(opened, do_convert_rgb=True)
    assert (np.asarray(given)[0] == samples.clip(0, 255)).all()
    assert (load_image(tmp_path / "a.png")[:, :, 0] == np.rint(samples / 257)).all()


def test_portable_graymaps_have_a_known_range() -> None:
    """A dark picture of 16 bits stays dark."""
    content = b"P5 4 1 65535\n" + np.array([0, 200, 250, 255], ">u2").tobytes()
    with PIL.Image.open(io.BytesIO(content)) as image:
        assert to_rgb(image)[0, :, 0].tolist() == [0, 1, 1, 1]


def test_fits_is_refused(tmp_path: Path) -> None:
    cards = ["SIMPLE  =                    T", "BITPIX  =                   16", "NAXIS   =                    2",
             "NAXIS1  =                    4", "NAXIS2  =                    2", "END"]  # fmt: skip
    header = "".join(card.ljust(80) for card in cards).ljust(2880).encode()
    (tmp_path / "a.fits").write_bytes(header + bytes(2880))
    line = "FITS with samples of more than 8 bits is not supported; convert it to PNG first"
    assert read(tmp_path / "a.fits") == line


def test_a_palette_of_8_bits(tmp_path: Path) -> None:
    """Colors of a TIFF have 16 bits; some writers store 8, and mean 8."""
    samples = np.arange(6, dtype=np.uint8).reshape(2, 3)
    palette = np.zeros((3, 256), np.uint16)
    palette[:, :6] = [[0, 255, 9, 10, 200, 255], [0, 0, 100, 20, 200, 255], [0, 0, 30, 250, 200, 255]]
    for factor in (1, 257):
        path = tmp_path / f"{factor}.tif"
        tifffile.imwrite(path, samples, photometric="palette", colormap=palette * np.uint16(factor))
        assert (load_image(path) == palette.T[samples]).all()


def psd(
    channels: int,
    depth: int,
    color: int,
    planes: bytes,
    layers: int | None = None,
    merged: bool | None = None,
    palette: bytes = b"",
    transparent: int | None = None,
) -> bytes:
    """A PSD of 8 x 2 pixels.

    Args:
        planes: the samples of each channel; if there are more bytes than samples, packed, behind the lengths of rows.
        layers: the number that it declares, of which none follows.
        merged: whether it says that it holds its merged picture; None: nothing is said.
        palette: 256 values of red, of green and of blue.
        transparent: the index that it declares transparent.
    """
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, channels, 2, 8, depth, color)
    section = bytes(4) if layers is None else struct.pack(">IIh2x", 8, 4, layers)
    info = b"" if merged is None else b"8BIM" + struct.pack(">HxxIIB", 1057, 5, 1, merged) + b"\0"
    info += b"" if transparent is None else b"8BIM" + struct.pack(">HxxIH", 1047, 2, transparent)
    blocks = b"".join(struct.pack(">I", len(block)) + block for block in (palette, info))
    packed = len(planes) > channels * 16
    return header + blocks + section + struct.pack(">H", packed) + planes


def packed(*channels: list[int]) -> bytes:
    """Two rows of 8 samples per channel as PackBits: the lengths of all rows, then each as a copy of 8 bytes."""
    rows = b"".join(b"\7" + bytes(channel[row : row + 8]) for channel in channels for row in (0, 8))
    return struct.pack(f">{2 * len(channels)}H", *[9] * (2 * len(channels))) + rows


class TestPsd:
    @pytest.mark.parametrize(("layers", "color"), [(None, [10, 20, 30]), (1, [10, 20, 30]), (-1, [255, 255, 255])])
    def test_an_extra_channel_is_transparency_if_the_file_says_so(
        self, layers: int | None, color: list[int], tmp_path: Path
    ) -> None:
        planes = b"".join(bytes([value] * 16) for value in (10, 20, 30, 0))
        (tmp_path / "a.psd").write_bytes(psd(4, 8, 3, planes, layers))
        assert load_image(tmp_path / "a.psd")[1, 7].tolist() == color

    @pytest.mark.parametrize("compressed", [False, True])
    @pytest.mark.parametrize(("layers", "opaque"), [(-1, False), (1, True)])
    @pytest.mark.parametrize(
        ("color", "stored", "rgb"),
        [(1, [90], [90] * 3), (3, [10, 20, 30], [10, 20, 30]), (4, [245, 235, 225, 255], [245, 235, 225])],
    )
    def test_transparency_that_pillow_leaves_out(
        self, color: int, stored: list[int], rgb: list[int], layers: int, opaque: bool, compressed: bool, tmp_path: Path
    ) -> None:
        """Gray with alpha, color with alpha and one more channel, and print colors with alpha."""
        alpha, more = [0, 255, 102, *[255] * 13], [7] * 16
        channels = [[value] * 16 for value in stored] + [alpha] + [more] * (color == 3)
        planes = packed(*channels) if compressed else b"".join(map(bytes, channels))
        path = tmp_path / "a.psd"
        path.write_bytes(psd(len(channels), 8, color, planes, layers))
        image, ignored = load_image(path).astype(int), load_image(path, transparency="ignore")
        assert (ignored == rgb).all()
        share = np.array([255 if opaque else value for value in alpha]).reshape(2, 8, 1) / 255
        assert np.abs(image - (rgb * share + 255 * (1 - share))).max() <= 1

    @pytest.mark.parametrize("index", [0, 3, 255, 256, 65535, None])
    def test_the_transparent_color_of_a_palette(self, index: int | None, tmp_path: Path) -> None:
        palette = np.random.default_rng(0).integers(0, 255, (3, 256), np.uint8)
        samples = np.array([0, 1, 2, 3, 3, 3, 254, 255] * 2, np.uint8)
        path = tmp_path / "a.psd"
        path.write_bytes(psd(1, 8, 2, samples.tobytes(), palette=palette.tobytes(), transparent=index))
        colors = palette.T[samples].reshape(2, 8, 3)
        assert (load_image(path, transparency="ignore") == colors).all()
        with PIL.Image.open(path) as opened:
            given = to_rgb(opened)
            decoded = to_rgb(opened)
            assert "transparency" not in opened.info  # what belongs to somebody else is left as it is
        colors[(samples == index).reshape(2, 8)] = 255
        for image in (load_image(path), given, decoded):
            assert (image == colors).all()

    def test_a_layer_that_somebody_has_sought_is_read_as_it_is(self) -> None:
        planes = b"".join(bytes([value] * 16) for value in (10, 20, 30, 0))
        channels = b"".join(struct.pack(">HI", number, 18) for number in (0, 1, 2, 65535))
        layer = struct.pack(">4iH", 0, 0, 2, 8, 4) + channels + b"8BIMnorm" + bytes(8)
        data = b"".join(b"\0\0" + bytes([value] * 16) for value in (1, 2, 3, 4, 50, 60, 70, 255))
        section = struct.pack(">h", 2) + layer + layer + data
        section = struct.pack(">II", len(section) + 4, len(section)) + section
        content = psd(4, 8, 3, planes).replace(bytes(4) + b"\0\0" + planes, section + b"\0\0" + planes)
        with PIL.Image.open(io.BytesIO(content)) as image:
            assert to_rgb(image)[1, 7].tolist() == [10, 20, 30]
        with PIL.Image.open(io.BytesIO(content)) as image:
            image.seek(2)
            given = to_rgb(image, "ignore")
        with PIL.Image.open(io.BytesIO(content)) as image:
            image.seek(2)
            assert (given == np.asarray(image.convert("RGB"))).all()  # Pillow 12.0 looks for it in the wrong place

    def test_bitmaps_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.psd").write_bytes(psd(1, 1, 0, b"\xf0\x0f"))
        line = "PSD of this kind is misread by Pillow; convert it to PNG first"
        assert read(tmp_path / "a.psd") == line

    def test_without_its_merged_picture(self, tmp_path: Path) -> None:
        planes = b"".join(bytes([value] * 16) for value in (10, 20, 30))
        for merged in (None, True):
            (tmp_path / "a.psd").write_bytes(psd(3, 8, 3, planes, merged=merged))
            assert load_image(tmp_path / "a.psd")[1, 7].tolist() == [10, 20, 30]
        (tmp_path / "a.psd").write_bytes(psd(3, 8, 3, planes, merged=False))
        line = "a PSD that was saved without its merged picture; save it with maximum compatibility, or as PNG"
        assert read(tmp_path / "a.psd") == line

    def test_channels_that_are_no_picture(self, tmp_path: Path) -> None:
        (tmp_path / "a.psd").write_bytes(psd(3, 8, 7, bytes(48)))
        assert read(tmp_path / "a.psd") == "a PSD in multichannel mode is not supported; convert it to RGB first"


def test_x_bitmaps_and_cursors_are_refused(tmp_path: Path) -> None:
    text = "#define a_width 8\n#define a_height 2\nstatic unsigned char a_bits[] = {\n0xf0, 0x0f };\n"
    (tmp_path / "a.xbm").write_text(text)
    line = "XBM of this kind is misread by Pillow; convert it to PNG first"
    assert read(tmp_path / "a.xbm") == line


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "F"])
def test_strips_join_without_a_seam(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (45, 30, 4), np.uint8)
    image = PIL.Image.fromarray(noise, "RGBA")
    if mode in ("I;16", "F"):
        image = PIL.Image.fromarray(noise[:, :, 0].astype("uint16" if mode == "I;16" else "float32"))
    elif mode in ("YCbCr", "HSV", "CMYK", "RGBX"):
        image = image.convert("RGB").convert(mode)
    else:
        image = image.convert(mode)
    whole = to_rgb(image)
    monkeypatch.setattr(modes, "_ROWS", 7)
    monkeypatch.setattr(modes.deep, "_ROWS", 7)
    assert (to_rgb(image) == whole).all()
