"""`pixelprune train` in float64, in one process or in several on CPUs that share the weights (FSDP2, DeepSpeed).

    accelerate launch --config_file examples/accelerate/fsdp.yaml -m tests.support.sharded NOTES sft …

accelerate 1.15 offers both to accelerators only: `AcceleratorState` ignores the plugins if the processes are on CPUs.
That decision alone is replaced here; how models are sharded, gathered, clipped and saved is not.
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

    def init(self: Any, *args: Any, fsdp_plugin: Any = None, deepspeed_plugin: Any = None, **options: Any) -> None:
        stock(self, *args, fsdp_plugin=fsdp_plugin, deepspeed_plugin=deepspeed_plugin, **options)
        if fsdp_plugin is not None:
            self.fsdp_plugin, self.distributed_type = fsdp_plugin, DistributedType.FSDP
        if deepspeed_plugin is not None:
            deepspeed_plugin.set_mixed_precision("no")
            deepspeed_plugin.select(_from_accelerator_state=True)
            self.deepspeed_plugins, self.distributed_type = deepspeed_plugin, DistributedType.DEEPSPEED
        PartialState._shared_state["distributed_type"] = self.distributed_type

    AcceleratorState.__init__ = init


def note_steps(folder: Path) -> None:
    """Write what this process saw: whether images were whole, answer tokens, models and its share of their weights."""
    from pixelprune.training import SFTTrainer

    stock, notes = SFTTrainer.training_step, {"whole": [], "answers": []}

    def training_step(self: Any, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        notes["whole"].append(bool((inputs["image_map"] >= 0).all()))
        notes["answers"].append(int((inputs["labels"][:, 1:] != -100).sum()))
        models = [model, self.teacher] if getattr(self, "teacher", None) is not None else [model]
        notes["models"] = [[type(one).__name__, held(one)] for one in models]
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

        # Processes have different numbers of chunks.
        distillation.CHUNK = 1
        shard_on_cpus()
        note_steps(Path(folder))
        sys.argv = ["pixelprune", "train", *arguments]
        code: Any = 0
        try:
            command()
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        # torch 2.14 sometimes aborts while the interpreter ends, where FSDP's groups of gloo still have threads.
        os._exit(int(code or 0))


if __name__ == "__main__":
    main()
