"""A trained model through the engine: accuracy notices positions that are wrong, as random weights hardly can.

The experiment that trained it found that the locating task falls from 0.96 to 0.02 with language-model positions that
are counted anew, and the reading task to 0.85 with such positions in the encoder.
"""

from __future__ import annotations

import importlib.util
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from runs import run
from shared_folder import SHARED
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessor, Qwen3VLProcessor, Qwen3VLVideoProcessor

EXPERIMENT = SHARED / "prototypes" / "tiny_model"
COUNT = 100


@pytest.fixture(scope="module")
def lab() -> Any:
    """The experiment's own generator of tasks."""
    if not EXPERIMENT.exists():
        pytest.skip("the trained model lies in the shared folder, which is not beside the project")
    spec = importlib.util.spec_from_file_location("lab", EXPERIMENT / "lab.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not Path(module.FONT).exists():
        pytest.skip(f"its generator draws with a font that is not installed: {Path(module.FONT).name}")
    return module


@pytest.fixture(scope="module")
def trained(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint, with a processor and with a tokenizer that it never had."""
    folder = tmp_path_factory.mktemp("trained")
    for file in (EXPERIMENT / "ckpt_mix").iterdir():
        shutil.copyfile(file, folder / file.name)
    names = [f"<{number}>" for number in range(lab.VOCAB)]
    special = {
        "vision_start_token": (lab.VS, "<|vision_start|>"),
        "vision_end_token": (lab.VE, "<|vision_end|>"),
        "image_token": (lab.IMG, "<|image_pad|>"),
        "video_token": (lab.VID, "<|video_pad|>"),
    }
    for number, name in special.values():
        names[number] = name
    core = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token=names[0]))
    words = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=names[lab.PAD],
        eos_token=names[lab.EOS],
        extra_special_tokens={key: name for key, (_, name) in special.items()},
    )
    images = Qwen2VLImageProcessor(
        patch_size=16,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 32 * 32, "longest_edge": 4096 * 4096},
    )
    Qwen3VLProcessor(image_processor=images, tokenizer=words, video_processor=Qwen3VLVideoProcessor()).save_pretrained(
        folder
    )
    return folder


def test_a_trained_model_locates_and_reads(lab: Any, trained: Path, tmp_path: Path) -> None:
    generator = random.Random(7)
    requests, right = [], []
    for number in range(2 * COUNT):
        draw = lab.make_gui if number < COUNT else lab.make_doc
        pixels, questions, _ = draw(generator, 192, 256, 4)
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path)
        question, answer = questions[0]
        requests.append({"prompt": [lab.VS, lab.IMG, lab.VE, *question], "images": [str(path)]})
        right.append(answer)
    everything = list(range(2 * COUNT))
    job = {"model": str(trained), "requests": requests, "max_tokens": 3, "prompt_logprobs": False}
    pruned = {"engine": {"hf_overrides": {"pixelprune": {"threshold": 0.0}}}, "rounds": [everything]}
    answers = run(tmp_path, {**job, **pruned})["rounds"][0]
    hits = [answer["ids"] == expected for answer, expected in zip(answers, right, strict=True)]
    retained = sum(len(answer["prompt_ids"]) - 4 for answer in answers) / (len(answers) * 48)
    assert retained < 0.5
    assert sum(hits[:COUNT]) >= 0.9 * COUNT, "locating: language-model positions"
    assert sum(hits[COUNT:]) >= 0.95 * COUNT, "reading: positions in the encoder"
