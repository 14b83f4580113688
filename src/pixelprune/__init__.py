"""PixelPrune: drop the redundant blocks of an image before a vision-language model sees it.

load_image, fit_image  a file, or an image, as the uint8 array that a model would see
select, Selection      which of its blocks to keep, and what rebuilds the others
encode, decode         kept blocks and positions (Compressed), and the image back from them
PruneConfig            what may be dropped: threshold, metric, predictor, budget

For models of transformers: pixelprune.transformers.enable and .disable. In vLLM: a plugin, pixelprune.vllm.
To train on pruned inputs: pixelprune.training, on TRL.
Also: preset (image sizes of a model), and the modules predictors (your own rules), overlay, verify, baselines.

>>> import numpy as np
>>> import pixelprune
>>> page = np.full((64, 96, 3), 255, np.uint8)
>>> pixelprune.select(page).kept
1
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from pixelprune.images import overlay
from pixelprune.images.files import fit_image, load_image
from pixelprune.images.sizes import preset
from pixelprune.selection import baselines, predictors, verify
from pixelprune.selection.codec import Compressed, decode, encode
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.select import Selection, select

if TYPE_CHECKING:  # for editors, which complete nothing through __getattr__
    from pixelprune import training, transformers, vllm  # noqa: F401

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    # Adapters import frameworks, which `import pixelprune` does not wait for.
    if name in ("training", "transformers", "vllm"):
        return import_module(f"pixelprune.{name}")
    raise AttributeError(f"module 'pixelprune' has no attribute {name!r}")


__all__ = [
    "Compressed",
    "PruneConfig",
    "Selection",
    "baselines",
    "decode",
    "encode",
    "fit_image",
    "load_image",
    "overlay",
    "predictors",
    "preset",
    "select",
    "verify",
]
