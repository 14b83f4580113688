"""Without an extra, an adapter says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys, importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {missing!r} else find_spec(name, package)
import pixelprune
try:
    pixelprune.{package}
except ImportError as error:
    sys.exit(str(error))
"""


@pytest.mark.parametrize(
    ("package", "missing", "extra"), [("transformers", "torchvision", "transformers"), ("training", "trl", "training")]
)
def test_missing_package(package: str, missing: str, extra: str) -> None:
    script = WITHOUT.format(package=package, missing=missing)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    # Whatever else is missing where this test runs is named too.
    assert done.stderr.startswith(f"pixelprune.{package} needs ")
    assert missing in done.stderr
    assert done.stderr.endswith(f": pip install '.[{extra}]' in a checkout of pixelprune\n")
