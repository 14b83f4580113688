"""A model on the real engine: run as a module, it prints one line of JSON at its end.

The engine starts with pruning, so it passes the check of `pixelprune.vllm.startup` or does not start. Then a page and a
photograph go through it as requests do. A small random model stands in for one that is not named; its log-probabilities
of a pruned prompt are compared with those of a stock model of transformers in which dropped blocks are hidden.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from pixelprune.images.files import fit_image, load_image
from pixelprune.images.samples import photograph, sample_path
from pixelprune.plan.token_map import IMAGE_MAP, encoded
from pixelprune.selection.select import select
from pixelprune.vllm.options import KEY

# Pruning may add as much to what rounding does without it; mistakes add far more.
MARGIN = 4
_FLOOR = 2e-3  # what is rounding however little the unpruned ones differ
_FAR = 0.1  # two programs that compute the same in bfloat16 are never as far apart

_QUESTION = "What does this page show, and what is the total?"

_SMALL: dict[str, Any] = {
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 2**28,
    "gpu_memory_utilization": 0.05,  # a server may be running on the same device
}


@dataclass(frozen=True)
class Found:
    """What a self-test measures.

    Attributes:
        loaded: the module and the name of the model's class.
        total: blocks of a page.
        kept: blocks of it that are kept.
        fewer: prompt tokens that pruning saves.
        logprobs: how far log-probabilities are from those of the model with hidden blocks, on average: unpruned,
            pruned; zeros for a model that was named.
        photograph: blocks of a photograph, from which nothing can be dropped.
        same: whether it gets the same answer with pruning.
    """

    loaded: tuple[str, str]
    total: int
    kept: int
    fewer: int
    logprobs: tuple[float, float]
    photograph: int
    same: bool


class Loaded:
    """What vLLM adds to the class of its workers."""

    def pixelprune_class(self: Any) -> tuple[str, str]:
        """Module and name of the model's class."""
        model = type(self.get_model())
        return model.__module__, model.__name__


def self_test(model: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run it.

    Args:
        model: name or folder; None for a small random model.
        options: of vLLM's `LLM`.

    Returns:
        What `Found` has, or a ``problem``, one sentence.
    """
    if model is not None:
        return verdict(measure(start(model, options)))
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return verdict(measure(start(folder, {**_SMALL, **options}), Path(folder)))


def save(folder: Path) -> None:
    """Write a checkpoint with random weights which minds positions, as random models hardly do."""
    from pixelprune.standins import save_standin, small_model

    model = small_model()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "visual.pos_embed" in name:
                weights.mul_(30)
            elif name.endswith(("attn.qkv.weight", "self_attn.o_proj.weight")):
                weights.mul_(4)
    save_standin(folder, model)


def start(model: str, options: Mapping[str, Any]) -> Any:
    """An engine of vLLM with pruning switched on."""
    from vllm import LLM

    ours: dict[str, Any] = {
        "enforce_eager": True,
        "max_model_len": 4096,
        "limit_mm_per_prompt": {"image": 1, "video": 0},
        "enable_prefix_caching": False,
        "mm_processor_cache_gb": 0,
        "hf_overrides": {KEY: True},
        "worker_extension_cls": "pixelprune.vllm.selftest.Loaded",
    }
    return LLM(model, **{**ours, **options})


def measure(llm: Any, folder: Path | None = None) -> Found:
    """Send a page and a photograph, each with and without pruning, and compare.

    Args:
        llm: an engine.
        folder: its checkpoint, if that is one of `save`.
    """
    processor = processor_of(llm)
    text = f"Look: {processor.dummy_inputs.get_dummy_text({'image': 1})}{_QUESTION}"
    page = PIL.Image.fromarray(load_image(sample_path("page"))).resize((384, 512))
    keep = torch.from_numpy(select(fit_image(page, "qwen3-vl")).keep.flatten()) if folder else kept(processor, page)
    unpruned, pruned = (ask(llm, text, page, options) for options in (False, True))
    grain = PIL.Image.fromarray(photograph(256))
    return Found(
        tuple(llm.collective_rpc("pixelprune_class")[0]),
        len(keep),
        int(keep.sum()),
        len(unpruned[0]) - len(pruned[0]),
        against_transformers(folder, text, page, keep, (unpruned, pruned)) if folder else (0.0, 0.0),
        len(kept(processor, grain)),
        ask(llm, text, grain, False)[2] == ask(llm, text, grain, True)[2],
    )


def processor_of(llm: Any) -> Any:
    """The processor of an engine's front end."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    return MULTIMODAL_REGISTRY.create_processor(llm.llm_engine.model_config)


def kept(processor: Any, image: PIL.Image.Image) -> Tensor:
    """The keep mask (N,) that the front end makes of an image."""
    text = processor.dummy_inputs.get_dummy_text({"image": 1})
    items = processor.info.parse_mm_data({"image": [image]})
    made = processor(text, items, hf_processor_mm_kwargs={KEY: True})
    (item,), (place,) = made["mm_kwargs"]["image"], made["mm_placeholders"]["image"]
    return encoded(item[IMAGE_MAP].data) if IMAGE_MAP in item else torch.ones(place.length, dtype=torch.bool)


def ask(llm: Any, text: str, image: PIL.Image.Image, options: Any) -> tuple[list[int], Tensor, list[int]]:
    """Prompt tokens (L), their log-probabilities (L − 1,), and the answer."""
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, prompt_logprobs=0)
    prompt = {"prompt": text, "multi_modal_data": {"image": image}, "mm_processor_kwargs": {KEY: options}}
    (answer,) = llm.generate([prompt], sampling, use_tqdm=False)
    ids = list(answer.prompt_token_ids)
    said = [scores[token].logprob for scores, token in zip(answer.prompt_logprobs[1:], ids[1:], strict=True)]
    return ids, torch.tensor(said), list(answer.outputs[0].token_ids)


def against_transformers(
    folder: Path, text: str, image: PIL.Image.Image, keep: Tensor, answers: tuple[Any, Any]
) -> tuple[float, float]:
    """How far log-probabilities of a prompt, unpruned and pruned, are from those of a model with hidden blocks."""
    from transformers import AutoProcessor

    from pixelprune.vllm.masked import MaskedModel

    loader: Any = AutoProcessor
    inputs = loader.from_pretrained(folder)(text=[text], images=[image], return_tensors="pt")
    model = MaskedModel(folder)
    expected = [model.logprobs(inputs, mask) for mask in (torch.ones_like(keep), keep)]
    far = [_mean(said, hidden) for (_, said, _), hidden in zip(answers, expected, strict=True)]
    return far[0], far[1]


def _mean(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    share = float((found - expected).abs().mean())
    return share if share == share else float("inf")


def verdict(found: Found) -> dict[str, Any]:
    """What was found, or a ``problem``, which names the first step that went wrong.

    Example:
        >>> verdict(Found(("", ""), 192, 100, 0, (0.0, 0.0), 64, True))["problem"]
        'the engine does not prune: 92 of the 192 blocks of a page should be dropped, 0 were'
    """
    problem = _problem(found)
    return {"problem": problem} if problem else asdict(found)


def _problem(found: Found) -> str | None:
    dropped = found.total - found.kept
    if found.fewer != dropped:
        what = "does not prune" if not found.fewer else "prunes wrongly"
        counts = f"{dropped} of the {found.total} blocks of a page should be dropped, {found.fewer} were"
        return f"the engine {what}: {counts}"
    if not found.loaded[0].startswith("pixelprune.vllm.models."):
        return f"the engine runs {'.'.join(found.loaded)}, which is not a class of pixelprune"
    unpruned, pruned = found.logprobs
    if not unpruned <= _FAR:
        return (
            f"without pruning, too, log-probabilities are {unpruned:.3g} off those of transformers, so pruning cannot "
            "be judged"
        )
    if not pruned <= MARGIN * max(unpruned, _FLOOR):
        return (
            f"log-probabilities of a pruned prompt are {pruned:.3g} off those of a model in which dropped blocks are "
            f"hidden, without pruning {unpruned:.3g}"
        )
    if not found.same:
        return "a photograph, from which nothing is dropped, gets a different answer with pruning"
    return None


if __name__ == "__main__":
    print(json.dumps(self_test(*json.loads(sys.argv[1]))))  # noqa: T201, read by `pixelprune check vllm`
