from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from PIL import PngImagePlugin

from pixelprune import load_image
from pixelprune.images import pdf
from pixelprune.images.errors import ImageError
from pixelprune.images.files import numbered_pages
from tests.support import pdf_files
from tests.support.pdf_files import NOT_TICKED, TEXT, TEXT_WITHOUT_APPEARANCE, TICKED, field

pytest.importorskip("pypdfium2", reason="PDF pages need the extra 'pdf'")

RED, WHITE = [255, 0, 0], [255, 255, 255]

EMPTY_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
    b"2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\ntrailer<</Root 1 0 R>>\n"
)
# Keys that no password fits: all that a reader sees is that it needs one.
LOCKED_PDF = EMPTY_PDF.replace(
    b"trailer<<",
    b"3 0 obj<</Filter/Standard/V 1/R 2/P -4/O<" + b"41" * 32 + b">/U<" + b"42" * 32 + b">>>endobj\n"
    b"trailer<</Encrypt 3 0 R/ID[<00><00>]",
)


class TestPages:
    @pytest.fixture
    def picture(self, page: np.ndarray) -> PIL.Image.Image:
        return PIL.Image.fromarray(page[600:696, 620:780]).resize((720, 432))

    @pytest.fixture
    def path(self, picture: PIL.Image.Image, tmp_path: Path) -> Path:
        path = tmp_path / "two.pdf"
        picture.save(path, save_all=True, append_images=[picture.rotate(180)], resolution=72)
        return path

    def test_pages_are_rendered_at_the_chosen_resolution(self, path: Path, picture: PIL.Image.Image) -> None:
        assert numbered_pages(path) == 2
        first, second = load_image(path, dpi=72), load_image(path, page=2, dpi=72)
        assert first.shape == second.shape == (432, 720, 3)
        assert np.abs(first.astype(int) - np.asarray(picture)).mean() < 6
        assert np.abs(first[::-1, ::-1].astype(int) - second).mean() < 6
        assert load_image(path, dpi=144).shape == (864, 1440, 3)

    def test_no_page_has_more_pixels_than_the_limit(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pdf, "MAX_PIXELS", 720 * 432)
        assert load_image(path, dpi=72).shape == (432, 720, 3)
        monkeypatch.setattr(pdf, "MAX_PIXELS", 720 * 432 - 1)
        with pytest.raises(ImageError, match="page 1 has 720 x 432 pixels at 72 dpi"):
            load_image(path, dpi=72)

    def test_what_cannot_be_rendered(self, path: Path) -> None:
        with pytest.raises(ImageError, match=r"two.pdf: page must be from 1 to 2, got 3"):
            load_image(path, page=3)
        with pytest.raises(ImageError, match="dpi must be at least 1, got 0"):
            load_image(path, dpi=0)
        with pytest.raises(ImageError, match="page 1 has 100000 x 60000 pixels at 10000 dpi; lower the dpi"):
            load_image(path, dpi=10000)

    def test_encrypted_and_empty_ones(self, tmp_path: Path) -> None:
        (tmp_path / "locked.pdf").write_bytes(LOCKED_PDF)
        with pytest.raises(ImageError, match=r"locked.pdf: the PDF is encrypted; remove its password first"):
            numbered_pages(tmp_path / "locked.pdf")
        (tmp_path / "empty.pdf").write_bytes(EMPTY_PDF)
        with pytest.raises(ImageError, match=r"empty.pdf: not a readable PDF"):
            numbered_pages(tmp_path / "empty.pdf")

    def test_without_pypdfium2(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pypdfium2", None)
        with pytest.raises(ImageError, match=r"two.pdf: PDF pages need pypdfium2: pip install '\.\[pdf\]'"):
            load_image(path)


class TestForms:
    def test_what_is_filled_in_is_drawn(self, tmp_path: Path) -> None:
        path = tmp_path / "form.pdf"
        path.write_bytes(pdf_files.form(field(10, TEXT), field(40, TICKED), field(70, NOT_TICKED)))
        image = load_image(path, dpi=72)
        assert image.shape == (100, 200, 3)
        assert (image[40:60, 10:30] == RED).all()
        assert (image[40:60, 40:60] == RED).all()
        # The fields are all that there is: no highlight, no border.
        image[40:60, 10:30] = image[40:60, 40:60] = WHITE
        assert (image == WHITE).all()

    def test_fields_without_a_stored_appearance(self, tmp_path: Path) -> None:
        """Three letters M cover about an eighth of the square, whoever draws them."""
        path = tmp_path / "form.pdf"
        path.write_bytes(pdf_files.form(field(10, TEXT_WITHOUT_APPEARANCE), more="/NeedAppearances true"))
        image = load_image(path, dpi=144)
        ink = 1 - image[80:120, 20:60].mean() / 255
        assert 0.05 < ink < 0.3
        image[80:120, 20:60] = WHITE
        assert (image == WHITE).all()

    def test_annotations_that_are_hidden_stay_hidden(self, tmp_path: Path) -> None:
        shown = "<</Type/Annot/Subtype/Stamp/Rect[10 40 30 60]/F 4/AP<</N 4 0 R>>>>"
        hidden = "<</Type/Annot/Subtype/Stamp/Rect[40 40 60 60]/F 2/AP<</N 4 0 R>>>>"
        hidden_field = field(70, TEXT).replace("/F 4", "/F 2")
        path = tmp_path / "notes.pdf"
        path.write_bytes(pdf_files.form(shown, hidden, hidden_field))
        image = load_image(path, dpi=72)
        assert (image[40:60, 10:30] == RED).all()
        image[40:60, 10:30] = WHITE
        assert (image == WHITE).all()

    def test_xfa_is_quiet(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The fields beside XFA are drawn, and pypdfium2 does not report for each file that XFA is not."""
        path = tmp_path / "xfa.pdf"
        path.write_bytes(pdf_files.form(field(10, TEXT), more="/XFA(x)"))
        assert (load_image(path, dpi=72)[40:60, 10:30] == RED).all()
        assert caplog.records == []
        logging.getLogger("pypdfium2._helpers.document").warning("XFA is not filtered for others")
        assert len(caplog.records) == 1


class TestWhatIsAPdf:
    @pytest.fixture
    def content(self) -> bytes:
        return pdf_files.form(field(10, TEXT))

    @pytest.mark.parametrize("before", [b"\n", b"\xef\xbb\xbf", b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1019, bytes(500)])
    def test_bytes_before_the_header(self, content: bytes, before: bytes, tmp_path: Path) -> None:
        path = tmp_path / "odd.pdf"
        path.write_bytes(before + content)
        assert numbered_pages(path) == 1
        assert (load_image(path, dpi=72)[40:60, 10:30] == RED).all()

    def test_only_the_first_kilobyte_counts(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "odd.pdf").write_bytes(b"x" * 1024 + content)
        with pytest.raises(ImageError, match=r"odd.pdf: not an image in a format that Pillow reads"):
            load_image(tmp_path / "odd.pdf")

    @pytest.mark.parametrize("text", ["%PDF-1.7", "\n\n%PDF-1.7\n1 0 obj"])
    @pytest.mark.parametrize("suffix", ["png", "gif", "jpg", "tiff", "bmp"])
    def test_an_image_that_holds_these_letters_is_an_image(self, suffix: str, text: str, tmp_path: Path) -> None:
        picture = PIL.Image.linear_gradient("L").resize((40, 30)).convert("RGB")
        path = tmp_path / f"a.{suffix}"
        if suffix == "png":
            info = PngImagePlugin.PngInfo()
            info.add_text("Comment", text)
            picture.save(path, pnginfo=info)
        elif suffix == "tiff":
            picture.save(path, description=text)
        elif suffix == "bmp":
            # Colors are stored as blue, green, red.
            stored = np.frombuffer((text.encode() * 500)[: 40 * 30 * 3], np.uint8).reshape(30, 40, 3)
            PIL.Image.fromarray(stored[::-1, :, ::-1].copy()).save(path)
        else:
            picture.save(path, comment=text.encode())
        assert b"%PDF-" in path.read_bytes()[:1024] or suffix == "tiff"
        with PIL.Image.open(path) as reopened:
            expected = np.asarray(reopened.convert("RGB"))
        assert numbered_pages(path) is None
        assert (load_image(path) == expected).all()

    def test_a_name_that_begins_with_a_tilde(
        self, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("~a.pdf", "~", f"~{os.environ.get('USER', 'root')}"):
            Path(name).write_bytes(content)
            assert (load_image(name, dpi=72)[40:60, 10:30] == RED).all()
