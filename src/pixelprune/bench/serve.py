"""What pruning saves a server of vLLM: the same pictures, put to a stock server and to one that prunes.

Both run at once and take turns, one batch of requests each, so that a slow moment of the machine hits both; a server
that waits takes no time from the other. Caches are left as vLLM has them, but no picture is sent twice: each has its
number stamped into its last corner, so none is found in a cache, and both servers get the same ones.

Requests per second are those of two requests at a time. The time to the first token is that of a request which is
alone on its server: of two at once, it would tell which one was served first.
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
from pixelprune.bench._client import NAME, Batch, ask, body, send
from pixelprune.bench._servers import Server
from pixelprune.bench._timing import machine
from pixelprune.images.files import load_image
from pixelprune.images.samples import SAMPLES, photograph, sample_path
from pixelprune.selection._blocks import Image
from pixelprune.selection.config import PruneConfig
from pixelprune.vllm.options import KEY

# For the stand-in model: few and short requests, no minutes of compiling.
STANDIN_OPTIONS = ["--enforce-eager", "--max-model-len", "4096", "--kv-cache-memory-bytes", str(2**29)]

# Two engines share what one would take: vLLM takes nearly all memory unless it is told otherwise.
_SHARED = ["--gpu-memory-utilization", "0.45"]
# Profiling for the largest video takes memory that no request here needs.
_ALWAYS = ["--limit-mm-per-prompt", '{"image": 1, "video": 0}', "--served-model-name", NAME]


class NotPrunedError(RuntimeError):
    """The server that should prune does not; the text is one line."""


def default_pictures(longer: int = 1024) -> dict[str, Image]:
    """The shipped samples with a longer side of about so many pixels, and a photograph."""
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
    tell: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Measure a stock server and one that prunes.

    Args:
        model: name or folder, of one of the architectures that the plugin prunes.
        pictures: uint8 (H, W, 3), by name.
        arguments: options of `vllm serve` for both.
        config: what may be dropped; default: exact duplicates.
        requests: of each picture in each round, two at a time; half as many are sent alone.
        rounds: in each, every picture is put to both servers; a batch before the first one is thrown away.
        one_after_another: run the servers one after the other, for machines that do not hold two.
        tell: is called with what is being done.

    Returns:
        ``machine``, and ``pictures``: by name its ``size``, and for ``stock`` and ``pruned`` the medians
        ``requests_per_second``, ``first_token_ms`` and ``prompt_tokens``, and ``bytes``, which go from the front end
        to the engine for one picture.

    Raises:
        NotPrunedError: a flat picture has no fewer tokens on the server that prunes.
        ServerError: a server did not start, or refused a request.
        ValueError: `arguments` speak of pruning already.
    """
    shared = [*_ALWAYS, *([] if one_after_another else _SHARED), *arguments]
    commands = {"stock": shared, "pruned": with_pruning(shared, config or PruneConfig())}
    batches: dict[tuple[str, str], list[Batch]] = {}
    flat: dict[str, int] = {}
    for names in [[name] for name in commands] if one_after_another else [list(commands)]:
        with ExitStack() as running:
            urls = {}
            for name in names:
                tell(f"Starting the {name} server…")
                urls[name] = running.enter_context(Server(model, commands[name])).url
                flat[name] = ask(urls[name], np.full((512, 512, 3), 255, np.uint8)).prompt_tokens
            check(flat)
            batches |= measure(urls, pictures, requests, rounds, tell)
    tell("Counting bytes…")
    about, sent = run_in_subprocess(look, model, commands, dict(pictures))
    cases = {
        picture: {
            "size": [image.shape[1], image.shape[0]],
            **{name: {**summary(batches[name, picture]), "bytes": sent[name][picture]} for name in commands},
        }
        for picture, image in pictures.items()
    }
    return {"machine": {**machine(), **about}, "pictures": cases}


def with_pruning(arguments: Sequence[str], config: PruneConfig) -> list[str]:
    """`arguments` with pruning put into `--hf-overrides`, which may be there for other reasons.

    Raises:
        ValueError: they speak of pruning already, or the overrides are no JSON object.

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
        raise ValueError(f"leave {KEY} out of --hf-overrides: one server is to have it, and the other one is not")
    return [*rest, "--hf-overrides", json.dumps({**overrides, KEY: config.to_dict()})]


def check(flat: Mapping[str, int]) -> None:
    """Raise NotPrunedError unless a flat picture has fewer tokens where it is pruned."""
    if "stock" in flat and "pruned" in flat and flat["pruned"] >= flat["stock"]:
        raise NotPrunedError(
            f"a flat picture has {flat['pruned']} prompt tokens on the server that should prune and {flat['stock']} on "
            "the stock one, so nothing is pruned; `pixelprune check vllm` tells why"
        )


def measure(
    urls: Mapping[str, str],
    pictures: Mapping[str, Image],
    requests: int,
    rounds: int,
    tell: Callable[[str], object] = lambda line: None,
) -> dict[tuple[str, str], list[Batch]]:
    """Batches by server and picture; in each round, the server that comes first is another one."""
    numbers = count()
    batches: dict[tuple[str, str], list[Batch]] = {(name, picture): [] for name in urls for picture in pictures}
    for number in range(rounds + 1):
        tell(f"Measuring, round {number} of {rounds}…" if number else "Warming up…")
        for picture, image in pictures.items():
            alone = (requests + 1) // 2 if number else 0
            bodies = [body(stamped(image, next(numbers))) for _ in range(requests + alone)]
            for name in list(urls)[:: 1 if number % 2 else -1]:
                batch = send(urls[name], bodies[alone:], bodies[:alone])
                if number:
                    batches[name, picture].append(batch)
    return batches


def summary(batches: Sequence[Batch]) -> dict[str, float]:
    """Medians: of batches for requests per second, of requests that were alone for all else."""
    answers = [answer for batch in batches for answer in batch.alone]
    return {
        "requests_per_second": statistics.median(batch.requests / batch.seconds for batch in batches),
        "first_token_ms": 1e3 * statistics.median(answer.first for answer in answers),
        "prompt_tokens": round(statistics.median(answer.prompt_tokens for answer in answers)),
    }


def stamped(image: Image, number: int) -> Image:
    """A copy of `image` that no other number has: 16 bits, black or white, in 8 x 8 pixels of its last corner."""
    bits = [255 * (number >> place & 1) for place in range(16)]
    copy = image.copy()
    copy[-8:, -8:] = np.array(bits, np.uint8).reshape(4, 4).repeat(2, 0).repeat(2, 1)[..., None]
    return copy


def look(
    model: str, commands: Mapping[str, Sequence[str]], pictures: Mapping[str, Image]
) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """Versions and device, and by name of a command and of a picture its `payload`."""
    import torch
    import transformers
    import vllm
    from vllm.platforms import current_platform

    versions = {module.__name__: str(module.__version__) for module in (vllm, torch, transformers)}
    sizes = {name: payload(model, command, pictures) for name, command in commands.items()}
    return {"device": current_platform.get_device_name(), **versions}, sizes


def payload(model: str, arguments: Sequence[str], pictures: Mapping[str, Image]) -> dict[str, int]:
    """Bytes that vLLM's front end sends its engine for one picture each: what its own encoder makes of them."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.inputs import MultiModalFeatureSpec
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.serial_utils import MsgpackEncoder

    asked = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", model, *arguments])
    processor = MULTIMODAL_REGISTRY.create_processor(AsyncEngineArgs.from_cli_args(asked).create_model_config())
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
