"""Run clients of VLM servers against a vLLM server that prunes, and report what they send and what is pruned.

    python scripts/run_clients.py [CLIENT...] --venvs FOLDER [--write]

In an environment with vLLM. Each client gets a virtual environment FOLDER/CLIENT, which is made if it is not there;
olmocr needs Poppler, and browser_use Chromium. The model is a small random one, so answers mean nothing, and they
are cut after 16 tokens. A proxy between client and server notes each request, and sends it again with pruning off
to count the tokens of the full images. --write puts the tables into docs/clients/. Exit code 1 if a client sent no
image, or a request was refused or not pruned.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import PIL.Image

sys.path.insert(0, str(Path(__file__).parent))

from client_calls import CALLS, MODEL
from make_figures import ROOT, with_table
from make_samples import ABSTRACT, BYLINE, SECTIONS, TITLE

from pixelprune._processes import run_in_subprocess
from pixelprune.bench._servers import HOST, Server
from pixelprune.bench._tables import Table, measured_on, numbers, texts
from pixelprune.bench._timing import machine
from pixelprune.images.samples import SAMPLES, sample_path
from pixelprune.standins import save_standin, small_model

# Arguments of `pip install`, one call per list; the version of the first package is reported.
PACKAGES = {
    "openai": [["openai"]],
    "langchain": [["langchain-openai"]],
    "docling": [["docling-slim[standard]"]],
    "olmocr": [["olmocr"]],
    "chandra": [["chandra-ocr"]],
    "mineru": [["mineru-vl-utils"]],
    "paddleocr": [["paddleocr[doc-parser]", "paddlepaddle"]],
    "browser_use": [["browser-use"]],
    # Only what the agent imports: the whole package wants a torch of 2024.
    "osworld": [["desktop-env", "--no-deps"], ["openai", "loguru", "numpy<2", "pillow<12"]],
    "lmms_eval": [["lmms-eval"]],
}
MAX_TOKENS = 16
ARGUMENTS = [
    *("--served-model-name", MODEL, "--enforce-eager", "--max-model-len", "65536", "--max-num-seqs", "8"),
    *("--kv-cache-memory-bytes", str(2**28), "--limit-mm-per-prompt", '{"image": 8, "video": 0}'),
    *("--trust-request-mm-kwargs", "--enable-prompt-tokens-details"),
    *("--hf-overrides", '{"pixelprune": {"threshold": 0.0}, "text_config": {"max_position_embeddings": 65536}}'),
]
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class Seen:
    """A request with images, as it arrived.

    Attributes:
        images: file format, mode of Pillow and size of each.
        options: the JSON of its `mm_processor_kwargs`; empty if it has none.
        constrained: whether it demands an output format.
        max_tokens: the longest answer that it allows; 0 if it does not say.
        status: HTTP status of the answer.
        kept, full: visual tokens of the prompt, as the server counts them, pruned and not.
    """

    images: tuple[str, ...]
    options: str
    constrained: bool
    max_tokens: int
    status: int
    kept: int
    full: int


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, and notes those to /v1/chat/completions in `seen`."""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.seen: list[Seen] = []
        super().__init__((HOST, 0), _Handler)

    def ask(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        connection = HTTPConnection(self.upstream, timeout=600)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def chat(self, path: str, request: dict[str, Any]) -> tuple[int, bytes]:
        cut = {**request, "max_tokens": MAX_TOKENS, "max_completion_tokens": MAX_TOKENS}
        status, answer = self.ask("POST", path, json.dumps(cut).encode())
        options = request.get("mm_processor_kwargs") or {}
        whole = {**cut, "mm_processor_kwargs": {**options, "pixelprune": False}}
        _, unpruned = self.ask("POST", path, json.dumps(whole).encode())
        seen = Seen(
            images=tuple(_described(part) for part in _image_parts(request)),
            options=json.dumps(options) if options else "",
            constrained="response_format" in request,
            max_tokens=request.get("max_completion_tokens") or request.get("max_tokens") or 0,
            status=status,
            kept=_counted(answer),
            full=_counted(unpruned),
        )
        self.seen.append(seen)
        return status, answer


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self._reply(*self.server.ask("GET", self.path, None))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/chat/completions"):
            self._reply(*self.server.chat(self.path, json.loads(body)))
        else:
            self._reply(*self.server.ask("POST", self.path, body))

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: the report is what counts."""


def _image_parts(request: dict[str, Any]) -> list[dict[str, Any]]:
    contents = [message["content"] for message in request["messages"] if isinstance(message.get("content"), list)]
    return [part for content in contents for part in content if part["type"] == "image_url"]


def _described(part: dict[str, Any]) -> str:
    with PIL.Image.open(io.BytesIO(base64.b64decode(part["image_url"]["url"].split(",", 1)[1]))) as image:
        return f"{image.format} {image.mode} {image.width} × {image.height}"


def _counted(answer: bytes) -> int:
    """Tokens of images in the prompt."""
    usage = json.loads(answer).get("usage") or {}
    counts = (usage.get("prompt_tokens_details") or {}).get("multimodal_tokens") or {}
    return int(counts.get("image", 0))


@contextmanager
def proxied(upstream: str) -> Iterator[tuple[str, list[Seen]]]:
    """URL of a proxy in front of `upstream`, and the list of what it sees."""
    with Proxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{HOST}:{proxy.server_port}", proxy.seen
        finally:
            proxy.shutdown()


def pdf_page() -> bytes:
    """The text of the sample page, twice, as a PDF of one full A4 page in two columns of a standard font."""
    lines = [("B", 20, 54, 760, TITLE), ("F", 9, 54, 742, BYLINE)]
    lines += [("F", 10, 54, 712 - 13 * row, text) for row, text in enumerate(textwrap.wrap(ABSTRACT, 100))]
    column = [
        (font, text)
        for heading, body in SECTIONS * 2
        for font, text in [("B", heading), *(("F", line) for line in textwrap.wrap(body, 46)), ("F", "")]
    ]
    half = (len(column) + 1) // 2
    lines += [(f, 10, 54 + 250 * (i // half), 650 - 12 * (i % half), text) for i, (f, text) in enumerate(column)]
    marks = "\n".join(f"BT /{font} {size} Tf {x} {y} Td ({text}) Tj ET" for font, size, x, y, text in lines)
    fonts = [f"<</Type/Font/Subtype/Type1/BaseFont/{name}>>" for name in ("Helvetica", "Helvetica-Bold")]
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F 5 0 R/B 6 0 R>>>>>>",
        f"<</Length {len(marks)}>>\nstream\n{marks}\nendstream",
        *fonts,
    ]
    file, places = bytearray(b"%PDF-1.7\n"), []
    for number, text in enumerate(objects, 1):
        places.append(len(file))
        file += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    head, end = f"xref\n0 {size}\n0000000000 65535 f \n", f"startxref\n{len(file)}\n%%EOF\n"
    return bytes(file) + f"{head}{table}trailer<</Root 1 0 R/Size {size}>>\n{end}".encode()


def environment_of(client: str, folder: Path) -> tuple[Path, str]:
    """The Python of a client, which is installed if it is not there, and the version of the client."""
    python = folder / client / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / client)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for arguments in PACKAGES[client]:
            subprocess.run([*pip, *arguments], check=True)
    package = PACKAGES[client][0][0].split("[")[0]
    ask = f"from importlib.metadata import version; print(version({package!r}))"
    version = subprocess.run([str(python), "-c", ask], check=True, capture_output=True, text=True).stdout.strip()
    return python, f"{package} {version}"


def run(client: str, python: Path, server: str) -> list[Seen]:
    """What the server sees of a client, whose output goes to stderr."""
    with tempfile.TemporaryDirectory() as name, proxied(server) as (url, seen):
        folder = Path(name)
        (folder / "page.pdf").write_bytes(pdf_page())
        shutil.copy(Path(__file__).with_name("screen.html"), folder)
        for sample in SAMPLES:
            shutil.copy(sample_path(sample), folder)
            with PIL.Image.open(sample_path(sample)) as image:
                image.save(folder / f"{sample}.jpeg")
        command = [str(python), str(Path(__file__).with_name("client_calls.py")), client, url, name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "ANONYMIZED_TELEMETRY": "false", "HOME": name}
        done = subprocess.run(command, stdout=sys.stderr, env=environment, cwd=name, timeout=900)
        if done.returncode:
            print(f"{client}: exit code {done.returncode}", file=sys.stderr)
        return list(seen)


def problems(client: str, seen: Sequence[Seen]) -> list[str]:
    """What is wrong with what was seen, one line each."""
    refused = [f"{client}: a request got status {request.status}" for request in seen if request.status != 200]
    with_images = [request for request in seen if request.images]
    whole = [f"{client}: a request was not pruned" for request in with_images if request.kept >= request.full]
    return [*refused, *whole] if with_images else [*refused, f"{client}: no image arrived"]


def table(client: str, version: str, seen: Sequence[Seen], about: dict[str, Any]) -> Table:
    """What the page of a client shows: equal requests are one row."""
    counts = Counter(seen).items()
    rows = [(str(n), images_of(r), ", ".join(sent_with(r)) or "nothing", *tokens(r)) for r, n in counts]
    columns = texts("requests", "images of each", "sent with") + numbers("visual tokens", "kept", "retain ratio")
    return Table(client, columns, tuple(rows), (measured_on(about, version),))


def summary(results: Mapping[str, tuple[str, Sequence[Seen]]], about: dict[str, Any]) -> Table:
    """What the page of all clients shows: the first request of each that has options of the server."""
    rows = []
    for client, (version, seen) in results.items():
        request = next(request for request in seen if "pixelprune" not in request.options)
        rows.append((f"[{version}]({client}.md)", images_of(request), *tokens(request)))
    columns = texts("client", "images of a request") + numbers("visual tokens", "kept", "retain ratio")
    return Table("Clients", columns, tuple(rows), (measured_on(about),))


def tokens(request: Seen) -> tuple[str, str, str]:
    """The cells of visual tokens, kept ones, and their ratio."""
    ratio = f"{request.kept / request.full:.2f}" if request.full else ""
    return f"{request.full:,}", f"{request.kept:,}", ratio


def images_of(request: Seen) -> str:
    """The images of a request, equal ones together."""
    counts = Counter(request.images).items()
    return ", ".join(f"{count} of {kind}" if count > 1 else kind for kind, count in counts) or "none"


def sent_with(request: Seen) -> list[str]:
    """What else matters of a request."""
    limit = [f"`max_tokens` {request.max_tokens:,}"] if request.max_tokens else []
    form = ["`response_format`"] if request.constrained else []
    return limit + form + ([f"`mm_processor_kwargs` `{request.options}`"] if request.options else [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=f"of {', '.join(CALLS)}; default: all")
    parser.add_argument("--venvs", type=Path, required=True, help="folder of the clients' environments")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/clients/")
    options = parser.parse_args()
    if unknown := set(options.clients) - set(CALLS):
        parser.error(f"CLIENT must be one of {', '.join(CALLS)}, got {', '.join(sorted(unknown))}")
    about = machine("torch", "transformers", "vllm")
    results: dict[str, tuple[str, list[Seen]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        run_in_subprocess(_save_model, Path(folder))
        with Server(folder, ARGUMENTS, ENVIRONMENT) as server:
            for client in options.clients or CALLS:
                python, version = environment_of(client, options.venvs)
                results[client] = version, run(client, python, server.url)
                text = table(client, *results[client], about).markdown()
                print(f"## {client}\n\n{text}\n", flush=True)
                if options.write:
                    write(client, "run", text)
    wrong = [line for client, (_, seen) in results.items() for line in problems(client, seen)]
    if options.write and not options.clients and not wrong:
        write("index", "clients", summary(results, about).markdown())
    sys.exit("\n".join(wrong) or 0)


def write(page: str, name: str, text: str) -> None:
    path = ROOT / "docs" / "clients" / f"{page}.md"
    path.write_text(with_table(path, name, text), encoding="utf-8")


def _save_model(folder: Path) -> None:
    save_standin(folder, small_model())


if __name__ == "__main__":
    main()
