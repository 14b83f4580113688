"""Which blocks of an image to keep, and the proof that those are enough: numpy only, no model.

predictors   the method, in plain Python: read this first
select       `select`, `Selection`: the method on a whole image
config       `PruneConfig`: what may be dropped
metrics      distances between blocks, in exact integers
codec        `encode`, `decode`: an image as its kept blocks, and back
verify       both propositions of the paper, checked on an image
baselines    other choices of as many blocks, to compare with

_blocks, _engine, _native, _kernels and _codes make it fast.
"""

from pixelprune.selection.select import Selection, largest_error, select, select_patches

__all__ = ["Selection", "largest_error", "select", "select_patches"]
