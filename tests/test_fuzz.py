"""The targets of scripts/fuzz.py over their seeds and all that fuzzing found, without the fuzzer."""

from __future__ import annotations

import base64
import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pixelprune import Compressed, PruneConfig

SCRIPTS = Path(__file__).parents[1] / "scripts"

# What once ended in anything but a right result or the documented exception.
FINDINGS = {
    "grid with two negative sides": ("wire", "AQAAAAD//////////wAAAAAAAAA="),
    "attention mask that hides placeholders": ("wire", "AQABAgACAQEBAAIAAgEAAgEAAgEAAgEAAgEALAEAAgEAAgEAAgEAAgEAAg=="),
}


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz_targets", SCRIPTS / "fuzz_targets.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_targets"] = module
    spec.loader.exec_module(module)
    return module


def needs(target: str) -> None:
    if target == "wire":
        pytest.importorskip("torch", reason="the keep mask is a tensor")
        pytest.importorskip("transformers", reason="it travels to a model")


@pytest.mark.parametrize("target", ["load", "request", "wire"])
def test_seeds_and_changes_of_them(target: str, fuzz: ModuleType) -> None:
    needs(target)
    run, seeds, rng = fuzz.TARGETS[target], fuzz.seeds(target), random.Random(0)
    accepted = sum(run(data) for data in seeds)
    assert accepted >= len(seeds) / 3
    for _ in range(200):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        run(bytes(data))


@pytest.mark.parametrize(("target", "data"), FINDINGS.values(), ids=FINDINGS)
def test_what_was_found(target: str, data: str, fuzz: ModuleType) -> None:
    needs(target)
    fuzz.TARGETS[target](base64.b64decode(data))


class TestTargetsNotice:
    """A target that accepts anything finds nothing."""

    def test_another_exception(self, fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        def load(path: Path) -> Compressed:
            raise KeyError(path)

        monkeypatch.setattr(Compressed, "load", load)
        with pytest.raises(KeyError):
            fuzz.load(b"hello")

    def test_pixels_that_are_not_those_of_the_file(self, fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        data, decode = fuzz.seeds("load")[0], fuzz.pixelprune.decode
        monkeypatch.setattr(fuzz.pixelprune, "decode", lambda compressed: decode(compressed) ^ 1)
        with pytest.raises(AssertionError):
            fuzz.load(data)

    @pytest.mark.parametrize(
        ("data", "made"),
        [
            (b'{"pixelprune": {"threshold": 0.5}}', PruneConfig(0.4)),
            (b'{"pixelprune": {"threshold": 5}}', PruneConfig()),
        ],
        ids=["another option", "an option out of range"],
    )
    def test_wrong_options(self, data: bytes, made: Any, fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(fuzz, "split", lambda values, base: (made, {}))
        with pytest.raises(AssertionError):
            fuzz.request(data)

    def test_options_that_are_refused_for_nothing(self, fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        def split(*_: object) -> None:
            raise ValueError("no")

        monkeypatch.setattr(fuzz, "split", split)
        monkeypatch.setattr(fuzz, "engine_config", split)
        with pytest.raises(AssertionError):
            fuzz.request(b'{"pixelprune": {"threshold": 0.5}}')

    def test_patches_of_dropped_blocks(self, fuzz: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        needs("wire")
        from pixelprune.plan.keep import KeepMask

        rows = KeepMask.rows
        monkeypatch.setattr(KeepMask, "rows", lambda keep, merge, order: rows(keep, merge, order) + 1)
        with pytest.raises(AssertionError):
            fuzz.wire(fuzz.seeds("wire")[1])
