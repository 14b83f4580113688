"""The API server as its clients see it, with the openai package."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

import pixelprune
from pixelprune.bench._servers import Server
from tests.support.engines import Pictures, environment, run
from tests.support.small_models import SMALL

IMAGE = SMALL["qwen3_vl"].image
ARGUMENTS = [
    *("--served-model-name", "small", "--dtype", "float32", "--max-model-len", "2048", "--max-num-seqs", "8"),
    *("--enforce-eager", "--limit-mm-per-prompt", '{"image": 4, "video": 0}', "--trust-request-mm-kwargs"),
    "--enable-prompt-tokens-details",
    *("--hf-overrides", '{"pixelprune": {"threshold": 0.0}}'),
]
SETS = [["page"], ["screen"], ["crop", "photo"], ["flat"], ["photo"]]
OPTIONS = [
    None,
    False,
    {"threshold": 0.05},
    {"threshold": 0.02, "metric": "rmse"},
    {"restore": 0.5},
    {"min_tokens": 40},
]
KINDS = [(names, options) for names in SETS for options in OPTIONS]


@pytest.fixture(scope="module")
def server(checkpoint: Any) -> Any:
    with Server(str(checkpoint("qwen3_vl")), ARGUMENTS, environment(VLLM_ENABLE_V1_MULTIPROCESSING="1")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=1800, max_retries=0)


def data_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def ask(client: openai.OpenAI, urls: list[str], options: Any = None, extra: dict[str, Any] | None = None) -> Any:
    body: dict[str, Any] = {"return_token_ids": True, "ignore_eos": True}
    if options is not None:
        body["mm_processor_kwargs"] = {"pixelprune": options}
    parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": [*parts, {"type": "text", "text": "read the total"}]}],
        max_tokens=8,
        temperature=0,
        extra_body={**body, **(extra or {})},
    )


def test_many_clients_at_once(client: openai.OpenAI, checkpoint: Any, pictures: Pictures, tmp_path: Path) -> None:
    requests = [pictures.request(IMAGE, names, options) for names, options in KINDS]
    job = {
        "model": str(checkpoint("qwen3_vl")),
        "engine": {"hf_overrides": {"pixelprune": {"threshold": 0.0}}, "max_model_len": 2048},
        "requests": requests,
        "rounds": [[i] for i in range(len(requests))],
        "prompt_logprobs": False,
    }
    offline = [answers[0] for answers in run(tmp_path, job)["rounds"]]
    urls = {name: data_url(path.read_bytes()) for name, path in pictures.paths.items()}

    def one(number: int) -> Any:
        names, options = KINDS[number % len(KINDS)]
        return ask(client, [urls[name] for name in names], options)

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(one, range(200)))
    assert len(answers) == 200
    for number, answer in enumerate(answers):
        expected = offline[number % len(KINDS)]
        assert answer.choices[0].token_ids == expected["ids"], KINDS[number % len(KINDS)]
        assert answer.usage.prompt_tokens == len(expected["prompt_ids"])
    tokens = {str(kind): len(answer["prompt_ids"]) for kind, answer in zip(KINDS, offline, strict=True)}
    for names in SETS:
        exact, full, bounded, _, copied, _ = (tokens[str((names, options))] for options in OPTIONS)
        assert bounded <= exact <= copied <= full
        assert exact < copied < full or names == ["photo"]


def test_usage_counts_the_kept_tokens_of_images(client: openai.OpenAI, pictures: Pictures) -> None:
    urls = {name: data_url(path.read_bytes()) for name, path in pictures.paths.items()}
    for names in SETS:
        usages = [ask(client, [urls[name] for name in names], options).usage for options in (None, False)]
        kept, full = (usage.prompt_tokens_details.multimodal_tokens["image"] for usage in usages)
        assert full - kept == usages[1].prompt_tokens - usages[0].prompt_tokens
        assert full == sum(total(pictures.paths[name]) for name in names)
        assert kept < full or names == ["photo"]


def total(path: Path) -> int:
    """Blocks of 32 × 32 pixels of an image, whose sides the processor rounds to whole blocks."""
    with Image.open(path) as image:
        return round(image.width / 32) * round(image.height / 32)


BAD_OPTIONS = {
    "unknown option": ({"treshold": 0.1}, "pixelprune: unknown option 'treshold'; known options: threshold, metric"),
    "out of range": ({"threshold": 5}, "threshold must be a number in \\[0, 1\\], got 5"),
    "not a number": ({"threshold": "high"}, "threshold must be a number"),
    "unknown metric": ({"metric": "psnr"}, "metric must be one of 'max', 'mae', 'rmse', got 'psnr'"),
    "unknown predictor": ({"predictor": "best"}, "best"),
    "no budget": ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1"),
    "contradiction": (
        {"min_tokens": 65, "max_tokens": 64},
        "pixelprune: min_tokens must be at most the token budget \\(64\\), got 65; lower it or raise the budget",
    ),
    "text": ("yes", "pixelprune must be an object of options, true or false, got"),
    "number": (3, "pixelprune must be an object of options, true or false, got"),
    "list": ([0.02], "pixelprune must be an object of options, true or false, got"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_options_that_are_wrong_are_refused(case: str, client: openai.OpenAI, pictures: Pictures) -> None:
    options, text = BAD_OPTIONS[case]
    with pytest.raises(openai.BadRequestError, match=text):
        ask(client, [data_url(pictures.paths["page"].read_bytes())], options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pixel_prune": True}, "unknown option 'pixel_prune'; did you mean 'pixelprune'"),
        ({"images_kwargs": {"pixelprune": True}}, "'pixelprune' is nested inside 'images_kwargs'; move it up, next to"),
        ({"threshold": 0.1}, "'threshold' is an option of pixelprune; write"),
    ],
)
def test_options_in_the_wrong_place_are_refused(
    options: dict[str, Any], text: str, client: openai.OpenAI, pictures: Pictures
) -> None:
    page = data_url(pictures.paths["page"].read_bytes())
    with pytest.raises(openai.BadRequestError, match=text):
        ask(client, [page], extra={"mm_processor_kwargs": options})


def bad_images(pictures: Pictures) -> dict[str, str]:
    page = pictures.paths["page"].read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2400, 3), np.uint8)
    return {
        "truncated": data_url(page[: len(page) // 2]),
        "text": data_url(b"not an image", "text/plain"),
        "empty": data_url(b""),
        "not base64": "data:image/png;base64,@@@",
        "no address": "nonsense",
        "huge": data_url(png(Image.fromarray(noise).resize((7000, 6000), Image.Resampling.NEAREST))),
        "long": data_url(png(Image.new("RGB", (9000, 20), "white"))),
    }


def test_images_that_cannot_be_used_are_refused_and_the_server_lives_on(
    client: openai.OpenAI, pictures: Pictures
) -> None:
    page = data_url(pictures.paths["page"].read_bytes())
    before = ask(client, [page]).choices[0].token_ids
    for name, url in bad_images(pictures).items():
        with pytest.raises(openai.APIStatusError) as error:
            ask(client, [url])
        assert 400 <= error.value.status_code < 500, (name, error.value)
        assert ask(client, [page]).choices[0].token_ids == before
    tiny = ask(client, [data_url(png(Image.new("RGB", (1, 1), "red")))])
    assert tiny.usage.prompt_tokens < 40


def test_a_user_s_own_names_of_images_hold_their_options(client: openai.OpenAI, pictures: Pictures) -> None:
    url = data_url(pictures.paths["page"].read_bytes())

    def named(options: Any) -> int:
        parts: list[Any] = [{"type": "image_url", "image_url": {"url": url}, "uuid": "page-1"}]
        body = {} if options is None else {"mm_processor_kwargs": {"pixelprune": options}}
        answer = client.chat.completions.create(
            model="small",
            messages=[{"role": "user", "content": [*parts, {"type": "text", "text": "read"}]}],
            max_tokens=2,
            extra_body=body,
        )
        return answer.usage.prompt_tokens if answer.usage else 0

    counts = [named(options) for options in (None, False, {"threshold": 0.05}, False, None)]
    assert counts[0] == counts[4]
    assert counts[1] == counts[3]
    assert counts[2] < counts[0] < counts[1]


def test_one_line_at_the_start_says_what_is_on(server: Server) -> None:
    lines = [line for line in server.log.splitlines() if f"pixelprune {pixelprune.__version__} prunes" in line]
    assert len(lines) == 1
    assert "Qwen3VLForConditionalGeneration" in lines[0]
    assert "threshold=0.0" in lines[0]
