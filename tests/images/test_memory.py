"""How much memory reading takes at its peak, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

_READ = """
import sys
from pathlib import Path
import PIL.Image
from pixelprune import load_image

def kilobytes(name):
    return int(Path("/proc/self/status").read_text().split(name + ":")[1].split()[0])

PIL.Image.init()
Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
before = kilobytes("VmRSS")
shape = load_image(sys.argv[1]).shape
print((kilobytes("VmHWM") - before) * 1024 / (shape[0] * shape[1]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is read from Linux's /proc")
@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_bytes_per_pixel(mode: str, tmp_path: Path) -> None:
    """Pillow's picture takes up to 4, ours 3; whole copies in between would take 12 to 23."""
    side = 3000
    flat = np.zeros((side, side), np.uint16 if mode == "I;16" else np.uint8)
    image = PIL.Image.fromarray(flat) if mode == "I;16" else PIL.Image.fromarray(flat).convert("RGB").convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    image.save(path)
    done = subprocess.run([sys.executable, "-c", _READ, path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10
