"""PixelPrune in vLLM: a plugin that vLLM finds by itself, and that does nothing until pruning is requested.

vLLM's own options switch it on; docs/vllm.md says how. `pixelprune check vllm` reports whether it is in force.
"""

from pixelprune.vllm.coverage import ARCHITECTURES, TESTED
from pixelprune.vllm.plugin import register

__all__ = ["ARCHITECTURES", "TESTED", "register"]
