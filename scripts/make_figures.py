"""Make the picture and the tables of README.md and docs/.

    python scripts/make_figures.py [picture] [samples] [families] [bench] [processor] [prefill] [train]
    python scripts/make_figures.py accuracy padding
    python scripts/make_figures.py serve architectures

Tables stand between a pair of HTML comments that name them, and are replaced in place. `bench`, `processor`,
`prefill`, `train`, `padding` and `serve` measure this machine, so run nothing else beside them. The second line is
about the trained small model; the third is for the Python of an environment that has vLLM and pytest. What these two
make is made only if it is asked for.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import PIL.Image
from PIL import ImageDraw

import pixelprune
import pixelprune.images.sizes
from pixelprune.images.overlay import overlay
from pixelprune.images.samples import SAMPLES, sample_path

ROOT = Path(__file__).resolve().parent.parent
README, BENCHMARK, TRAINING = ROOT / "README.md", ROOT / "docs" / "benchmark.md", ROOT / "docs" / "training.md"
PICTURE = ROOT / "docs" / "images" / "page.png"


def picture() -> None:
    """The top of the sample page, as it is and as it is kept, side by side."""
    image = pixelprune.fit_image(pixelprune.load_image(sample_path("page")), "qwen3-vl")
    kept = overlay(image, pixelprune.select(image))
    gap, (width, height) = 24, (image.shape[1], 1120)
    sheet = PIL.Image.new("RGB", (2 * width + gap, height), "white")
    sheet.paste(PIL.Image.fromarray(image), (0, 0))
    sheet.paste(kept, (width + gap, 0))
    PICTURE.parent.mkdir(exist_ok=True)
    ImageDraw.Draw(sheet).rectangle((0, 0, width - 1, height - 1), outline="#c9ced8", width=2)
    half = (sheet.width // 2, sheet.height // 2)
    sheet.resize(half, PIL.Image.Resampling.LANCZOS).quantize(128).save(PICTURE, optimize=True)


def samples_table() -> str:
    """What is kept of the shipped samples: the same everywhere, but for how a Pillow version resizes."""
    lines = [
        "| sample | model | visual tokens | kept, τ = 0 | kept, τ = 0.02 | kept, τ = 0.02, rmse |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name in SAMPLES:
        for model in ("qwen3-vl", "qwen2.5-vl"):
            image = pixelprune.fit_image(pixelprune.load_image(sample_path(name)), model)
            block = pixelprune.preset(model).block
            configs = [pixelprune.PruneConfig(), pixelprune.PruneConfig(0.02), pixelprune.PruneConfig(0.02, "rmse")]
            kept = [pixelprune.select(image, config, block=block) for config in configs]
            cells = [f"{selection.kept:,} ({selection.retain_ratio:.3f})" for selection in kept]
            lines.append(f"| {name} | {model} | {kept[0].total:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bench_table(result: dict[str, Any]) -> str:
    """Times as multiples of copying the image, from the JSON of `pixelprune bench select`."""
    sides = result["milliseconds"]
    lines = ["| | " + " | ".join(f"{side}²" for side in sides) + " |", "|---|" + "---:|" * len(sides)]

    def line(label: str, cells: list[str]) -> None:
        lines.append(f"| {label} | {' | '.join(cells)} |")

    times = list(sides.values())
    line("copying the image (`image.copy()`)", [f"{t['copy']:.3f} ms" for t in times])
    for name, label in (
        ("exact", "selecting from a page, τ = 0"),
        ("bounded", "selecting from a page, τ = 0.02"),
        ("rmse", "selecting from a page, τ = 0.02, rmse"),
        ("photo_exact", "selecting from a photograph, τ = 0"),
        ("photo_bounded", "selecting from a photograph, τ = 0.02"),
        ("photo_rmse", "selecting from a photograph, τ = 0.02, rmse"),
        ("torch", "float torch code, τ = 0"),
        ("torch_compare", "its comparisons alone, patches given"),
    ):
        line(label, [f"{t[name] / t['copy']:.2f} × the copy" for t in times])
    line("float torch code against selecting, τ = 0", [f"{t['torch'] / t['exact']:.0f} ×" for t in times])
    line("float torch code against selecting, τ = 0.02", [f"{t['torch'] / t['bounded']:.0f} ×" for t in times])
    return "\n".join(lines)


def bench_notes(result: dict[str, Any]) -> str:
    machine, threads, startup = result["machine"], result["threads"], result["startup_milliseconds"]
    return (
        f"Measured on {machine['date']}: {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        f"numpy {machine['numpy']}; medians of one run on one thread.\n\n"
        f"- {threads['threads']} threads, each tied to a core, make {threads['speed_up']:.2f} × the selections of one "
        f"(2048², τ = 0).\n"
        f"- `import pixelprune`: {startup['import']:.0f} ms. First call in a fresh process, kernels already stored: "
        f"{startup['first_call']:.0f} ms."
    )


def processor_table(result: dict[str, Any]) -> str:
    """From the JSON of `pixelprune bench processor`."""
    lines = [
        "| picture | stock | pruned | faster | `pixel_values`, stock | pruned | retained |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, sides in result["pictures"].items():
        for side, case in sides.items():
            lines.append(
                f"| {name}, {side}² | {case['stock_ms']:.1f} ms | {case['pruned_ms']:.1f} ms "
                f"| {case['stock_ms'] / case['pruned_ms']:.2f} × | {case['stock_bytes'] / 1e6:.0f} MB "
                f"| {case['pruned_bytes'] / 1e6:.0f} MB | {case['retain_ratio']:.3f} |"
            )
    return "\n".join(lines)


def prefill_table(result: dict[str, Any]) -> str:
    """From the JSON of `pixelprune bench prefill`."""
    lines = [
        "| page | visual tokens | kept | part | full | pruned | faster | by counted operations |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for side, case in result["sides"].items():
        for part, label in (("vision", "vision encoder"), ("language", "language model")):
            times = case[part]
            lines.append(
                f"| {side}² | {case['tokens']:,} | {case['kept']:,} | {label} | {times['full']:.2f} s "
                f"| {times['pruned']:.2f} s | {times['speed_up']:.2f} × | {times['flops']:.2f} × |"
            )
    return "\n".join(lines)


def train_table(result: dict[str, Any]) -> str:
    """From the JSON of `pixelprune bench train`."""
    lines = [
        "| picture | visual tokens | kept | part | full | pruned | full / pruned | by counted operations | apart |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for name, sides in result["pictures"].items():
        for side, case in sides.items():
            label = f"{name}, {side}² | {case['tokens']:,} | {case['kept']:,}"
            for part in ("forward", "backward", "step"):
                times = case[part]
                apart = f"{round(100 * (times['speed_up'] / times['flops'] - 1)):+d} %".replace("-", "−")
                lines.append(
                    f"| {label} | {part} | {times['full']:.2f} s | {times['pruned']:.2f} s "
                    f"| {times['speed_up']:.2f} × | {times['flops']:.2f} × | {apart} |"
                )
            memory = case["memory"]
            sizes = " | ".join(f"{memory[key] / 1e9:.2f} GB" for key in ("full", "pruned"))
            lines.append(f"| {label} | memory | {sizes} | {memory['saving']:.2f} × | | |")
    return "\n".join(lines)


def train_notes(result: dict[str, Any]) -> str:
    fixed = next(iter(next(iter(result["pictures"].values())).values()))["memory"]["fixed"]
    how = "float32 on one thread" if result["device"] == "cpu" else f"bfloat16 on {result['machine']['device']}"
    rounds = f"{result['rounds']} round{'s' if result['rounds'] > 1 else ''}"
    return (
        f"{where(result).removesuffix('.')}; {how}, {rounds}. "
        f"Weights and gradients, which are in no row: {fixed / 1e9:.2f} GB."
    )


def accuracy_table(result: dict[str, Any]) -> str:
    """From the JSON of `tiny_model.accuracy`."""
    lines = ["| model | visual tokens | reading | retained | finding | retained |", "|---|---|---:|---:|---:|---:|"]
    for model, ways in result["models"].items():
        for way, tasks in ways.items():
            cells = []
            for task in ("read", "find"):
                cell = tasks[task]
                low, high = (100 * end for end in cell["interval"])
                share = 100 * cell["right"] / cell["count"]
                cells += [f"{share:.1f} % ({low:.1f}–{high:.1f})", f"{cell['retained']:.2f}"]
            lines.append(f"| {model} | {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def accuracy_notes(result: dict[str, Any]) -> str:
    count = result["models"]["as trained"]["all tokens"]["read"]["count"]
    times = result["seconds a step"]
    full, kept = times["all tokens"], times["kept tokens"]
    return (
        f"{where(result).removesuffix('.')}; {count:,} held-out images a task. Forward and backward of "
        f"{result['batch']} images: {full:.2f} s with all tokens, {kept:.2f} s with those kept at τ = 0, "
        f"{full / kept:.2f} × faster (batches by turns, medians, one thread)."
    )


def padding_table(result: dict[str, Any]) -> str:
    """From the JSON of `tiny_model.padding`."""
    lines = ["| batches | tokens that are padding | forward and backward |", "|---|---:|---:|"]
    for name, label in (("random", "in random order"), ("alike", "of rows alike long after pruning")):
        lines.append(f"| {label} | {100 * result[name]['padding']:.0f} % | {result[name]['seconds']:.3f} s |")
    return "\n".join(lines)


def serve_table(result: dict[str, Any]) -> str:
    """From the JSON of `pixelprune bench serve`."""
    lines = ["| picture | | stock | pruned | pruned / stock |", "|---|---|---:|---:|---:|"]
    for name, case in result["pictures"].items():
        label = f"{name}, {case['size'][0]} × {case['size'][1]}"
        for key, what, unit, form in (
            ("requests_per_second", "requests per second", 1, ".2f"),
            ("first_token_ms", "time to first token", 1e3, ".2f"),
            ("prompt_tokens", "prompt tokens", 1, ",.0f"),
            ("bytes", "image data between processes", 1e6, ".2f"),
        ):
            ending = {"first_token_ms": " s", "bytes": " MB"}.get(key, "")
            stock, pruned = case["stock"][key], case["pruned"][key]
            cells = [f"{value / unit:{form}}{ending}" for value in (stock, pruned)]
            lines.append(f"| {label} | {what} | {' | '.join(cells)} | {pruned / stock:.2f} × |")
    return "\n".join(lines)


def serve_notes(result: dict[str, Any]) -> str:
    machine, requests = result["machine"], result["requests"]
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    return (
        f"{where(result).removesuffix('.')}, vLLM {machine['vllm']}{device}; τ = {result['threshold']:g}, "
        f"{result['rounds']} rounds of {requests} requests two at a time and {(requests + 1) // 2} alone."
    )


def where(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"Measured on {machine['date']}: {machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        f"torch {machine['torch']}, transformers {machine['transformers']}."
    )


def measured(name: str, *options: str) -> dict[str, Any]:
    """The JSON of one benchmark command."""
    command = [sys.executable, "-m", "pixelprune", "bench", name, "--json", *options]
    result: dict[str, Any] = json.loads(subprocess.check_output(command))
    return result


def of_tiny_model(name: str) -> dict[str, Any]:
    """The JSON of one module of `tiny_model`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        subprocess.run([sys.executable, "-m", f"tiny_model.{name}", "--out", str(out)], cwd=ROOT, check=True)
        result: dict[str, Any] = json.loads(out.read_text())
        return result


def families_table() -> str:
    """What `pixelprune.transformers` knows."""
    from pixelprune.transformers import families

    lines = ["| `model_type` | language-model positions | transformers |", "|---|---|---|"]
    for name in families.names():
        family = families.get(name)
        axes = "three axes" if family.positions == "mrope" else "one axis"
        newest = f" or newer, before {family.until.removesuffix('.0')}" if family.until else " or newer"
        lines.append(f"| {name} | {axes} | {family.since.removesuffix('.0')}{newest} |")
    return "\n".join(lines)


def farthest_apart() -> dict[str, dict[str, str]]:
    """By architecture, what the conformance tests of the vLLM plugin record, which run for it."""
    tests = [f"tests/vllm/test_{name}.py" for name in ("conformance", "more_architectures")]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-n", "2", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run([sys.executable, "-m", "pytest", *options, *tests], cwd=ROOT, check=True, stdout=sys.stderr)
        cases = ElementTree.parse(report).iter("testcase")
        recorded = [{item.get("name", ""): item.get("value", "") for item in case.iter("property")} for case in cases]
    return {case["architecture"]: case for case in recorded if "architecture" in case}


def architectures_table(recorded: dict[str, dict[str, str]]) -> str:
    """What the plugin for vLLM covers, and how near its answers are to those of another implementation."""
    from pixelprune.vllm import ARCHITECTURES

    lines = [
        "| architecture | positions | type | compared with | full | pruned |",
        "|---|---|---|---|---:|---:|",
    ]
    for name in ARCHITECTURES:
        case = recorded.get(name, {})
        cells = [case.get(key, "not run") for key in ("positions", "dtype", "reference")]
        apart = [f"{float(case[kind]):.0e}" if kind in case else "" for kind in ("full", "pruned")]
        lines.append(f"| {name} | {' | '.join([*cells, *apart])} |")
    return "\n".join(lines)


def replace(path: Path, name: str, text: str) -> None:
    """Put `text` between the comments that name it."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    content, count = pattern.subn(lambda match: match[1] + text + "\n" + match[2], path.read_text(encoding="utf-8"))
    if count != 1:
        sys.exit(f"make_figures: {path.name} must hold the comments of {name} once, found {count}")
    path.write_text(content, encoding="utf-8")


def main(names: list[str]) -> None:
    wanted = names or ["picture", "samples", "families", "bench", "processor", "prefill", "train"]
    if "picture" in wanted:
        picture()
    if "samples" in wanted:
        replace(README, "samples", samples_table())
    if "families" in wanted:
        replace(ROOT / "docs" / "transformers.md", "families", families_table())
    if "bench" in wanted:
        result = measured("select")
        replace(BENCHMARK, "bench", bench_table(result))
        replace(BENCHMARK, "notes", bench_notes(result))
        replace(README, "bench", bench_table(result))
    if "processor" in wanted:
        result = measured("processor")
        for path in (README, BENCHMARK):
            replace(path, "processor", processor_table(result))
        replace(BENCHMARK, "processor notes", where(result))
    if "prefill" in wanted:
        result = measured("prefill")
        for path in (README, BENCHMARK):
            replace(path, "prefill", prefill_table(result))
        replace(BENCHMARK, "prefill notes", where(result))
    if "train" in wanted:
        result = measured("train")
        replace(BENCHMARK, "train", train_table(result))
        replace(BENCHMARK, "train notes", train_notes(result))
    if "accuracy" in wanted:
        result = of_tiny_model("accuracy")
        for path in (README, TRAINING):
            replace(path, "accuracy", accuracy_table(result))
        replace(TRAINING, "accuracy notes", accuracy_notes(result))
    if "padding" in wanted:
        replace(TRAINING, "padding", padding_table(of_tiny_model("padding")))
    if "architectures" in wanted:
        replace(ROOT / "docs" / "vllm.md", "architectures", architectures_table(farthest_apart()))
    if "serve" in wanted:
        result = measured("serve")
        for path in (README, BENCHMARK):
            replace(path, "serve", serve_table(result))
        replace(BENCHMARK, "serve notes", serve_notes(result))


if __name__ == "__main__":
    main(sys.argv[1:])
