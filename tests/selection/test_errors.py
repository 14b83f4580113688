from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from pixelprune import PruneConfig
from pixelprune.selection.errors import OptionError


def parts(error: OptionError) -> tuple[str, str, str, str]:
    return error.option, error.problem, error.hint, error.in_python


def refused(**options: Any) -> OptionError:
    with pytest.raises(OptionError) as caught:
        PruneConfig(**options)
    return caught.value


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"threshold": 5},
            ("threshold", "must be a number in [0, 1], got 5", "divide gray levels by 255", ""),
        ),
        ({"threshold": -1}, ("threshold", "must be a number in [0, 1], got -1", "", "")),
        ({"metric": "l2"}, ("metric", "must be one of 'max', 'mae', 'rmse', got 'l2'", "", "")),
        (
            {"predictor": "left"},
            (
                "predictor",
                "must be one of 'pred2d', 'raster', 'serpentine', got 'left'",
                "",
                "add your own with pixelprune.predictors.register",
            ),
        ),
        (
            {"max_tokens": 0},
            ("max_tokens", "must be a whole number of at least 1, got 0", "leave it out for no budget", ""),
        ),
    ],
)
def test_parts_and_sentence(options: dict[str, Any], expected: tuple[str, str, str, str]) -> None:
    error = refused(**options)
    assert parts(error) == expected
    option, problem, hint, in_python = expected
    assert str(error) == "; ".join(filter(None, (f"{option} {problem}", hint, in_python)))
    assert error.worded("--option") == "; ".join(filter(None, (f"--option {problem}", hint)))


def test_sentences_that_are_not_for_python_name_no_option_by_its_python_name() -> None:
    error = refused(threshold=0.5, max_tokens=9)
    assert error.worded("--max-threshold") == (
        "--max-threshold must be at least the threshold (0.5) when there is a token budget, got 0.1; "
        "raise it or lower the threshold"
    )


def by_pickle(error: OptionError) -> Any:
    return pickle.loads(pickle.dumps(error))


@pytest.mark.parametrize("carried", [by_pickle, copy.copy, copy.deepcopy])
def test_carried(carried: Callable[[OptionError], Any]) -> None:
    error = refused(predictor="left")
    error.add_note("in the third request")
    other = carried(error)
    assert type(other) is OptionError
    assert other is not error
    assert (parts(other), str(other), other.__notes__) == (parts(error), str(error), error.__notes__)


def test_raised_in_another_process() -> None:
    with (
        ProcessPoolExecutor(1, get_context("spawn")) as pool,
        pytest.raises(OptionError, match="threshold must be a number") as caught,
    ):
        pool.submit(PruneConfig, 5).result()
    assert parts(caught.value) == parts(refused(threshold=5))
