"""The common model tests of transformers, as its source distribution ships them, over a family's tiny model.

They were written for stock models, so what fails on the stock model says nothing; what passes there must pass
on the enabled model, with nothing dropped and with a third of the blocks dropped.
"""

from __future__ import annotations

import importlib
import io
import subprocess
import sys
import tarfile
import unittest
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import transformers

from pixelprune.transformers import enable
from tests.support.cases import case
from tests.support.prompts import known, masks, prompts
from tests.support.tiny_models import config_of, module_of

MODES = ("stock", "kept", "third")

# In one prompt an image between texts; two rows of equal length, so that nothing is padded.
_ROWS = [[5, 6, (8, 12), 7, 8, 9], [10, 11, (8, 12), 12, 13, 4]]

# Modules that the tests import and that the source distribution does not hold; what they would add is left out.
_MISSING = {
    "exporters": "",
    "exporters.test_export": "class ExportTesterMixin: pass",
    "generation": "",
    "generation.test_utils": "class GenerationTesterMixin: pass",
}


def download(folder: Path, version: str = transformers.__version__) -> Path:
    """The tests of a version of transformers, from its source distribution, as a package below `folder`.

    Raises:
        subprocess.CalledProcessError: it cannot be downloaded.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
    command += ["--no-build-isolation", "--dest", str(folder), f"transformers=={version}"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    package = folder / "transformers_tests"
    package.mkdir()
    (package / "__init__.py").touch()
    with tarfile.open(next(folder.glob("transformers-*.tar.gz"))) as archive:
        for member in archive:
            parts = Path(member.name).parts
            if member.isfile() and parts[1:2] == ("tests",):
                content = archive.extractfile(member)
                target = package.joinpath(*parts[2:])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read() if content else b"")
    for name, text in _MISSING.items():
        place = package / name.replace(".", "/")
        if not place.exists() and not place.with_suffix(".py").exists():
            if text:
                place.with_suffix(".py").write_text(text)
            else:
                place.mkdir()
                (place / "__init__.py").touch()
    return package


def common_tests(package: Path) -> ModuleType:
    """The module of the common model tests."""
    if str(package.parent) not in sys.path:
        sys.path.insert(0, str(package.parent))
    with warnings.catch_warnings(action="ignore"):
        return importlib.import_module(f"{package.name}.test_modeling_common")


class _Tester:
    """What the common tests ask for: a configuration, and inputs that fit it."""

    is_training = True
    batch_size = len(_ROWS)

    def __init__(self, name: str, mode: str) -> None:
        self._case, self._mode = case(name), mode
        text = config_of(self._case.tiny).get_text_config()
        self.num_hidden_layers, self.num_attention_heads = text.num_hidden_layers, text.num_attention_heads
        self.hidden_size = text.hidden_size
        self.seq_length = self.prepare_config_and_inputs_for_common()[1]["input_ids"].shape[1]

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        model = self._case
        keep = masks(_ROWS, model.tiny.merge, 0.67 if self._mode == "third" else 1.0)
        if self._mode == "third":  # rows of equal length: the second drops as many as the first
            keep = [keep[0], keep[0].flip(0)]
        full, pruned = prompts(model.tiny, _ROWS, keep, order=model.family.patch_order)
        inputs = full.inputs if self._mode == "stock" else pruned.inputs
        given = {name: value.clone() for name, value in known(model.stock, inputs).items() if name != "image_map"}
        if self._mode != "stock":
            given["image_map"] = pruned.inputs["image_map"].clone()
        return config_of(model.tiny), given


def test_case(common: ModuleType, name: str, mode: str) -> type[unittest.TestCase]:
    """The common tests over one family, in one mode."""
    tiny = case(name).tiny
    base = getattr(module_of(tiny), tiny.model)

    def initialize(self: Any, *args: Any, **kwargs: Any) -> None:
        base.__init__(self, *args, **kwargs)
        if mode != "stock":
            enable(self)

    # In all modes, so that what depends on the class itself goes the same way.
    same = {"__module__": base.__module__, "__qualname__": base.__qualname__}
    model_class = type(base.__name__, (base,), {"__init__": initialize, **same})

    class Peer(common.ModelTesterMixin, unittest.TestCase):  # type: ignore[name-defined, misc]
        all_model_classes = (model_class,)

        def setUp(self) -> None:
            self.model_tester = _Tester(name, mode)

    return Peer


def outcomes(common: ModuleType, name: str, mode: str, only: list[str] | None = None) -> dict[str, str]:
    """Each test of a family in one mode: "passed", "skipped", or the last line of its error."""
    result: dict[str, str] = {}
    peer = test_case(common, name, mode)
    for test in unittest.defaultTestLoader.getTestCaseNames(peer):
        if only is not None and test not in only:
            continue
        report = unittest.TextTestResult(unittest.runner._WritelnDecorator(io.StringIO()), False, 0)
        with warnings.catch_warnings(action="ignore"):
            peer(test).run(report)
        bad = [text for _, text in (*report.failures, *report.errors)]
        result[test] = bad[0].strip().splitlines()[-1] if bad else "skipped" if report.skipped else "passed"
    return result


# Called by themselves, these methods encode the pixels that they get: what is dropped is a matter of `forward`.
_OF_PIXELS = ("test_get_image_features", "test_get_video_features")

# Placeholders are found by their ids: where blocks are dropped, embeddings are refused with a sentence that says so.
_REFUSED = {"test_inputs_embeds": "inputs_embeds cannot be pruned"}


def is_expected(test: str, mode: str, outcome: str) -> bool:
    """Whether a test of a pruned model fails as documented."""
    if mode != "third":
        return False
    return test.startswith(_OF_PIXELS) or _REFUSED.get(test, "\n") in outcome


def differing(stock: dict[str, str], enabled: dict[str, str], mode: str) -> dict[str, str]:
    """What passes on the stock model and does not on the enabled one, without what is documented."""
    return {
        test: outcome
        for test, outcome in enabled.items()
        if stock[test] == "passed" and outcome != "passed" and not is_expected(test, mode, outcome)
    }
