"""PixelPrune in vLLM: a plugin that vLLM finds by itself, and that does nothing until it is asked for.

Switched on by vLLM's own options; docs/vllm.md says how. `pixelprune check vllm` tells whether it is in force.
"""

from pixelprune.vllm.coverage import ARCHITECTURES, TESTED
from pixelprune.vllm.plugin import register

__all__ = ["ARCHITECTURES", "TESTED", "register"]
