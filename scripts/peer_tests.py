"""Run transformers' own model tests over enabled models of every family, and say what differs from stock.

    python scripts/peer_tests.py [FAMILY...] [--json outcome.json]

For a new release of transformers, install it and run this: the tests are those of the installed version. What
passes on the stock model must pass with nothing dropped and with a third of the blocks dropped.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import json
import logging
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import transformers

sys.path.insert(0, str(Path(__file__).parents[1]))

from pixelprune.transformers import families

# Types are not checked below tests/.
cases: Any = importlib.import_module("tests.support.cases")
peer: Any = importlib.import_module("tests.support.peer")

# The exit code if there is nothing to run.
NO_TESTS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="all of them by default")
    parser.add_argument("--json", type=Path, help="where to write the outcome of every test")
    options = parser.parse_args()
    wanted = options.families or families.names()
    if unknown := set(wanted) - set(families.names()):
        parser.error(f"FAMILY must be one of {', '.join(families.names())}, got {', '.join(sorted(unknown))}")
    logging.disable()
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            package = peer.download(Path(folder))
        except subprocess.CalledProcessError as error:
            print(
                f"the source distribution of transformers cannot be downloaded: {error.stderr.strip()}", file=sys.stderr
            )
            raise SystemExit(NO_TESTS) from None
        common = peer.common_tests(package)
        print(f"transformers {transformers.__version__}")
        for name in wanted:
            if reason := cases.absent(name):
                print(f"{name}: not run, {reason}")
                continue
            results[name] = run(common, name)
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))
    print(f"{len(results)} families, {sum(count(result) for result in results.values())} tests differ from stock")
    raise SystemExit(any(count(result) for result in results.values()))


def run(common: Any, name: str) -> dict[str, Any]:
    """The outcomes of a family, and a line for each mode."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        stock = peer.outcomes(common, name, "stock")
        passing = [test for test, outcome in stock.items() if outcome == "passed"]
        enabled = {mode: peer.outcomes(common, name, mode, passing) for mode in ("kept", "third")}
    differing = {mode: peer.differing(stock, enabled[mode], mode) for mode in enabled}
    tally = Counter("failed" if text not in ("passed", "skipped") else text for text in stock.values())
    print(f"{name}: stock {tally['passed']} passed, {tally['failed']} failed, {tally['skipped']} skipped", flush=True)
    for mode, tests in differing.items():
        passed = sum(outcome == "passed" for outcome in enabled[mode].values())
        print(f"  {mode}: {passed} of {len(passing)} passed, {len(tests)} differ", flush=True)
        for test, text in tests.items():
            print(f"    {test}: {text[:160]}", flush=True)
    return {"stock": stock, **enabled, "differing": differing}


def count(result: dict[str, Any]) -> int:
    return sum(len(tests) for tests in result["differing"].values())


if __name__ == "__main__":
    main()
