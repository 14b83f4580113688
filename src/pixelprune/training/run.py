"""What `pixelprune train` does: from options to a trained model in a folder."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig, TrlParser, get_peft_config, get_quantization_config
from yaml import YAMLError  # type: ignore[import-untyped]

from pixelprune._checkpoints import check_checkpoint
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.errors import OptionError
from pixelprune.training.config import SelfDistillationConfig, SFTConfig
from pixelprune.training.distillation import SelfDistillationTrainer
from pixelprune.training.rows import as_messages, load_rows
from pixelprune.training.trainer import SFTTrainer
from pixelprune.transformers import enable


@dataclass
class Data:
    """What to learn from."""

    data: str | None = None  # checked together with the model
    image_folder: str | None = None
    eval_data: str | None = None


@dataclass
class Student(ModelConfig):
    """TRL's options of a model, and a short name for its checkpoint."""

    model: str | None = None


@dataclass
class Teacher:
    """The other side of distillation; None: the model before training."""

    teacher: str | None = None


class Options(NamedTuple):
    """All options of one run."""

    data: Data
    prune: PruneConfig
    student: Student
    config: SFTConfig
    teacher: Teacher


def read_arguments(arguments: list[str], method: str, texts: Mapping[str, str | None]) -> Options:
    """The options on the command line, and in a file named by --config.

    Args:
        arguments: as typed.
        method: "sft" or "distill".
        texts: help of options that have none in TRL or in `pixelprune.training`, by name.

    Raises:
        ValueError: an option is unknown or has a value that it cannot have, or the file cannot be read.
    """
    kinds: list[Any] = [Data, PruneConfig, Student]
    kinds += [SFTConfig] if method == "sft" else [SelfDistillationConfig, Teacher]
    parser = _Parser(
        kinds, prog=f"pixelprune train {method}", usage="%(prog)s [OPTIONS]", allow_abbrev=False, add_help=False
    )
    parser.add_argument("--help-all", action="help", help="Show this list and exit.")
    for action in parser._actions:
        action.help = action.help or texts.get(action.dest)
        # In help and errors; with underscores, options work as well.
        action.option_strings = [name for name in action.option_strings if "_" not in name]
    try:
        data, prune, student, config, *rest = parser.parse_args_and_config(
            _as_trl_reads(arguments), return_remaining_strings=True
        )
    except YAMLError as error:
        raise ValueError(f"the file of --config is not valid YAML: {' '.join(str(error).split())}") from None
    except TypeError as error:  # only a file has values of any type
        raise ValueError(f"the file of --config has a name or a value of the wrong type: {error}") from None
    remaining = rest.pop()
    if unknown := [text for text in remaining if text.startswith("-")]:
        raise ValueError(_unknown(unknown[0], parser))
    if remaining:
        raise ValueError(f"unexpected argument {remaining[0]!r}; all options begin with --")
    student.model = student.model or student.model_name_or_path
    needed = {"the checkpoint to start from (--model)": student.model, "the training data (--data)": data.data}
    if absent := [name for name, value in needed.items() if not value]:
        raise ValueError(f"missing: {' and '.join(absent)}")
    return Options(data, prune, student, config, rest[0] if rest else Teacher())


class _Parser(TrlParser):
    """TRL's parser, but it raises instead of printing, and a file may have dashes and is checked like arguments."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)

    def set_defaults_with_config(self, **options: Any) -> list[str]:
        numbers = {action.dest for action in self._actions if action.type in (int, float) and action.nargs is None}
        values = {name.replace("-", "_"): value for name, value in options.items()}
        # argparse checks defaults that are text.
        text = {name: str(value) for name, value in values.items() if name in numbers and value is not None}
        remaining: list[str] = super().set_defaults_with_config(**{**values, **text})
        return remaining


def _as_trl_reads(arguments: list[str]) -> list[str]:
    """`--config=FILE` as two words: TRL looks for --config alone, and for the file behind it."""
    words = [part for word in arguments for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if words[-1:] == ["--config"]:
        raise OptionError("config", "needs the name of a YAML file")
    return words


def _unknown(option: str, parser: Any) -> str:
    known = [name for action in parser._actions for name in action.option_strings]
    if option.lstrip("-") in ("alpha", "temperature", "teacher"):
        return f"{option} is an option of train distill"
    near = difflib.get_close_matches(option.replace("_", "-"), known, 1)
    return f"there is no option {option}; " + (f"did you mean {near[0]}?" if near else "--help-all lists all options")


def train(options: Options, method: str) -> None:
    """Train, and write the model (or its adapter) and the processor to `options.config.output_dir`.

    Raises:
        ValueError, OSError, ImportError: model, data or an option cannot be used; the text says why.
    """
    data, prune, student, config, teacher = options
    checkpoint, path = _checkpoint(config), str(student.model)
    for option, name in (("model", path), ("teacher", teacher.teacher or path)):
        check_checkpoint(option, name, others=("adapter_config.json",))
    rows = load_rows(str(data.data), data.image_folder)
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
    with _refusing():  # transformers is too old or too new for this model
        enable(model, processor, prune)
    if not (student.lora_target_modules or student.lora_target_parameters):
        student.lora_target_modules = "all-linear"  # what --use_peft alone means
    more: dict[str, Any] = {"peft_config": get_peft_config(student)}
    if method == "distill" and teacher.teacher is not None:
        more["teacher"] = _loaded(teacher.teacher, student, config)
    kind = SFTTrainer if method == "sft" else SelfDistillationTrainer
    with _refusing():  # such as a tracker that is not installed
        trainer = kind(model, config, rows, held_out, processing_class=processor, **more)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(config.output_dir)
    trainer.end()


@contextmanager
def _refusing() -> Iterator[None]:
    """Make a RuntimeError about what is installed a ValueError, which the command prints as one line."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(str(error)) from None


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
    """Where to resume from: a path, or the last checkpoint in the output folder if the option says "true"."""
    wanted: str | None = config.resume_from_checkpoint
    if wanted is None or wanted.lower() in ("false", "no"):
        return None
    if wanted.lower() not in ("true", "last"):
        return wanted
    last: str | None = get_last_checkpoint(config.output_dir) if Path(config.output_dir).is_dir() else None
    if last is None:
        raise OptionError("resume_from_checkpoint", f"is {wanted}, but there is no checkpoint in {config.output_dir}")
    return last
