"""The documentation builds as a site, without a warning, and without anything that is fetched from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="the site is built with mkdocs: pip install --group docs")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    assert len(pages) > 20
    assert pages <= {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe)[^>]*\bsrc=\"?([^\s\">]+)", page)
        loaded += re.findall(r"<link[^>]*rel=\"?(?:stylesheet|preconnect|icon)\"?[^>]*href=\"?([^\s\">]+)", page)
        assert loaded
        assert [source for source in loaded if re.match(r"(https?:)?//", source)] == [], path.name


def test_the_api_page_shows_signatures_and_examples(site: Path) -> None:
    page = (site / "api.html").read_text(encoding="utf-8")
    for name in ("select", "PruneConfig", "transformers.enable", "training.SFTTrainer", "predictors.register"):
        assert f'id="pixelprune.{name}"' in page
    assert page.count("&gt;&gt;&gt; ") == page.count('<span class="gp">&gt;&gt;&gt; ') > 20, (
        "examples are shown as code"
    )
