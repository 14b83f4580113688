"""Where vLLM is asked for pruning, and which options a request and an engine may give."""

from __future__ import annotations

from typing import Any

import pytest

import pixelprune
from pixelprune.vllm.options import announcement, check_names, engine_config, engine_options, is_asked, split
from tests.support.model_config import model_config


def test_where_an_engine_is_asked() -> None:
    assert engine_options(model_config()) is None
    config = engine_config(model_config({"pixelprune": {"threshold": 0.02}}))
    assert config == pixelprune.PruneConfig(threshold=0.02)
    assert engine_config(model_config({}, {"pixelprune": True})) == pixelprune.PruneConfig()
    assert engine_config(model_config({"pixelprune": False})) is None
    assert engine_options(model_config({"pixelprune": {}}, {"pixelprune": {}})) == {}
    assert engine_config(model_config({"pixelprune": {"untested": True}})) == pixelprune.PruneConfig()
    with pytest.raises(ValueError, match="pixelprune: untested must be true or false, got 'yes'"):
        engine_config(model_config({"pixelprune": {"untested": "yes"}}))
    with pytest.raises(ValueError, match="pixelprune is True in --hf-overrides and False in --mm-processor-kwargs"):
        engine_options(model_config({"pixelprune": True}, {"pixelprune": False}))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"PixelPrune": True}, "unknown option 'PixelPrune'; did you mean 'pixelprune'"),
        ({"text_config": {"pixelprune": True}}, "'pixelprune' is nested inside 'text_config'; move it up, next to"),
        ({"threshold": 0.1}, r"'threshold' is an option of pixelprune; write {\"pixelprune\": {\"threshold\": 0.1}}"),
    ],
)
def test_what_was_meant_for_us_is_not_passed_over(wrong: dict[str, Any], text: str) -> None:
    for config in (model_config(wrong), model_config({}, wrong)):
        with pytest.raises(ValueError, match=text):
            engine_options(config)
        assert is_asked(config)
    with pytest.raises(ValueError, match=text):
        split(wrong, None)
    check_names({"size": {"longest_edge": 5}, "fps": 2, "text_config": {"max_position_embeddings": 9}})


def test_what_the_log_says() -> None:
    assert announcement(model_config(), "A") is None
    assert announcement(model_config({"pixelprune": False}), "A") == (
        f"pixelprune {pixelprune.__version__} is off by default for A; requests can enable it"
    )
    line = announcement(model_config({"pixelprune": {"max_tokens": 9}}), "A")
    assert line
    assert line.startswith(f"pixelprune {pixelprune.__version__} prunes images for A: threshold=0.0, metric=max")
    assert "max_tokens=9" in line


def test_requests_change_single_options_of_the_engine() -> None:
    engine = pixelprune.PruneConfig(threshold=0.02, metric="mae")
    config, rest = split({"pixelprune": {"threshold": 0.1}, "fps": 2}, engine)
    assert config == pixelprune.PruneConfig(threshold=0.1, metric="mae")
    assert rest == {"fps": 2}
    assert split({}, engine)[0] is engine
    assert split({"pixelprune": None}, engine)[0] is engine
    assert split({"pixelprune": {}}, None)[0] == pixelprune.PruneConfig()
    with pytest.raises(ValueError, match="pixelprune must be an object of options, true or false, got 3"):
        split({"pixelprune": 3}, engine)
    with pytest.raises(ValueError, match="pixelprune: untested is an option of the engine, not of a request; leave it"):
        split({"pixelprune": {"threshold": 0.1, "untested": True}}, engine)
    with pytest.raises(ValueError, match=r"^pixelprune: predictor must be one of [^;]*$"):
        split({"pixelprune": {"predictor": "best"}}, engine)
