"""What `pixelprune train` does: from options to a trained model in a folder."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config

from pixelprune.selection.config import PruneConfig
from pixelprune.training.config import SelfDistillationConfig, SFTConfig
from pixelprune.training.distillation import SelfDistillationTrainer
from pixelprune.training.rows import as_messages, load_rows
from pixelprune.training.trainer import SFTTrainer
from pixelprune.transformers import enable


@dataclass
class Data:
    """What to learn from, and what to prune."""

    data: str = field(metadata={"help": "JSON Lines, or a data set that the datasets library reads."})
    image_folder: str | None = field(
        default=None, metadata={"help": "Where paths of images start; by default at the folder of the data."}
    )
    eval_data: str | None = field(default=None, metadata={"help": "Rows to evaluate on; see --eval_strategy."})
    threshold: float = field(
        default=PruneConfig.threshold, metadata={"help": "τ in [0, 1] of full scale; 0 drops equal pixels only."}
    )
    metric: str = field(default=PruneConfig.metric, metadata={"help": "How the distance of two blocks is measured."})
    predictor: str = field(
        default=PruneConfig.predictor, metadata={"help": "The rule that predicts a block from earlier ones."}
    )
    max_tokens: int | None = field(default=None, metadata={"help": "Visual tokens an image; raises τ as needed."})
    max_threshold: float = field(
        default=PruneConfig.max_threshold, metadata={"help": "How far max_tokens may raise τ."}
    )

    def prune_config(self) -> PruneConfig:
        return PruneConfig(**{name: getattr(self, name) for name in PruneConfig().to_dict()})


@dataclass
class Student(ModelConfig):
    """TRL's options of a model, and short names."""

    model: str | None = field(default=None, metadata={"help": "Checkpoint to start from, as --model_name_or_path."})


@dataclass
class Teacher:
    """The other side of distillation."""

    teacher: str | None = field(
        default=None, metadata={"help": "Checkpoint of another teacher than the model before training."}
    )


def read_arguments(
    arguments: list[str], method: str, on_error: Callable[[str], NoReturn]
) -> tuple[Data, Student, SFTConfig, Teacher]:
    """Options of the command line, and of a file named by --config.

    Args:
        arguments: as typed.
        method: "sft" or "distil".
        on_error: is handed one line about options that cannot be read.

    Raises:
        ValueError: an option has a value that it cannot have, or the file cannot be read.
    """
    kinds: list[Any] = [Data, Student, *([SFTConfig] if method == "sft" else [SelfDistillationConfig, Teacher])]
    parser = TrlParser(kinds, prog=f"pixelprune train {method}", allow_abbrev=False, add_help=False)
    parser.add_argument("--help-all", action="help", help="Show this list and exit.")
    # argparse would print every option that there is before the one line that matters.
    parser.error = on_error
    data, student, config, *rest = parser.parse_args_and_config(arguments, return_remaining_strings=True)
    if unknown := [text for text in rest.pop() if text.startswith("-")]:
        raise ValueError(_unknown(unknown[0], parser))
    student.model = student.model or student.model_name_or_path
    if student.model is None:
        raise ValueError("model is missing: name the checkpoint to start from")
    return data, student, config, rest[0] if rest else Teacher()


def _unknown(option: str, parser: Any) -> str:
    known = [name for action in parser._actions for name in action.option_strings]
    near = difflib.get_close_matches(option, known, 1)
    return f"there is no option {option}; " + (f"did you mean {near[0]}?" if near else "--help-all lists all")


def train(data: Data, student: Student, config: SFTConfig, teacher: Teacher, method: str) -> None:
    """Train, and write the model (or its adapter) and the processor to `config.output_dir`.

    Raises:
        ValueError, OSError: model or data cannot be used; the text says why.
    """
    prune, checkpoint, path = data.prune_config(), _checkpoint(config), str(student.model)
    for name in (path, teacher.teacher or path):
        if (Path(name).is_absolute() or name.startswith(".")) and not Path(name).is_dir():
            raise ValueError(f"there is no checkpoint folder {name}")
    rows = load_rows(data.data, data.image_folder)
    held_out = None if data.eval_data is None else load_rows(data.eval_data, data.image_folder)
    if held_out is not None and "messages" in {*rows.column_names, *held_out.column_names}:
        # One collator serves both.
        rows, held_out = as_messages(rows), as_messages(held_out)
    if "messages" in rows.column_names:
        config.assistant_only_loss = True
    processor = AutoProcessor.from_pretrained(
        path, revision=student.model_revision, trust_remote_code=config.trust_remote_code
    )
    model = _loaded(path, student, config)
    try:
        enable(model, processor, prune)
    except RuntimeError as error:  # transformers is too old or too new for this model
        raise ValueError(str(error)) from None
    if not (student.lora_target_modules or student.lora_target_parameters):
        student.lora_target_modules = "all-linear"  # what --use_peft alone means
    options: dict[str, Any] = {"peft_config": get_peft_config(student)}
    if method == "distil" and teacher.teacher is not None:
        options["teacher"] = _loaded(teacher.teacher, student, config)
    kind = SFTTrainer if method == "sft" else SelfDistillationTrainer
    trainer = kind(model, config, rows, held_out, processing_class=processor, **options)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(config.output_dir)
    trainer.end()


def _loaded(path: str, student: Student, config: SFTConfig) -> Any:
    return AutoModelForImageTextToText.from_pretrained(
        path,
        revision=student.model_revision if path == student.model else "main",
        trust_remote_code=config.trust_remote_code,
        attn_implementation=student.attn_implementation,
        dtype=student.dtype or "float32",
        quantization_config=get_quantization_config(student),
        **(config.model_init_kwargs or {}),
    )


def _checkpoint(config: Any) -> str | None:
    """What to go on from: a path, or the last checkpoint of the folder where "true" was asked for."""
    asked: str | None = config.resume_from_checkpoint
    if asked is None or asked.lower() in ("false", "no"):
        return None
    if asked.lower() not in ("true", "last"):
        return asked
    last: str | None = get_last_checkpoint(config.output_dir) if Path(config.output_dir).is_dir() else None
    if last is None:
        raise ValueError(f"resume_from_checkpoint: there is no checkpoint in {config.output_dir}")
    return last
