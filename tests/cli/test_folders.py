"""What the commands make of folders, of files of several pages, and of what libraries warn about."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from pathlib import Path

import PIL.Image
import pytest
from PIL import EpsImagePlugin

from pixelprune.cli import _sheets
from pixelprune.cli._sheets import (
    PICTURE_SUFFIX,
    Reader,
    Sheet,
    count_files,
    find_sheets,
    sheets_of,
    with_names,
)
from pixelprune.cli._warnings import about
from pixelprune.images import signatures
from pixelprune.images.samples import sample_path
from tests.support import pdf_files
from tests.support.commands import run, run_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(sample_path("screen"), tmp_path / "a.png")
    return tmp_path


class TestSkipped:
    def test_files_are_counted_with_the_reason(self, folder: Path) -> None:
        for name in ("a.svg", "b.svg", "c.jxl", "d.h5", "notes.txt", "notes", "e.mp4", "deep/f.SVG", ".hidden.svg"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text("not looked into")
        line = (
            ".: skipped 8 files: 3 SVG (it has no pixels, render it to PNG first), 2 not named like an image, "
            "1 JPEG XL (convert it to PNG first), 1 scientific data (convert it to PNG first), "
            "1 video (extract its frames as images first)"
        )
        for command in ("show", "verify"):
            done = run(command, ".", cwd=folder)
            assert done.returncode == 0
            assert done.stderr == f"warning: {line}\n"
            result = run_json(command, ".", cwd=folder)
            assert result["skipped"] == [line]
            assert result["errors"] == []

    def test_a_folder_of_images_is_quiet(self, folder: Path) -> None:
        assert run("show", ".", cwd=folder).stderr == ""
        assert run_json("show", ".", cwd=folder)["skipped"] == []

    def test_heic_and_eps_depend_on_what_is_installed(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (folder / "b.heic").write_bytes(b"")
        (folder / "c.eps").write_bytes(b"")
        try:
            for installed in (False, True):
                monkeypatch.setattr(signatures, "find_spec", lambda _name, answer=installed: answer or None)
                monkeypatch.setattr(EpsImagePlugin, "gs_binary", "gs" if installed else False)
                signatures._read_suffixes.cache_clear()
                found = find_sheets([str(folder)])
                kinds = len(found.sheets) + len(found.errors)
                assert kinds == (3 if installed else 1)
                if installed:
                    assert found.skipped == []
                else:
                    assert "1 HEIC without pillow-heif (pip install '.[heif]'" in found.skipped[0]
                    assert "1 EPS without Ghostscript (install Ghostscript, or" in found.skipped[0]
        finally:
            signatures._read_suffixes.cache_clear()


class TestOrder:
    def test_is_that_of_paths(self, tmp_path: Path) -> None:
        names = ["a/b.png", "a/b/c.png", "a-b/a.png", "a.png", "a/b-c/a.png", "B.png", "é.png", "a/Z.png"]
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.new("L", (64, 64)).save(tmp_path / name)
        (tmp_path / "link").symlink_to(tmp_path / "a")
        sheets = find_sheets([str(tmp_path)]).sheets
        assert [sheet.path for sheet in sheets] == sorted(tmp_path / name for name in names)
        assert count_files(str(tmp_path)) == len(names)

    def test_files_are_opened_when_they_are_wanted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(3):
            PIL.Image.new("L", (64, 64)).save(tmp_path / f"{number}.png")
        looked: list[str] = []
        original = _sheets.numbered_pages
        monkeypatch.setattr(_sheets, "numbered_pages", lambda path: looked.append(path.name) or original(path))
        sheets = sheets_of(str(tmp_path))
        assert looked == []
        assert next(sheets) == Sheet(tmp_path / "0.png")
        assert looked == ["0.png"]


class TestPages:
    def test_every_page_of_a_tiff_is_shown(self, folder: Path) -> None:
        page = PIL.Image.open(folder / "a.png").convert("L")
        page.save(folder / "scan.tif", save_all=True, append_images=[page.rotate(180)])
        page.save(folder / "single.tif")
        rows = run_json("show", "scan.tif", "single.tif", cwd=folder)["images"]
        assert [(row["image"], row["page"]) for row in rows] == [
            ("scan.tif", 1), ("scan.tif", 2), ("single.tif", None),
        ]  # fmt: skip
        assert [Path(row["overlay"]).name for row in rows] == [
            "scan-page1.kept.png", "scan-page2.kept.png", "single.kept.png",
        ]  # fmt: skip
        assert "scan.tif page 2" in run("show", "scan.tif", cwd=folder).stdout

    @pytest.mark.parametrize(
        ("kids", "count", "pages", "said"),
        [
            ("3 0 R", 5000, [1], "4,999 of 5,000 pages cannot be found, the first is page 2"),
            ("3 0 R", 1_000_000, [1], "999,999 of 1,000,000 pages cannot be found, the first is page 2"),
            ("3 0 R null 3 0 R", 3, [1, 3], "1 of 3 pages cannot be found, the first is page 2"),
            ("null", 4, [], "4 of 4 pages cannot be found, the first is page 1"),
            ("3 0 R 3 0 R", 2, [1, 2], None),
        ],
    )
    def test_pages_that_a_pdf_only_counts_are_one_line(
        self, kids: str, count: int, pages: list[int], said: str | None, tmp_path: Path
    ) -> None:
        pytest.importorskip("pypdfium2", reason="PDF pages need the extra 'pdf'")
        content = pdf_files.pdf().replace(b"Kids[3 0 R]/Count 1", f"Kids[{kids}]/Count {count}".encode())
        (tmp_path / "a.pdf").write_bytes(content)
        for command in ("show", "verify"):
            result = run_json(command, "a.pdf", cwd=tmp_path, code=2 if said else 0)
            assert [error.split("; ")[0] for error in result["errors"]] == ([f"a.pdf: {said}"] if said else [])
            rows = result["images" if command == "show" else "checks"]
            assert sorted({row["page"] for row in rows}) == pages
        if said:
            assert result["errors"][0].endswith("which another program corrects when it saves the file")

    def test_a_file_is_opened_once_for_all_its_pages(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        frames = [PIL.Image.new("L", (64, 64), value) for value in range(5)]
        frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:])
        frames[0].save(tmp_path / "b.tif", save_all=True, append_images=frames[1:])
        opened: list[Path] = []
        original = _sheets.opened
        monkeypatch.setattr(_sheets, "opened", lambda path: opened.append(path) or original(path))
        sheets = [Sheet(tmp_path / name, page) for name in ("a.tif", "b.tif") for page in range(1, 6)]
        with Reader("qwen3-vl", 144) as reader:
            values = [int(reader.read(sheet)[1][0, 0, 0]) for sheet in sheets]
        assert values == [*range(5), *range(5)]
        assert opened == [tmp_path / "a.tif", tmp_path / "b.tif"]


class TestNames:
    def test_as_before(self) -> None:
        sheets = [Sheet(Path(name)) for name in ("a.png", "x/a.png", "y/a.png", "a.jpg", "z/A.png", "a.png-2.tif")]
        names = [name for _, name in with_names(sheets)]
        assert names == ["a", "a.png", "a.png-2", "a.jpg", "A.png-3", "a.png-2.tif"]

    @pytest.mark.parametrize("letter", ["a", "ü", "名", "😀", "\udcff"])
    @pytest.mark.parametrize("longest", [255, 143])
    def test_names_are_cut_to_what_fits(self, letter: str, longest: int) -> None:
        long = letter * (251 // len(os.fsencode(letter)))
        paths = [f"{folder}/{long}{end}" for folder in range(12) for end in (".png", ".jpg", "")]
        sheets = [*map(Sheet, map(Path, paths)), *(Sheet(Path(f"{long}.pdf"), page) for page in (9, 10, 100))]
        names = [name + PICTURE_SUFFIX for _, name in with_names(sheets, longest)]
        assert len({name.casefold() for name in names}) == len(sheets)
        # As long as they can be, in whole letters.
        assert all(longest - len(os.fsencode(letter)) < len(os.fsencode(name)) <= longest for name in names)
        assert all(name.strip(letter)[:1] in ".-" for name in names)
        assert [name.rpartition("-")[2] for name in names[-3:]] == [f"page{page}.kept.png" for page in (9, 10, 100)]

    def test_a_name_as_long_as_can_be(self, tmp_path: Path) -> None:
        names = ["x" * 251 + ".png", "x" * 250 + "y.png", "ü" * 125 + "y.png"]
        for name in names:
            shutil.copy(sample_path("screen"), tmp_path / name)
        result = run_json("show", *names, cwd=tmp_path)
        assert [row["image"] for row in result["images"]] == names
        overlays = {row["overlay"] for row in result["images"]}
        assert len(overlays) == 3
        assert all((tmp_path / overlay).exists() for overlay in overlays)
        assert run("show", names[0], cwd=tmp_path).stdout.count(f"{names[0]} is shown in overlays/xxx") == 1

    def test_the_number_of_tries_is_linear(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each try draws a number; 3,000 equal names draw about as many."""
        drawn = 0

        def counted(start: int):
            nonlocal drawn
            while True:
                drawn += 1
                yield start
                start += 1

        monkeypatch.setattr(_sheets, "count", counted)
        sheets = [Sheet(Path(str(number), "a.png")) for number in range(3000)]
        assert len({name.casefold() for _, name in with_names(sheets)}) == 3000
        assert drawn <= 3000


class TestWarnings:
    def test_each_is_one_line_that_names_the_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        with about("x.png"):
            for _ in range(3):
                warnings.warn("Corrupt EXIF data.\n  Expecting 12 bytes", stacklevel=1)
            logging.getLogger("PIL.TiffImagePlugin").warning("More samples than %d", 4)
            warnings.warn("too large", PIL.Image.DecompressionBombWarning, stacklevel=1)
        assert capsys.readouterr().err.splitlines() == [
            "warning: x.png: More samples than 4",
            "warning: x.png: Corrupt EXIF data. Expecting 12 bytes",
        ]

    def test_are_printed_although_reading_fails(self, capsys: pytest.CaptureFixture[str]) -> None:
        def read() -> None:
            with about("x.png"):
                warnings.warn("odd", stacklevel=1)
                raise ValueError("broken")

        with pytest.raises(ValueError, match="broken"):
            read()
        assert capsys.readouterr().err == "warning: x.png: odd\n"

    def test_a_file_with_damaged_metadata(self, tmp_path: Path) -> None:
        """An Exif block whose entry points behind its end."""
        picture = PIL.Image.open(sample_path("screen"))
        exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x0e\x01\x02\0\xff\0\0\0\xff\xff\0\0\0\0\0\0"
        picture.convert("RGB").save(tmp_path / "a.jpg", exif=exif)
        done = run("show", "a.jpg", cwd=tmp_path)
        assert done.returncode == 0
        assert done.stderr
        assert all(line.startswith("warning: a.jpg: ") for line in done.stderr.splitlines())
