"""How the memory of one engine of vLLM grows with its requests, and how much of that malloc only holds free.

    python scripts/memory_vllm.py [--stock] [--requests 12000]     # in an environment with vLLM for CPUs

A small random Qwen3-VL answers random images of random sizes, in this process and without caches. From time to time,
the C library is asked to give free memory back to the system (malloc_trim); what is left is in use. Linux with glibc.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

BATCH, TRIMS = 8, 15
PROMPT = "<|vision_start|><|image_pad|><|vision_end|>What is this?"
VARIABLES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stock", action="store_true", help="do not prune")
    parser.add_argument("--requests", type=int, default=12000)
    options = parser.parse_args()
    os.environ.update(VARIABLES)
    with tempfile.TemporaryDirectory() as folder:
        llm = start(folder, prune=not options.stock)
    from vllm import SamplingParams

    sampling = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    generator, libc = np.random.default_rng(0), ctypes.CDLL("libc.so.6")
    print("requests  resident  after malloc_trim   (MiB)")
    for part in range(TRIMS):
        for _ in range(options.requests // TRIMS // BATCH):
            llm.generate([request(generator) for _ in range(BATCH)], sampling, use_tqdm=False)
        before = resident()
        libc.malloc_trim(0)
        after = resident()
        asked = (part + 1) * (options.requests // TRIMS // BATCH) * BATCH
        print(f"{asked:8d}  {before / 2**20:8.0f}  {after / 2**20:8.0f}", flush=True)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def start(folder: str, prune: bool) -> Any:
    from vllm import LLM

    from pixelprune.standins import save_standin, small_model

    save_standin(Path(folder), small_model())
    return LLM(
        folder,
        enforce_eager=True,
        max_model_len=2048,
        max_num_seqs=BATCH,
        limit_mm_per_prompt={"image": 1, "video": 0},
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        hf_overrides={"pixelprune": prune},
    )


def request(generator: np.random.Generator) -> dict[str, Any]:
    """A white page with a mark, or noise."""
    width, height = (int(side) for side in generator.integers(8, 16, 2) * 32)
    pixels = np.full((height, width, 3), 255, np.uint8)
    if generator.random() < 0.5:
        pixels = generator.integers(0, 256, pixels.shape, np.uint8)
    pixels[:20, :20] = generator.integers(0, 256, (20, 20, 3))
    return {"prompt": PROMPT, "multi_modal_data": {"image": PIL.Image.fromarray(pixels)}}


if __name__ == "__main__":
    main()
