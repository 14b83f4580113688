"""What the tests of the vLLM plugin share; where vLLM is not installed they are left out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from pixelprune.images.samples import photograph, sample_path
from tests.support import small_models as small
from tests.support.engines import Pictures

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory):
    """A function from the name of a family to the folder of its small checkpoint."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            small.save(family, made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    """Files with real pixels, and a flat and a noisy one, by name."""
    folder = tmp_path_factory.mktemp("pictures")
    page = Image.open(sample_path("page")).convert("RGB")
    screen = Image.open(sample_path("screen")).convert("RGB")
    made = {
        "page": page.resize((448, 640)),
        "screen": screen.resize((512, 320)),
        "crop": page.crop((300, 300, 620, 540)),
        "photo": Image.fromarray(photograph(256)),
        "flat": Image.new("RGB", (1024, 64), (20, 90, 200)),
    }
    for name, image in made.items():
        image.save(folder / f"{name}.png")
    return Pictures({name: folder / f"{name}.png" for name in made})
