"""`pixelprune stats` on a small corpus, against plain numpy and the reference in exact fractions."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import weakref
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL import ImageDraw
from typer.testing import CliRunner

import pixelprune
from pixelprune.cli import stats as command
from pixelprune.cli.app import app
from pixelprune.stats.images import measure
from tests.support.commands import COMMAND
from tests.support.reference import reference

pytest.importorskip("pypdfium2", reason="PDF pages need the extra 'pdf'")

SIDES = (320, 256)
THRESHOLDS = (0, 0.02, 0.05)
CONFIG = {
    "model_type": "qwen3_vl",
    "vision_config": {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "patch_size": 16}
    | {"spatial_merge_size": 2, "out_hidden_size": 64, "deepstack_visual_indexes": [0]},
    "text_config": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    | {"num_key_value_heads": 2},
}


class Settings(list):  # type: ignore[type-arg]
    """A list that can be watched, and hashed by what it is."""

    __hash__ = object.__hash__


def page() -> PIL.Image.Image:
    image = PIL.Image.new("RGB", SIDES, "white")
    draw = ImageDraw.Draw(image)
    for line in range(20, 200, 12):
        draw.text((20, line), "What differs from its neighbors is kept.", fill=(line, 0, 0))
    draw.rectangle((0, 224, 320, 256), fill=(250, 250, 250))
    return image


def noise() -> PIL.Image.Image:
    return PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 320, 3), np.uint8))


def data_url(path: Path) -> str:
    return f"data:image/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def request(*urls: Any) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "system", "content": "?"}, {"role": "user", "content": [{"type": "text"}, *parts]}]}


def _die(_: object) -> None:
    os._exit(1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stats")
    for name in ("pages/deep", "photos", "broken"):
        (folder / "in" / name).mkdir(parents=True)
    page().save(folder / "in/pages/a.png")
    PIL.Image.new("RGB", SIDES, "white").save(folder / "in/pages/deep/blank.png")
    page().save(folder / "in/pages/two.pdf", save_all=True, append_images=[noise()])
    noise().save(folder / "in/photos/a.jpg")
    page().save(folder / "in/photos/lossless.webp", lossless=True)
    page().save(folder / "in/photos/lossy.webp")
    (folder / "in/broken/b.png").write_bytes(b"\x89PNG\r\n\x1a\nand no more")
    noise().save(folder / "in/top.png")
    lines = [
        json.dumps(request(data_url(folder / "in/pages/a.png"))),
        json.dumps({"custom_id": "1", "body": request("in/top.png", data_url(folder / "in/photos/a.jpg"))}),
        "{",
        "",
        json.dumps(request()),
        json.dumps(request("https://example.com/a.png", "data:image/png,AA", "data:image/png;base64,A", "none.png")),
        json.dumps(request(f"file://{folder}/in/photos/lossy.webp", "data:image/png;base64,AAAA")),
        json.dumps([1]),
        json.dumps(request(None)),
    ]
    (folder / "requests.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture(autouse=True)
def inside(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(corpus)


def stats(*arguments: object, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["stats", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done


def stats_json(*arguments: object, code: int = 0) -> Any:
    return json.loads(stats(*arguments, "--json", code=code).stdout)


def blocks_of(image: np.ndarray) -> np.ndarray:
    rows, columns = image.shape[0] // 32, image.shape[1] // 32
    cut = [image[32 * r : 32 * r + 32, 32 * c : 32 * c + 32].ravel() for r in range(rows) for c in range(columns)]
    return np.stack(cut)


def expected(path: str, page: int | None = None, metric: str = "max") -> tuple[int, int, list[int]]:
    """Blocks, distinct blocks, and how many are kept at each threshold."""
    image = pixelprune.fit_image(pixelprune.load_image(path, page=page or 1))
    blocks = blocks_of(image)
    kept = []
    for threshold in THRESHOLDS:
        source = np.array(reference(image, 32, "pred2d", metric, Fraction(str(threshold)))).ravel()
        kept.append(int((source == np.arange(source.size)).sum()))
    return len(blocks), len(np.unique(blocks, axis=0)), kept


def found(row: Any) -> tuple[int, int, list[int]]:
    return row["tokens"], row["distinct"], [setting["kept"] for setting in row["settings"]]


def check_sums(result: Any) -> None:
    """Categories and total, computed once more from the rows."""
    groups: dict[str, list[Any]] = {}
    for row in result["images"]:
        groups.setdefault(row["category"], []).append(row)
    assert sorted(groups) == [*result["categories"]]
    for rows, sums in [*((groups[name], result["categories"][name]) for name in groups),
                       (result["images"], result["total"])]:  # fmt: skip
        assert sums["images"] == len(rows)
        for name in ("tokens", "distinct", "blank", "lossy"):
            assert sums[name] == sum(row[name] for row in rows)
        assert sums["distinct_ratio"] == sums["distinct"] / sums["tokens"]
        for n, setting in enumerate(sums["settings"]):
            ours = [row["settings"][n] for row in rows]
            for name in ("kept", "language_tokens"):
                assert setting[name] == sum(one[name] for one in ours)
            assert setting["retain_ratio"] == setting["kept"] / sums["tokens"]
            ratios = [round(one["kept"] / row["tokens"], 4) for one, row in zip(ours, rows, strict=True)]
            for share, value in setting["quantiles"].items():
                assert value == np.quantile(ratios, float(share), method="inverted_cdf")


class TestFigures:
    @pytest.mark.parametrize("metric", ["max", "mae"])
    def test_of_every_image(self, metric: str) -> None:
        result = stats_json("in", "--metric", metric, code=2)
        rows = {(row["image"], row["page"]): row for row in result["images"]}
        assert list(rows) == [
            ("in/pages/a.png", None), ("in/pages/deep/blank.png", None), ("in/pages/two.pdf", 1),
            ("in/pages/two.pdf", 2), ("in/photos/a.jpg", None), ("in/photos/lossless.webp", None),
            ("in/photos/lossy.webp", None), ("in/top.png", None),
        ]  # fmt: skip
        for (path, number), row in rows.items():
            assert found(row) == expected(path, number, metric)
        assert [error.split(":")[0] for error in result["errors"]] == ["in/broken/b.png"]
        assert [row["category"] for row in rows.values()] == ["pages"] * 4 + ["photos"] * 3 + ["in"]
        assert [path for (path, _), row in rows.items() if row["lossy"]] == ["in/photos/a.jpg", "in/photos/lossy.webp"]
        assert [path for (path, _), row in rows.items() if row["blank"]] == ["in/pages/deep/blank.png"]
        assert 1 < rows["in/pages/a.png", None]["distinct"] < rows["in/pages/a.png", None]["tokens"]
        assert result["total"]["pages"] == 2
        check_sums(result)

    def test_copies_and_budget(self) -> None:
        options = {"restore": 0.5, "max_tokens": 60, "min_tokens": 4}
        typed = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
        result = stats_json("in/pages/a.png", "in/top.png", *typed)
        for row in result["images"]:
            image = pixelprune.fit_image(pixelprune.load_image(row["image"]))
            for threshold, setting in zip(THRESHOLDS, row["settings"], strict=True):
                selection = pixelprune.select(image, pixelprune.PruneConfig(threshold, **options))
                assert setting["kept"] == selection.kept
                assert setting["language_tokens"] == selection.tokens
                assert (setting["threshold"], setting["budget_met"]) == (selection.threshold, selection.budget_met)
        assert [config["threshold"] for config in result["configs"]] == [*THRESHOLDS]
        assert result["total"]["settings"][0]["over_budget"] == 1
        shown = stats("in/pages/a.png", "in/top.png", *typed).stdout
        assert "1 of 2 could not meet --max-tokens 60 with τ up to 0.1" in shown
        assert "τ ≥ 0.02" in shown
        check_sums(result)

    def test_costs(self) -> None:
        result = stats_json("in/pages", "--config", ".", "--restore", 0.5)
        tokens = [row["tokens"] for row in result["images"]]
        n = np.array([[total, row["settings"][1]["kept"]] for total, row in zip(tokens, result["images"], strict=True)])
        read = [row["settings"][1]["language_tokens"] for row in result["images"]]
        # By hand, from the sizes in CONFIG: four patches are a block, one merger and one of an inner layer.
        patch = 3 * 2 * 16 * 16 * 32 + 2 * (4 * 32 * 32 + 2 * 32 * 48)
        merger = 2 * (128 * 128 + 128 * 64)
        vision = (2 * n * (4 * patch + merger) + 2 * 4 * 32 * (4 * n) ** 2).sum(axis=0)
        weights = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96)
        total = result["total"]
        assert [total["full"]["vision_flops"], total["settings"][1]["vision_flops"]] == [*vision]
        for counts, costs in ((tokens, total["full"]), (read, total["settings"][1])):
            assert costs["language_flops"] == sum(2 * weights * count + 2 * 2 * 64 * count**2 for count in counts)
            assert costs["kv_bytes"] == sum(2 * 2 * 2 * 32 * count for count in counts)
        table = stats("in/pages", "--config", "config.json").stdout
        assert "Costs of qwen3_vl, summed over images, without text" in table
        assert "KV cache, 16 bits" in table

    def test_windows(self) -> None:
        """Windows of 112 pixels: 4 x 4 blocks of 28."""
        vision = {"depth": 4, "hidden_size": 32, "intermediate_size": 48, "patch_size": 14, "spatial_merge_size": 2}
        vision |= {"out_hidden_size": 64, "window_size": 112, "fullatt_block_indexes": [3]}
        Path("windows.json").write_text(json.dumps({**CONFIG, "model_type": "qwen2_5_vl", "vision_config": vision}))
        result = stats_json("in/pages/a.png", "--model", "qwen2.5-vl", "--config", "windows.json")
        image = pixelprune.fit_image(pixelprune.load_image("in/pages/a.png"), "qwen2.5-vl")
        keep = pixelprune.select(image, block=28).keep
        windows = [keep[r : r + 4, c : c + 4].sum() for r in range(0, len(keep), 4) for c in range(0, len(keep[0]), 4)]
        kept = int(keep.sum())
        weights = 4 * (3 * 2 * 14 * 14 * 32 + 4 * (4 * 32 * 32 + 3 * 32 * 48)) + 128 * 128 + 128 * 64
        attention = 4 * 32 * 16 * (kept**2 + 3 * sum(int(count) ** 2 for count in windows))
        assert result["total"]["settings"][0]["vision_flops"] == 2 * kept * weights + attention


class TestRequests:
    def test_images_and_bad_lines(self) -> None:
        result = stats_json("requests.jsonl", "in/top.png", code=2)
        sources = ["in/pages/a.png", "in/top.png", "in/photos/a.jpg", "in/photos/lossy.webp", "in/top.png"]
        assert [(row.get("line"), row.get("number")) for row in result["images"]] == [
            (1, 1), (2, 1), (2, 2), (7, 1), (None, None),
        ]  # fmt: skip
        for row, path in zip(result["images"], sources, strict=True):
            assert found(row) == expected(path)
            assert row["lossy"] == (path.endswith((".jpg", "y.webp")))
        assert [row["category"] for row in result["images"]] == ["requests.jsonl"] * 4 + ["in"]
        assert result["errors"] == [
            "requests.jsonl line 3: not valid JSON",
            "requests.jsonl line 6 image 1: https://example.com/a.png: addresses are not fetched; "
            "download the file and pass its path",
            "requests.jsonl line 6 image 2: data of an image must be base64, got 'data:image/png'",
            "requests.jsonl line 6 image 3: data of an image must be base64, got 1 character that is not",
            "requests.jsonl line 6 image 4: none.png: no such file",
            "requests.jsonl line 7 image 2: not an image in a format that Pillow reads",
            "requests.jsonl line 8: not a request: it must be an object with a list of 'messages'",
            "requests.jsonl line 9: image_url must hold a url, got \"{'url': None}\"",
        ]
        check_sums(result)

    def test_no_images_and_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text('{"messages": []}\n')
        result = stats_json(tmp_path / "a.jsonl", "none.jsonl", code=2)
        assert result["errors"] == [
            f"{tmp_path}/a.jsonl: no image in these requests; a part of type image_url holds one",
            "none.jsonl: No such file or directory",
        ]
        assert (result["images"], result["advice"]) == ([], "")
        assert stats("none.jsonl", code=2).stdout == ""


class TestOutput:
    def test_the_table_shows_what_the_json_holds(self) -> None:
        result, done = stats_json("in", code=2), stats("in", code=2)
        sums = {**result["categories"], "8 images": result["total"]}
        for name, row in sums.items():
            line = next(line for line in done.stdout.splitlines() if line.startswith(f"{name} "))
            ratios = [f"{setting['retain_ratio']:.3f}" for setting in row["settings"]]
            quantiles = [f"{value:.2f}" for value in row["settings"][0]["quantiles"].values()]
            assert line.removeprefix(name).split() == [
                str(row["images"]), str(row["blank"]), str(row["lossy"]), f"{row['tokens']:,}",
                f"{row['distinct_ratio']:.3f}", *ratios, *" / ".join(quantiles).split(),
            ]  # fmt: skip
        assert " ".join(done.stdout.split()).endswith(result["advice"])
        assert done.stderr.startswith("error: in/broken/b.png: ")

    def test_rows_and_processes(self, tmp_path: Path) -> None:
        """Three processes find what one finds, in the same order; rows are those of the JSON."""
        alone = stats_json("in", "requests.jsonl", "--config", ".", "--rows", tmp_path / "rows.jsonl", code=2)
        rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
        assert rows == alone["images"]
        many = stats_json("in", "requests.jsonl", "--config", ".", "--workers", 3, code=2)
        assert many == alone
        assert len(many["images"]) == 12

    def test_a_process_that_dies(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pixelprune.cli._measuring._run", _die)
        result = stats_json("in/pages", "--workers", 2, code=2)
        assert "a process ended before its images were measured, perhaps for lack of memory" in result["errors"][0]

    def test_rows_come_one_by_one_and_none_is_kept(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """The file has each row before the next image is opened, and what was written is not in memory."""
        alive: weakref.WeakSet[Settings] = weakref.WeakSet()
        seen: list[tuple[int, int]] = []

        def measured(*arguments: Any) -> Any:
            written = len((tmp_path / "rows.jsonl").read_text().splitlines())
            seen.append((written, len(alive)))
            row = measure(*arguments)
            row["settings"] = Settings(row["settings"])
            alive.add(row["settings"])
            return row

        monkeypatch.setattr("pixelprune.cli._measuring.measure", measured)
        (tmp_path / "in").mkdir()
        for number in range(12):
            shutil.copy("in/top.png", tmp_path / "in" / f"{number:02}.png")
        stats(tmp_path / "in", "--rows", tmp_path / "rows.jsonl")
        assert [written for written, _ in seen] == [*range(12)]
        assert max(living for _, living in seen) <= 1

    def test_interrupted_it_prints_what_it_has(self, tmp_path: Path) -> None:
        for number in range(6):
            shutil.copy("in/pages/a.png", tmp_path / f"{number}.png")
        script = (
            "import os, signal, sys; from pixelprune.cli import main, _measuring\n"
            "measure, calls = _measuring.measure, []\n"
            "def measured(*arguments):\n"
            "    calls.append(1)\n"
            "    if len(calls) == 4: os.kill(os.getpid(), signal.SIGINT)\n"
            "    return measure(*arguments)\n"
            "_measuring.measure = measured; sys.argv[0] = 'pixelprune'; main()"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "stats", str(tmp_path), "--json"], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (130, "")
        result = json.loads(done.stdout)
        assert [Path(row["image"]).name for row in result["images"]] == ["0.png", "1.png", "2.png", "3.png"]
        assert result["total"]["images"] == 4

    def test_a_bar_of_files_on_a_terminal(self) -> None:
        line = f"{COMMAND} stats in/pages"
        done = subprocess.run(["script", "-qec", line, "/dev/null"], capture_output=True, text=True)
        shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout)
        assert "Measuring" in shown
        assert " 0/3 " in shown
        assert " 3/3 " in shown
        assert "What qwen3-vl would see" in shown

    @pytest.mark.parametrize("columns", [60, 80, 140])
    def test_figures_are_whole_in_any_terminal(self, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pixelprune.cli._common.out._width", columns)
        result = stats_json("in", "--restore", 0.3, code=2)["total"]
        shown = stats("in", "--restore", 0.3, "--config", ".", code=2).stdout
        assert "…" not in shown
        assert max(map(len, shown.splitlines()[:-4])) <= columns
        for text in (f"{result['tokens']:,}", *(f"{setting['retain_ratio']:.3f}" for setting in result["settings"])):
            assert text in shown

    def test_many_categories(self, tmp_path: Path) -> None:
        for number in range(28):
            (tmp_path / f"c{number:02}").mkdir()
            shutil.copy("in/pages/deep/blank.png", tmp_path / f"c{number:02}")
        shown = stats(tmp_path).stdout
        assert "3 smaller categories are counted in the last row only." in shown
        assert "28 images" in shown
        assert "c24 " in shown
        assert "c25 " not in shown


class TestCategories:
    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("in/pages/deep", "deep"),
            ("in/pages", "pages deep"),
            ("in/pages/deep/blank.png", "deep"),
            ("./in/pages/a.png", "pages"),
        ],
    )
    def test_are_below_the_path(self, path: str, name: str) -> None:
        assert " ".join(stats_json(path)["categories"]) == " ".join(sorted(name.split()))

    def test_here_and_above(self, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(corpus / "in/pages/deep")
        assert [*stats_json(".")["categories"]] == ["deep"]
        assert [*stats_json("blank.png")["categories"]] == ["deep"]
        assert [*stats_json("..")["categories"]] == ["deep", "pages"]


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (
                ["--thresholds", "0;1"],
                "--thresholds must be numbers with commas between them, got '0;1'; write for exa",
            ),
            (["--thresholds", "0,5"], "--thresholds must be a number in [0, 1], got 5.0; divide gray levels by 255"),
            (["--thresholds", "nan"], "--thresholds must be a number in [0, 1], got nan"),
            (["--metric", "l2"], "--metric must be one of 'max', 'mae', 'rmse', got 'l2'"),
            (["--model", "gpt"], "--model must be one of 'qwen2-vl', 'qwen2.5-vl'"),
            (["--max-threshold", "0.3"], "--max-threshold must come with --max-tokens"),
            (["--max-tokens", "5", "--min-tokens", "9"], "--min-tokens must be at most the token budget (5), got 9"),
            (["--config", "none"], "--config must be a config.json or its folder, got none: No such file or directory"),
            (
                ["--config", ".", "--model", "qwen2-vl"],
                "--config must have blocks as large as those of qwen2-vl (28 pix",
            ),
            (["--rows", "none/a.jsonl"], "--rows must be a file that can be written, got none/a.jsonl: No such file"),
            (
                ["--rows", "in/top.png"],
                "--rows must not be one of the files that are read, got in/top.png; name another",
            ),
            (["--transparency", "black"], "--transparency must be"),
        ],
    )
    def test_that_cannot_be_used(self, options: list[str], text: str) -> None:
        done = stats("in/top.png", *options, code=2)
        assert text in " ".join(done.stderr.split())
        assert done.stdout == ""

    def test_thresholds_are_sorted_and_counted_once(self) -> None:
        configs = stats_json("in/top.png", "--thresholds", "0.05,0, 0.02,0")["configs"]
        assert [config["threshold"] for config in configs] == [0, 0.02, 0.05]


def test_interrupts_are_handled_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with command._stopping() as stopped:
        signal.raise_signal(signal.SIGINT)
        assert stopped
    assert signal.getsignal(signal.SIGINT) is before
