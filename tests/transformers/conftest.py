"""What the tests of the transformers adapter share; without torch and transformers they are skipped."""

from __future__ import annotations

import warnings

import pytest

pytest.importorskip("torch", reason="the transformers adapter needs torch")
pytest.importorskip("transformers", reason="the transformers adapter needs transformers")

import torch
import transformers

from tests.support.cases import absent
from tests.support.tiny_models import ALL

transformers.logging.set_verbosity_error()
torch.set_num_threads(1)  # two workers that wait for each other cost more than the second thread gains


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "family_name" in metafunc.fixturenames:
        marks = {name: absent(name) for name in ALL}
        metafunc.parametrize(
            "family_name",
            [pytest.param(name, marks=pytest.mark.skip(reason=why)) if why else name for name, why in marks.items()],
        )


@pytest.fixture(autouse=True)
def _quiet():
    # transformers speaks to its users through warnings; ours are tested where they are given.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
