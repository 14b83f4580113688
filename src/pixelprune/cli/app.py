"""The commands put together."""

from __future__ import annotations

import warnings

import typer

import pixelprune
from pixelprune.cli import bench, check, show, stats, train, verify

# Pillow's decoders warn about oddities of files that they read anyway.
warnings.filterwarnings("ignore", module=r"PIL\.")

app = typer.Typer(
    name="pixelprune",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Drop the redundant blocks of an image before a vision-language model sees it.\n\n"
        "Start with [bold]pixelprune show page.png[/bold]: how many visual tokens your file would save, "
        "and a picture of what is kept."
    ),
    epilog=(
        "Exit codes: 0 success; 1 a proposition does not hold, or a server would not prune; 2 an option or a file "
        "could not be used (all other files are still processed); 130 interrupted."
    ),
)
app.command("show")(show.show)
app.command("stats")(stats.stats)
app.command("verify")(verify.verify)
app.add_typer(bench.app, name="bench")
app.add_typer(check.app, name="check")
app.add_typer(train.app, name="train")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pixelprune {pixelprune.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    pass
