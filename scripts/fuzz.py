"""Fuzz what comes from elsewhere, guided by coverage: files, options of requests, and the token map as it travels.

    pip install atheris
    python scripts/fuzz.py load request wire --seconds 600

Each target runs in a separate process, on one core. A finding ends it, and stands at the end of `fuzz/NAME.log`; the
Base64 of its data belongs into FINDINGS in tests/test_fuzz.py. The last lines are for docs/reliability.md.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path("fuzz")


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz what comes from elsewhere.")
    parser.add_argument("targets", nargs="+", choices=["load", "request", "wire"])
    parser.add_argument("--seconds", type=int, default=600, help="how long each target runs")
    parser.add_argument("--here", action="store_true", help="in this process; what the others are started with")
    options = parser.parse_args()
    if options.here:
        _fuzz(options.targets[0], options.seconds)
        return
    lines, failed = [], False
    for name in options.targets:
        command = [sys.executable, __file__, name, "--here", "--seconds", str(options.seconds)]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{name}.log").write_text(done.stderr)
        lines.append(f"{name}: {_summary(done.stderr)}, {'a FINDING' if done.returncode else 'no finding'}")
        failed = failed or bool(done.returncode)
    print("\n".join(lines))
    sys.exit(failed)


def _summary(log: str) -> str:
    runs, speed = re.findall(r"#(\d+)\t", log)[-1:], re.findall(r"exec/s: (\d+)", log)[-1:]
    covered, kept = re.findall(r" ft: (\d+)", log)[-1:], re.findall(r"corp: (\d+)", log)[-1:]
    parts = zip((runs, speed, covered, kept), ("inputs", "a second", "features covered", "kept"), strict=True)
    return ", ".join(f"{found[0]} {what}" for found, what in parts if found)


def _fuzz(name: str, seconds: int) -> None:
    try:
        import atheris
    except ModuleNotFoundError:
        sys.exit("scripts/fuzz.py needs atheris, which is no dependency of this project; run: pip install atheris")
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    followed = ["fuzz_targets", "pixelprune", "zipfile", "numpy.lib"]
    with atheris.instrument_imports(include=followed, enable_loader_override=False):
        from fuzz_targets import TARGETS, seeds

        for number, data in enumerate(seeds(name)):
            (corpus / f"seed-{number}").write_bytes(data)
            TARGETS[name](data)  # also imports, here, what is imported late
    flags = [f"-max_total_time={seconds}", "-max_len=4096", f"-artifact_prefix={FOLDER / name}-", str(corpus)]
    atheris.Setup([sys.argv[0], *flags], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
