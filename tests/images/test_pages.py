"""Files of several pages, and what is said of files that are not read."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import EpsImagePlugin

from pixelprune import load_image
from pixelprune.images import pages, signatures
from pixelprune.images.errors import ImageError
from pixelprune.images.files import numbered_pages
from pixelprune.images.pages import opened


def shade(value: int, size: tuple[int, int] = (40, 30)) -> PIL.Image.Image:
    return PIL.Image.new("L", size, value)


def directories(path: Path) -> list[int]:
    """Where the directories of a little-endian TIFF are, followed by hand."""
    data, found = path.read_bytes(), []
    offset = struct.unpack_from("<I", data, 4)[0]
    while offset:
        found.append(offset)
        entries = struct.unpack_from("<H", data, offset)[0]
        offset = struct.unpack_from("<I", data, offset + 2 + 12 * entries)[0]
    return found


class TestTiff:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "three.tif"
        shade(10).save(path, save_all=True, append_images=[shade(20, (50, 20)), shade(30).convert("RGB")])
        return path

    def test_each_page_is_read(self, path: Path) -> None:
        assert numbered_pages(path) == 3
        for page, (value, shape) in enumerate([(10, (30, 40, 3)), (20, (20, 50, 3)), (30, (30, 40, 3))], 1):
            image = load_image(path, page=page)
            assert image.shape == shape
            assert (image == value).all()
        with pytest.raises(ImageError, match=r"three.tif: page must be from 1 to 3, got 4"):
            load_image(path, page=4)

    def test_in_any_order_from_one_opened_file(self, path: Path) -> None:
        with opened(path) as file:
            assert [int(file.read(page, 144, "white")[0, 0, 0]) for page in (3, 1, 2, 2, 3)] == [30, 10, 20, 20, 30]

    @pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_pages_are_turned_upright_one_by_one(self, orientation: int, compression: str, tmp_path: Path) -> None:
        """What is stored is the upright picture, mirrored and turned as the tag says."""
        upright = np.zeros((40, 30), np.uint8)
        upright[:10, :20] = 200
        vertical, horizontal = {
            1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1),
        }[orientation]  # fmt: skip
        stored = upright[::vertical, ::horizontal]
        frame = PIL.Image.fromarray(stored.T if orientation > 4 else stored)
        options = {"compression": compression, "tiffinfo": {274: orientation}}
        frame.save(tmp_path / "one.tif", **options)
        assert (load_image(tmp_path / "one.tif")[:, :, 0] == upright).all()
        frame.save(tmp_path / "two.tif", save_all=True, append_images=[frame], **options)
        with opened(tmp_path / "two.tif") as file:
            for page in (1, 2, 1):
                assert (file.read(page, 144, "white")[:, :, 0] == upright).all(), page

    def test_a_single_page_is_not_numbered(self, tmp_path: Path) -> None:
        shade(10).save(tmp_path / "one.tif")
        assert numbered_pages(tmp_path / "one.tif") is None
        with pytest.raises(ImageError, match=r"one.tif: page must be 1, the only one, got 2"):
            load_image(tmp_path / "one.tif", page=2)

    @pytest.mark.parametrize("kind", [{254: 1}, {254: 4}, {254: 5}, {255: 2}])
    def test_thumbnails_and_masks_are_no_pages(self, kind: dict[int, int], tmp_path: Path) -> None:
        path = tmp_path / "thumbnail.tif"
        first, second = tmp_path / "a.tif", tmp_path / "b.tif"
        shade(20, (10, 8)).save(first, tiffinfo=kind)
        shade(30).save(second, tiffinfo={254: 2})
        # As Pillow would append them, with the tags of each.
        frames = [PIL.Image.open(file) for file in (first, second)]
        for frame, info in zip(frames, (kind, {254: 2}), strict=True):
            frame.encoderinfo = {"tiffinfo": info}
        shade(10).save(path, save_all=True, append_images=frames)
        assert len(directories(path)) == 3
        assert numbered_pages(path) == 2
        assert [int(load_image(path, page=page)[0, 0, 0]) for page in (1, 2)] == [10, 30]

    def test_a_broken_page_does_not_end_the_others(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        # Page 2 gets a compression that nobody knows.
        start = directories(path)[1]
        for entry in range(struct.unpack_from("<H", data, start)[0]):
            if struct.unpack_from("<H", data, start + 2 + 12 * entry)[0] == 259:
                struct.pack_into("<H", data, start + 10 + 12 * entry, 54321)
        path.write_bytes(data)
        assert numbered_pages(path) == 3
        with opened(path) as file:
            assert file.read(1, 144, "white")[0, 0, 0] == 10
            with pytest.raises(
                ImageError,
                match=r"three.tif page 2: not supported: it holds a value that Pillow does not know \(54321\)",
            ):
                file.read(2, 144, "white")
            assert file.read(3, 144, "white")[0, 0, 0] == 30

    def test_directories_in_a_circle_end(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        starts = directories(path)
        last = starts[2] + 2 + 12 * struct.unpack_from("<H", data, starts[2])[0]
        struct.pack_into("<I", data, last, starts[1])
        path.write_bytes(data)
        assert numbered_pages(path) == 3

    def test_every_page_is_held_to_the_bound_on_pixels(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shade(10).save(path, save_all=True, append_images=[shade(20, (50, 40))])
        monkeypatch.setattr(pages, "MAX_PIXELS", 1500)
        assert load_image(path).shape == (30, 40, 3)
        with pytest.raises(ImageError, match=r"three.tif page 2: more than .* refused as a decompression bomb"):
            load_image(path, page=2)


def test_other_files_have_one_page(tmp_path: Path) -> None:
    shade(1).save(tmp_path / "a.gif", save_all=True, append_images=[shade(200)])
    assert numbered_pages(tmp_path / "a.gif") is None
    with pytest.raises(ImageError, match="page must be 1, the only one, got 2"):
        load_image(tmp_path / "a.gif", page=2)


# What files of these kinds begin with.
UNSUPPORTED = {
    "a.jxl": (b"\xff\x0a\xfa\x1f", "JPEG XL is not supported; convert it to PNG first"),
    "b.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL is not supported; convert it to PNG first"),
    "a.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not supported; it has no pixels, render it to PNG"),
    "b.svg": (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<svg/>", "SVG is not supported; it has no pixels"),
    "a.exr": (b"\x76\x2f\x31\x01\x02\0\0\0", "OpenEXR is not supported; convert it to PNG first"),
    "a.hdr": (b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n", "Radiance HDR is not supported; convert it to PNG first"),
    "a.mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0", "video is not supported; extract its frames as images first"),
    "a.avi": (b"RIFF\x10\0\0\0AVI LIST", "video is not supported; extract its frames as images first"),
    "a.webm": (b"\x1a\x45\xdf\xa3\x01\0\0\0", "video is not supported; extract its frames as images first"),
    "a.mpg": (b"\0\0\x01\xb3\x01\x40\x0f\x0c", "video is not supported; extract its frames as images first"),
    "a.h5": (b"\x89HDF\r\n\x1a\n" + bytes(200), "scientific data is not supported; convert it to PNG first"),
    "a.grib": (b"GRIB\0\0\0\x01" + bytes(200), "scientific data is not supported; convert it to PNG first"),
    "a.bufr": (b"BUFR\0\0\0\x01" + bytes(200), "scientific data is not supported; convert it to PNG first"),
    "a.wmf": (
        b"\xd7\xcd\xc6\x9a\0\0\0\0\0\0\x40\0\x30\0\x60\0\0\0\0\0\0\0\x01\0\x09\0" + bytes(60),
        "WMF is not supported; convert it to PNG first",
    ),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_damaged_is_not_called_so(name: str, tmp_path: Path) -> None:
    content, text = UNSUPPORTED[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load_image(path)
    assert str(caught.value).startswith(f"{path}: {text}")
    assert not signatures.is_image_name(path.suffix)
    assert signatures.unsupported_name(path.suffix) is not None


def test_eps_without_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "logo.eps"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", False)
    with pytest.raises(
        ImageError, match=r"logo.eps: EPS without Ghostscript is not supported; install Ghostscript, or"
    ):
        load_image(path)


def test_a_decoder_that_pillow_was_built_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shade(10).save(tmp_path / "a.jpg")

    def missing(*_: object) -> None:
        raise OSError("decoder jpeg not available")

    monkeypatch.setattr(PIL.Image, "_getdecoder", missing)
    with pytest.raises(ImageError, match=r"a.jpg: JPEG is not supported by this installation of Pillow \(decoder jpeg"):
        load_image(tmp_path / "a.jpg")


def test_what_pillow_calls_unsupported_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    shade(10).convert("RGB").save(path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 28, 7)  # bits per pixel
    path.write_bytes(data)
    with pytest.raises(ImageError, match=r"a.bmp: not supported: Unsupported BMP pixel depth \(7\)"):
        load_image(path)


class TestHeif:
    def test_is_read_upright_and_over_white(self, tmp_path: Path) -> None:
        pillow_heif = pytest.importorskip("pillow_heif", reason="HEIC needs the extra 'heif'")
        picture = PIL.Image.new("RGBA", (64, 48), (200, 30, 60, 255))
        picture.paste((0, 0, 0, 0), (32, 0, 64, 48))
        exif = PIL.Image.Exif()
        exif[274] = 6
        pillow_heif.from_pillow(picture).save(tmp_path / "a.heic", quality=100, exif=exif.tobytes())
        image = load_image(tmp_path / "a.heic")
        assert image.shape == (64, 48, 3)
        assert np.abs(image[:30].astype(int) - [200, 30, 60]).max() <= 8
        assert np.abs(image[34:].astype(int) - 255).max() <= 8
        assert ".heic" not in PIL.Image.registered_extensions()

    def test_without_pillow_heif(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pillow_heif", None)
        (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
        with pytest.raises(
            ImageError, match=r"a.heic: HEIC without pillow-heif is not supported; pip install '.\[heif\]'"
        ):
            load_image(tmp_path / "a.heic")
