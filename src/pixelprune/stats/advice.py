"""Which setting to try, and what to expect of it: a few rules on the totals, each a sentence.

The rules are those of the page "Which setting?" (docs/settings.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pixelprune.selection.config import PruneConfig

Totals = Mapping[str, Any]

_NOTHING = 0.95  # share of blocks above which pruning is not worth its trouble
_LITTLE = 0.9  # the same, where another metric may help
_GAIN = 0.05  # share of all blocks that a larger τ must drop in addition, to be worth a loss
_BLANK = 0.05  # share of blank images that deserves a word
_LOSSY = 0.1  # share of lossy files that does


def advice(total: Totals, categories: Mapping[str, Totals], configs: Sequence[PruneConfig]) -> str:
    """What to do, in one sentence or a few; empty without images.

    Args:
        total, categories: of `Tally.to_dict`.
        configs: one per setting, with ascending τ.

    Example:
        >>> settings = [{"retain_ratio": 0.49, "language_ratio": 0.49}, {"retain_ratio": 0.47, "language_ratio": 0.47}]
        >>> total = {"images": 9, "lossy": 0, "pages": 0, "blank": 0, "settings": settings}
        >>> advice(total, {"docs": total}, [PruneConfig(), PruneConfig(0.02)])
        'Use τ = 0: 51 % of the visual tokens are saved, and every pixel can be rebuilt.'
    """
    if not total["images"]:
        return ""
    if noise := _noise(total, configs):
        return noise
    parts = _main(total, configs), _exceptions(total, categories), _lossy(total, configs[0]), _blank(total, configs[0])
    return " ".join(filter(None, parts))


def _noise(total: Totals, configs: Sequence[PruneConfig]) -> str:
    """What to do if noise keeps nearly everything, as far as one can tell from the kind of files."""
    least = min(setting["retain_ratio"] for setting in total["settings"])
    if least <= _LITTLE or configs[0].metric == "mae" or 2 * (total["lossy"] + total["pages"]) < total["images"]:
        return ""
    return (
        f"At least {_percent(least)} of the blocks are kept, as is usual for JPEGs and scans, where noise makes equal "
        "areas differ: try --thresholds 0.02 --metric mae, and check the answers on some of your files."
    )


def _main(total: Totals, configs: Sequence[PruneConfig]) -> str:
    settings = total["settings"]
    ratios = [setting["retain_ratio"] for setting in settings]
    if min(ratios) > _NOTHING:
        where = " or ".join(map(name_of, configs))
        return f"Pruning will not help here: at least {_percent(min(ratios))} of the blocks are kept with {where}."
    larger = next((n for n, ratio in enumerate(ratios) if ratio < ratios[0] - _GAIN), 0)
    if larger and ratios[0] > _NOTHING:
        return f"Use {_effect(configs[larger], settings[larger])}; a smaller τ saves next to nothing."
    sentence = f"Use {_effect(configs[0], settings[0])}."
    return f"{sentence} With {_effect(configs[larger], settings[larger])}." if larger else sentence


def name_of(config: PruneConfig) -> str:
    """What to call a setting; a budget raises τ where it has to.

    Example:
        >>> name_of(PruneConfig(0.02)), name_of(PruneConfig(0, max_tokens=99))
        ('τ = 0.02', 'τ ≥ 0')
    """
    return f"τ {'=' if config.max_tokens is None else '≥'} {config.threshold:g}"


def _effect(config: PruneConfig, setting: Totals) -> str:
    """A setting and what it does."""
    kept, read = setting["retain_ratio"], setting["language_ratio"]
    saved = f"{_percent(1 - kept)} of the visual tokens are saved"
    if read != kept:
        saved = f"the vision encoder computes {_percent(kept)} of the blocks, the language model reads {_percent(read)}"
    if config.threshold or config.max_tokens is not None:
        return f"{name_of(config)}: {saved}; check the answers on some of your files"
    return f"{name_of(config)}: {saved}, and every pixel can be rebuilt"


def _exceptions(total: Totals, categories: Mapping[str, Totals]) -> str:
    """The categories that gain little, if others do."""
    first = {name: category["settings"][0]["retain_ratio"] for name, category in categories.items()}
    names = [name for name, ratio in first.items() if ratio > _LITTLE]
    if total["settings"][0]["retain_ratio"] > _LITTLE or not names:
        return ""
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return f"Little is saved in: {listed}."


def _lossy(total: Totals, config: PruneConfig) -> str:
    if total["lossy"] < _LOSSY * total["images"] or config.metric == "mae":
        return ""
    count = (
        f"{total['lossy']:,} of {total['images']:,} images {'is' if total['lossy'] == 1 else 'are'} from lossy files"
    )
    return f"{count}, of which --thresholds 0.02 --metric mae may drop more."


def _blank(total: Totals, config: PruneConfig) -> str:
    if total["blank"] < _BLANK * total["images"] or config.min_tokens is not None or config.restore:
        return ""
    blank = f"{total['blank']:,} of {total['images']:,} images {'is' if total['blank'] == 1 else 'are'} blank"
    return f"{blank} and would be a single token: with --min-tokens 64 the model still sees a page."


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.0f} %"
