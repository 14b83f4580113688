"""Source trees of vLLM that are not what is installed: a small one, and any one with changes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path

from pixelprune.vllm.source import Source
from pixelprune.vllm.surface import installed

MODEL = "vllm/model_executor/models/qwen2_vl.py"
PROCESSOR = "vllm/multimodal/processing/processor.py"
CONFIG = "vllm/config/multimodal.py"

# What pruning of Qwen2-VL touches, in the shape that vLLM has, and next to it what it does not touch.
FILES = {
    "vllm/_version.py": "__version__ = version = '0.32.0+cpu'\n",
    MODEL: '''
from typing import Annotated
from vllm.multimodal.processing import BaseMultiModalProcessor
from ..layers import part as layers

class Pixels:
    type: str
    pixel_values: Annotated[object, shape("np", 3)]

def fields_of(merge):
    return merge

def unrelated():
    return 0

class Qwen2VisionTransformer:
    def __init__(self, depth):
        self.spatial_merge_size = 2
        self.depth = depth
    def forward(self, x):
        return x
    def prepare_encoder_metadata(self, grids):
        return grids
    def load(self):
        return 0

class Qwen2VLMultiModalProcessor(BaseMultiModalProcessor["Info"]):
    def _get_mm_fields_config(self, hf_inputs, hf_processor_mm_kwargs):
        return fields_of(2)

class Base:
    def _process_image_input(self, image_input):
        return self._check(image_input)
    def _check(self, image_input):
        return image_input

class Qwen2VLForConditionalGeneration(Base):
    def __init__(self, *, vllm_config, prefix=""):
        self.visual = Qwen2VisionTransformer(7)
    @overload
    def _parse_and_validate_image_input(self): ...
    def _parse_and_validate_image_input(self, **kwargs):
        """What it says."""
        image: object = kwargs  # what it is
        return Pixels(image)
    def embed_multimodal(self, **kwargs):
        return self._process_image_input(self._parse_and_validate_image_input(**kwargs))
    def load_weights(self, weights):
        return weights
''',
    "vllm/model_executor/layers/part.py": "class Part:\n    def forward(self, x):\n        return x\n",
    "vllm/multimodal/processing/__init__.py": "from .processor import BaseMultiModalProcessor\n",
    PROCESSOR: """
class BaseMultiModalProcessor:
    if True:
        def _get_mm_hashes(self, inputs):
            return inputs
    def apply(self, inputs):
        return self._get_mm_hashes(inputs)
    def parse(self, data):
        return data
""",
    CONFIG: "class MultiModalConfig:\n    mm_processor_kwargs: dict | None = None\n    limit: int = 3\n",
}

# Written by hand, by reading what is above and the code of the plugin.
SURFACE = {
    f"{MODEL}:Pixels",
    f"{MODEL}:fields_of",
    f"{MODEL}:Qwen2VisionTransformer.spatial_merge_size",
    f"{MODEL}:Qwen2VisionTransformer.forward",
    f"{MODEL}:Qwen2VisionTransformer.prepare_encoder_metadata",
    f"{MODEL}:Qwen2VLMultiModalProcessor",
    f"{MODEL}:Qwen2VLMultiModalProcessor._get_mm_fields_config",
    f"{MODEL}:Base",
    f"{MODEL}:Base._process_image_input",
    f"{MODEL}:Base._check",
    f"{MODEL}:Qwen2VLForConditionalGeneration",
    f"{MODEL}:Qwen2VLForConditionalGeneration.__init__",
    f"{MODEL}:Qwen2VLForConditionalGeneration.visual",
    f"{MODEL}:Qwen2VLForConditionalGeneration._parse_and_validate_image_input",
    f"{MODEL}:Qwen2VLForConditionalGeneration.embed_multimodal",
    f"{PROCESSOR}:BaseMultiModalProcessor",
    f"{PROCESSOR}:BaseMultiModalProcessor._get_mm_hashes",
    f"{PROCESSOR}:BaseMultiModalProcessor.apply",
    f"{CONFIG}:MultiModalConfig.mm_processor_kwargs",
}


def save(folder: Path) -> Path:
    """The small tree in a folder."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


class Edited(Source):
    """A tree with other texts of some files, by their paths."""

    def __init__(self, place: Path, edits: dict[str, Callable[[str], str]]) -> None:
        super().__init__(place)
        self.edits = edits

    def text(self, path: str) -> str | None:
        text = super().text(path)
        return self.edits[path](text) if path in self.edits and text is not None else text


def with_another_body(member: str) -> Callable[[str], str]:
    """An edit that makes a function or a method do one step more."""

    def edit(text: str) -> str:
        tree = ast.parse(text)
        *owners, name = member.split(".")
        for node in ast.walk(tree):
            if not owners or (isinstance(node, ast.ClassDef) and node.name == owners[0]):
                for part in ast.walk(node):
                    if isinstance(part, ast.FunctionDef) and part.name == name:
                        part.body.append(ast.parse("step = 1").body[0])
        return ast.unparse(tree)

    return edit


def copy_installed(folder: Path, version: str, edits: dict[str, Callable[[str], str]]) -> Path:
    """The installed vLLM once more in a folder, for PYTHONPATH: as another version, with other texts of some files."""
    source = installed()
    edited = Edited(source.place, {**edits, "vllm/_version.py": lambda text: _numbered(text, version)})
    for file in (source.place / "vllm").rglob("*"):
        path = file.relative_to(source.place)
        if file.is_dir():
            (folder / path).mkdir(parents=True, exist_ok=True)
        elif str(path) in edited.edits:
            (folder / path).write_text(edited.text(str(path)) or "", encoding="utf-8")
        else:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).symlink_to(file)
    return folder


def _numbered(text: str, version: str) -> str:
    text, count = re.subn(r"(__version__ = version = )'[^']+'", rf"\1'{version}'", text)
    assert count == 1
    return text
