"""What pruning saves in a vLLM server: the same images, sent to a stock server and to one that prunes.

Both run at the same time and get batches of requests in turn, so that a slow moment of the machine hits both; a waiting
server takes no time from the other. Caches stay as vLLM has them, but no image is sent twice: each has its number
stamped into its last corner, so none is found in a cache, and both servers get the same images.

Requests per second are measured with two requests at a time. The time to the first token is measured with one request
at a time: with two, it would depend on which one is served first.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from typing import Any

import numpy as np
import PIL.Image

from pixelprune._processes import run_in_subprocess
from pixelprune.bench._client import NAME, Batch, ask, request_body, send
from pixelprune.bench._servers import Server
from pixelprune.bench._tables import Table, counted, measured_on, numbers, texts
from pixelprune.bench._timing import machine
from pixelprune.images.files import load_image
from pixelprune.images.samples import SAMPLES, photograph, sample_path
from pixelprune.selection._blocks import Image
from pixelprune.selection.config import PruneConfig
from pixelprune.vllm.options import KEY

# For the stand-in model: few and short requests, without minutes of compiling.
STANDIN_OPTIONS = ["--enforce-eager", "--max-model-len", "4096", "--kv-cache-memory-bytes", str(2**29)]

# Two engines share the memory; by default, each would take nearly all of it.
_SHARED = ["--gpu-memory-utilization", "0.45"]
# Profiling for the largest video takes memory that no request here needs.
_ALWAYS = ["--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--served-model-name", NAME]

# Key of a result, what it is called in a table, its unit, and how a number is written.
_MEASURES = (
    ("requests_per_second", "requests per second", 1, "{:.2f}"),
    ("first_token_ms", "time to first token", 1e3, "{:.2f} s"),
    ("prompt_tokens", "prompt tokens", 1, "{:,.0f}"),
    ("bytes", "image data between processes", 1e6, "{:.2f} MB"),
)


# What shows whether a server prunes, and its name among pictures.
_FLAT = np.full((512, 512, 3), 255, np.uint8)
_PROBE = "a flat image"


class NotPrunedError(RuntimeError):
    """The server that should prune does not; the text is one line."""


def default_pictures(longer: int = 1024) -> dict[str, Image]:
    """The shipped samples with a longer side of about `longer` pixels, and a photograph."""
    pictures = {name: _resized(load_image(sample_path(name)), longer) for name in SAMPLES}
    return {**pictures, "photograph": photograph(longer * 3 // 4)}


def bench_serve(
    model: str,
    pictures: Mapping[str, Image],
    arguments: Sequence[str] = (),
    *,
    config: PruneConfig | None = None,
    requests: int = 4,
    rounds: int = 3,
    one_after_another: bool = False,
    on_progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Measure a stock server and one that prunes.

    Args:
        model: name or folder; its architecture must be one that the plugin prunes.
        pictures: uint8 (H, W, 3), by name.
        arguments: options of `vllm serve` for both.
        config: what may be dropped; default: exact duplicates.
        requests: per image and round, two at a time; half as many are sent one by one.
        rounds: in each, every image is sent to both servers; one round of warm-up is thrown away.
        one_after_another: run one server after the other, for machines whose memory does not hold two.
        on_progress: called with a line that says what is being done.

    Returns:
        ``machine``, and ``pictures``: by name the ``size`` (W, H) in pixels, and for ``stock`` and ``pruned`` the
        medians ``requests_per_second``, ``first_token_ms`` and ``prompt_tokens``, and ``bytes``, which vLLM's front end
        sends to its engine per image.

    Raises:
        NotPrunedError: a flat image has as many tokens, or with `restore` 1 bytes, on the server that prunes.
        ServerError: a server did not start, or refused a request.
        ValueError: `arguments` already configure pruning.
    """
    config = config or PruneConfig()
    shared = [*_ALWAYS, *([] if one_after_another else _SHARED), *arguments]
    commands = {"stock": shared, "pruned": with_pruning(shared, config)}
    batches: dict[tuple[str, str], list[Batch]] = {}
    flat: dict[str, int] = {}
    for names in [[name] for name in commands] if one_after_another else [list(commands)]:
        with ExitStack() as running:
            urls = {}
            for name in names:
                on_progress(f"Starting the {name} server…")
                urls[name] = running.enter_context(Server(model, commands[name])).url
                flat[name] = ask(urls[name], _FLAT).prompt_tokens
            if config.restore < 1:  # else the language model gets as many tokens, and bytes are compared
                check(flat, "prompt tokens")
            batches |= measure(urls, pictures, requests, rounds, on_progress)
    on_progress("Counting bytes…")
    probe = {_PROBE: _FLAT} if config.restore == 1 else {}
    about, sent = run_in_subprocess(versions_and_bytes, model, commands, {**pictures, **probe})
    if probe:
        check({name: sizes[_PROBE] for name, sizes in sent.items()}, "bytes of image data")
    cases = {
        picture: {
            "size": [image.shape[1], image.shape[0]],
            **{name: {**summary(batches[name, picture]), "bytes": sent[name][picture]} for name in commands},
        }
        for picture, image in pictures.items()
    }
    return {"machine": {**machine(), **about}, "pictures": cases}


def with_pruning(arguments: Sequence[str], config: PruneConfig) -> list[str]:
    """`arguments` with pruning added to `--hf-overrides`, which may already hold other keys.

    Raises:
        ValueError: pruning is already configured, or the overrides are not a JSON object.

    Example:
        >>> with_pruning(["--hf-overrides", '{"a": 1}', "--seed", "2"], PruneConfig())[:2]
        ['--seed', '2']
    """
    rest: list[str] = []
    given, words = "{}", iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if not name.replace("_", "-").startswith("--hf-overrides"):
            rest.append(word)
        elif "." in name:
            raise ValueError(f"--hf-overrides must be given once, as JSON, got {name}")
        else:
            given = value if equals else next(words, "")
    try:
        overrides = dict(json.loads(given))
    except (ValueError, TypeError):
        raise ValueError(f"--hf-overrides must be a JSON object, got {given}") from None
    if KEY in overrides:
        raise ValueError(f"leave {KEY} out of --hf-overrides: it is added for one of the two servers")
    return [*rest, "--hf-overrides", json.dumps({**overrides, KEY: config.to_dict()})]


def check(flat: Mapping[str, int], unit: str) -> None:
    """Raise NotPrunedError unless a flat image has less of `unit` on the server that prunes."""
    if "stock" in flat and "pruned" in flat and flat["pruned"] >= flat["stock"]:
        raise NotPrunedError(
            f"a flat image has {flat['pruned']} {unit} on the server that should prune and {flat['stock']} on "
            "the stock one, so nothing is pruned; `pixelprune check vllm` shows why"
        )


def measure(
    urls: Mapping[str, str],
    pictures: Mapping[str, Image],
    requests: int,
    rounds: int,
    on_progress: Callable[[str], object] = lambda line: None,
) -> dict[tuple[str, str], list[Batch]]:
    """Batches by server and picture; the server that comes first changes with each round."""
    stamps = count()
    batches: dict[tuple[str, str], list[Batch]] = {(name, picture): [] for name in urls for picture in pictures}
    for number in range(rounds + 1):
        on_progress(f"Measuring, round {number} of {rounds}…" if number else "Warming up…")
        for picture, image in pictures.items():
            alone = (requests + 1) // 2 if number else 0
            bodies = [request_body(stamped(image, next(stamps))) for _ in range(requests + alone)]
            for name in list(urls)[:: 1 if number % 2 else -1]:
                batch = send(urls[name], bodies[alone:], bodies[:alone])
                if number:
                    batches[name, picture].append(batch)
    return batches


def summary(batches: Sequence[Batch]) -> dict[str, float]:
    """Medians: over batches for requests per second, over requests sent one by one for everything else."""
    answers = [answer for batch in batches for answer in batch.alone]
    return {
        "requests_per_second": statistics.median(batch.requests / batch.seconds for batch in batches),
        "first_token_ms": 1e3 * statistics.median(answer.first for answer in answers),
        "prompt_tokens": round(statistics.median(answer.prompt_tokens for answer in answers)),
    }


def stamped(image: Image, number: int) -> Image:
    """A copy of `image` that is unique to `number`: its 16 bits, black or white, in the last 8 × 8 pixels."""
    bits = [255 * (number >> place & 1) for place in range(16)]
    copy = image.copy()
    copy[-8:, -8:] = np.array(bits, np.uint8).reshape(4, 4).repeat(2, 0).repeat(2, 1)[..., None]
    return copy


def versions_and_bytes(
    model: str, commands: Mapping[str, Sequence[str]], pictures: Mapping[str, Image]
) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Versions and device, and by name of a command the `engine_bytes` of each picture."""
    import torch
    import transformers
    import vllm
    from vllm.platforms import current_platform

    versions = {module.__name__: str(module.__version__) for module in (vllm, torch, transformers)}
    sizes = {name: engine_bytes(model, command, pictures) for name, command in commands.items()}
    return {"device": current_platform.get_device_name(), **versions}, sizes


def engine_bytes(model: str, arguments: Sequence[str], pictures: Mapping[str, Image]) -> dict[str, int]:
    """Bytes that vLLM's front end sends to its engine per picture, as vLLM's own encoder makes them."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.inputs import MultiModalFeatureSpec
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.serial_utils import MsgpackEncoder

    options = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", model, *arguments])
    processor = MULTIMODAL_REGISTRY.create_processor(AsyncEngineArgs.from_cli_args(options).create_model_config())
    prompt = processor.dummy_inputs.get_dummy_text({"image": 1})
    sizes = {}
    for name, image in pictures.items():
        items = processor.info.parse_mm_data({"image": [PIL.Image.fromarray(stamped(image, 0))]})
        done = processor(prompt, items)
        features = [
            MultiModalFeatureSpec(data=item, modality="image", identifier=digest, mm_position=place, mm_hash=digest)
            for item, digest, place in zip(
                done["mm_kwargs"]["image"], done["mm_hashes"]["image"], done["mm_placeholders"]["image"], strict=True
            )
        ]
        sizes[name] = sum(memoryview(part).nbytes for part in MsgpackEncoder().encode(features))
    return sizes


def _resized(image: Image, longer: int) -> Image:
    scale = longer / max(image.shape)
    height, width = (max(32, round(side * scale / 32) * 32) for side in image.shape[:2])
    return np.array(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BICUBIC))


def table(result: Mapping[str, Any]) -> Table:
    """The table of a result of `pixelprune bench serve`."""
    rows = []
    for name, case in result["pictures"].items():
        for key, label, unit, form in _MEASURES:
            stock, pruned = case["stock"][key], case["pruned"][key]
            cells = [form.format(value / unit) for value in (stock, pruned)]
            size = f"{name}, {case['size'][0]} × {case['size'][1]}"
            rows.append((size, label, *cells, f"{pruned / stock:.2f} ×"))
    rounds, requests = counted(result["rounds"], "round"), counted(result["requests"], "request")
    restored = f", restore {result['restore']:g}" if result.get("restore") else ""
    how = f"{rounds} of {requests} two at a time and {(result['requests'] + 1) // 2} alone"
    return Table(
        f"vLLM, {result['model'] or 'random weights, widths of Qwen3-VL-2B, 2 + 2 layers'}, medians",
        texts("image", "measure") + numbers("stock", "pruned", "pruned ÷ stock"),
        tuple(rows),
        (measured_on(result["machine"], f"τ = {result['threshold']:g}{restored}, {how}"),),
    )
