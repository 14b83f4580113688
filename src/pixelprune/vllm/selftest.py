"""A small random model on the real engine: run as a module, it prints one line of JSON at its end.

Whether the engine prunes shows in the number of prompt tokens of a page, which must be what `select` says. A
photograph, from which nothing can be dropped, must keep its tokens and get the same answer.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import PIL.Image

from pixelprune.images.files import fit_image, load_image
from pixelprune.images.samples import photograph, sample_path
from pixelprune.selection.select import select
from pixelprune.vllm.options import KEY


def self_test() -> dict[str, Any]:
    """Run it.

    Returns:
        ``total`` and ``kept`` visual tokens of a page and those of a ``photograph``; or a ``problem``, one sentence.
    """
    from vllm import LLM, SamplingParams

    from pixelprune.standins import save_standin, small_model

    page = fit_image(PIL.Image.fromarray(load_image(sample_path("page"))).resize((384, 512)), "qwen3-vl")
    grain = photograph(256)
    with tempfile.TemporaryDirectory() as folder:
        save_standin(Path(folder), small_model())
        llm = LLM(
            folder,
            enforce_eager=True,
            max_model_len=1024,
            kv_cache_memory_bytes=2**28,
            gpu_memory_utilization=0.05,  # a server may be running on the same device
            limit_mm_per_prompt={"image": 1, "video": 0},
            hf_overrides={KEY: True},
        )
        sampling = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)

        def ask(image: Any, options: Any) -> tuple[int, list[int]]:
            content = [{"type": "image_pil", "image_pil": PIL.Image.fromarray(image)}, {"type": "text", "text": "?"}]
            messages: Any = [{"role": "user", "content": content}]
            (answer,) = llm.chat(messages, sampling, mm_processor_kwargs={KEY: options}, use_tqdm=False)
            return len(answer.prompt_token_ids or []), list(answer.outputs[0].token_ids)

        everything, _ = ask(page, False)
        pruned, _ = ask(page, True)
        plain, with_pruning = ask(grain, False), ask(grain, True)
    selection = select(page)
    return verdict(everything - pruned, selection.total, selection.kept, plain, with_pruning, len(grain) // 32)


def verdict(
    fewer: int, total: int, kept: int, plain: tuple[int, list[int]], with_pruning: tuple[int, list[int]], side: int
) -> dict[str, Any]:
    """What the token counts show.

    Example:
        >>> verdict(0, 192, 100, (90, [1]), (90, [1]), 8)["problem"]
        'the engine does not prune: 92 of the 192 blocks of a page should be dropped, 0 were'
    """
    if fewer != total - kept:
        what = "does not prune" if not fewer else "prunes wrongly"
        counts = f"{total - kept} of the {total} blocks of a page should be dropped, {fewer} were"
        return {"problem": f"the engine {what}: {counts}"}
    if plain != with_pruning:
        return {"problem": "a photograph, from which nothing is dropped, gets a different answer with pruning"}
    return {"total": total, "kept": kept, "photograph": side * side}


if __name__ == "__main__":
    print(json.dumps(self_test()))  # noqa: T201, read by `pixelprune check vllm`
