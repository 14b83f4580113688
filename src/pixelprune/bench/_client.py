"""Requests about an image over HTTP, timed, with the standard library only."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

import PIL.Image

from pixelprune.bench._servers import ServerError
from pixelprune.selection._blocks import Image

# The name of the model in requests.
NAME = "bench"
CONCURRENCY = 2
MAX_TOKENS = 4
_QUESTION = "What does this show?"


@dataclass(frozen=True)
class Answer:
    """What one request took.

    Attributes:
        first: seconds to the first token.
        prompt_tokens: as the server counts them.
    """

    first: float
    prompt_tokens: int


@dataclass(frozen=True)
class Batch:
    """What a batch of requests took.

    Attributes:
        requests: how many were sent two at a time.
        seconds: from the first of those sent to the last one answered.
        alone: answers to the requests that were sent one by one.
    """

    requests: int
    seconds: float
    alone: list[Answer]


def request_body(image: Image) -> bytes:
    """The JSON of a request about one image, uint8 (H, W, 3)."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "PNG", compress_level=1)
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": _QUESTION}]
    request = {
        "model": NAME,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": MAX_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(request).encode()


def ask(url: str, image: Image) -> Answer:
    """Send one image to a server."""
    return _send(url, request_body(image))


def send(url: str, together: Sequence[bytes], alone: Sequence[bytes]) -> Batch:
    """Send the requests `alone` one by one and those `together` two at a time, and read all answers in full."""
    answers = [_send(url, body) for body in alone]
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        start = time.perf_counter()
        list(pool.map(lambda body: _send(url, body), together))
        return Batch(len(together), time.perf_counter() - start, answers)


def _send(url: str, body: bytes) -> Answer:
    # http.client uses no proxy, unlike urllib.
    connection = HTTPConnection(urlsplit(url).netloc, timeout=600)
    first, tokens = None, 0
    start = time.perf_counter()
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise ServerError(f"the server refused a request: {_message(response.read())}")
        for event in _events(response):
            # vLLM sends the first choices, which may hold no text, as soon as it has the first token.
            if event.get("choices") and first is None:
                first = time.perf_counter() - start
            if "error" in event:
                raise ServerError(f"the server failed on a request: {_message(json.dumps(event).encode())}")
            tokens = (event.get("usage") or {}).get("prompt_tokens", tokens)
    except (OSError, HTTPException) as error:
        raise ServerError(f"the connection was lost during a request: {error}") from error
    finally:
        connection.close()
    if first is None or not tokens:
        raise ServerError("the server answered without any token")
    return Answer(first, tokens)


def _events(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        data = line.removeprefix(b"data:").strip()
        if line.startswith(b"data:") and data != b"[DONE]":
            yield json.loads(data)


def _message(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode(errors="replace")[:200] or "no reason given"
