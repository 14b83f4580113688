from __future__ import annotations

import json
import re
from dataclasses import FrozenInstanceError, fields
from typing import Any

import numpy as np
import pytest

from pixelprune import PruneConfig
from pixelprune.selection.config import option_help, option_rows
from tests.support.strategies import METRICS, PREDICTORS


def test_defaults_lose_nothing() -> None:
    assert PruneConfig() == PruneConfig(
        threshold=0.0,
        metric="max",
        predictor="pred2d",
        max_tokens=None,
        max_threshold=0.1,
        restore=0.0,
        min_tokens=None,
    )


def test_round_trips() -> None:
    config = PruneConfig(
        threshold=0.02, metric="rmse", predictor="raster", max_tokens=900, max_threshold=0.2, restore=0.5
    )
    assert PruneConfig.from_dict(config.to_dict()) == config
    assert PruneConfig.from_json(config.to_json()) == config
    assert json.loads(config.to_json()) == config.to_dict()
    assert PruneConfig.from_dict({}) == PruneConfig()
    assert PruneConfig.from_dict({"threshold": 0.5}) == PruneConfig(threshold=0.5)


def test_numbers_of_other_types_become_plain_ones() -> None:
    config = PruneConfig(threshold=np.float32(0.5), max_tokens=np.int64(7), max_threshold=1)
    assert [type(value) for value in (config.threshold, config.max_tokens, config.max_threshold)] == [float, int, float]
    json.loads(config.to_json())
    assert PruneConfig(threshold=-0.0).to_json() == PruneConfig().to_json()


def test_is_frozen_and_hashable() -> None:
    config = PruneConfig()
    with pytest.raises(FrozenInstanceError):
        config.threshold = 0.5  # type: ignore[misc]
    assert len({config, PruneConfig()}) == 1


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"threshold": 5}, r"threshold must be a number in \[0, 1\], got 5; divide gray levels by 255$"),
        ({"threshold": -0.1}, r"threshold must be a number in \[0, 1\], got -0\.1$"),
        ({"threshold": float("nan")}, r"threshold must be a number in \[0, 1\], got nan$"),
        ({"threshold": float("inf")}, r"threshold must be a number in \[0, 1\], got inf$"),
        ({"threshold": "0.1"}, r"threshold must be a number in \[0, 1\], got '0\.1'$"),
        ({"threshold": 10**400}, r"threshold must be a number in \[0, 1\], got 1000"),
        ({"threshold": True}, r"threshold must be a number in \[0, 1\], got True$"),
        ({"threshold": None}, r"threshold must be a number in \[0, 1\], got None$"),
        ({"max_threshold": 2}, r"max_threshold must be a number in \[0, 1\], got 2; divide gray levels by 255$"),
        ({"metric": "l2"}, "metric must be one of 'max', 'mae', 'rmse', got 'l2'"),
        ({"metric": np.array(["max"])}, "metric must be one of 'max', 'mae', 'rmse', got array"),
        ({"metric": []}, r"metric must be one of 'max', 'mae', 'rmse', got \[\]"),
        ({"predictor": "left"}, "predictor must be one of 'pred2d', 'raster', 'serpentine', got 'left'"),
        ({"predictor": {}}, r"predictor must be one of 'pred2d', 'raster', 'serpentine', got \{\}"),
        ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1, got 0; leave it out for no budget"),
        ({"max_tokens": 2.5}, r"max_tokens must be a whole number of at least 1, got 2\.5; leave it out"),
        ({"max_tokens": True}, "max_tokens must be .*, got True"),
        ({"restore": 25}, r"restore must be a number in \[0, 1\], got 25; divide percent by 100$"),
        ({"restore": -0.5}, r"restore must be a number in \[0, 1\], got -0\.5$"),
        ({"min_tokens": 0}, "min_tokens must be a whole number of at least 1, got 0; leave it out for no floor$"),
        ({"min_tokens": "64"}, "min_tokens must be a whole number of at least 1, got '64'; leave it out"),
        (
            {"min_tokens": 65, "max_tokens": 64},
            r"min_tokens must be at most the token budget \(64\), got 65; lower it or raise the budget$",
        ),
        (
            {"threshold": 0.3, "max_tokens": 9},
            r"max_threshold must be at least the threshold \(0\.3\) when there is a token budget, got 0\.1; raise it",
        ),
        (
            {"treshold": 0, "x": 1},
            "unknown option 'treshold', 'x'; known options: threshold, metric, predictor, max_tokens, max_threshold, "
            "restore, min_tokens$",
        ),
    ],
)
def test_refusals(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        PruneConfig.from_dict(values)


def test_every_option_has_one_description() -> None:
    rows = option_rows()
    assert [row.name for row in rows] == [field.name for field in fields(PruneConfig)]
    assert {row.name: row.default for row in rows} == PruneConfig().to_dict()
    assert [row.type for row in rows] == ["float", "str", "str", "int | None", "float", "float", "int | None"]
    for row in rows:
        assert re.fullmatch(r"\S.{20,}[^.]\.", row.help), "one sentence with a period"
        assert option_help(row.name) == row.help
    assert len({row.help for row in rows}) == len(rows)


def test_descriptions_name_all_choices() -> None:
    assert all(name in option_help("metric") for name in METRICS)
    assert all(name in option_help("predictor") for name in PREDICTORS)


def test_a_threshold_above_max_threshold_is_fine_without_a_budget() -> None:
    assert PruneConfig(threshold=0.3).max_threshold == 0.1


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", None, "[" * 200_000])
def test_json_that_is_no_object(text: Any) -> None:
    with pytest.raises(ValueError, match=r"must be a (JSON object|mapping)"):
        PruneConfig.from_json(text)
