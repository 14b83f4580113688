"""What is said of a checkpoint before anything heavy looks for it."""

from __future__ import annotations

from pathlib import Path

from pixelprune.selection.errors import OptionError


def check_checkpoint(option: str, name: str, *, others: tuple[str, ...] = ()) -> None:
    """Raise an OptionError unless `name` is a folder that holds a checkpoint, or can be a name on the Hub.

    Args:
        option: what `name` was given for, such as "model".
        name: as given.
        others: names or suffixes of files that may stand in for config.json.

    Example:
        >>> check_checkpoint("model", "Qwen/Qwen3-VL-2B-Instruct")
        >>> check_checkpoint("model", "./none")
        Traceback (most recent call last):
            ...
        pixelprune.selection.errors.OptionError: model must be a folder with a config.json, as save_pretrained writes \
it, or a name on the Hugging Face Hub, got ./none, which does not exist
    """
    path = Path(name)
    if path.is_dir():
        found = any((path / file).exists() for file in ("config.json", *others))
        what = "" if found else "a folder without one"
    elif path.is_file():
        what = "" if path.suffix in others else "a file"
    else:
        what = "which does not exist" if path.is_absolute() or name.startswith(".") else ""
    if what:
        raise OptionError(
            option,
            "must be a folder with a config.json, as save_pretrained writes it, or a name on the Hugging Face Hub, "
            f"got {name}, {what}",
        )
