"""`pixelprune train` in float64, in one process or in several on CPUs that share the weights (FSDP2).

    accelerate launch --config_file examples/accelerate/fsdp.yaml -m tests.support.sharded NOTES sft …

accelerate 1.15 offers FSDP to accelerators only: `AcceleratorState` ignores the plugin where the processes are on CPUs.
That decision alone is replaced here; how models are sharded, gathered, clipped and saved is accelerate's and torch's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.support.double_precision import every_float_is_double


def shard_on_cpus() -> None:
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    stock = AcceleratorState.__init__

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
        stock(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None:
            self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    AcceleratorState.__init__ = init


def note_steps(folder: Path) -> None:
    """Write what this process saw: whether its images were whole, and the share of the weights that it holds."""
    from pixelprune.training import SFTTrainer

    stock, notes = SFTTrainer.training_step, {"whole": [], "held": []}

    def training_step(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        notes["whole"].append(bool(inputs["image_kept"].all()))
        models = [model, self.teacher] if getattr(self, "teacher", None) is not None else [model]
        notes["held"] = [held(one) for one in models]
        loss = stock(self, model, inputs, *args, **options)
        (folder / f"{os.environ.get('RANK', 0)}.json").write_text(json.dumps(notes))
        return loss

    SFTTrainer.training_step = training_step


def held(model: Any) -> float:
    local = sum(getattr(p, "_local_tensor", p).numel() for p in model.parameters())
    return float(local / sum(p.numel() for p in model.parameters()))


def main() -> None:
    folder, *arguments = sys.argv[1:]
    with every_float_is_double():
        from pixelprune.cli import main as command
        from pixelprune.training import distillation

        # So few that processes have different numbers of chunks.
        distillation.CHUNK = 3
        shard_on_cpus()
        note_steps(Path(folder))
        sys.argv = ["pixelprune", "train", *arguments]
        command()


if __name__ == "__main__":
    main()
