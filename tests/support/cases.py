"""A family with its tiny model, stock and enabled, and what the stock model must say."""

from __future__ import annotations

import copy
from functools import cache, cached_property
from typing import Any

import torch
import transformers
from packaging.version import Version
from torch import Tensor

from pixelprune.transformers import enable, families
from tests.support import oracle, rounding
from tests.support.prompts import Prompt, Row, known, masks, prompts
from tests.support.tiny_models import ALL, build, module_of


def absent(name: str) -> str | None:
    """Why a family cannot be tested with the installed transformers."""
    installed, since, until = transformers.__version__, families.get(name).since, families.get(name).until
    if module_of(ALL[name]) is None:
        return f"transformers {installed} has no {name}"
    if Version(installed) < Version(since):
        return f"{name} is refused before transformers {since}"
    if until is not None and Version(installed) >= Version(until):
        return f"{name} is refused from transformers {until} on"
    return None


class Case:
    """One family.

    Attributes:
        stock, pruned: the same weights, in two objects.
    """

    def __init__(self, name: str, attention: str = "eager", **options: Any) -> None:
        self.tiny, self.family = ALL[name], families.get(name)
        self.stock = build(self.tiny, attention, **options)
        self.stock.generation_config.eos_token_id = None
        self.stock.generation_config.pad_token_id = 0
        self.pruned = enable(copy.deepcopy(self.stock))

    def prompts(
        self, rows: list[Row], share: float = 0.5, side: str = "left", seed: int = 0, restore: float = 0.0
    ) -> tuple[Prompt, Prompt]:
        keep = masks(rows, self.tiny.merge, share, seed + 3)
        return prompts(self.tiny, rows, keep, order=self.family.patch_order, side=side, seed=seed, restore=restore)

    @torch.no_grad()
    def expected(self, full: Prompt, pruned: Prompt) -> Tensor:
        """Logits (tokens that are kept, vocabulary) by the oracle."""
        return self._oracle(self.stock, full, pruned)

    def _oracle(self, model: Any, full: Prompt, pruned: Prompt) -> Tensor:
        where = (self.family.tower, self.family.patch_order, self.tiny)
        if self.tiny.plain and "pixel_values_videos" not in full.inputs:
            return oracle.masked_logits(model, *where, full)
        return oracle.short_logits(model, *where, full, pruned)

    @torch.no_grad()
    def check(self, actual: Tensor, full: Prompt, pruned: Prompt) -> None:
        """Fail unless logits (tokens that are kept, vocabulary) are the oracle's, except for rounding."""
        expected, most = self.expected(full, pruned), self.limit(full)
        if rounding.difference(actual, expected) >= most:
            # An expert may be chosen by a hair: such tokens, if they are few, are left out.
            stays = rounding.settled(self.stock, lambda model: self._oracle(model, full, pruned), most)
            actual, expected = actual[stays], expected[stays]
        assert rounding.difference(actual, expected) < most

    @torch.no_grad()
    def expected_inputs(self, full: Prompt, pruned: Prompt) -> dict[str, Any]:
        """Arguments of the stock model, for what is compared through its own generate()."""
        where = (self.family.tower, self.family.patch_order, self.tiny)
        return oracle.short_inputs(self.stock, *where, full, pruned)

    @torch.no_grad()
    def actual(self, pruned: Prompt, **changes: Any) -> Tensor:
        """Logits (tokens that are kept, vocabulary) of the enabled model."""
        mask = pruned.inputs["attention_mask"].bool()
        return self.pruned(**{**self.inputs(pruned), **changes}, use_cache=False).logits[mask]

    def inputs(self, prompt: Prompt) -> dict[str, Tensor]:
        return known(self.stock, prompt.inputs)

    @torch.no_grad()
    def unpruned(self, full: Prompt) -> Tensor:
        """Logits of the stock model with nothing dropped, at the tokens that pruning would keep."""
        return self.stock(**self.inputs(full), use_cache=False).logits[full.selected]

    @torch.no_grad()
    def limit(self, full: Prompt) -> float:
        """How far apart logits may lie that differ by rounding alone, by what the stock model shows unpruned."""
        return rounding.limit(
            self.stock, self.nudged, lambda model: model(**self.inputs(full), use_cache=False).logits[full.selected]
        )

    @cached_property
    def nudged(self) -> list[Any]:
        """The stock model, rounded in other ways."""
        return rounding.nudged(self.stock)


@cache
def case(name: str, attention: str = "eager") -> Case:
    return Case(name, attention)
