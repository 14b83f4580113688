"""Prune images for models of transformers: `enable`, `disable`.

enable, disable               make one model and one processor prune, or stop it; no class is changed
is_enabled                    whether a model or a processor prunes
keeping_all                   a context in which a processor keeps every block
kept                          what was kept of each image, read from the inputs of a model
Family, register, unregister  describe a model family that is not known yet

The page docs/transformers.md explains inputs, batching, positions and limits.
"""

from pixelprune import _extras

_extras.require("pixelprune.transformers", "transformers", "torch", "torchvision", "transformers")

from pixelprune.transformers.families import Family, register, unregister
from pixelprune.transformers.processing import keeping_all
from pixelprune.transformers.results import Kept, kept
from pixelprune.transformers.switch import disable, enable, is_enabled

__all__ = ["Family", "Kept", "disable", "enable", "is_enabled", "keeping_all", "kept", "register", "unregister"]
