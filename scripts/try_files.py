"""Read every file of a folder, and compare what comes out with independent readers.

    python scripts/try_files.py FOLDER... --json outcome.json

Every file must end as a picture or as one line that says why not; a crash, a hang and a traceback
are failures. Where ImageMagick (`convert`) and Poppler (`pdftoppm`) are installed, each picture is
compared with theirs, both scaled to 64 x 64. Readers differ in color profiles, in antialiasing and
in what they make of damaged files, so pictures that differ by more than --limit gray levels on
average are listed, to be looked at by a person.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import select
import shutil
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from pixelprune.images import signatures

SIDE = 64
PAGES = 3  # per file
DPI = 50
SECONDS = 120  # per file
MEMORY = 8 << 30  # address space of the process that reads, in bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, help="where to write the outcome of every page")
    parser.add_argument("--limit", type=float, default=16, help="gray levels of difference that are listed (16)")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read_all()
        return
    files = sorted(file for folder in options.folders for file in folder.rglob("*") if file.is_file())
    outcomes = list(outcomes_of(files, options.limit))
    if options.json:
        options.json.write_text(json.dumps(outcomes, indent=1))
    report(outcomes, options.limit)


def read_all() -> None:
    """Read the files named on the input stream; print a line of JSON for each."""
    from pixelprune.images.errors import ImageError
    from pixelprune.images.pages import opened

    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        path = Path(line.rstrip("\n"))
        pages: list[dict[str, Any]] = []
        try:
            with opened(path) as file:
                for page in range(1, min(len(file), PAGES) + 1):
                    try:
                        image = file.read(page, DPI, "white")
                        pages.append({"shape": image.shape, "small": small(image).tobytes().hex()})
                    except ImageError as error:
                        pages.append({"refused": str(error)})
        except ImageError as error:
            pages.append({"refused": str(error)})
        except Exception as error:
            pages.append({"failed": f"{type(error).__name__}: {error}"})
        print(json.dumps(pages), flush=True)


def small(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(PIL.Image.fromarray(image).resize((SIDE, SIDE), PIL.Image.Resampling.BOX))


def outcomes_of(files: list[Path], limit: float) -> Iterator[dict[str, Any]]:
    """One outcome for each page: read, refused or failed."""
    reader: subprocess.Popen[str] | None = None
    for number, path in enumerate(files, 1):
        if reader is None:
            command = [sys.executable, __file__, "--read", "."]
            reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        pages = answer(reader, path)
        if pages is None:
            reader.kill()
            reader.wait()
            reader, pages = None, [{"failed": "crashed, or took too long"}]
        for page, outcome in enumerate(pages, 1):
            outcome.update(file=str(path), page=page)
            if picture := outcome.pop("small", None):
                compare(outcome, bytes.fromhex(picture), limit)
            yield outcome
        if number % 100 == 0:
            print(f"{number} of {len(files)} files", file=sys.stderr, flush=True)
    if reader:
        reader.communicate()


def answer(reader: subprocess.Popen[str], path: Path) -> list[dict[str, Any]] | None:
    """What the reading process says about a file; None if it died or took too long."""
    assert reader.stdin
    assert reader.stdout
    reader.stdin.write(f"{path}\n")
    reader.stdin.flush()
    ready, _, _ = select.select([reader.stdout], [], [], SECONDS)
    line = reader.stdout.readline() if ready else ""
    return json.loads(line) if line else None


def compare(outcome: dict[str, Any], ours: bytes, limit: float) -> None:
    """Add the difference to what an independent reader makes of the same page."""
    path, page = Path(outcome["file"]), outcome["page"]
    is_pdf = signatures.is_pdf(path, signatures.head_of(path))
    theirs = from_poppler(path, page) if is_pdf else from_imagemagick(path, page)
    if theirs is None:
        return
    a, b = (np.frombuffer(data, np.uint8).astype(int) for data in (ours, theirs))
    outcome["difference"] = float(np.abs(a - b).mean())
    outcome["differs"] = outcome["difference"] > limit


def from_poppler(path: Path, page: int) -> bytes | None:
    if not shutil.which("pdftoppm"):
        return None
    drawn = run("pdftoppm", "-r", DPI, "-f", page, "-l", page, "-cropbox", path)
    try:
        return small(np.asarray(PIL.Image.open(io.BytesIO(drawn or b"")).convert("RGB"))).tobytes()
    except (OSError, SyntaxError):
        return None


def from_imagemagick(path: Path, page: int) -> bytes | None:
    if not shutil.which("convert"):
        return None
    scale = ("-filter", "Box", "-resize", f"{SIDE}x{SIDE}!")
    flat = ("-auto-orient", "-background", "white", "-alpha", "remove", "-colorspace", "sRGB", "-depth", 8)
    drawn = run("convert", f"{path}[{page - 1}]", *flat, *scale, "rgb:-")
    return drawn if drawn and len(drawn) == 3 * SIDE**2 else None


def run(*command: object) -> bytes | None:
    try:
        return subprocess.run([*map(str, command)], capture_output=True, timeout=SECONDS).stdout
    except subprocess.TimeoutExpired:
        return None


def report(outcomes: list[dict[str, Any]], limit: float) -> None:
    read = [outcome for outcome in outcomes if "shape" in outcome]
    refused = [outcome for outcome in outcomes if "refused" in outcome]
    failed = [outcome for outcome in outcomes if "failed" in outcome]
    compared = [outcome for outcome in read if "difference" in outcome]
    differing = [outcome for outcome in compared if outcome["differs"]]
    print(f"{len({outcome['file'] for outcome in outcomes})} files, {len(outcomes)} pages")
    print(f"{len(read)} read, {len(refused)} refused, {len(failed)} failed")
    print(f"{len(compared)} compared with another reader, {len(differing)} differ by more than {limit:g} gray levels")
    causes = Counter(cause(outcome) for outcome in refused)
    print("refused:", ", ".join(f"{count} {text}" for text, count in causes.most_common()))
    reasons = Counter(reason(outcome) for outcome in refused)
    for text, count in reasons.most_common():
        print(f"  {count:5d}  {text}")
    for outcome in failed:
        print(f"failed: {outcome['file']} page {outcome['page']}: {outcome['failed']}")
    for outcome in differing:
        print(f"differs by {outcome['difference']:.0f}: {outcome['file']} page {outcome['page']}")


# What a refusal says, and which kind of file that is.
CAUSES = {
    "a single pixel": "a single pixel",
    "decompression bomb": "more pixels than Pillow allows",
    "encrypted": "encrypted",
    "damaged": "damaged",
    "empty": "damaged",
    "not a readable PDF": "damaged",
    "cannot be rendered": "damaged",
}


def cause(outcome: dict[str, Any]) -> str:
    """The kind of file that was refused; what has no other cause is not supported."""
    return next((kind for text, kind in CAUSES.items() if text in outcome["refused"]), "not supported")


def reason(outcome: dict[str, Any]) -> str:
    """Why a page was refused, without what differs from file to file."""
    text: str = outcome["refused"].removeprefix(outcome["file"])
    text = text.partition(": ")[2] or text
    return "".join("#" if letter.isdigit() else letter for letter in text)[:70]


if __name__ == "__main__":
    main()
