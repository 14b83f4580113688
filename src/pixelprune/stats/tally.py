"""What many images add up to, in memory that does not grow with their number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pixelprune.stats.costs import Costs

Row = Mapping[str, Any]

# Which shares of the images the quantiles separate.
QUANTILES = (0.1, 0.5, 0.9)
# Retain ratios are counted in bins of this width, so that the bins of any number of images fit into memory.
_BINS = 10_000
_NONE = Costs()
_NAMES = tuple(asdict(_NONE))


@dataclass
class _Setting:
    kept: int = 0
    language_tokens: int = 0
    over_budget: int = 0
    costs: Costs = _NONE
    ratios: Counter[int] = field(default_factory=Counter)

    def add(self, row: Row) -> None:
        self.kept += row["kept"]
        self.language_tokens += row["language_tokens"]
        self.over_budget += not row["budget_met"]
        self.costs += _costs(row)
        self.ratios[round(_BINS * row["retain_ratio"])] += 1

    def merge(self, other: _Setting) -> None:
        self.kept += other.kept
        self.language_tokens += other.language_tokens
        self.over_budget += other.over_budget
        self.costs += other.costs
        self.ratios.update(other.ratios)

    def quantile(self, share: float) -> float:
        """The smallest retain ratio that at least this share of the images does not exceed."""
        wanted, seen = math.ceil(share * self.ratios.total()), 0
        for bin_, images in sorted(self.ratios.items()):
            seen += images
            if seen >= wanted:
                return bin_ / _BINS
        return 0.0


@dataclass
class Tally:
    """Sums over images, and how their retain ratios are distributed.

    Attributes:
        count: how many settings each row has.

    Example:
        >>> setting = {"kept": 3, "language_tokens": 4, "retain_ratio": 0.5, "budget_met": True}
        >>> row = {"tokens": 6, "distinct": 3, "blank": False, "lossy": True, "page": None, "settings": [setting]}
        >>> tally = Tally(1)
        >>> tally.add(row)
        >>> result = tally.to_dict()
        >>> result["tokens"], result["lossy"], result["settings"][0]["retain_ratio"]
        (6, 1, 0.5)
    """

    count: int
    images: int = 0
    tokens: int = 0
    distinct: int = 0
    blank: int = 0
    lossy: int = 0
    pages: int = 0
    full: Costs = _NONE
    settings: list[_Setting] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = [_Setting() for _ in range(self.count)]

    def add(self, row: Row) -> None:
        """Add an image: a row of `measure`, with ``lossy``, and with ``page`` if it is one of several."""
        self.images += 1
        self.tokens += row["tokens"]
        self.distinct += row["distinct"]
        self.blank += row["blank"]
        self.lossy += row["lossy"]
        self.pages += row["page"] is not None
        self.full += _costs(row.get("full", {}))
        for mine, one in zip(self.settings, row["settings"], strict=True):
            mine.add(one)

    def merge(self, other: Tally) -> None:
        """Add all images of another tally."""
        for name in ("images", "tokens", "distinct", "blank", "lossy", "pages"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.full += other.full
        for mine, one in zip(self.settings, other.settings, strict=True):
            mine.merge(one)

    def to_dict(self) -> dict[str, Any]:
        """All sums, and the ratios that follow from them, as plain values."""
        result = {
            "images": self.images,
            "tokens": self.tokens,
            "distinct": self.distinct,
            "distinct_ratio": self._ratio(self.distinct),
            "blank": self.blank,
            "lossy": self.lossy,
            "pages": self.pages,
        }
        counted = self.full != _NONE
        settings = [self._setting(one, counted) for one in self.settings]
        return result | ({"full": asdict(self.full)} if counted else {}) | {"settings": settings}

    def _setting(self, setting: _Setting, counted: bool) -> dict[str, Any]:
        result = {
            "kept": setting.kept,
            "retain_ratio": self._ratio(setting.kept),
            "language_tokens": setting.language_tokens,
            "language_ratio": self._ratio(setting.language_tokens),
            "over_budget": setting.over_budget,
            "quantiles": {f"{share:g}": setting.quantile(share) for share in QUANTILES},
        }
        return result | (asdict(setting.costs) if counted else {})

    def _ratio(self, blocks: int) -> float:
        return blocks / self.tokens if self.tokens else 0.0


def _costs(row: Row) -> Costs:
    return Costs(**{name: row.get(name, 0) for name in _NAMES})
