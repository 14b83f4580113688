"""How much memory reading and drawing take at their peak, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc"
)

SIDE = 3008  # what a model of 32 x 32 blocks sees without resizing

_MEASURE = """
import sys
from pathlib import Path
import numpy as np
import PIL.Image
from pixelprune import fit_image, load_image, select
from pixelprune.images.overlay import overlay

def kilobytes(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

def bytes_per_pixel(run):
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = kilobytes("VmRSS")
    result = run()
    return result, (kilobytes("VmHWM") - before) * 1024 / (SIDE * SIDE)

PIL.Image.init()
small = np.zeros((64, 64, 3), np.uint8)
overlay(small, select(small))
""".replace("SIDE", str(SIDE))


def measured(code: str, *arguments: object) -> list[float]:
    """The numbers that a program prints; it begins with what `_MEASURE` holds."""
    command = [sys.executable, "-c", _MEASURE + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


@pytest.mark.parametrize(
    "name",
    [
        "L.png", "P.png", "1.png", "LA.png", "RGB.png", "RGBA.png", "RGB.jpg", "L.jpg", "CMYK.jpg", "CMYK.tif",
        "I;16.png", "I;16.tif", "I.tif", "F.tif",
    ],
)  # fmt: skip
def test_reading(name: str, tmp_path: Path) -> None:
    """Pillow's picture takes up to 4 bytes per pixel, ours 3; whole copies in between would take 11 to 23."""
    mode, suffix = name.split(".")
    kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
    flat = np.zeros((SIDE, SIDE), kinds.get(mode, np.uint8))
    image = PIL.Image.fromarray(flat)
    if mode not in kinds:
        image = image.convert("RGB").convert(mode)
    path = tmp_path / f"a.{suffix}"
    image.save(path)
    (peak,) = measured("print(bytes_per_pixel(lambda: load_image(sys.argv[1]))[1])", path)
    assert peak < 9.5


def test_turning(tmp_path: Path) -> None:
    """By its EXIF orientation: Pillow's picture twice, before ours is made."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "a.jpg", exif=exif)
    (peak,) = measured("print(bytes_per_pixel(lambda: load_image(sys.argv[1]))[1])", tmp_path / "a.jpg")
    assert peak < 10


def test_fitting_and_drawing() -> None:
    """One copy of the image to fit it, one to draw on, and Pillow's; floats of all blocks would be 24 bytes more."""
    code = """
image = np.zeros((SIDE, SIDE, 3), np.uint8)
image[:] = np.arange(SIDE)[:, None, None] // 32 % 2 * 200
fitted, fitting = bytes_per_pixel(lambda: fit_image(image))
selection = select(fitted)
print(fitting, bytes_per_pixel(lambda: overlay(fitted, selection))[1])
""".replace("SIDE", str(SIDE))
    fitting, drawing = measured(code)
    assert fitting < 4.5
    assert drawing < 9
