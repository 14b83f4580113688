"""The one configuration object of the project: every layer takes it, none adds to it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from pixelprune.selection import metrics, predictors
from pixelprune.selection.errors import OptionError, listed

# What numbers above 1 are likely meant to be.
_FRACTIONS = {
    "threshold": "divide gray levels by 255",
    "max_threshold": "divide gray levels by 255",
    "restore": "divide percent by 100",
}


def _option(default: Any, text: str) -> Any:
    """A field with the one description that commands and documentation show for it."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PruneConfig:
    """What may be dropped, and how a match is measured.

    Attributes:
        threshold: τ in [0, 1] of full scale (1 = 255 gray levels). A block is dropped when its
            distance to its prediction is at most τ. 0 drops equal pixels only and loses nothing.
        metric: the distance over all samples of a block, on the [0, 1] scale:
            "max" (largest |Δ|), "mae" (mean |Δ|) or "rmse" (root of the mean of Δ²).
        predictor: name of the rule that predicts a block: "pred2d", "raster", "serpentine", or one
            that was added with `pixelprune.predictors.register`.
        max_tokens: upper bound on the visual tokens of one image. The smallest τ from `threshold` to
            `max_threshold` that keeps no more blocks is used. None: no budget, `threshold` alone counts.
        max_threshold: the largest τ that a budget may lead to; it has no effect without one.
        restore: share of the dropped blocks, in [0, 1], that come back after the encoder, evenly spaced. Each is a copy
            of the feature of the block that rebuilds it, so the encoder does not compute it. 0: none; 1: the language
            model gets every token.
        min_tokens: lower bound on the visual tokens of one image, filled with more such copies; an image that has fewer
            blocks gets a token for each. None: no floor.

    τ, raised for `max_tokens` if need be, decides which blocks are kept; then copies are added for `restore` and
    `min_tokens`, as many as `max_tokens` leaves room for.

    Raises:
        OptionError: a field is out of its range, or a name is not known. It is a ValueError.

    Example:
        >>> config = PruneConfig(threshold=0.02, metric="mae")
        >>> PruneConfig.from_json(config.to_json()) == config
        True
        >>> PruneConfig(threshold=5)
        Traceback (most recent call last):
            ...
        pixelprune.selection.errors.OptionError: threshold must be a number in [0, 1], got 5; divide gray levels by 255
    """

    threshold: float = _option(
        0.0,
        "τ: largest error allowed in a dropped block, as a fraction of full scale (0 to 1); 0: only equal pixels.",
    )
    metric: str = _option("max", f"How the error of a block is measured: {', '.join(metrics.names())}.")
    predictor: str = _option(
        "pred2d", f"Rule that predicts a block from blocks before it: {', '.join(predictors.names())}."
    )
    max_tokens: int | None = _option(
        None, "Token budget: maximum number of visual tokens per image; τ is raised as needed to meet it."
    )
    max_threshold: float = _option(0.1, "Upper limit of τ when a token budget raises it.")
    restore: float = _option(
        0.0,
        "Share of the dropped blocks (0 to 1) that come back after the encoder, evenly spaced, as copies of features.",
    )
    min_tokens: int | None = _option(None, "Minimum number of visual tokens per image; copies fill what is missing.")

    def __post_init__(self) -> None:
        for name, hint in _FRACTIONS.items():
            object.__setattr__(self, name, _fraction(name, getattr(self, name), hint))
        metrics.get(self.metric)
        predictors.get(self.predictor)
        for name, without in (("max_tokens", "no budget"), ("min_tokens", "no floor")):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _count(name, getattr(self, name), without))
        self._check_bounds()

    def _check_bounds(self) -> None:
        """Raise an OptionError if options contradict each other."""
        if self.max_tokens is None:
            return
        if self.threshold > self.max_threshold:
            raise OptionError(
                "max_threshold",
                f"must be at least the threshold ({self.threshold:g}) when there is a token budget, "
                f"got {self.max_threshold:g}",
                "raise it or lower the threshold",
            )
        if self.min_tokens is not None and self.min_tokens > self.max_tokens:
            raise OptionError(
                "min_tokens",
                f"must be at most the token budget ({self.max_tokens}), got {self.min_tokens}",
                "lower it or raise the budget",
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain Python values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PruneConfig:
        """Build a config from `values`; fields that are left out get their defaults.

        Raises:
            ValueError: `values` is not a mapping, has an unknown key, or a value is out of range.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"values must be a mapping of option names to values, got {values!r}")
        known = [option.name for option in fields(cls)]
        unknown = [key for key in values if key not in known]
        if unknown:
            raise ValueError(f"unknown option {listed(unknown)}; known options: {', '.join(known)}")
        return cls(**values)

    def to_json(self) -> str:
        """The config as one line of JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> PruneConfig:
        """The inverse of `to_json`.

        Raises:
            ValueError: `text` is not a JSON object, or `from_dict` refuses what it holds.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"text must be a JSON object of options, got {text!r} ({error})") from None
        return cls.from_dict(values)


def resolve(requested: Any, config: PruneConfig | None) -> PruneConfig | None:
    """The options of one call: what is requested over what was configured; None to keep all.

    Args:
        requested: a dict of options, which replace those of `config` one by one; a PruneConfig, which
            stands alone; True for `config` (or the defaults, where that is None); False to keep
            all; None for no request.
        config: what applies without a request; None: pruning is off.

    Raises:
        ValueError: `requested` is something else, or has an unknown option or a value out of range.

    Example:
        >>> resolve({"threshold": 0.02}, PruneConfig(metric="mae")) == PruneConfig(threshold=0.02, metric="mae")
        True
        >>> resolve(False, PruneConfig()) is None
        True
    """
    if requested is None:
        return config
    if requested is True:
        return config or PruneConfig()
    if requested is False:
        return None
    if isinstance(requested, PruneConfig):
        return requested
    if isinstance(requested, Mapping):
        return PruneConfig.from_dict({**(config or PruneConfig()).to_dict(), **requested})
    raise ValueError(f"pixelprune must be a dict of options, a PruneConfig, True or False, got {requested!r}")


class OptionRow(NamedTuple):
    """One option, as a row of a documentation table."""

    name: str
    type: str
    default: Any
    help: str


def option_help(name: str) -> str:
    """The description of an option of `PruneConfig`, a sentence with a period.

    Example:
        >>> option_help("max_threshold")
        'Upper limit of τ when a token budget raises it.'
    """
    return next(row.help for row in option_rows() if row.name == name)


def option_rows() -> list[OptionRow]:
    """All options of `PruneConfig` in order, for tables.

    Example:
        >>> row = option_rows()[3]
        >>> row.name, row.type, row.default
        ('max_tokens', 'int | None', None)
    """
    annotations = PruneConfig.__annotations__
    return [
        OptionRow(option.name, annotations[option.name], option.default, option.metadata["help"])
        for option in fields(PruneConfig)
    ]


def _fraction(name: str, value: Any, hint: str) -> float:
    plain = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    number = value if plain else math.nan
    if 0 <= number <= 1:
        return abs(float(number))  # no −0.0
    raise OptionError(name, f"must be a number in [0, 1], got {value!r}", hint if 1 < number < math.inf else "")


def _count(name: str, value: Any, without: str) -> int:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole and value >= 1:
        return int(value)
    raise OptionError(name, f"must be a whole number of at least 1, got {value!r}", f"leave it out for {without}")
