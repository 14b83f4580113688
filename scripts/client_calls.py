"""What `run_clients.py` runs in the environment of each client: the client's own code, on the sample page or screen.

    VENV/bin/python scripts/client_calls.py CLIENT URL FOLDER

URL is that of the server, without /v1. FOLDER has page.pdf, screen.html, and both samples as .png and .jpeg; it takes
what the client writes.
"""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

MODEL = "standin"
QUESTION = "What does this show?"
LOOSER = {"mm_processor_kwargs": {"pixelprune": {"threshold": 0.02}}}


def run_openai(url: str, folder: Path) -> None:
    """PNG and JPEG, each with the options of the server and with options of a request."""
    from openai import OpenAI

    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    for name in ("page.png", "page.jpeg", "screen.png", "screen.jpeg"):
        image = {"type": "image_url", "image_url": {"url": _data_url(folder / name)}}
        messages: Any = [{"role": "user", "content": [image, {"type": "text", "text": QUESTION}]}]
        for options in ({}, LOOSER):
            client.chat.completions.create(model=MODEL, messages=messages, extra_body=options)


def run_langchain(url: str, folder: Path) -> None:
    """Options of a request are given to the model object."""
    from langchain_openai import ChatOpenAI

    image = {"type": "image_url", "image_url": {"url": _data_url(folder / "page.png")}}
    messages = [("user", [image, {"type": "text", "text": QUESTION}])]
    for options in ({}, LOOSER):
        model = ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key="none", extra_body=options)
        model.invoke(messages)


def run_docling(url: str, folder: Path) -> None:
    """The VLM pipeline with an API endpoint, with the options of the server and with options of the pipeline."""
    from docling.datamodel.base_models import InputFormat
    from docling.datamodel.pipeline_options import VlmPipelineOptions
    from docling.datamodel.pipeline_options_vlm_model import ApiVlmOptions, ResponseFormat
    from docling.document_converter import DocumentConverter, PdfFormatOption
    from docling.pipeline.vlm_pipeline import VlmPipeline

    for options in ({}, LOOSER):
        vlm = ApiVlmOptions(
            url=f"{url}/v1/chat/completions",
            params={"model": MODEL, **options},
            prompt="Convert this page to markdown.",
            response_format=ResponseFormat.MARKDOWN,
            timeout=600,
        )
        pipeline = VlmPipelineOptions(enable_remote_services=True, vlm_options=vlm)
        pdf = PdfFormatOption(pipeline_cls=VlmPipeline, pipeline_options=pipeline)
        DocumentConverter(format_options={InputFormat.PDF: pdf}).convert(folder / "page.pdf")


def run_olmocr(url: str, folder: Path) -> None:
    """The command with an external server; no retries, since a random model never answers in its format."""
    pipeline = [sys.executable, "-m", "olmocr.pipeline", str(folder / "workspace"), "--server", f"{url}/v1"]
    subprocess.run(
        [*pipeline, "--model", MODEL, "--pdfs", str(folder / "page.pdf"), "--max_page_retries", "1"], check=True
    )


def run_chandra(url: str, folder: Path) -> None:
    """The command with the vLLM method."""
    os.environ.update(VLLM_API_BASE=f"{url}/v1", VLLM_MODEL_NAME=MODEL)
    command = Path(sys.executable).with_name("chandra")
    arguments = [str(folder / "page.pdf"), str(folder / "chandra"), "--method", "vllm", "--max-retries", "0"]
    subprocess.run([str(command), *arguments], check=True)


def run_mineru(url: str, folder: Path) -> None:
    """The layout of a page, then text of two blocks: a random model finds no blocks itself."""
    from mineru_vl_utils import MinerUClient
    from PIL import Image

    client = MinerUClient(backend="http-client", server_url=url, model_name=MODEL, use_tqdm=False)
    with Image.open(folder / "page.png") as page:
        client.two_step_extract(page)
        halves = [{"type": "text", "bbox": [left, 0.25, left + 0.42, 0.9]} for left in (0.08, 0.5)]
        client.extract_with_layout(page, halves)


def run_paddleocr(url: str, folder: Path) -> None:
    """The document parser on a whole page, without layout detection, whose model would have to be downloaded."""
    from paddleocr import PaddleOCRVL

    parser = PaddleOCRVL(
        vl_rec_backend="vllm-server",
        vl_rec_server_url=f"{url}/v1",
        vl_rec_api_model_name=MODEL,
        use_layout_detection=False,
    )
    parser.predict(str(folder / "page.png"))


def run_browser_use(url: str, folder: Path) -> None:
    """An agent that takes two steps in a real, headless browser."""
    from browser_use import Agent, Browser, ChatOpenAI

    async def run(page: str) -> None:
        browser = Browser(headless=True, executable_path=shutil.which("chromium"), chromium_sandbox=False)
        agent = Agent(
            task="Press the first button.",
            llm=ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key="none"),
            browser=browser,
            use_vision=True,
            initial_actions=[{"navigate": {"url": page, "new_tab": False}}],
            max_failures=2,
        )
        await agent.run(max_steps=2)

    with _served(folder) as address:  # its browser opens no files
        asyncio.run(run(f"{address}/screen.html"))


def run_osworld(url: str, folder: Path) -> None:
    """The agent for UI-TARS 1.5 in its third step; it tries three times, since it cannot read a random answer."""
    os.environ.update(DOUBAO_API_URL=f"{url}/v1", DOUBAO_API_KEY="none")
    from mm_agents.uitars15_v1 import MAX_PIXELS, MIN_PIXELS, UITARSAgent

    about = {"infer_mode": "qwen25vl_normal", "prompt_style": "qwen25vl_normal", "input_swap": False}
    about |= {
        "language": "English",
        "history_n": 5,
        "callusr_tolerance": 3,
        "temperature": 0,
        "top_k": -1,
        "top_p": 0.9,
    }
    about |= {"max_tokens": 500, "max_pixels": MAX_PIXELS, "min_pixels": MIN_PIXELS}
    agent = UITARSAgent(MODEL, about)
    screen = (folder / "screen.png").read_bytes()
    agent.history_images, agent.history_responses = [screen] * 2, ["Thought: wait.\nAction: wait()"] * 2
    agent.observations, agent.actions, agent.thoughts = [{}] * 2, [[]] * 2, [""] * 2
    agent.predict("Press the first button.", {"screenshot": screen})


def run_lmms_eval(url: str, folder: Path) -> None:
    """The model `async_openai`, asked as the evaluator asks it."""
    from lmms_eval.api.instance import Instance
    from lmms_eval.models.chat.async_openai import AsyncOpenAIChat
    from PIL import Image

    model = AsyncOpenAIChat(model=MODEL, base_url=f"{url}/v1", api_key="none", num_cpus=1)
    with Image.open(folder / "page.png") as page:
        content = [{"type": "image", "url": page}, {"type": "text", "text": QUESTION}]
        model.task_dict = {"sample": {"test": [None]}}
        ask: tuple[Any, ...] = (QUESTION, lambda _: [{"role": "user", "content": content}], {}, 0, "sample", "test")
        about = {"task": "sample", "doc_id": 0, "repeats": 1}
        model.generate_until([Instance("generate_until", ask, 0, about)])


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _data_url(path: Path) -> str:
    return f"data:image/{path.suffix[1:]};base64," + base64.b64encode(path.read_bytes()).decode()


CALLS = {name.removeprefix("run_"): value for name, value in dict(globals()).items() if name.startswith("run_")}

if __name__ == "__main__":
    CALLS[sys.argv[1]](sys.argv[2], Path(sys.argv[3]))
