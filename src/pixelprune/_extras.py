"""Optional dependencies: what to install for what is missing."""

from __future__ import annotations

from importlib.util import find_spec


def install(extra: str) -> str:
    """The command that installs an extra of this package.

    Example:
        >>> install("pdf")
        "pip install '.[pdf]' in a checkout of pixelprune"
    """
    return f"pip install '.[{extra}]' in a checkout of pixelprune"


def missing(*modules: str) -> list[str]:
    """Those of `modules` that are not installed."""
    return [name for name in modules if not find_spec(name)]


def require(package: str, extra: str, *modules: str) -> None:
    """Raise an ImportError with the way out unless all `modules` that `package` needs are installed."""
    if absent := missing(*modules):
        raise ImportError(f"{package} needs {', '.join(absent)}: {install(extra)}")
