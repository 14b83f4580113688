"""As engine.py, with a CPU among the devices that Triton knows, so that its kernels can be interpreted there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import engine
import torch
from triton.backends import backends
from triton.backends.compiler import GPUTarget


class Driver:
    is_active = staticmethod(lambda: True)

    def get_current_device(self) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cpu", 0, 0)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


if __name__ == "__main__":
    backends["cpu"] = SimpleNamespace(driver=Driver, compiler=None)
    result = engine.main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
