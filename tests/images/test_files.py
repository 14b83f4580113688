from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import ImageCms, ImageDraw, PngImagePlugin

from pixelprune import fit_image, load_image
from pixelprune.images.errors import ImageError
from pixelprune.images.modes import to_rgb
from tests.support.bad_files import BAD_FILES


@pytest.fixture
def picture(page: np.ndarray) -> PIL.Image.Image:
    """A colourful crop of the page, 160 x 96 (W x H), that no rotation leaves unchanged."""
    crop = PIL.Image.fromarray(page[600:696, 620:780])
    ImageDraw.Draw(crop).rectangle((0, 0, 40, 20), fill=(200, 30, 60))
    return crop


def saved(image: PIL.Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


class TestFormats:
    def test_lossless_colour_files_are_read_as_they_are(self, picture: PIL.Image.Image, tmp_path: Path) -> None:
        for suffix in ("png", "bmp", "tiff", "webp", "ppm", "tga"):
            options = {"lossless": True} if suffix == "webp" else {}
            image = load_image(saved(picture, tmp_path / f"a.{suffix}", **options))
            assert image.dtype == np.uint8
            assert (image == np.asarray(picture)).all(), suffix

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, picture: PIL.Image.Image, tmp_path: Path, orientation: int) -> None:
        exif = PIL.Image.Exif()
        exif[0x0112] = orientation
        image = load_image(saved(picture, tmp_path / "a.png", exif=exif))
        upright = np.asarray(picture)
        turned = upright.swapaxes(0, 1) if orientation > 4 else upright
        vertical, horizontal = {
            1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1),
        }[orientation]  # fmt: skip
        assert (image == turned[::vertical, ::horizontal]).all()

    def test_damaged_metadata_does_not_matter(self, picture: PIL.Image.Image, tmp_path: Path) -> None:
        assert (load_image(saved(picture, tmp_path / "a.png", exif=b"garbage")) == np.asarray(picture)).all()

    def test_an_image_that_talks_of_pdf_is_none(self, picture: PIL.Image.Image, tmp_path: Path) -> None:
        text = PngImagePlugin.PngInfo()
        text.add_text("Comment", "%PDF-1.7")
        assert (load_image(saved(picture, tmp_path / "a.png", pnginfo=text)) == np.asarray(picture)).all()

    def test_palette_grey_and_bilevel(self, picture: PIL.Image.Image, tmp_path: Path) -> None:
        for mode in ("P", "L", "1"):
            converted = picture.convert(mode)
            image = load_image(saved(converted, tmp_path / f"{mode}.png"))
            assert (image == np.asarray(converted.convert("RGB"))).all()
            assert image.std() > 10

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGBa", "La"])
    def test_transparency_is_laid_over_white(self, picture: PIL.Image.Image, mode: str) -> None:
        alpha = PIL.Image.linear_gradient("L").resize(picture.size)
        with_alpha = picture.convert("RGBA")
        with_alpha.putalpha(alpha)
        if mode == "P":
            image = picture.convert("P")
            image.info["transparency"] = image.getpixel((5, 5))
        else:
            image = with_alpha.convert({"PA": "LA", "La": "LA"}.get(mode, "RGBA")).convert(mode)
        rgba = np.asarray((image.convert("LA") if mode == "La" else image).convert("RGBA")).astype(float)
        share = rgba[:, :, 3:] / 255
        expected = rgba[:, :, :3] * share + 255 * (1 - share)
        assert np.abs(to_rgb(image) - expected).max() <= 1

    def test_transparency_as_transformers_has_it(self, picture: PIL.Image.Image, tmp_path: Path) -> None:
        convert = pytest.importorskip(
            "transformers.image_transforms", reason="compares with transformers"
        ).convert_to_rgb
        alpha = PIL.Image.linear_gradient("L").resize(picture.size)
        picture.putalpha(alpha)
        palette = picture.quantize(64, method=PIL.Image.Quantize.FASTOCTREE)
        with PIL.Image.open(saved(palette, tmp_path / "palette.png")) as reopened:
            reopened.load()
        for image in (picture, picture.convert("LA"), reopened):
            assert (to_rgb(image) == convert(image, return_numpy=True)).all(), image.mode

    def test_16_bit_values_are_scaled(self, tmp_path: Path) -> None:
        deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
        expected = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
        for suffix in ("png", "tiff"):
            assert (load_image(saved(PIL.Image.fromarray(deep), tmp_path / f"a.{suffix}")) == expected).all()
        assert (to_rgb(PIL.Image.fromarray(deep.astype(np.int32))) == expected).all()
        assert (to_rgb(PIL.Image.fromarray(deep.astype(np.int32) // 257)) == expected).all()

    def test_floats_are_scaled_from_one_or_from_255(self, tmp_path: Path) -> None:
        shades = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
        expected = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)
        for image in (shades, shades * 255):
            assert (load_image(saved(PIL.Image.fromarray(image), tmp_path / "a.tiff")) == expected).all()
        deep = np.array([[0, 32768, 65535, np.nan, np.inf]], np.float32)
        assert to_rgb(PIL.Image.fromarray(deep))[0, :, 0].tolist() == [0, 128, 255, 0, 255]
        bright = np.array([[0, 0.5, np.inf, -np.inf]], np.float32)
        assert to_rgb(PIL.Image.fromarray(bright))[0, :, 0].tolist() == [0, 128, 255, 0]

    def test_print_and_colour_science_modes(self, picture: PIL.Image.Image, tmp_path: Path) -> None:
        cmyk = picture.convert("CMYK")
        image = load_image(saved(cmyk, tmp_path / "a.jpg", quality=100, subsampling=0))
        assert np.abs(image.astype(int) - np.asarray(picture)).mean() < 3
        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        converted = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
        assert np.abs(to_rgb(converted).astype(int) - np.asarray(picture)).mean() < 4
        for mode in ("YCbCr", "HSV"):
            assert np.abs(to_rgb(picture.convert(mode)).astype(int) - np.asarray(picture)).mean() < 3

    def test_of_an_animation_the_first_frame(self, picture: PIL.Image.Image, tmp_path: Path) -> None:
        second = picture.rotate(180)
        for suffix in ("gif", "png", "webp"):
            options = {"lossless": True} if suffix == "webp" else {}
            path = saved(picture, tmp_path / f"a.{suffix}", save_all=True, append_images=[second], **options)
            with PIL.Image.open(path) as opened:
                assert opened.n_frames == 2
                first = np.asarray(opened.convert("RGB"))
            assert (load_image(path) == first).all()


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_are_one_line(name: str, tmp_path: Path) -> None:
    make, text = BAD_FILES[name]
    make(tmp_path / name)
    with pytest.raises(ImageError, match=text) as caught:
        load_image(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none.png: no such file"):
        load_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="path must be the path of a file, got Image; fit_image takes Pillow images"):
        load_image(PIL.Image.new("L", (9, 9)))  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="not a regular file, but a folder, a pipe or a device"):
        load_image(tmp_path)


ADDRESSES = {
    "https://example.com/page.png": "https://example.com/page.png: addresses are not fetched; download the",
    "HTTP://a/b": "HTTP://a/b: addresses are not fetched; download the file and pass its path",
    "s3://bucket/page.png": "s3://bucket/page.png: addresses are not fetched; download the file and pass its path",
    "file:///home/page.png": "file:///home/page.png: an address, not a path; leave out file://",
    "data:image/png;base64," + "A" * 5000: "data:image/png;base64,AAAAAAAAAAAAAAAAAA…: data in an address is not",
}


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda address: address[:9])
def test_addresses_are_not_fetched(address: str) -> None:
    with pytest.raises(ImageError) as caught:
        load_image(address)
    assert str(caught.value).startswith(ADDRESSES[address])
    assert len(str(caught.value)) < 120
    if address.startswith("https"):
        with pytest.raises(ImageError, match=r"https:/example.com/page.png: addresses are not fetched"):
            load_image(Path(address))


def test_a_file_that_is_named_like_an_address(
    picture: PIL.Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("https:/a").mkdir(parents=True)
    Path("data:").mkdir()
    for name in ("https:/a/b.png", "data:/c.png"):
        saved(picture, Path(name))
        assert (load_image(name) == np.asarray(picture)).all()
    with pytest.raises(ImageError, match=r"C:/page.png: no such file"):
        load_image("C:/page.png")


class TestFit:
    def test_an_image_of_the_right_size_is_unchanged(self, page: np.ndarray) -> None:
        assert (fit_image(page, "qwen3-vl") == page).all()

    def test_arrays_and_pillow_images_fit_alike(self, picture: PIL.Image.Image) -> None:
        fitted = fit_image(picture, "qwen3-vl")
        assert fitted.shape == (224, 352, 3)
        assert (fit_image(np.asarray(picture), "qwen3-vl") == fitted).all()
        expected = picture.resize((352, 224), PIL.Image.Resampling.BICUBIC)
        assert (fitted == np.asarray(expected)).all()

    def test_grey_arrays_become_rgb(self, picture: PIL.Image.Image) -> None:
        grey = picture.convert("L")
        assert (fit_image(np.asarray(grey)) == fit_image(grey.convert("RGB"))).all()

    def test_alpha_in_an_array_is_laid_over_white(self, picture: PIL.Image.Image) -> None:
        picture.putalpha(PIL.Image.linear_gradient("L").resize(picture.size))
        assert (fit_image(np.asarray(picture)) == fit_image(picture)).all()

    @pytest.mark.parametrize(
        ("image", "text"),
        [
            ("page.png", "image must be a Pillow image or a numpy array, got str"),
            (np.zeros((40, 40, 3)), r"image must be uint8 .* or \(H, W\), got float64 \(40, 40, 3\)"),
            (
                np.zeros((3, 40, 40), np.uint8),
                r"got uint8 \(3, 40, 40\); scale it to 0..255, convert it to uint8, and move channels last",
            ),
            (np.zeros((1, 1), np.uint8), "a single pixel leaves nothing"),
            (np.zeros((0, 40, 3), np.uint8), r"image must have sides of at least 1 pixel, got 0 x 40"),
            (PIL.Image.new("RGB", (0, 5)), "image must have sides of at least 1 pixel, got 5 x 0"),
            (np.zeros((10, 4000, 3), np.uint8), "aspect ratio of at most 200:1, got 400:1"),
        ],
    )
    def test_refusals(self, image: object, text: str) -> None:
        with pytest.raises(ValueError, match=text):
            fit_image(image)  # type: ignore[arg-type]
