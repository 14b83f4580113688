"""The command through its entry point, each in a process of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import pixelprune
from pixelprune.images.overlay import overlay
from pixelprune.images.samples import SAMPLES, sample_path
from tests.support.bad_files import BAD_FILES
from tests.support.commands import COMMAND, run, run_json


def test_help_and_version(tmp_path: Path) -> None:
    overview = run("--help", cwd=tmp_path).stdout
    assert all(name in overview for name in ("show", "verify", "bench"))
    for name in ("threshold", "metric", "predictor", "max-tokens", "max-threshold", "model", "output", "json"):
        assert f"--{name}" in run("show", "-h", cwd=tmp_path).stdout
    assert run("--version", cwd=tmp_path).stdout == f"pixelprune {pixelprune.__version__}\n"
    module = subprocess.run([sys.executable, "-m", "pixelprune", "--version"], capture_output=True, text=True)
    assert module.stdout == f"pixelprune {pixelprune.__version__}\n"


class TestShow:
    def test_table_and_pictures(self, tmp_path: Path) -> None:
        done = run("show", sample_path("page"), sample_path("screen"), cwd=tmp_path)
        assert done.returncode == 0
        selection = pixelprune.select(pixelprune.fit_image(pixelprune.load_image(sample_path("page"))))
        for text in ("1191 × 1684", "1184 × 1696", f"{selection.total:,}", f"{selection.retain_ratio:.3f}", "2 images"):
            assert text in done.stdout
        for name, size in (("page", (1184, 1696)), ("screen", (1440, 896))):
            with PIL.Image.open(tmp_path / "overlays" / f"{name}.kept.png") as picture:
                assert picture.size == size

    def test_json_holds_the_figures_of_the_library(self, tmp_path: Path) -> None:
        options = ("--threshold", 0.03, "--metric", "mae", "--predictor", "serpentine", "--model", "qwen2.5-vl")
        result = run_json("show", sample_path("screen"), "-o", "out", *options, cwd=tmp_path)
        image = pixelprune.fit_image(pixelprune.load_image(sample_path("screen")), "qwen2.5-vl")
        config = pixelprune.PruneConfig(0.03, "mae", "serpentine")
        selection = pixelprune.select(image, config, block=28)
        (row,) = result["images"]
        assert pixelprune.PruneConfig.from_dict(result["config"]) == config
        assert (row["width"], row["height"]) == (1440, 900)
        assert (row["model_height"], row["model_width"]) == image.shape[:2]
        assert (row["tokens"], row["kept"]) == (selection.total, selection.kept)
        assert row["retain_ratio"] == selection.retain_ratio
        assert 0 < row["largest_error"] <= row["threshold"] == 0.03
        assert (tmp_path / row["overlay"]).exists()
        assert result["errors"] == []

    @pytest.mark.parametrize("options", [{"restore": 0.25}, {"min_tokens": 700}, {"restore": 1, "max_tokens": 900}])
    def test_copies(self, options: dict[str, float], tmp_path: Path) -> None:
        typed = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
        result = run_json("show", sample_path("screen"), *typed, cwd=tmp_path)
        image = pixelprune.fit_image(pixelprune.load_image(sample_path("screen")))
        selection = pixelprune.select(image, pixelprune.PruneConfig(**options))
        (row,) = result["images"]
        assert (row["kept"], row["copies"], row["language_tokens"]) == (
            selection.kept,
            selection.copies,
            selection.tokens,
        )
        with PIL.Image.open(tmp_path / row["overlay"]) as picture:
            expected = np.asarray(overlay(image, selection))
            assert (np.asarray(picture) == expected).all()
        table = run("show", sample_path("screen"), *typed, cwd=tmp_path).stdout
        assert "with copies" in table
        assert f"{selection.tokens:,}" in table
        assert "with copies" not in run("show", sample_path("screen"), cwd=tmp_path).stdout

    def test_budget(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 12, (512, 512, 3), np.uint8)
        PIL.Image.fromarray(noise).save(tmp_path / "noise.png")
        met = run_json("show", "noise.png", "--max-tokens", 100, cwd=tmp_path)["images"][0]
        assert met["kept"] <= 100
        assert met["budget_met"]
        assert 0 < met["threshold"] <= 12 / 255
        done = run("show", "noise.png", "--max-tokens", 100, "--max-threshold", 0.01, cwd=tmp_path)
        assert done.returncode == 0
        assert "1 of 1 (marked !) could not meet --max-tokens 100 with τ up to 0.01; raise" in done.stdout
        assert "256 !" in done.stdout

    def test_folders_equal_names_and_pdf_pages(self, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            (tmp_path / "in" / folder).mkdir(parents=True)
            shutil.copy(sample_path("screen"), tmp_path / "in" / folder / "s [x].png")
        (tmp_path / "in" / "notes.txt").write_text("passed over in a folder")
        page = PIL.Image.open(sample_path("page")).resize((600, 848))
        page.save(tmp_path / "in" / "c.pdf", save_all=True, append_images=[page])
        result = run_json("show", "in", "--dpi", 50, "--grid", cwd=tmp_path)
        assert [(row["image"], row["page"]) for row in result["images"]] == [
            ("in/a/s [x].png", None),
            ("in/b/s [x].png", None),
            ("in/c.pdf", 1),
            ("in/c.pdf", 2),
        ]
        pictures = sorted(file.name for file in (tmp_path / "overlays").iterdir())
        assert pictures == ["c-page1.kept.png", "c-page2.kept.png", "s [x].kept.png", "s [x].png.kept.png"]
        assert "in/b/s [x].png is shown in overlays/s [x].png.kept.png" in run("show", "in", cwd=tmp_path).stdout

    def test_folders_are_searched_for_what_a_person_would_want(self, tmp_path: Path) -> None:
        for name in ("a.png", ".hidden.png", ".hidden/b.png", "deep/er/C.PNG", "notes.txt"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(sample_path("screen"), tmp_path / name)
        (tmp_path / "gone.png").symlink_to("nowhere.png")
        for _ in range(2):  # the second time the pictures of the first are there, and are no input
            result = run_json("show", ".", cwd=tmp_path, code=2)
            assert [row["image"] for row in result["images"]] == ["a.png", "deep/er/C.PNG"]
            assert result["errors"] == ["gone.png: no such file"]
        checks = run_json("verify", ".", cwd=tmp_path, code=2)["checks"]
        assert {check["image"] for check in checks} == {"a.png", "deep/er/C.PNG"}

    def test_inputs_are_never_written_over(self, tmp_path: Path) -> None:
        shutil.copy(sample_path("screen"), tmp_path / "a.png")
        assert run("show", "a.png", "-o", ".", cwd=tmp_path).returncode == 0
        assert (tmp_path / "a.png").read_bytes() == sample_path("screen").read_bytes()
        assert (tmp_path / "a.kept.png").exists()
        drawn = (tmp_path / "a.kept.png").read_bytes()
        done = run("show", "a.png", "a.kept.png", "--grid", "-o", ".", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == "error: a.kept.png: not written, because it is one of the input images\n"
        assert (tmp_path / "a.kept.png").read_bytes() == drawn

    def test_odd_paths_are_a_line_each(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "esc\x1b[31m :smile: \n.png").write_text("")
        done = run("show", "", "a" * 300, "pipe.png", *tmp_path.glob("esc*"), sample_path("page"), cwd=tmp_path)
        assert done.returncode == 2
        assert "page.png" in done.stdout
        lines = done.stderr.splitlines()
        assert len(lines) == 4
        for line, text in zip(
            lines, ("an empty path", "File name too long", "not a regular file", "is empty"), strict=True
        ):
            assert text in line
        assert r"esc\x1b[31m :smile: \n.png" in lines[3]

    @pytest.mark.parametrize("command", ["show", "verify"])
    def test_addresses_are_not_fetched(self, command: str, tmp_path: Path) -> None:
        done = run(command, "https://example.com/a.png", "file:///a.png", "data:image/png;base64,AA==", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines() == [
            "error: https://example.com/a.png: addresses are not fetched; download the file and pass its path",
            "error: file:///a.png: an address, not a path; leave out file://",
            "error: data:image/png;base64,AA==…: data in an address is not read; save it as a file and pass the path",
        ]

    @pytest.mark.parametrize("columns", [60, 80, 100, 140])
    def test_figures_are_whole_in_any_terminal(self, tmp_path: Path, columns: int) -> None:
        show = shlex.join(map(str, [COMMAND, "show", sample_path("page"), sample_path("screen")]))
        command = f"stty cols {columns}; {show}"
        done = subprocess.run(["script", "-qec", command, "/dev/null"], cwd=tmp_path, capture_output=True, text=True)
        for text in ("1,961", "965", "0.492", "retain ratio", "2 images"):
            assert text in done.stdout
        assert "…" not in done.stdout.partition("What qwen3-vl")[2]

    def test_output_that_cannot_show_or_hold_it(self, tmp_path: Path) -> None:
        command = [COMMAND, "show", sample_path("page")]
        ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
        done = subprocess.run(command, cwd=tmp_path, env=ascii_only, capture_output=True)
        assert done.returncode == 0
        assert b"retain ratio  ?" in done.stdout
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (2, b"error: No space left on device\n")

    def test_bad_files_never_stop_the_rest(self, tmp_path: Path) -> None:
        for name, (make, _) in BAD_FILES.items():
            make(tmp_path / name)
        PIL.Image.new("RGB", (4000, 10)).save(tmp_path / "long.png")
        (tmp_path / "folder").mkdir()
        bad = [*BAD_FILES, "long.png", "none.png", "folder"]
        result = run_json("show", *bad, sample_path("screen"), cwd=tmp_path, code=2)
        assert len(result["images"]) == 1
        assert len(result["errors"]) == len(bad)
        done = run("show", *bad, sample_path("screen"), cwd=tmp_path)
        lines = done.stderr.splitlines()
        assert len(lines) == len(bad)
        assert all(line.startswith("error: ") for line in lines)
        for text in (
            "none.png: no such file",
            "folder: no image in this folder",
            "long.png: image must have an aspect",
        ):
            assert text in done.stderr
        assert "screen.png" in done.stdout

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (["--threshold", "5"], "--threshold must be a number in [0, 1], got 5.0; divide gray levels by 255"),
            (["--metric", "l2"], "--metric must be one of 'max', 'mae', 'rmse', got 'l2'"),
            (["--predictor", "x"], "--predictor must be one of 'pred2d', 'raster', 'serpentine', got 'x'"),
            (["--model", "gpt"], "--model must be one of 'qwen2-vl', 'qwen2.5-vl'"),
            (
                ["--max-tokens", "0"],
                "--max-tokens must be a whole number of at least 1, got 0; leave it out for no budget",
            ),
            (
                ["--max-tokens", "9", "--threshold", "0.3"],
                "--max-threshold must be at least the threshold (0.3) when there is a token budget, got 0.1; raise it",
            ),
            (
                ["--max-threshold", "0.3"],
                "--max-threshold must come with --max-tokens, the budget that it limits, got 0.3 alone; set --",
            ),
            (
                ["--max-threshold=0.1"],
                "--max-threshold must come with --max-tokens, the budget that it limits, got 0.1",
            ),
            (["--threshold", "half"], "--threshold"),
            (["-o", "file/below"], "--output must be a folder that can be written to, got file/below: Not a directory"),
        ],
    )
    def test_options_that_cannot_be_used(self, tmp_path: Path, options: list[str], text: str) -> None:
        (tmp_path / "file").write_text("")
        done = run("show", sample_path("page"), *options, cwd=tmp_path)
        assert done.returncode == 2
        assert text in " ".join(done.stderr.split())
        assert "register" not in done.stderr, "nothing can be registered from a command line"
        assert done.stdout == ""

    def test_a_picture_that_cannot_be_written(self, tmp_path: Path) -> None:
        (tmp_path / "overlays" / "page.kept.png").mkdir(parents=True)
        result = run_json("show", sample_path("page"), sample_path("screen"), cwd=tmp_path, code=2)
        assert result["errors"] == ["overlays/page.kept.png: Is a directory"]
        assert [row["overlay"] for row in result["images"]] == [None, "overlays/screen.kept.png"]

    def test_interrupted_it_prints_what_it_has(self, tmp_path: Path) -> None:
        for number in range(5):
            shutil.copy(sample_path("page"), tmp_path / f"{number}.png")
        script = (
            "import os, signal, sys; from pixelprune.cli import main, show; draw, calls = show.overlay, []\n"
            "def overlay(*args, **options):\n"
            "    calls.append(1)\n"
            "    if len(calls) == 4: os.kill(os.getpid(), signal.SIGINT)\n"
            "    return draw(*args, **options)\n"
            "show.overlay = overlay; sys.argv[0] = 'pixelprune'; main()"
        )
        command = [sys.executable, "-c", script, "show", *sorted(tmp_path.glob("*.png")), "-o", "out"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 130
        assert "Traceback" not in done.stderr
        assert [f"{number}.png" in done.stdout for number in range(5)] == [True, True, True, False, False]


class TestVerify:
    def test_holds_on_the_samples(self, tmp_path: Path) -> None:
        result = run_json("verify", *map(sample_path, SAMPLES), "--threshold", 0.04, cwd=tmp_path)
        assert result["holds"] is True
        assert len(result["checks"]) == 24
        assert {check["proposition"] for check in result["checks"]} == {1, 2}
        assert all(check["largest_error"] <= check["config"]["threshold"] for check in result["checks"])
        done = run("verify", sample_path("page"), cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert "12 checks on 1 image  " in done.stdout
        assert done.stdout.count("1 of 1") == 12

    def test_bad_files_and_options(self, tmp_path: Path) -> None:
        result = run_json("verify", "none.png", sample_path("screen"), cwd=tmp_path, code=2)
        assert result["errors"] == ["none.png: no such file"]
        assert len(result["checks"]) == 12
        result = run_json("verify", "none.png", cwd=tmp_path, code=2)
        assert (result["holds"], result["checks"]) == (False, [])
        for threshold, text in ((2, "--threshold must be a number in [0, 1]"), (0, "--threshold must be above 0 here")):
            done = run("verify", sample_path("page"), "--threshold", threshold, cwd=tmp_path)
            assert done.returncode == 2
            assert text in done.stderr

    def test_a_broken_proposition_is_a_failing_exit_code(self, tmp_path: Path) -> None:
        script = (
            "import sys; from pixelprune.selection import verify as v; decode = v.decode\n"
            "def wrong(compressed):\n    image = decode(compressed); image[9, 9] ^= 64; return image\n"
            "v.decode = wrong; sys.argv[0] = 'pixelprune'\n"
            "from pixelprune.cli import main; main()"
        )
        command = [sys.executable, "-c", script, "verify", str(sample_path("page"))]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 1
        assert "proposition 1 does not hold with" in done.stderr
        assert "0 of 1" in done.stdout


def test_bench_select(tmp_path: Path) -> None:
    result = run_json("bench", "select", "--rounds", 3, cwd=tmp_path)
    assert set(result["milliseconds"]) == {"1024", "2048", "4096"}
    assert result["machine"]["cpu"]
    done = run("bench", "select", "--image", "none.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: none.png: no such file\n")
