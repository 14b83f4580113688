"""The self-test of the vLLM plugin with a plugin that is broken on purpose: python broken.py RESULT NAME...

One engine, in this process; RESULT is JSON, what `verdict` makes of each of the BREAKS named.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from pixelprune.plan.keep import IMAGE_KEPT


def _replaced(target: Any, name: str, make: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    return patch.object(target, name, make(getattr(target, name)))


def nothing() -> AbstractContextManager[Any]:
    from pixelprune.vllm.towers import TowerMixin

    return _replaced(TowerMixin, "_encode", lambda stock: stock)


def black_pixels() -> AbstractContextManager[Any]:
    from pixelprune.vllm.towers import TowerMixin

    return _replaced(
        TowerMixin, "_encode", lambda stock: lambda self, pixels, keep: stock(self, torch.zeros_like(pixels), keep)
    )


def no_normalization() -> AbstractContextManager[Any]:
    from pixelprune.plan.pixels import ImagePruner

    def broken(stock: Any) -> Any:
        return lambda self, given, grids, config, *_, **__: stock(self, given, grids, config)

    return _replaced(ImagePruner, "prune", broken)


def packed_metadata() -> AbstractContextManager[Any]:
    """Kept patches get the positions of the first ones of the image."""
    from pixelprune.vllm.towers import TowerMixin

    def broken(_: Any) -> Any:
        def rows(self: Any, patches: Any) -> Any:
            full = self._tower().prepare_encoder_metadata(patches.keep.grids(patches.merge))
            return {key: full[key][: len(patches.index)] for key in self.row_keys if key in full}

        return rows

    return _replaced(TowerMixin, "_rows", broken)


def one_axis() -> AbstractContextManager[Any]:
    """The language model counts tokens of the pruned prompt."""
    from pixelprune.vllm.models.qwen3_vl import Qwen3VLForConditionalGeneration

    def broken(stock: Any) -> Any:
        def positions(self: Any, input_tokens: list[int], mm_features: list[Any]) -> Any:
            if IMAGE_KEPT not in mm_features[0].data:
                return stock(self, input_tokens, mm_features)
            return torch.arange(len(input_tokens)).expand(3, -1).contiguous(), 0

        return positions

    return _replaced(Qwen3VLForConditionalGeneration, "get_mrope_input_positions", broken)


def another_class() -> AbstractContextManager[Any]:
    from pixelprune.vllm.models.qwen3_vl import Qwen3VLForConditionalGeneration

    return _replaced(Qwen3VLForConditionalGeneration, "__module__", lambda _: "vllm.model_executor.models.qwen3_vl")


BREAKS = {
    make.__name__: make for make in (nothing, black_pixels, no_normalization, packed_metadata, one_axis, another_class)
}


def main(names: list[str]) -> dict[str, Any]:
    from pixelprune.vllm.selftest import measure, start, verdict

    with tempfile.TemporaryDirectory() as folder:
        llm = start(Path(folder))
        found = {}
        for name in names:
            with BREAKS[name]():
                measured = measure(llm, Path(folder))
            found[name] = {"measured": str(measured), **verdict(measured)}
        return found


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(main(sys.argv[2:] or list(BREAKS))), encoding="utf-8")
