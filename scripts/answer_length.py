"""Measure how much less pruning gains when answers are long: a stock vLLM server against one that prunes.

    python scripts/answer_length.py [--tokens 4 100 1000] [--rounds 3] [--write]

In an environment with vLLM. The model is the one of `pixelprune bench serve`: random, as wide as Qwen3-VL-2B, with two
layers in its encoder and two in its language model. Both servers get the sample page, two requests at a time; answers
have exactly as many tokens as --tokens says. --write puts the table into docs/clients/index.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from make_figures import ROOT, with_table

from pixelprune import PruneConfig
from pixelprune._processes import run_in_subprocess
from pixelprune.bench import serve
from pixelprune.bench._client import CONCURRENCY, NAME, request_body, send
from pixelprune.bench._servers import Server
from pixelprune.bench._tables import Table, measured_on, numbers
from pixelprune.bench._timing import machine
from pixelprune.selection._blocks import Image
from pixelprune.standins import save_standin

ARGUMENTS = [*serve.STANDIN_OPTIONS, "--served-model-name", NAME, "--limit-mm-per-prompt", '{"image": 1, "video": 0}']


def seconds(urls: Mapping[str, str], page: Image, lengths: Sequence[int], rounds: int) -> dict[int, dict[str, float]]:
    """Median seconds of two requests at a time, by length of an answer and server; the first round is thrown away."""
    stamps = count()
    taken: dict[tuple[int, str], list[float]] = {(length, name): [] for length in lengths for name in urls}
    for number in range(rounds + 1):
        for length in lengths:
            bodies = [body(serve.stamped(page, next(stamps)), length) for _ in range(CONCURRENCY)]
            for name in list(urls)[:: 1 if number % 2 else -1]:
                batch = send(urls[name], bodies, [])
                taken[length, name] += [batch.seconds] if number else []
    return {length: {name: statistics.median(taken[length, name]) for name in urls} for length in lengths}


def body(page: Image, length: int) -> bytes:
    """A request whose answer has `length` tokens."""
    return json.dumps({**json.loads(request_body(page)), "max_tokens": length}).encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tokens", type=int, nargs="+", default=[4, 100, 1000], help="tokens of an answer (4 100 1000)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="medians are shown (3)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/clients/index.md")
    options = parser.parse_args()
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    page = serve.default_pictures()["page"]
    pruning = serve.with_pruning(ARGUMENTS, PruneConfig())
    with tempfile.TemporaryDirectory() as folder:
        run_in_subprocess(save_standin, Path(folder))
        with Server(folder, ARGUMENTS) as stock, Server(folder, pruning) as pruned:
            taken = seconds({"stock": stock.url, "pruned": pruned.url}, page, options.tokens, options.rounds)
    rows = []
    for length, by_name in taken.items():
        times = [by_name["stock"], by_name["pruned"]]
        rows.append((f"{length:,}", *(f"{time:.2f} s" for time in times), f"{times[0] / times[1]:.2f} ×"))
    columns = numbers("tokens of an answer", "stock", "pruned", "requests per second, pruned ÷ stock")
    detail = f"page, {page.shape[1]} × {page.shape[0]}, {CONCURRENCY} requests at a time, {options.rounds} rounds"
    about = machine("torch", "transformers", "vllm")
    text = Table("Length of answers", columns, tuple(rows), (measured_on(about, detail),)).markdown()
    print(text)
    if options.write:
        index = ROOT / "docs" / "clients" / "index.md"
        index.write_text(with_table(index, "answers", text), encoding="utf-8")


if __name__ == "__main__":
    main()
