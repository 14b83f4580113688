"""What scripts/run_clients.py notes of a request, against a server that only counts."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

pytest.importorskip("transformers", reason="the script makes a model")

clients = import_module("scripts.run_clients")


class _Counting(BaseHTTPRequestHandler):
    """Says that a prompt has 7 visual tokens, or 20 without pruning; refuses requests for the model "missing"."""

    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(request)
        full = request.get("mm_processor_kwargs", {}).get("pixelprune") is False
        usage = {"prompt_tokens": 99, "prompt_tokens_details": {"multimodal_tokens": {"image": 20 if full else 7}}}
        missing = request["model"] == "missing"
        body = json.dumps({"error": "no such model"} if missing else {"usage": usage}).encode()
        self.send_response(404 if missing else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    _Counting.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Counting) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", _Counting.asked
        running.shutdown()


def content(mode: str, kind: str) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new(mode, (40, 30)).save(file, kind)
    return {"type": "image_url", "image_url": {"url": "data:x;base64," + base64.b64encode(file.getvalue()).decode()}}


def post(url: str, request: dict[str, Any]) -> tuple[int, Any]:
    connection = HTTPConnection(urlsplit(url).netloc)
    connection.request("POST", "/v1/chat/completions", json.dumps(request))
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_what_is_noted_of_a_request(server: tuple[str, list[dict[str, Any]]]) -> None:
    upstream, asked = server
    images = [content("RGBA", "PNG"), content("RGB", "JPEG"), content("RGB", "JPEG")]
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": images}]
    options = {"min_pixels": 4, "pixelprune": {"threshold": 0.02}}
    request = {"model": "m", "messages": messages, "max_completion_tokens": 8000, "mm_processor_kwargs": options}
    with clients.proxied(upstream) as (url, seen):
        assert post(url, request)[0] == 200
    (noted,) = seen
    assert clients.images_of(noted) == "PNG RGBA 40 × 30, 2 of JPEG RGB 40 × 30"
    assert (noted.kept, noted.full, noted.max_tokens, noted.status) == (7, 20, 8000, 200)
    assert json.loads(noted.options) == options
    assert [ask["mm_processor_kwargs"] for ask in asked] == [options, {"min_pixels": 4, "pixelprune": False}]
    assert {ask["max_completion_tokens"] for ask in asked} == {clients.MAX_TOKENS}
    assert clients.problems("c", seen) == []


def test_what_is_wrong_is_reported(server: tuple[str, list[dict[str, Any]]]) -> None:
    upstream, _ = server
    refused = {"model": "missing", "messages": [{"role": "user", "content": [content("L", "PNG")]}]}
    unpruned = {**refused, "model": "m", "mm_processor_kwargs": {"pixelprune": False}}
    text = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    with clients.proxied(upstream) as (url, seen):
        assert post(url, refused) == (404, {"error": "no such model"})
        post(url, unpruned)
    assert clients.problems("c", seen[:1]) == ["c: a request got status 404", "c: a request was not pruned"]
    assert clients.problems("c", seen[1:]) == ["c: a request was not pruned"]
    with clients.proxied(upstream) as (url, seen):
        post(url, text)
    assert clients.problems("c", seen) == clients.problems("c", []) == ["c: no image arrived"]


def test_the_page_is_a_whole_pdf() -> None:
    pdfium = pytest.importorskip("pypdfium2")
    document = pdfium.PdfDocument(clients.pdf_page())
    pages = [" ".join(page.get_textpage().get_text_bounded().split()) for page in document]
    document.close()
    assert len(pages) == 1
    assert clients.TITLE in pages[0]
    for heading, _ in clients.SECTIONS:
        assert pages[0].count(" ".join(heading.split())) == 2
    assert pages[0].count("which is a question about readers and not about paper.") == 2
