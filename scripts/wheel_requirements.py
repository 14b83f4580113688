"""Print what a wheel requires, but for some packages and for its extras.

python scripts/wheel_requirements.py WHEEL --without NAME ...
"""

from __future__ import annotations

import argparse
import zipfile
from email.parser import Parser

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def main() -> None:
    parser = argparse.ArgumentParser(description="Print what a wheel requires.")
    parser.add_argument("wheel")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME")
    options = parser.parse_args()
    left_out = {canonicalize_name(name) for name in options.without}
    with zipfile.ZipFile(options.wheel) as wheel:
        (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        headers = Parser().parsestr(wheel.read(metadata).decode())
    for text in headers.get_all("Requires-Dist", []):
        requirement = Requirement(text)
        of_an_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        if canonicalize_name(requirement.name) not in left_out and not of_an_extra:
            print(requirement)


if __name__ == "__main__":
    main()
