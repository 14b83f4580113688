"""What pytest leaves out where vLLM is not installed: the tests of its plugin, and the examples in its modules."""

from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
# These read vLLM as text.
WITHOUT = {"source.py", "surface.py", "versions.py", "test_surface.py", "test_versions.py"}

plugin = [file for place in ("src/pixelprune/vllm", "tests/vllm") for file in (HERE / place).rglob("*.py")]
plugin += [HERE / "tests" / "support" / name for name in ("broken.py", "engine_v2.py")]
collect_ignore = [] if find_spec("vllm") else [str(file) for file in plugin if file.name not in WITHOUT]


def pytest_report_header() -> str:
    if collect_ignore:
        return (
            "vLLM is not installed, so most of src/pixelprune/vllm and tests/vllm is left out: make test-vllm runs it"
        )
    return ""
