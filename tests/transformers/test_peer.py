"""transformers' own model tests: what passes on the stock model passes on the enabled one."""

from __future__ import annotations

import subprocess
from types import ModuleType

import pytest

from tests.support import peer


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    pytest.importorskip("parameterized", reason="transformers' own tests need parameterized")
    try:
        return peer.common_tests(peer.download(tmp_path_factory.mktemp("transformers")))
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the source distribution of transformers cannot be downloaded: {error.stderr[-200:]}")


# One of each kind: deepstack features, sizes before frames, patches in rows with 1-D positions.
@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v", "kimi_k25"])
def test_what_passes_stock_passes_enabled(name: str, common: ModuleType) -> None:
    stock = peer.outcomes(common, name, "stock")
    passing = [test for test, outcome in stock.items() if outcome == "passed"]
    assert len(passing) > 60
    assert {"test_save_load", "test_determinism", "test_training", "test_hidden_states_output"} <= set(passing)
    for mode in ("kept", "third"):
        assert peer.differing(stock, peer.outcomes(common, name, mode, passing), mode) == {}, mode
