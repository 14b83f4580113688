"""Engines of vLLM in processes of their own, and what transformers says to the same requests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.engine import video_metadata
from tests.support.rounding import MARGIN

HERE = Path(__file__).resolve().parent

# A version of vLLM for engines, other than that of this process, from scripts/vllm_env.sh. So the reference stays the
# same, and vLLM 0.31 runs with the transformers that it pins, which `pixelprune.transformers` does not support.
VERSION = os.environ.get("ENGINES_VLLM")
# Asked when they start, so that each architecture is checked at start-up there too.
ASKED = {"hf_overrides": {"pixelprune": False}} if VERSION else {}

# What a request may ask for: nothing, equal blocks, and blocks that are nearly equal.
OPTIONS = (None, True, {"threshold": 0.05}, {"threshold": 0.02, "metric": "rmse"})
# Copies as well, for the last group of pictures: some, all, and up to a floor that is above one picture only.
COPIES = ({"restore": 0.25}, {"restore": 1}, {"min_tokens": 70})


def check_copies(answers: Sequence[dict[str, Any]]) -> None:
    """As many copies come back as asked for, by what is answered to the last group of pictures."""
    counts = [len(answer["prompt_ids"]) for answer in answers[-len(OPTIONS) - len(COPIES) :]]
    full, exact, *_, some, every, floor = counts
    assert exact < some < every == full
    assert exact < floor < every


@dataclass(frozen=True)
class Pictures:
    paths: dict[str, Path]

    def requests(self, image: str, groups: Sequence[list[str]]) -> list[dict[str, Any]]:
        """Each group of pictures with each of the options; the last group only, if engines have another version."""
        asked = [(names, options) for names in groups[-1 if VERSION else 0 :] for options in OPTIONS]
        asked += [(groups[-1], options) for options in COPIES]
        return [self.request(image, names, options) for names, options in asked]

    def request(
        self, image: str, names: list[str], options: Any = None, text: str = "read the total"
    ) -> dict[str, Any]:
        """A request about some pictures; `options` stand under the key pixelprune, None for none."""
        spec: dict[str, Any] = {
            "prompt": f"<|im_start|>user {image * len(names)}{text}<|im_end|><|im_start|>assistant ",
            "images": [str(self.paths[name]) for name in names],
        }
        if options is not None:
            spec["options"] = {"pixelprune": options}
        return spec


def skip_if_amx_is_hidden(dtype: str) -> None:
    """Skip where the stock engine cannot run a model in bfloat16.

    vLLM asks the processor whether it has AMX, and packs weights for it. Torch asks oneDNN, which a variable such as
    ONEDNN_MAX_CPU_ISA=AVX2 can forbid to use it, and then cannot read what is packed.
    """
    if dtype == "bfloat16" and torch.cpu._is_amx_tile_supported() and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("vLLM packs bfloat16 weights for AMX, which a variable of the environment hides from torch")


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        **more,
    }


def start(
    tmp_path: Path, job: dict[str, Any], script: str = "engine.py", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run one engine to its end. The result, if there is one, is in `tmp_path`."""
    (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
    other = [str(HERE.parents[1] / "scripts" / "vllm_with.sh"), sys.prefix, VERSION] if VERSION else []
    command = [*other, sys.executable, str(HERE / script), str(tmp_path / "job.json"), str(tmp_path / "result.json")]
    return subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, timeout=1800, check=False, cwd=tmp_path
    )


def run(tmp_path: Path, job: dict[str, Any], script: str = "engine.py", **variables: str) -> dict[str, Any]:
    """What one engine answers; fails with the end of its log."""
    done = start(tmp_path, job, script, **variables)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    result: dict[str, Any] = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    result["log"] = done.stdout + done.stderr
    assert VERSION is None or result["vllm"].startswith(VERSION)
    return result


def difference(a: dict[str, Any], b: dict[str, Any], share: float = 1.0) -> float:
    """How far log-probabilities of two answers to one request are apart, prompt and output.

    The largest difference, or one that this share of them stays below.
    """
    assert a["prompt_ids"] == b["prompt_ids"]
    pairs = [*zip(a["logprobs"], b["logprobs"], strict=True)]
    if a["prompt_logprobs"] and b["prompt_logprobs"]:
        pairs += zip(a["prompt_logprobs"], b["prompt_logprobs"], strict=True)
    return float(np.quantile([abs(x - y) for x, y in pairs], share))


def limit(unpruned: float) -> float:
    """How far pruned answers may lie from what is expected, where unpruned ones lie `unpruned` from it.

    Log-probabilities are of about 10, where a float32 has steps of 2^-20.
    """
    assert unpruned < 1e-2, "without pruning, too, the two do not agree"
    return MARGIN * max(unpruned, 2**-20)


class Transformers:
    """The same checkpoint in transformers, with pruning enabled."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        from pixelprune.transformers import enable

        model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
        self.model, self.processor = enable(model.eval(), AutoProcessor.from_pretrained(folder))

    @torch.no_grad()
    def answer(self, spec: dict[str, Any], ids: list[int]) -> dict[str, Any]:
        """What it says to a request whose answer is `ids` so far; the `ids` of the result are what it would say."""
        images = [Image.open(path).convert("RGB") for path in spec["images"]]
        asked = spec.get("options", {}).get("pixelprune", False)
        more: dict[str, Any] = {}
        if "video" in spec:
            frames = np.load(spec["video"])
            metadata = {k: v for k, v in video_metadata(len(frames)).items() if k != "do_sample_frames"}
            more = {"videos": [[frames]], "video_metadata": [[metadata]], "do_sample_frames": False}
        inputs = self.processor(
            text=[spec["prompt"]], images=images or None, return_tensors="pt", pixelprune=asked, **more
        )
        prompt = inputs["input_ids"][0].tolist()
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in inputs:
                filler = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
                extra = filler.get(name, torch.zeros(1, len(ids), dtype=torch.long))
                inputs[name] = torch.cat([inputs[name], extra.to(inputs[name].dtype)], dim=1)
        scores = self.model(**inputs, use_cache=False).logits[0].float().log_softmax(-1)
        said = scores[:-1].gather(1, inputs["input_ids"][0, 1:, None])[:, 0].tolist()
        return {
            "prompt_ids": prompt,
            "prompt_logprobs": said[: len(prompt) - 1],
            "ids": scores[len(prompt) - 1 : -1].argmax(-1).tolist(),
            "logprobs": said[len(prompt) - 1 :],
        }


def record(record_property: Any, small: Any, reference: str, farthest: dict[str, float]) -> None:
    """Note what `scripts/make_figures.py` puts into the table of architectures."""
    from pixelprune.vllm import ARCHITECTURES
    from pixelprune.vllm.positions import MRopeMixin

    model = getattr(import_module(f"pixelprune.vllm.models.{ARCHITECTURES[small.architecture]}"), small.architecture)
    record_property("architecture", small.architecture)
    record_property("positions", "three axes" if issubclass(model, MRopeMixin) else "one axis")
    record_property("dtype", small.dtype)
    record_property("reference", reference)
    for name, value in farthest.items():
        record_property(name, value)
