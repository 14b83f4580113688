"""What `python -m vllm.entrypoints.openai.api_server` runs in tests of `pixelprune bench serve`.

An image has 40 tokens, or 10 if pruning is configured. A child process stands for the engine. Options that vLLM does
not have make it misbehave.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Longer than any test runs: only whoever started it ends it.
SECONDS = 3600


class Handler(BaseHTTPRequestHandler):
    """Answers each request once, and refuses to answer it again."""

    seen: set[bytes]

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self) -> None:
        self.answer(200, "")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body in self.seen or "--refusing" in sys.argv:
            self.answer(400, json.dumps({"error": {"message": "seen this before"}}))
            return
        self.seen.add(body)
        if "--dying" in sys.argv:
            self.answer(200, 'data: {"error": {"message": "the engine is dead"}}\n\n')
            return
        prunes = "--hf-overrides" in sys.argv and "--deaf" not in sys.argv
        usage = {"prompt_tokens": 10 if prunes else 40}
        events: list[dict[str, Any]] = [{"choices": [{}]}, {"choices": [{}]}, {"choices": [], "usage": usage}]
        self.answer(200, "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:
        pass


def main() -> None:
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({SECONDS})"])
    with open(os.environ["FAKE_PIDS"], "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {child.pid}\n")
    if "--broken" in sys.argv:
        sys.stdout.write("INFO 11-25 03:00:00 [a.py:1] all is well\n")
        sys.exit("(EngineCore pid=7) ERROR 11-25 03:00:00 [b.py:2] ValueError: no room for [the] model")
    if "--silent" in sys.argv:
        time.sleep(SECONDS)
    Handler.seen = set()
    port = int(sys.argv[sys.argv.index("--port") + 1])
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
