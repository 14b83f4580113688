"""Prune images for models of transformers: `enable`, `disable`.

enable, disable               make one model and one processor prune, or stop it; no class is changed
kept                          what was kept of each image, read from the inputs of a model
Family, register, unregister  describe a model family that is not known yet

The page docs/transformers.md explains inputs, batching, positions and limits.
"""

from pixelprune.transformers.families import Family, register, unregister
from pixelprune.transformers.switch import Kept, disable, enable, kept

__all__ = ["Family", "Kept", "disable", "enable", "kept", "register", "unregister"]
