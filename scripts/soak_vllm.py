"""Serve a trained model with pruning for thousands of mixed requests, on a machine that is busy.

    python scripts/soak_vllm.py --requests 10000 --busy 8 --json soak.json

The model is the one of tiny_model/, behind `vllm serve`. What each kind of request must give is asked
first, one request at a time and with nothing else running; the number of prompt tokens comes from
`pixelprune.select` and the tokenizer, not from the server. Then the kinds are sent in random order,
several at a time, beside --busy processes that only count. Every image has a name of its own, so
that no pixels are found in a cache. With --stock, the same images go to a server that does not prune:
what its memory does is vLLM's own.
Ctrl-C ends the run early; what was answered by then is reported.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pixelprune import PruneConfig, select
from pixelprune._processes import last_error
from pixelprune.bench._servers import Server
from pixelprune.images.samples import photograph
from pixelprune.selection._blocks import Image
from tiny_model.evaluate import FOLDER
from tiny_model.tasks import TASKS, held_out

NAME = "tiny"
BLOCK = 32
TOGETHER = 8  # requests in flight
WARM_UP = 0.25  # share of a run whose memory says nothing about the rest
# No prefix is found in a cache either, so the language model reads every prompt.
ARGUMENTS = [
    *("--served-model-name", NAME, "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", str(TOGETHER)),
    *("--enforce-eager", "--no-enable-prefix-caching", "--kv-cache-memory-bytes", str(2**27)),
    *("--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--trust-request-mm-kwargs"),
    *("--mm-processor-cache-gb", "0.01"),
]
PRUNED = ["--hf-overrides", '{"pixelprune": {"threshold": 0.0}}']
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
}

# `pixelprune` of a request; None leaves it out, so that the server's own options hold.
OPTIONS: list[Any] = [
    None,
    False,
    {"threshold": 0.0},
    {"threshold": 0.02},
    {"threshold": 0.05, "metric": "rmse"},
    {"threshold": 0.0, "predictor": "raster"},
    {"threshold": 0.02, "predictor": "serpentine", "metric": "mae"},
]
BAD_OPTIONS: list[tuple[Any, str]] = [
    ({"treshold": 0.1}, "pixelprune: unknown option 'treshold'; known options: threshold, metric"),
    ({"threshold": 5}, "pixelprune: threshold must be a number in [0, 1], got 5"),
    ({"metric": "psnr"}, "pixelprune: metric must be one of 'max', 'mae', 'rmse', got 'psnr'"),
    ("yes", "pixelprune must be an object of options, true or false, got 'yes'"),
    ({"max_tokens": 0}, "pixelprune: max_tokens must be a whole number of at least 1"),
    ({"max_tokens": 8, "min_tokens": 9}, "pixelprune: min_tokens must be at most the token budget (8), got 9"),
]
CUT_OFF = "image file is truncated"  # Pillow's words, passed on by vLLM


@dataclass(frozen=True)
class Kind:
    """Requests that must get the same answer, and which one.

    Attributes:
        group: what the report counts it under.
        question: the text that goes with the image.
        image: an encoded file.
        options: what stands under the key `pixelprune`; None for nothing.
        prompt_tokens: how many the server must count; 0 if it must refuse.
        refusal: what the error must say; empty if there is to be none.
        right: the answer of a perfect reader, if there is one.
    """

    group: str
    question: str
    image: bytes
    options: Any = None
    prompt_tokens: int = 0
    refusal: str = ""
    right: str = ""

    def body(self, name: str) -> bytes:
        """The JSON of a request whose image has this name in the caches of the server."""
        url = "data:image/png;base64," + base64.b64encode(self.image).decode()
        content: list[Any] = [{"type": "image_url", "image_url": {"url": url}, "uuid": name}]
        content.append({"type": "text", "text": self.question})
        request: dict[str, Any] = {
            "model": NAME,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 4,
            "temperature": 0,
            "return_token_ids": True,
        }
        if self.options is not None:
            request["mm_processor_kwargs"] = {"pixelprune": self.options}
        return json.dumps(request).encode()


@dataclass(frozen=True)
class Reply:
    """What came back: the status of HTTP (0: nothing came back) and the JSON or the error."""

    status: int
    content: Any


def kinds(of_each_task: int, question_tokens: Any, stock: bool = False) -> list[Kind]:
    """All kinds of requests; `question_tokens` counts the tokens of a prompt around those of its image.

    For a `stock` server, only those that it understands.
    """
    pictures: list[tuple[str, str, str, Image]] = [
        (sample.task, sample.question, sample.answer, sample.image)
        for task in TASKS
        for sample in held_out(task, of_each_task)
    ]
    pictures += [("blank", "read A", "", np.full((256, 320, 3), 255, np.uint8))]
    pictures += [("photograph", "read B", "", photograph(256))]
    made = []
    for group, question, right, image in pictures:
        around = question_tokens(question)
        for options in [None] if stock else OPTIONS:
            tokens = image.shape[0] * image.shape[1] // BLOCK**2
            if not stock and options is not False:
                tokens = select(image, PruneConfig(**(options or {}))).tokens
            name = f"{group}, {'unpruned' if stock or options is False else 'pruned'}"
            made.append(Kind(name, question, png(image), options, around + tokens, right=right))
    some = png(pictures[0][3])
    made += [Kind("bad options", "read A", some, bad, refusal=text) for bad, text in BAD_OPTIONS if not stock]
    noise = png(photograph(256))
    made += [
        Kind("truncated image", "read A", noise[: int(len(noise) * share)], options, refusal=CUT_OFF)
        for share in (0.3, 0.6, 0.9)
        for options in ([None] if stock else [False, {"threshold": 0.02}])
    ]
    return made


def question_tokens() -> Any:
    """A function that counts the tokens of a prompt with a question, without those of its image."""
    from transformers import AutoProcessor

    loader: Any = AutoProcessor
    processor = loader.from_pretrained(FOLDER)

    def count(question: str) -> int:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) - 1  # one stands for the image

    return count


def png(image: Image) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def post(url: str, body: bytes, patience: float = 600) -> Reply:
    connection = HTTPConnection(urlsplit(url).netloc, timeout=patience)
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return Reply(response.status, json.loads(response.read()))
    except (OSError, HTTPException, ValueError) as error:
        return Reply(0, f"{type(error).__name__}: {error}")
    finally:
        connection.close()


def judge(kind: Kind, reply: Reply, expected: Reply | None = None) -> str:
    """What is wrong with a reply, in words that begin with "lost" or "wrong"; empty if nothing is.

    `expected` is the reply to the same kind when nothing else ran.
    """
    if reply.status == 0 or reply.status >= 500:
        return f"lost: {reply.status} {reply.content}"
    if kind.refusal:
        said = str(reply.content.get("error", {}).get("message"))
        return "" if reply.status == 400 and kind.refusal in said else f"wrong refusal: {reply.status} {said}"
    if reply.status != 200:
        return f"wrong status: {reply.status} {reply.content}"
    if (count := reply.content["usage"]["prompt_tokens"]) != kind.prompt_tokens:
        return f"wrong number of prompt tokens: {count} instead of {kind.prompt_tokens}"
    if expected is not None and answered(reply) != answered(expected):
        return f"wrong answer: {answered(reply)} instead of {answered(expected)}"
    return ""


def answered(reply: Reply) -> tuple[str, list[int]]:
    choice = reply.content["choices"][0]
    return choice["message"]["content"], choice["token_ids"]


def ask_alone(url: str, kinds: Sequence[Kind], when: str) -> tuple[list[Reply], list[str]]:
    """Each kind once, one at a time: the replies, and what is wrong with them."""
    replies = [post(url, kind.body(f"{when} {number}")) for number, kind in enumerate(kinds)]
    problems = [judge(kind, reply) for kind, reply in zip(kinds, replies, strict=True)]
    return replies, [f"{when}: {problem}" for problem in problems if problem]


@contextmanager
def busy(count: int) -> Iterator[None]:
    """`count` processes beside this one that only count, and that end with it."""
    loop = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(1000000))"
    loops = [subprocess.Popen([sys.executable, "-c", loop]) for _ in range(count)]
    try:
        yield
    finally:
        for process in loops:
            process.kill()
        for process in loops:
            process.wait()


class Memory:
    """Samples the resident memory of all processes of a session, every `interval` seconds."""

    def __init__(self, session: int, interval: float, done: Counter[str]) -> None:
        self._session, self._interval, self._done = session, interval, done
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: list[tuple[float, int, list[float]]] = []  # seconds, requests answered, MiB of each process

    def __enter__(self) -> Memory:
        self._start = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while True:
            self._sample()
            if self._ended.wait(self._interval):
                return

    def _sample(self) -> None:
        seconds, mib = time.monotonic() - self._start, [round(size / 2**20, 1) for size in resident(self._session)]
        self.samples.append((round(seconds, 1), self._done.total(), mib))
        words = ", ".join(f"{name}: {count}" for name, count in sorted(self._done.items()))
        print(f"{seconds:7.0f} s, {sum(mib):8.1f} MiB, answered {self._done.total()} ({words})", flush=True)


def resident(session: int) -> list[int]:
    """Bytes of resident memory of each process of a session, by number of the process."""
    sizes = []
    for number in sorted(int(folder.name) for folder in Path("/proc").glob("[0-9]*")):
        try:
            if os.getsid(number) == session:
                pages = int(Path(f"/proc/{number}/statm").read_text().split()[1])
                sizes.append(pages * os.sysconf("SC_PAGE_SIZE"))
        except (OSError, IndexError):  # it has just ended
            continue
    return sizes


def growth(samples: Sequence[tuple[float, int, Sequence[float]]]) -> dict[str, float]:
    """The line of least squares through memory after the warm-up.

    Returns:
        MiB at its begin and at its end, and its slope in MiB per thousand requests; empty below three samples.

    Example:
        >>> growth([(0, 0, [9, 1]), (1, 1000, [89, 1]), (2, 2000, [89, 1]), (3, 3000, [90, 1])])
        {'first_mib': 89.83, 'last_mib': 90.83, 'mib_per_1000': 0.5}
    """
    later = [(count, sum(mib)) for _, count, mib in samples if count >= WARM_UP * samples[-1][1]]
    if len(later) < 3 or later[0][0] == later[-1][0]:
        return {}
    counts, mib = np.array(later, np.float64).T
    slope, base = np.polyfit(counts, mib, 1)
    first, last = base + slope * counts[[0, -1]]
    values = {"first_mib": first, "last_mib": last, "mib_per_1000": slope * 1000}
    return {name: round(float(value), 2) for name, value in values.items()}


def send(
    url: str, kinds: Sequence[Kind], expected: Sequence[Reply], requests: int, done: Counter[str], stop: threading.Event
) -> list[str]:
    """Send `requests` in random order, `TOGETHER` at a time, until `stop`; what went wrong.

    `done` counts what was answered, by group.
    """
    draw = random.Random(0)
    groups = sorted({kind.group for kind in kinds})
    members = {group: [i for i, kind in enumerate(kinds) if kind.group == group] for group in groups}
    order = [draw.choice(members[draw.choice(groups)]) for _ in range(requests)]
    problems: list[str] = []
    lock = threading.Lock()

    def one(number: int) -> None:
        if stop.is_set():
            return
        index = order[number]
        problem = judge(kinds[index], post(url, kinds[index].body(str(number))), expected[index])
        with lock:
            done[kinds[index].group] += 1
            if problem:
                problems.append(f"request {number}, {kinds[index].group}: {problem}")

    with ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(one, range(requests)))
    return problems


def soak(
    requests: int, loops: int, interval: float, stop: threading.Event, of_each_task: int = 12, stock: bool = False
) -> dict[str, Any]:
    """One run.

    Args:
        requests: how many, beside one of each kind before.
        loops: busy processes beside it.
        interval: seconds between two samples of memory.
        stop: ends the run early.
        of_each_task: pages and screens, each.
        stock: whether the server does not prune.

    Returns:
        What `--json` holds.
    """
    asked = kinds(of_each_task, question_tokens(), stock)
    done: Counter[str] = Counter()
    with Server(str(FOLDER), ARGUMENTS if stock else [*ARGUMENTS, *PRUNED], ENVIRONMENT) as server:
        try:
            expected, problems = ask_alone(server.url, asked, "before")
            start = time.monotonic()
            with busy(loops), Memory(server.pid, interval, done) as memory:
                problems += send(server.url, asked, expected, requests, done, stop)
            seconds = time.monotonic() - start
            problems += ask_alone(server.url, asked, "afterwards")[1]
        except BaseException:
            print(last_error(server.log), file=sys.stderr)
            raise
    reading = [(kind, reply) for kind, reply in zip(asked, expected, strict=True) if kind.right]
    return {
        "requests": done.total(),
        "groups": dict(sorted(done.items())),
        "kinds": len(asked),
        "together": TOGETHER,
        "busy": loops,
        "seconds": round(seconds, 1),
        "lost": sum(": lost" in problem for problem in problems),
        "wrong": sum(": wrong" in problem for problem in problems),
        "problems": problems[:100],
        "right_alone": sum(answered(reply)[0].strip() == kind.right for kind, reply in reading) / len(reading),
        **growth(memory.samples),
        "memory": memory.samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000, help="how many are sent (10000)")
    parser.add_argument(
        "--busy", type=int, default=8, help="processes beside the server that keep the machine busy (8)"
    )
    parser.add_argument("--stock", action="store_true", help="a server that does not prune, to compare memory with")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args()
    stop = threading.Event()
    # Set here, because a process that was started in the background of a script ignores Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    result = soak(options.requests, options.busy, 30, stop, stock=options.stock)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    print(json.dumps({name: value for name, value in result.items() if name != "memory"}, indent=1))
    sys.exit(bool(result["problems"]))


if __name__ == "__main__":
    main()
