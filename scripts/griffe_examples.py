"""For the API page: griffe knows a section `Examples:`; our docstrings call it `Example:`."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Give worked examples the heading under which griffe renders them as code."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        if getattr(obj, "docstring", None):
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
