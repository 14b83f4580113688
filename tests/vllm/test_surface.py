"""What the plugin relies on in vLLM, and its fingerprints; these read text, so vLLM need not be installed."""

from __future__ import annotations

import ast
import zipfile
from importlib.util import find_spec
from inspect import isfunction
from pathlib import Path

import pytest

from pixelprune.vllm.coverage import ARCHITECTURES
from pixelprune.vllm.source import Source, definitions
from pixelprune.vllm.surface import installed, surface
from pixelprune.vllm.versions import differences
from tests.support.vllm_tree import FILES, MODEL, PROCESSOR, SURFACE, Edited, save, with_another_body

NAME = "Qwen2VLForConditionalGeneration"
with_vllm = pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tree"))


def test_names_are_those_of_a_list_made_by_hand(tree: Path) -> None:
    assert set(surface(Source(tree), NAME)) == SURFACE


def test_a_wheel_is_read_like_a_folder(tree: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "vllm.whl", "w") as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
    assert surface(Source(tmp_path / "vllm.whl"), NAME) == surface(Source(tree), NAME)


def functions() -> list[tuple[str, str]]:
    """Each function of the small tree: its file and its name."""
    found = []
    for path, text in FILES.items():
        for name, (*_, node) in definitions(ast.parse(text).body).items():
            members = definitions(node.body).items() if isinstance(node, ast.ClassDef) else ()
            names = [f"{name}.{member}" for member, nodes in members if isinstance(nodes[0], ast.FunctionDef)]
            found += [(path, one) for one in ([name] if isinstance(node, ast.FunctionDef) else names)]
    return found


@pytest.mark.parametrize(("path", "name"), functions())
def test_another_body_changes_its_fingerprint_and_no_other(tree: Path, path: str, name: str) -> None:
    before = surface(Source(tree), NAME)
    after = surface(Edited(tree, {path: with_another_body(name)}), NAME)
    # Of a constructor, only the parameters count.
    expected = {f"{path}:{name}"} & SURFACE if not name.endswith("__init__") else set()
    assert {one.name for one in differences(before, after)} == expected
    assert all(one.what == "changed" for one in differences(before, after))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""What it says."""', '"""What else it says."""'),
        ('"""What it says."""', ""),
        ("# what it is", "# what else it is"),
        ("image: object = kwargs", "image = kwargs"),
        ("def embed_multimodal(self, **kwargs):", "def embed_multimodal(self, **kwargs: object) -> list[int]:"),
        ("    type: str\n", "    type: int\n"),
        ("    def load_weights", "\n\n    def load_weights"),
    ],
)
def test_what_a_program_does_not_do_changes_nothing(tree: Path, before: str, after: str) -> None:
    assert before in FILES[MODEL]
    edited = Edited(tree, {MODEL: lambda text: text.replace(before, after)})
    assert surface(edited, NAME) == surface(Source(tree), NAME)


@pytest.mark.parametrize(
    ("path", "before", "after", "said"),
    [
        (MODEL, '"np", 3', '"bn", 3', ["Pixels (qwen2_vl.py) has changed"]),
        (MODEL, "    type: str\n", "    kind: str\n", ["Pixels (qwen2_vl.py) has changed"]),
        (PROCESSOR, "_get_mm_hashes", "_hashes", [
            "BaseMultiModalProcessor._get_mm_hashes (processor.py) is gone",
            "BaseMultiModalProcessor.apply (processor.py) is gone",  # it calls none of ours any more
        ]),
        (PROCESSOR, "_get_mm_hashes(self, inputs)", "_get_mm_hashes(self, inputs, more)", [
            "BaseMultiModalProcessor._get_mm_hashes (processor.py) takes other parameters",
        ]),
        (MODEL, "self.visual = ", "self.tower = ", [
            "Qwen2VLForConditionalGeneration.visual (qwen2_vl.py) is gone",
            "Qwen2VisionTransformer.forward (qwen2_vl.py) is gone",
            "Qwen2VisionTransformer.prepare_encoder_metadata (qwen2_vl.py) is gone",
            "Qwen2VisionTransformer.spatial_merge_size (qwen2_vl.py) is gone",
        ]),
        (MODEL, '*, vllm_config, prefix=""', "*, config", [
            "Qwen2VLForConditionalGeneration.__init__ (qwen2_vl.py) takes other parameters",
        ]),
        (MODEL, "(Base):", ":", [
            "Base (qwen2_vl.py) is gone",
            "Base._check (qwen2_vl.py) is gone",
            "Base._process_image_input (qwen2_vl.py) is gone",
            "Qwen2VLForConditionalGeneration (qwen2_vl.py) has changed",
        ]),
    ],
)  # fmt: skip
def test_what_moved_is_named(tree: Path, path: str, before: str, after: str, said: list[str]) -> None:
    assert before in FILES[path]
    edited = Edited(tree, {path: lambda text: text.replace(before, after)})
    assert [str(one) for one in differences(surface(Source(tree), NAME), surface(edited, NAME))] == said


@with_vllm
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_stock_method_that_ours_override_is_named(architecture: str) -> None:
    from importlib import import_module

    model = getattr(import_module(f"pixelprune.vllm.models.{ARCHITECTURES[architecture]}"), architecture)
    names, checked = surface(installed(), architecture), 0
    for cls in (model, model._processor_factory.processor):
        ours = [base for base in cls.__mro__ if base.__module__.startswith("pixelprune.")]
        methods = {name for base in ours for name, value in vars(base).items() if isfunction(value)}
        for base in cls.__mro__:
            if base.__module__.startswith("vllm."):
                # What decorators and protocols of Python add is not in the source.
                written = {
                    name for name, value in vars(base).items() if getattr(value, "__module__", "") == base.__module__
                }
                for name in methods & written:
                    assert f"{base.__module__.replace('.', '/')}.py:{base.__name__}.{name}" in names
                    checked += 1
    assert checked > 10


@with_vllm
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("vllm/model_executor/models/qwen2_vl.py", "Qwen2VisionTransformer.prepare_encoder_metadata"),
        ("vllm/model_executor/models/qwen2_vl.py", "Qwen2VLForConditionalGeneration._process_image_input"),
        ("vllm/model_executor/models/qwen2_vl.py", "Qwen2VLForConditionalGeneration.load_weights"),
        ("vllm/model_executor/models/vision.py", "run_dp_sharded_mrope_vision_model"),
    ],
)
def test_a_change_of_the_installed_vllm_is_found(path: str, name: str) -> None:
    edited = Edited(Path(installed().place), {path: with_another_body(name)})
    moved = differences(surface(installed(), NAME), surface(edited, NAME))
    assert [one.name for one in moved] == ([] if name.endswith("load_weights") else [f"{path}:{name}"])
