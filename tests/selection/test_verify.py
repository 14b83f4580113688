from __future__ import annotations

import numpy as np
import pytest

from pixelprune import Compressed, verify
from pixelprune.selection import codec
from pixelprune.selection.verify import configs, verify_image


def test_all_checks_hold_on_the_samples(sample: np.ndarray) -> None:
    checks = list(verify_image(sample, 0.03))
    assert [check.config for check in checks] == configs(0.03)
    assert len(checks) == 12
    for check in checks:
        assert check.holds
        assert check.largest_error <= (0 if check.proposition == 1 else 0.03)
    assert any(check.largest_error > 0.01 for check in checks)


def test_a_decoder_that_is_wrong_is_found_out(page: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one_sample(compressed: Compressed) -> np.ndarray:
        image = codec.decode(compressed)
        image[700, 500] ^= 0x80
        return image

    monkeypatch.setattr(verify, "decode", off_by_one_sample)
    holds = {(check.proposition, check.config.metric): check.holds for check in verify_image(page)}
    assert holds[1, "max"] is False
    assert holds[2, "max"] is False
