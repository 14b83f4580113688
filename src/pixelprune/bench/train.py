"""What pruning saves in a training step: time and memory, all tokens against the kept ones."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pixelprune.bench._devices import check
from pixelprune.bench._flops import counted_flops, speed_up
from pixelprune.bench._tables import Table, counted, duration, measured_on, numbers, texts
from pixelprune.bench._timing import median_seconds, one_thread, square
from pixelprune.images.samples import photograph
from pixelprune.selection._blocks import Image
from pixelprune.standins import standin_processor, wide_model
from pixelprune.transformers import enable, kept

SIDES = (512, 1024)
HALVES = ("forward", "backward")
_FIGURES = numbers("full", "pruned", "full ÷ pruned", "by FLOPs", "deviation")
_QUESTION, _ANSWER = "What is the total of this page?", "It is 1,234.56, due in 30 days."


def bench_train(
    pictures: dict[str, Image],
    sides: Sequence[int] = SIDES,
    depth: int = 2,
    rounds: int = 3,
    device: str = "cpu",
    on_progress: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """A training step on one image, a question and its answer: all tokens against the kept ones.

    Widths are those of Qwen3-VL-2B, with `depth` layers each in encoder and language model instead of 24 and 28, and
    1,024 words instead of 151,936. All weights get gradients. The optimizer is left out: its work is the same for
    both, and in a model of few layers it would outweigh the rest.

    Args:
        pictures: uint8 (H, W, 3), by name; each is resized to side × side pixels. A photograph, from which nothing can
            be dropped, is added at the middle one of the sides: any deviation from 1 there is noise, or cost.
        sides: in pixels, multiples of 32, at least 256.
        depth: layers.
        rounds: timed rounds, in which both take turns; one round of warm-up is thrown away.
        device: "cpu" (float32, one thread) or "cuda" (bfloat16).
        on_progress: called with a line that says what is being done.

    Returns:
        By picture and side: ``tokens`` and ``kept`` of the picture, ``length`` (all tokens of the prompt, full and
        pruned), and by part:

        - ``forward``, ``backward`` and ``step`` (both together): median seconds ``full`` and ``pruned``, their quotient
          ``speed_up``, and ``flops``, the quotient of the floating-point operations counted in both;
        - ``memory``: peak bytes ``full`` and ``pruned`` of what a step holds besides its inputs, the weights and their
          gradients, the quotient ``saving``, and the bytes of weights and gradients, ``fixed``, the same for both.

    Raises:
        ValueError: a side or the device is not usable.
    """
    check(sides, device)
    model = wide_model(depth, depth).train()
    model, processor = enable(model, standin_processor(model))
    model.to(device, torch.bfloat16 if device == "cuda" else torch.float32)
    cases = [(name, picture, side) for name, picture in pictures.items() for side in sides]
    middle = sorted(sides)[len(sides) // 2]
    cases.append(("photograph", photograph(middle), middle))
    result: dict[str, Any] = {}
    with one_thread():
        for name, picture, side in cases:
            on_progress(f"{name}, {side}²…")
            image = PIL.Image.fromarray(square(picture, side))
            result.setdefault(name, {})[str(side)] = measure(model, processor, image, rounds)
    return result


def measure(model: Any, processor: Any, image: PIL.Image.Image, rounds: int) -> dict[str, Any]:
    """One entry of what `bench_train` returns, for a model and a processor that are enabled."""
    inputs = {"full": example(processor, image, pixelprune=False), "pruned": example(processor, image)}
    (found,) = kept(inputs["pruned"])
    steps = {name: Step(model, batch) for name, batch in inputs.items()}
    counts = {name: step.count() for name, step in steps.items()}
    halves = {(name, half): getattr(step, half) for name, step in steps.items() for half in HALVES}
    seconds = median_seconds(halves, rounds, before=model.zero_grad)
    memory = {name: peak for name, (_, peak) in counts.items()}
    return {
        "tokens": found.total,
        "kept": found.kept,
        "length": [batch["input_ids"].shape[1] for batch in inputs.values()],
        **_speed_ups(seconds, {name: flops for name, (flops, _) in counts.items()}),
        "memory": {
            **memory,
            "saving": memory["full"] / memory["pruned"],
            "fixed": 2 * sum(weight.nbytes for weight in model.parameters()),
        },
    }


def _speed_ups(
    seconds: Mapping[tuple[str, str], float], flops: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, float]]:
    """Both halves and the whole step, from what each half took "full" and "pruned"."""
    result = {}
    for part, halves in {**{half: (half,) for half in HALVES}, "step": HALVES}.items():
        full, pruned = (sum(seconds[name, half] for half in halves) for name in ("full", "pruned"))
        all_flops, kept_flops = (sum(flops[name][half] for half in halves) for name in ("full", "pruned"))
        result[part] = speed_up((full, pruned), (all_flops, kept_flops))
    return result


def example(processor: Any, image: PIL.Image.Image, **options: Any) -> dict[str, Any]:
    """Inputs of the model for an image, a question and its answer, with labels on the answer."""
    parts: list[dict[str, str]] = [{"type": "image"}, {"type": "text", "text": _QUESTION}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    answer = _ANSWER + processor.tokenizer.eos_token
    inputs = processor(text=[prompt + answer], images=[image], return_tensors="pt", **options)
    labels = inputs["input_ids"].clone()
    labels[:, : -len(processor.tokenizer(answer)["input_ids"])] = -100
    return {**inputs, "labels": labels}


class Step:
    """A training step of `model` on `inputs`, in halves that can be measured separately."""

    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        self.model = model
        self.inputs = {name: value.to(model.device) for name, value in inputs.items()}
        self.loss: Any = None

    def forward(self) -> None:
        # As Trainer does: without a cache.
        self.loss = self.model(**self.inputs, use_cache=False).loss
        self._wait()

    def backward(self) -> None:
        self.loss.backward()
        self.loss = None
        self._wait()

    def count(self) -> tuple[dict[str, int], int]:
        """Floating-point operations by half, and the peak bytes that both hold besides weights and gradients."""
        # With gradients in place, as in every accumulation step but the first.
        for weight in self.model.parameters():
            weight.grad = torch.zeros_like(weight)
        flops = {}

        def run() -> None:
            for half in HALVES:
                flops[half] = counted_flops(getattr(self, half))

        peak = peak_bytes(run, self.model.device)
        return flops, peak

    def _wait(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize()


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Peak bytes of the tensors alive at once during `run`, not counting those that existed before.

    On a CPU each tensor is counted from the operation that makes it until it is freed, as CUDA's own counter does on
    a GPU. The count is the same in every run; the resident size of the process also includes memory that malloc
    keeps in reserve.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return int(torch.cuda.max_memory_allocated() - before)
    count = _LiveBytes()
    with count:
        run()
    return count.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors made inside this context that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        # Views and in-place operations return storages that they were given.
        known = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(out):
            if id(storage) not in known:
                known.add(id(storage))
                size = storage.nbytes()
                self.live += size
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._end, size)
        return out

    def _end(self, size: int) -> None:
        self.live -= size


def _storages(values: Any) -> list[Any]:
    """One object per storage, however many tensors share it."""
    return [value.untyped_storage() for value in tree_leaves(values) if isinstance(value, Tensor)]


def table(result: Mapping[str, Any]) -> Table:
    """The table of a result of `pixelprune bench train`."""
    rows: list[tuple[str, ...]] = []
    for name, sides in result["pictures"].items():
        for side, case in sides.items():
            image = (f"{name}, {side}²", f"{case['tokens']:,}", f"{case['kept']:,}")
            rows += [(*image, part, *_cells(case[part])) for part in (*HALVES, "step")]
            memory = case["memory"]
            sizes = (f"{memory['full'] / 1e9:.2f} GB", f"{memory['pruned'] / 1e9:.2f} GB")
            rows.append((*image, "memory", *sizes, f"{memory['saving']:.2f} ×", "", ""))
    depth = result["depth"]
    return Table(
        f"Training step, widths of Qwen3-VL-2B, {depth} + {depth} layers, τ = 0, medians",
        (*texts("image"), *numbers("visual tokens", "kept"), *texts("part"), *_FIGURES),
        tuple(rows),
        _notes(result),
    )


def _cells(times: Mapping[str, float]) -> tuple[str, ...]:
    deviation = f"{round(100 * (times['speed_up'] / times['flops'] - 1)):+d} %".replace("-", "−")
    seconds = (duration(times["full"]), duration(times["pruned"]))
    return (*seconds, f"{times['speed_up']:.2f} ×", f"{times['flops']:.2f} ×", deviation)


def _notes(result: Mapping[str, Any]) -> tuple[str, ...]:
    types = "float32 on one thread" if result["device"] == "cpu" else "bfloat16"
    first = next(iter(next(iter(result["pictures"].values())).values()))
    return (
        measured_on(result["machine"], f"{types}, {counted(result['rounds'], 'round')}"),
        f"Weights and gradients, which no row includes: {first['memory']['fixed'] / 1e9:.2f} GB.",
    )
