"""The one configuration object of the project: every layer takes it, none adds to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from pixelprune.selection import predictors
from pixelprune.selection.metrics import METRICS


@dataclass(frozen=True)
class PruneConfig:
    """What may be dropped, and how a match is measured.

    Attributes:
        threshold: τ in [0, 1] of full scale (1 = 255 grey levels). A block is dropped when its
            distance to its prediction is at most τ. 0 drops equal pixels only and loses nothing.
        metric: the distance over all samples of a block, on the [0, 1] scale:
            "max" (largest |Δ|), "mae" (mean |Δ|) or "rmse" (root of the mean of Δ²).
        predictor: name of the rule that predicts a block: "pred2d", "raster", "serpentine", or one
            that was added with `pixelprune.predictors.register`.
        max_tokens: upper bound on the kept blocks of one image. The smallest τ from `threshold` to
            `max_threshold` that meets it is used. None: no budget, `threshold` alone counts.
        max_threshold: the largest τ that a budget may lead to; it has no effect without one.

    Raises:
        ValueError: a field is out of its range, or a name is not known.

    Example:
        >>> config = PruneConfig(threshold=0.02, metric="mae")
        >>> PruneConfig.from_json(config.to_json()) == config
        True
        >>> PruneConfig(threshold=5)
        Traceback (most recent call last):
            ...
        ValueError: threshold must be a number in [0, 1], got 5; to give it in grey levels, divide by 255
    """

    threshold: float = 0.0
    metric: str = "max"
    predictor: str = "pred2d"
    max_tokens: int | None = None
    max_threshold: float = 0.1

    def __post_init__(self) -> None:
        for name in ("threshold", "max_threshold"):
            object.__setattr__(self, name, _fraction(name, getattr(self, name)))
        if not isinstance(self.metric, str) or self.metric not in METRICS:
            raise ValueError(f"metric must be one of {_listed(METRICS)}, got {self.metric!r}")
        predictors.get(self.predictor)
        if self.max_tokens is not None:
            object.__setattr__(self, "max_tokens", _budget(self.max_tokens))
            if self.threshold > self.max_threshold:
                raise ValueError(
                    f"max_threshold must be at least threshold ({self.threshold:g}) when max_tokens is set, "
                    f"got {self.max_threshold:g}; raise max_threshold or lower threshold"
                )

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain Python values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PruneConfig:
        """Build a config from `values`; fields that are left out get their defaults.

        Raises:
            ValueError: `values` is no mapping, has an unknown key, or a value is out of range.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"values must be a mapping of option names to values, got {values!r}")
        known = [field.name for field in fields(cls)]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValueError(f"unknown option {_listed(unknown)}; known options: {', '.join(known)}")
        return cls(**values)

    def to_json(self) -> str:
        """The config as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> PruneConfig:
        """The inverse of `to_json`.

        Raises:
            ValueError: `text` is no JSON object, or `from_dict` refuses what it holds.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"text must be a JSON object of options, got {text!r} ({error})") from None
        return cls.from_dict(values)


def resolve(asked: Any, config: PruneConfig | None) -> PruneConfig | None:
    """The options of one call: what is asked for over what was configured; None to keep all.

    Args:
        asked: a dict of options, which replace those of `config` one by one; a PruneConfig, which
            stands alone; True for `config` (or the defaults, where that is None); False to keep
            all; None for no wish.
        config: what holds without a wish; None: pruning is off.

    Raises:
        ValueError: `asked` is something else, or has an unknown option or a value out of range.

    Example:
        >>> resolve({"threshold": 0.02}, PruneConfig(metric="mae"))
        PruneConfig(threshold=0.02, metric='mae', predictor='pred2d', max_tokens=None, max_threshold=0.1)
        >>> resolve(False, PruneConfig()) is None
        True
    """
    if asked is None:
        return config
    if asked is True:
        return config or PruneConfig()
    if asked is False:
        return None
    if isinstance(asked, PruneConfig):
        return asked
    if isinstance(asked, Mapping):
        return PruneConfig.from_dict({**(config or PruneConfig()).to_dict(), **asked})
    raise ValueError(f"pixelprune must be a dict of options, a PruneConfig, True or False, got {asked!r}")


def _fraction(name: str, value: Any) -> float:
    plain = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    number = value if plain else math.nan
    if 0 <= number <= 1:
        return abs(float(number))  # no −0.0
    hint = "; to give it in grey levels, divide by 255" if 1 < number < math.inf else ""
    raise ValueError(f"{name} must be a number in [0, 1], got {value!r}{hint}")


def _budget(value: Any) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole and value >= 1:
        return int(value)
    raise ValueError(f"max_tokens must be a whole number of at least 1, or None for no budget, got {value!r}")


def _listed(names: Any) -> str:
    return ", ".join(repr(name) for name in names)
