"""`pixelprune train`: fine-tune and self-distill on pruned inputs, with all options of TRL."""

from __future__ import annotations

import logging
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperOption

from pixelprune._extras import install, missing
from pixelprune.cli import EXIT_INPUT
from pixelprune.cli import _common as common
from pixelprune.selection.config import PruneConfig
from pixelprune.selection.errors import OptionError

app = typer.Typer(
    no_args_is_help=True, help="Train a model on pruned inputs: supervised fine-tuning or self-distillation."
)

# What TRL's parser reads is shown with these words, too.
Model = Annotated[
    str, typer.Option(metavar="PATH", help="Checkpoint to start from: a folder, or a name on the Hugging Face Hub.")
]
Data = Annotated[
    str,
    typer.Option(
        metavar="PATH",
        help="Training data: a JSON Lines file, one row per line, or a data set that the datasets library reads. Each "
        "row holds images, and messages, or prompt and completion, or conversations with <image>.",
    ),
]
OutputDir = Annotated[str, typer.Option(metavar="DIR", help="Folder for checkpoints and the trained model.")]
ImageFolder = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Folder that relative image paths start from; by default, the folder of the data."
    ),
]
EvalData = Annotated[str | None, typer.Option(metavar="PATH", help="Data to evaluate on, used with --eval-strategy.")]
OnBadRow = Annotated[
    str,
    typer.Option(
        metavar="stop|skip",
        help="What to do about rows that cannot be trained on: stop, or skip them. They are listed either way.",
    ),
]
UnprunedShare = Annotated[
    float, typer.Option(help="Share of the training rows (0 to 1) that are not pruned, drawn at random.")
]
# Several values, which TRL's parser reads: the type here is for the help alone.
Thresholds = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER ...",
        help="Values of τ, of which each training row that is pruned gets one at random; without --threshold.",
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="YAML file that sets any of these options; those on the command line take precedence.",
    ),
]
HelpAll = Annotated[bool, typer.Option("--help-all", help="Show all options, including those of TRL.")]
Alpha = Annotated[
    float, typer.Option(help="Weight of the labels in the loss: 1 is plain fine-tuning, 0 is pure distillation.")
]
Temperature = Annotated[float, typer.Option(help="Temperature that the logits of teacher and student are divided by.")]
Teacher = Annotated[
    str | None,
    typer.Option(
        metavar="PATH", help="Checkpoint of another teacher; by default, the model as it was before training."
    ),
]

_EPILOG = (
    "All options of TRL's SFTConfig and ModelConfig work, too. Frequently used: --learning-rate, --num-train-epochs, "
    "--per-device-train-batch-size, --gradient-accumulation-steps, --use-peft, --lora-r, --dtype, "
    "--attn-implementation, --save-steps, --resume-from-checkpoint. [bold]--help-all[/] lists them all.\n\n"
    "To train with several processes: [bold]accelerate launch -m pixelprune train sft ...[/]"
)


class _PassedOn(TyperCommand):
    """A command that declares options for its help alone, and passes all arguments on as they were typed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if {*args} & {*ctx.help_option_names}:
            return super().parse_args(ctx, ["--help"])
        ctx.args = args
        return args


@app.callback()
def _train() -> None:
    pass


@app.command("sft", cls=_PassedOn, epilog=_EPILOG)
def sft(
    context: typer.Context,
    model: Model,
    data: Data,
    output_dir: OutputDir = "trainer_output",
    image_folder: ImageFolder = None,
    eval_data: EvalData = None,
    on_bad_row: OnBadRow = "stop",
    threshold: common.Threshold = PruneConfig.threshold,
    metric: common.Metric = PruneConfig.metric,
    predictor: common.Predictor = PruneConfig.predictor,
    max_tokens: common.MaxTokens = PruneConfig.max_tokens,
    max_threshold: common.MaxThreshold = PruneConfig.max_threshold,
    restore: common.Restore = PruneConfig.restore,
    min_tokens: common.MinTokens = PruneConfig.min_tokens,
    unpruned_share: UnprunedShare = 0.0,
    thresholds: Thresholds = None,
    config: Config = None,
    help_all: HelpAll = False,
) -> None:
    """Supervised fine-tuning with TRL: the model learns from pruned inputs."""
    _run(context, "sft")


@app.command("distil", cls=_PassedOn, epilog=_EPILOG, hidden=True)
@app.command("distill", cls=_PassedOn, epilog=_EPILOG)
def distill(
    context: typer.Context,
    model: Model,
    data: Data,
    output_dir: OutputDir = "trainer_output",
    alpha: Alpha = 0.5,
    temperature: Temperature = 1.0,
    teacher: Teacher = None,
    image_folder: ImageFolder = None,
    eval_data: EvalData = None,
    on_bad_row: OnBadRow = "stop",
    threshold: common.Threshold = PruneConfig.threshold,
    metric: common.Metric = PruneConfig.metric,
    predictor: common.Predictor = PruneConfig.predictor,
    max_tokens: common.MaxTokens = PruneConfig.max_tokens,
    max_threshold: common.MaxThreshold = PruneConfig.max_threshold,
    restore: common.Restore = PruneConfig.restore,
    min_tokens: common.MinTokens = PruneConfig.min_tokens,
    unpruned_share: UnprunedShare = 0.0,
    thresholds: Thresholds = None,
    config: Config = None,
    help_all: HelpAll = False,
) -> None:
    """Self-distillation: the model learns to answer on pruned inputs as it does on full inputs."""
    _run(context, "distill")


def _run(context: typer.Context, method: str) -> None:
    if absent := missing("peft", "transformers", "trl"):
        common.print_error(f"this needs {', '.join(absent)}: {install('training')}")
        raise typer.Exit(EXIT_INPUT)
    from pixelprune.training.run import read_arguments, train

    # TRL uses deprecated names of transformers; users of this command cannot change that.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers|trl")
    logging.getLogger("pixelprune").addHandler(_Lines())
    try:
        texts = {option.name: option.help for option in context.command.params if isinstance(option, TyperOption)}
        options = read_arguments(context.args, method, texts)
        _check_used(options, context.args)
        train(options, method)
    except (ValueError, OSError, ImportError) as error:  # ImportError: an option needs another package
        if _is_main_process():
            _refuse(error)
        raise typer.Exit(EXIT_INPUT) from None
    if _is_main_process():
        common.out.print(f"Training finished; saved in {common.printable(str(options.config.output_dir))}")


def _check_used(options: Any, arguments: list[str]) -> None:
    """Raise an OptionError for an option that would do nothing."""
    typed = any(word.partition("=")[0].replace("_", "-") == "--max-threshold" for word in arguments)
    # A file of --config may set it, too.
    common.check_bound(options.prune, given=typed or options.prune.max_threshold != PruneConfig.max_threshold)
    if options.data.eval_data is not None and options.config.eval_strategy == "no" and not options.config.eval_on_start:
        problem = f"must come with --eval-strategy, got {options.data.eval_data} alone"
        raise OptionError("eval_data", problem, "add --eval-strategy epoch, or leave it out")


def _refuse(error: Exception) -> None:
    """The first line as every command prints it, and the rows below."""
    first, *rows = common.describe(error).split("\n")
    common.print_error(first)
    for row in rows:
        common.err.print(common.printable(row), soft_wrap=True)


class _Lines(logging.Handler):
    """Warnings of the library, on the error stream."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        for line in record.getMessage().split("\n"):
            common.err.print(common.printable(line), soft_wrap=True)


def _is_main_process() -> bool:
    from accelerate import PartialState

    main: Any = PartialState().is_main_process
    return bool(main)
