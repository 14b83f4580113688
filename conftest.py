"""What pytest leaves out where vLLM is not installed: the tests of its plugin, and the examples in its modules."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("vllm") else ["src/pixelprune/vllm", "tests/vllm"]


def pytest_report_header() -> str:
    if collect_ignore:
        return f"vLLM is not installed, so {' and '.join(collect_ignore)} are left out: make test-vllm runs them"
    return ""
