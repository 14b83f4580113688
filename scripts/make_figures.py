"""Make the picture and the tables of README.md and docs/.

    python scripts/make_figures.py [picture] [samples] [options] [commands] [families]
    python scripts/make_figures.py [bench] [processor] [prefill] [train]
    python scripts/make_figures.py accuracy restored padding mixed
    python scripts/make_figures.py serve architectures

A table stands between two HTML comments that name it, and is replaced in place. `bench`, `processor`, `prefill`,
`train`, `padding` and `serve` measure this machine, so run nothing else at the same time. Without arguments, everything
in the first two lines is made. The third line is about the trained small model; the fourth needs the Python of an
environment with vLLM and pytest.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import PIL.Image
from PIL import ImageDraw

import pixelprune
from pixelprune import PruneConfig
from pixelprune.bench._tables import Table, numbers, texts
from pixelprune.images.overlay import overlay
from pixelprune.images.samples import SAMPLES, sample_path

ROOT = Path(__file__).resolve().parent.parent
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
    """What is kept of the shipped samples: the same everywhere, except that versions of Pillow resize differently."""
    configs = (PruneConfig(), PruneConfig(0.02), PruneConfig(0.02, "rmse"))
    rows = []
    for name in SAMPLES:
        for model in ("qwen3-vl", "qwen2.5-vl"):
            selections = [_selection(name, model, config) for config in configs]
            kept = [f"{selection.kept:,} ({selection.retain_ratio:.3f})" for selection in selections]
            rows.append((name, model, f"{selections[0].total:,}", *kept))
    headings = ("visual tokens", "kept, τ = 0", "kept, τ = 0.02", "kept, τ = 0.02, rmse")
    return Table("Samples", texts("sample", "model") + numbers(*headings), tuple(rows)).markdown()


def samples_short_table() -> str:
    """What Qwen3-VL keeps of the shipped samples at τ = 0."""
    selections = {name: _selection(name, "qwen3-vl", PruneConfig()) for name in SAMPLES}
    rows = [(name, f"{s.total:,}", f"{s.kept:,}", f"{s.retain_ratio:.3f}") for name, s in selections.items()]
    columns = texts("sample") + numbers("visual tokens", "kept", "retain ratio")
    return Table("Samples", columns, tuple(rows)).markdown()


def _selection(name: str, model: str, config: PruneConfig) -> pixelprune.Selection:
    image = pixelprune.fit_image(pixelprune.load_image(sample_path(name)), model)
    return pixelprune.select(image, config, block=pixelprune.preset(model).block)


def options_table() -> str:
    """The fields of PruneConfig."""
    rows = []
    for option in fields(PruneConfig):
        default = "none" if option.default is None else f"`{option.default}`"
        rows.append((f"`{option.name}`", default, str(option.metadata.get("help", ""))))
    return Table("Options", texts("option", "default", "meaning"), tuple(rows)).markdown()


def command_table(name: str) -> str:
    """The options of a command, as `--help` shows them."""
    import typer

    from pixelprune.cli.app import app

    command: Any = typer.main.get_command(app)
    for word in name.split()[1:]:
        command = command.commands[word]
    rows = []
    for option in command.params:
        if option.param_type_name == "option" and "--help" not in option.opts:
            default = "" if option.default is None or option.default is False else f"`{option.default}`"
            names = ", ".join(f"`{spelling}`" for spelling in option.opts)
            rows.append(
                (names, "required" if option.required else default, option.help.replace("<image>", "`<image>`"))
            )
    return Table(name, texts("option", "default", "meaning"), tuple(rows)).markdown()


def families_table() -> str:
    """The model families that `pixelprune.transformers` prunes."""
    from pixelprune.transformers import families

    rows = []
    for name in families.names():
        family = families.get(name)
        axes = "three axes" if family.positions == "mrope" else "one axis"
        newest = f" or newer, before {family.until.removesuffix('.0')}" if family.until else " or newer"
        rows.append((name, axes, family.since.removesuffix(".0") + newest))
    columns = texts("`model_type`", "language-model positions", "transformers")
    return Table("Families", columns, tuple(rows)).markdown()


def architectures_table() -> str:
    """The architectures that the plugin for vLLM prunes, and how close its answers are to a reference."""
    from pixelprune.vllm import ARCHITECTURES

    recorded = recorded_differences()
    rows = []
    for name in ARCHITECTURES:
        case = recorded.get(name, {})
        cells = [case.get(key, "not run") for key in ("positions", "dtype", "reference")]
        differences = [f"{float(case[kind]):.0e}" if kind in case else "" for kind in ("full", "pruned")]
        rows.append((name, *cells, *differences))
    columns = texts("architecture", "positions", "type", "compared with") + numbers("full", "pruned")
    return Table("Architectures", columns, tuple(rows)).markdown()


def recorded_differences() -> dict[str, dict[str, str]]:
    """By architecture, what the conformance tests of the vLLM plugin record; runs these tests."""
    tests = [f"tests/vllm/test_{name}.py" for name in ("conformance", "more_architectures")]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        options = ["-q", "-n", "2", "-o", "junit_family=xunit1", f"--junitxml={report}"]
        subprocess.run([sys.executable, "-m", "pytest", *options, *tests], cwd=ROOT, check=True, stdout=sys.stderr)
        cases = ElementTree.parse(report).iter("testcase")
        recorded = [{item.get("name", ""): item.get("value", "") for item in case.iter("property")} for case in cases]
    return {case["architecture"]: case for case in recorded if "architecture" in case}


def benchmark_table(name: str) -> str:
    """Run `pixelprune bench NAME`."""
    command = [sys.executable, "-m", "pixelprune", "bench", name, "--json"]
    result: dict[str, Any] = json.loads(subprocess.check_output(command))
    table: Table = import_module(f"pixelprune.bench.{name}").table(result)
    return table.markdown()


def tiny_model_table(name: str) -> str:
    """Run `python -m tiny_model.NAME`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        subprocess.run([sys.executable, "-m", f"tiny_model.{name}", "--out", str(out)], cwd=ROOT, check=True)
        result: dict[str, Any] = json.loads(out.read_text())
    sys.path.insert(0, str(ROOT))
    made: Table | tuple[Table, ...] = import_module(f"tiny_model.{name}").table(result)
    return "\n\n".join(table.markdown() for table in (made if isinstance(made, tuple) else (made,)))


COMMANDS = [
    *(
        "pixelprune show",
        "pixelprune stats",
        "pixelprune verify",
        "pixelprune train sft",
        "pixelprune train distill",
        "pixelprune check vllm",
    ),
    *(f"pixelprune bench {name}" for name in ("select", "processor", "prefill", "train", "serve")),
]

# What to call it, where it stands, and what makes it.
TABLES: list[tuple[str, str, Callable[[], str]]] = [
    ("samples", "README.md", samples_short_table),
    ("samples", "docs/method.md", samples_table),
    ("options", "docs/method.md", options_table),
    *((name, "docs/cli.md", partial(command_table, name)) for name in COMMANDS),
    ("families", "docs/transformers.md", families_table),
    ("bench", "docs/benchmark.md", partial(benchmark_table, "select")),
    ("processor", "docs/benchmark.md", partial(benchmark_table, "processor")),
    ("prefill", "docs/benchmark.md", partial(benchmark_table, "prefill")),
    ("train", "docs/benchmark.md", partial(benchmark_table, "train")),
    ("serve", "docs/benchmark.md", partial(benchmark_table, "serve")),
    ("accuracy", "docs/training.md", partial(tiny_model_table, "accuracy")),
    ("restored", "docs/training.md", partial(tiny_model_table, "restored")),
    ("padding", "docs/training.md", partial(tiny_model_table, "padding")),
    ("mixed", "docs/training.md", partial(tiny_model_table, "mixed")),
    ("architectures", "docs/vllm.md", architectures_table),
]
ON_REQUEST = {"serve", "accuracy", "restored", "padding", "mixed", "architectures"}
NAMES = ["picture", "commands", *dict.fromkeys(name for name, _, _ in TABLES if name not in COMMANDS)]


def with_table(path: Path, name: str, text: str) -> str:
    """The content of a page with `text` between the comments that name it; ends the script if they are missing."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    content, count = pattern.subn(lambda match: match[1] + text + "\n" + match[2], path.read_text(encoding="utf-8"))
    if count != 1:
        sys.exit(
            f"make_figures: {path.name} must have a line <!-- {name} --> and later a line <!-- /{name} -->, once each; "
            f"found {count} such pairs"
        )
    return content


def main(wanted: list[str]) -> None:
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        sys.exit(f"make_figures: names must be among {', '.join(NAMES)}, got {', '.join(unknown)}")
    wanted = wanted or [name for name in NAMES if name not in ON_REQUEST]
    if "commands" in wanted:
        wanted = [*wanted, *COMMANDS]
    tables = [(name, ROOT / page, make) for name, page, make in TABLES if name in wanted]
    for name, path, _ in tables:
        with_table(path, name, "")  # an error now, not after minutes of measuring
    if "picture" in wanted:
        picture()
    for name, path, make in tables:
        path.write_text(with_table(path, name, make()), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
