"""`pixelprune train`: fine-tune and distil on pruned inputs, with all options of TRL."""

from __future__ import annotations

import logging
import sys
import warnings
from importlib.util import find_spec
from typing import Any, NoReturn

import typer

from pixelprune.cli import EXIT_INPUT
from pixelprune.cli import _common as common

app = typer.Typer(no_args_is_help=True, help="Fine-tune a model on pruned inputs, or distil it from itself.")

_COMMON = "\n\n".join(
    [
        "[bold]--model[/] PATH  checkpoint to start from",
        "[bold]--data[/] PATH  JSON Lines with a row a line, or a data set that the datasets library reads: messages, "
        "or prompt and completion, or conversations with <image>; and images",
        "[bold]--output_dir[/] PATH  where checkpoints and the trained model go",
        "[bold]--threshold --metric --predictor --max_tokens --max_threshold[/]  what to prune, as everywhere",
        "[bold]--on_bad_row[/] stop|skip  what to do where rows cannot be trained on",
        "[bold]--config[/] FILE.yaml  any of these options from a file; those of the command line count more",
        "Often wanted: --learning_rate --num_train_epochs --per_device_train_batch_size --gradient_accumulation_steps "
        "--use_peft --lora_r --dtype --attn_implementation --eval_data --save_steps --resume_from_checkpoint. "
        "[bold]--help-all[/] lists every option, those of TRL among them.",
        "Several processes: [bold]accelerate launch -m pixelprune train …[/]",
    ]
)
_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.callback()
def _train() -> None:
    pass


@app.command("sft", context_settings=_SETTINGS, epilog=_COMMON)
def sft(context: typer.Context) -> None:
    """Supervised fine-tuning with TRL: the model learns from pruned inputs."""
    _run(context.args, "sft")


@app.command("distil", context_settings=_SETTINGS, epilog=_COMMON)
def distil(context: typer.Context) -> None:
    """Self-distillation: the model learns to answer pruned inputs as it answers whole ones.

    Options of its own: --alpha weighs the labels (1 is plain fine-tuning, 0 pure distillation), --temperature divides
    the logits, and --teacher names another checkpoint than the model itself.
    """
    _run(context.args, "distil")


def _run(arguments: list[str], method: str) -> None:
    for name in ("trl", "peft", "transformers"):
        if not find_spec(name):
            common.print_error(f"{name} is not installed; pip install 'pixelprune[training]'")
            raise typer.Exit(EXIT_INPUT)
    from pixelprune.training.run import read_arguments, train

    # What TRL asks of transformers by an old name is nothing that a user of this command could change.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl")
    logging.getLogger("pixelprune").addHandler(_Lines())
    try:
        asked = read_arguments(arguments, method, on_error=_refuse_line)
        train(*asked, method)
    except (ValueError, OSError) as error:
        if _is_main_process():
            _refuse(error)
        raise typer.Exit(EXIT_INPUT) from None
    if _is_main_process():
        common.out.print(f"Trained; saved in {common.printable(str(asked[2].output_dir))}")


def _refuse(error: Exception) -> None:
    """The first line as every command says it, and the rows below."""
    first, *rows = common.describe(error).split("\n")
    common.print_error(common.as_typed(first))
    for row in rows:
        common.err.print(common.printable(row), soft_wrap=True)


class _Lines(logging.Handler):
    """Warnings of the library, on the error stream."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().split("\n"):
            common.err.print(common.printable(line), soft_wrap=True)


def _refuse_line(text: str) -> NoReturn:
    common.print_error(text)
    sys.exit(EXIT_INPUT)


def _is_main_process() -> bool:
    from accelerate import PartialState

    main: Any = PartialState().is_main_process
    return bool(main)
