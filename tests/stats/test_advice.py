"""The rules behind the sentence at the end of `pixelprune stats`."""

from __future__ import annotations

from typing import Any

import pytest

from pixelprune import PruneConfig
from pixelprune.stats.advice import advice

CONFIGS = [PruneConfig(0), PruneConfig(0.02), PruneConfig(0.05)]
NOISE = (
    "At least 97 % of the blocks are kept, as is usual for JPEGs and scans, where noise makes equal areas differ: "
    "try --thresholds 0.02 --metric mae, and check the answers on some of your files."
)
EXACT = "Use τ = 0: 60 % of the visual tokens are saved, and every pixel can be rebuilt."


def totals(*ratios: float, read: float = 0, images: int = 100, **more: Any) -> dict[str, Any]:
    settings = [{"retain_ratio": ratio, "language_ratio": read or ratio} for ratio in ratios]
    return {"images": images, "lossy": 0, "pages": 0, "blank": 0, "settings": settings, **more}


@pytest.mark.parametrize(
    ("total", "text"),
    [
        (totals(0.4, 0.39, 0.38), EXACT),
        (
            totals(0.4, 0.33, 0.3),
            f"{EXACT} With τ = 0.02: 67 % of the visual tokens are saved; check the answers on some of your files.",
        ),
        (
            totals(0.4, 0.39, 0.3),
            f"{EXACT} With τ = 0.05: 70 % of the visual tokens are saved; check the answers on some of your files.",
        ),
        (
            totals(0.4, 0.39, 0.38, read=0.55),
            "Use τ = 0: the vision encoder computes 40 % of the blocks, the language model reads 55 %, and every pixel "
            "can be rebuilt.",
        ),
        (totals(0.99, 0.98, 0.97, lossy=50), NOISE),
        (totals(0.99, 0.98, 0.97, pages=30, lossy=20), NOISE),
        (
            totals(0.99, 0.98, 0.97, lossy=9, pages=40),
            "Pruning will not help here: at least 97 % of the blocks are kept with τ = 0 or τ = 0.02 or τ = 0.05.",
        ),
        (
            totals(0.4, 0.39, 0.38, lossy=10),
            f"{EXACT} 10 of 100 images are from lossy files, of which --thresholds 0.02 --metric mae may drop more.",
        ),
        (totals(0.4, 0.39, 0.38, lossy=9), EXACT),
        (
            totals(0.99, 0.7, 0.6),
            "Use τ = 0.02: 30 % of the visual tokens are saved; check the answers on some of your files; a smaller τ "
            "saves next to nothing.",
        ),
        (
            totals(0.4, 0.4, 0.4, blank=5),
            f"{EXACT} 5 of 100 images are blank and would be a single token: with --min-tokens 64 the model still sees "
            "a page.",
        ),
        (
            totals(0.4, 0.4, 0.4, blank=1, images=2),
            f"{EXACT} 1 of 2 images is blank and would be a single token: with --min-tokens 64 the model still sees "
            "a page.",
        ),
        (totals(0.4, 0.4, 0.4, blank=4), EXACT),
        (totals(0, 0, 0, images=0), ""),
    ],
)
def test_rules(total: dict[str, Any], text: str) -> None:
    assert advice(total, {"all": total}, CONFIGS) == text


def test_a_budget_may_lose_something() -> None:
    text = "Use τ ≥ 0: 60 % of the visual tokens are saved; check the answers on some of your files."
    assert advice(totals(0.4), {}, [PruneConfig(0, max_tokens=9)]) == text


def test_in_another_metric_noise_is_no_longer_news() -> None:
    total = totals(0.97, lossy=100)
    assert advice(total, {}, [PruneConfig(0.02, "mae")]).startswith("Pruning will not help here: at least 97 %")


@pytest.mark.parametrize("options", [{"min_tokens": 64}, {"restore": 0.1}])
def test_blank_pages_that_are_seen_to(options: dict[str, float]) -> None:
    assert "blank" not in advice(totals(0.4, blank=50), {}, [PruneConfig(0, **options)])


def test_categories_that_save_little() -> None:
    good, bad = totals(0.4, 0.4, 0.4), totals(0.95, 0.9, 0.5)
    assert advice(good, {"a": good, "b": bad}, CONFIGS) == f"{EXACT} Little is saved in: b."
    many = {f"c{number}": bad for number in range(7)}
    assert advice(good, many, CONFIGS).endswith("Little is saved in: c0, c1, c2, c3, c4 and 2 more.")
    assert "Little" not in advice(bad, {"b": bad}, CONFIGS)
