"""Files that are not readable images: how to make each, and what the error must say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import PIL.Image


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _text(path: Path) -> None:
    path.write_text("No image, [bold]only words[/].")


def _truncated_png(path: Path) -> None:
    PIL.Image.effect_noise((300, 300), 50).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:4000])


def _truncated_jpeg(path: Path) -> None:
    PIL.Image.effect_noise((300, 300), 50).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:4000])


def _header_only(path: Path) -> None:
    PIL.Image.new("RGB", (30, 30)).save(path, "PNG")
    path.write_bytes(path.read_bytes()[:20])


def _single_pixel(path: Path) -> None:
    PIL.Image.new("RGB", (1, 1)).save(path, "PNG")


def _bomb(path: Path) -> None:
    PIL.Image.new("1", (20000, 20000)).save(path, "PNG")


def _broken_pdf(path: Path) -> None:
    path.write_bytes(b"%PDF-1.7\nnothing behind it")


BAD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (_empty, "the file is empty"),
    "text": (_text, "not an image in a format that Pillow reads"),
    "truncated.png": (_truncated_png, "damaged image: .*truncated"),
    "truncated.jpg": (_truncated_jpeg, "damaged image: .*truncated"),
    "header.png": (_header_only, "not an image in a format|[Tt]runcated"),
    "pixel.png": (_single_pixel, "a single pixel leaves nothing to predict or to prune"),
    "bomb.png": (_bomb, "more than 178,956,970 pixels, refused as a decompression bomb"),
    "broken.pdf": (_broken_pdf, "not a readable PDF"),
}
