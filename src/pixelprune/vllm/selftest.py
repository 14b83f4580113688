"""A small random model on the real engine: run as a module, it prints one line of JSON at its end.

Counts of tokens show whether the engine prunes at all. Whether it computes the right thing shows step by step, so that
an error has a place: pixels against the stock processor, features of an image whose blocks are all kept against the
stock encoder in the same worker, then features and log-probabilities of a pruned prompt against a stock model of
transformers in which dropped blocks are hidden. A photograph, from which nothing can be dropped, must get the answer
that it gets without pruning.
"""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor

from pixelprune.images.files import fit_image, load_image
from pixelprune.images.samples import photograph, sample_path
from pixelprune.plan.keep import IMAGE_KEPT
from pixelprune.selection.select import select
from pixelprune.vllm.options import KEY

PROMPT = "Look: <|vision_start|><|image_pad|><|vision_end|>What does this page show, and what is the total?"

# Pruning may add as much to what rounding does without it; mistakes add far more.
MARGIN = 4
# What is rounding however little the unpruned ones differ: shares of features, and log-probabilities.
_FLOOR = 2e-3
_FAR = 0.1  # two programs that compute the same in bfloat16 are never as far apart


@dataclass(frozen=True)
class Found:
    """What a self-test measures.

    Attributes:
        loaded: the module and the name of the model's class.
        total: blocks of a page.
        kept: blocks of it that `select` keeps.
        fewer: prompt tokens that pruning saves.
        pixels: largest difference of pixels of kept blocks from those that are sent without pruning, normalized by
            the worker or by the front end.
        all_kept: how far features of an image with every block kept are from the stock encoder's, as a share.
        features: how far features are from those of the model with hidden blocks, as a share: unpruned, pruned.
        logprobs: the same of log-probabilities, on average.
        photograph: its blocks.
        same: whether the photograph gets the same answer with pruning.
    """

    loaded: tuple[str, str]
    total: int
    kept: int
    fewer: int
    pixels: float
    all_kept: float
    features: tuple[float, float]
    logprobs: tuple[float, float]
    photograph: int
    same: bool


class Encode:
    """What vLLM adds to the class of its workers."""

    def pixelprune_class(self: Any) -> tuple[str, str]:
        """Module and name of the model's class."""
        model = type(self.get_model())
        return model.__module__, model.__name__

    def pixelprune_encode(self: Any, path: str) -> None:
        """Replace the images in a file, as they come from the front end, by their features (K, …)."""
        from vllm.config import set_current_vllm_config
        from vllm.multimodal.utils import group_and_batch_mm_kwargs

        features = []
        with torch.inference_mode(), set_current_vllm_config(self.vllm_config):
            for item in torch.load(path, weights_only=False):
                ((_, _, batch),) = group_and_batch_mm_kwargs([("image", item)], device=self.device)
                (part,) = self.get_model().embed_multimodal(**batch)
                features.append(part.float().cpu())
        torch.save(features, path)


def self_test() -> dict[str, Any]:
    """Run it.

    Returns:
        ``total`` and ``kept`` visual tokens of a page, those of a ``photograph``, and the rest of `Found`; or a
        ``problem``, one sentence.
    """
    with tempfile.TemporaryDirectory() as folder:
        return verdict(measure(start(Path(folder)), Path(folder)))


def start(folder: Path) -> Any:
    """An engine of vLLM with a small random model, which is saved to `folder`."""
    from vllm import LLM

    from pixelprune.standins import save_standin, small_model

    save_standin(folder, sharpened(small_model()))
    return LLM(
        str(folder),
        enforce_eager=True,
        max_model_len=1024,
        kv_cache_memory_bytes=2**28,
        gpu_memory_utilization=0.05,  # a server may be running on the same device
        limit_mm_per_prompt={"image": 1, "video": 0},
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        hf_overrides={KEY: True},
        worker_extension_cls="pixelprune.vllm.selftest.Encode",
    )


def sharpened(model: Any) -> Any:
    """A random model of Qwen3-VL that minds positions, as random models hardly do."""
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "visual.pos_embed" in name:
                weights.mul_(30)
            elif name.endswith(("attn.qkv.weight", "self_attn.o_proj.weight")):
                weights.mul_(4)
    return model


def measure(llm: Any, folder: Path) -> Found:
    """Send a page and a photograph, each with and without pruning, and compare."""
    from pixelprune.vllm.masked import MaskedModel

    page = fit_image(PIL.Image.fromarray(load_image(sample_path("page"))).resize((384, 512)), "qwen3-vl")
    selection = select(page)
    keep = torch.from_numpy(selection.keep.flatten())
    unpruned, pruned = (ask(llm, page, options) for options in (False, True))
    loaded = tuple(llm.collective_rpc("pixelprune_class")[0])
    fewer = len(unpruned[0]) - len(pruned[0])
    if fewer != selection.total - selection.kept:
        nothing = (0.0, 0.0)
        return Found(loaded, selection.total, selection.kept, fewer, 0, 0, nothing, nothing, 0, True)
    reference, inputs = MaskedModel(folder), stock_inputs(folder, page)
    expected = [reference.expect(inputs, mask) for mask in (torch.ones_like(keep), keep)]
    config = llm.llm_engine.model_config
    sent = [front_end(config, page, options) for options in (False, True)]
    normalized = [front_end(normalizing(config), page, options) for options in (False, True)]
    features = encode(llm, [*sent, with_everything(*sent)], folder / "features")
    grain = photograph(256)
    return Found(
        loaded,
        selection.total,
        selection.kept,
        fewer,
        max(pixels_apart(full, kept, keep) for full, kept in (sent, normalized)),
        distance(features[2], features[0]),
        (distance(features[0], expected[0].features), distance(features[1], expected[1].features)),
        (_mean(unpruned[1] - expected[0].logprobs), _mean(pruned[1] - expected[1].logprobs)),
        len(grain) ** 2 // 32**2,
        ask(llm, grain, False)[2] == ask(llm, grain, True)[2],
    )


def ask(llm: Any, image: Any, options: Any) -> tuple[list[int], Tensor, list[int]]:
    """Prompt tokens (L), their log-probabilities (L − 1,), and the answer."""
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True, prompt_logprobs=0)
    images = {"image": PIL.Image.fromarray(image)}
    prompt = {"prompt": PROMPT, "multi_modal_data": images, "mm_processor_kwargs": {KEY: options}}
    (answer,) = llm.generate([prompt], sampling, use_tqdm=False)
    ids = list(answer.prompt_token_ids)
    said = [scores[token].logprob for scores, token in zip(answer.prompt_logprobs[1:], ids[1:], strict=True)]
    return ids, torch.tensor(said), list(answer.outputs[0].token_ids)


def stock_inputs(folder: Path, image: Any) -> Any:
    """What transformers makes of the same prompt."""
    from transformers import AutoProcessor

    loader: Any = AutoProcessor
    return loader.from_pretrained(folder)(text=[PROMPT], images=[PIL.Image.fromarray(image)], return_tensors="pt")


def front_end(config: Any, image: Any, options: Any) -> Any:
    """The image as the front end of an engine with this model config sends it to a worker."""
    from vllm.multimodal import MULTIMODAL_REGISTRY

    processor = MULTIMODAL_REGISTRY.create_processor(config)
    items = processor.info.parse_mm_data({"image": [PIL.Image.fromarray(image)]})
    (item,) = processor(PROMPT, items, hf_processor_mm_kwargs={KEY: options})["mm_kwargs"]["image"]
    return item


def normalizing(config: Any) -> Any:
    """The model config of an engine whose front end normalizes pixels; by default, workers do."""
    changed, changed.multimodal_config = copy.copy(config), copy.copy(config.multimodal_config)
    changed.multimodal_config.mm_device_do_normalize = False
    return changed


def pixels_apart(full: Any, pruned: Any, keep: Tensor) -> float:
    """The largest difference of kept pixels."""
    given, found = (item["pixel_values"].data.float() for item in (full, pruned))
    return float((found - given[keep.repeat_interleave(len(given) // len(keep))]).abs().max())


def with_everything(full: Any, pruned: Any) -> Any:
    """`full`, with a mask that keeps every block; in the form of `pruned`."""
    mask = torch.ones_like(pruned[IMAGE_KEPT].data)
    parts = {name: replace(part, data=full[name].data) for name, part in pruned.items() if name != IMAGE_KEPT}
    return type(pruned)({**parts, IMAGE_KEPT: replace(pruned[IMAGE_KEPT], data=mask)})


def encode(llm: Any, items: list[Any], path: Path) -> list[Tensor]:
    """Features of images, by the model in the first worker."""
    torch.save(items, path)
    llm.collective_rpc("pixelprune_encode", args=(str(path),))
    features: list[Tensor] = torch.load(path)
    return features


def distance(a: Tensor, b: Tensor) -> float:
    """How far `a` is from `b`, as a share of the length of `b`; infinite if it is not a number."""
    share = float((a - b).norm() / b.norm())
    return share if share == share else float("inf")


def _mean(difference: Tensor) -> float:
    share = float(difference.abs().mean())
    return share if share == share else float("inf")


def verdict(found: Found) -> dict[str, Any]:
    """What was found, or a ``problem``, which names the first step that went wrong.

    Example:
        >>> nothing = (0.0, 0.0)
        >>> verdict(Found(("", ""), 192, 100, 0, 0, 0, nothing, nothing, 64, True))["problem"]
        'the engine does not prune: 92 of the 192 blocks of a page should be dropped, 0 were'
    """
    dropped = found.total - found.kept
    if found.fewer != dropped:
        what = "does not prune" if not found.fewer else "prunes wrongly"
        counts = f"{dropped} of the {found.total} blocks of a page should be dropped, {found.fewer} were"
        return {"problem": f"the engine {what}: {counts}"}
    problem = _difference(found)
    return {"problem": problem} if problem else asdict(found)


def _difference(found: Found) -> str | None:
    if not found.loaded[0].startswith("pixelprune.vllm.models."):
        return f"the engine runs {'.'.join(found.loaded)}, which is not a class of pixelprune"
    if found.pixels:
        return f"pixels of kept blocks, normalized or not, are not those sent without pruning: {found.pixels:.3g} off"
    if not max(found.features[0], found.logprobs[0]) <= _FAR:
        return (
            f"without pruning, too, features are {found.features[0]:.2%} and log-probabilities {found.logprobs[0]:.3g} "
            "off those of transformers, so pruning cannot be judged"
        )
    if not found.all_kept <= _limit(found.features[0]):
        return f"with every block kept, the encoder's features are {found.all_kept:.2%} off the stock encoder's"
    if not found.features[1] <= _limit(found.features[0]):
        return (
            f"features of kept blocks are {found.features[1]:.2%} off those of a model in which dropped blocks are "
            f"hidden, without pruning {found.features[0]:.2%}: the encoder gets wrong positions or lengths"
        )
    if not found.logprobs[1] <= _limit(found.logprobs[0]):
        return (
            f"log-probabilities of a pruned prompt are {found.logprobs[1]:.3g} off those of a model in which dropped "
            f"blocks are hidden, without pruning {found.logprobs[0]:.3g}: the language model gets wrong positions"
        )
    if not found.same:
        return "a photograph, from which nothing is dropped, gets a different answer with pruning"
    return None


def _limit(unpruned: float) -> float:
    return MARGIN * max(unpruned, _FLOOR)


if __name__ == "__main__":
    print(json.dumps(self_test()))  # noqa: T201, read by `pixelprune check vllm`
