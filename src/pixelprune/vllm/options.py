"""What an engine and a request ask for: read from the options of vLLM, checked, resolved."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pixelprune import __version__
from pixelprune.selection.config import PruneConfig, resolve
from pixelprune.selection.errors import OptionError

# The one key that holds all options, wherever they are given.
KEY = "pixelprune"
# An option of the engine only: whether it may prune in a version of vLLM that was not tested.
UNTESTED = "untested"
_NAMES = {field.name for field in fields(PruneConfig)} | {UNTESTED}

# Raised when the same options lead to other pixels; part of the key of an image in vLLM's caches.
_REVISION = 2


def engine_options(model_config: Any) -> Any:
    """What the engine was started with: a dict of options, True, False, or None if nothing was given.

    Raises:
        ValueError: it is given in two places that differ, in a wrong place, or under a misspelled name.
    """
    in_config = getattr(model_config.hf_config, KEY, None)
    for_processor = getattr(model_config.multimodal_config, "mm_processor_kwargs", None) or {}
    overrides = getattr(model_config, "hf_overrides", None)
    check_names(for_processor)
    check_names(overrides if isinstance(overrides, Mapping) else {})
    in_processor = for_processor.get(KEY)
    if in_config is not None and in_processor is not None and in_config != in_processor:
        raise ValueError(
            f"{KEY} is {in_config!r} in --hf-overrides and {in_processor!r} in --mm-processor-kwargs; "
            "leave one of them out"
        )
    return in_processor if in_config is None else in_config


def is_asked(model_config: Any) -> bool:
    """Whether the engine was started with pruning on, or ready for requests that enable it."""
    try:
        return engine_options(model_config) is not None
    except ValueError:
        return True


def publish(model_config: Any) -> bool:
    """Put the options of the engine where vLLM looks when it names compiled code, `hf_config`; whether there are any.

    Raises:
        ValueError: as `engine_options`.
    """
    options = engine_options(model_config)
    if options is not None:
        setattr(model_config.hf_config, KEY, options)
    return options is not None


def engine_config(model_config: Any) -> PruneConfig | None:
    """The options of requests without options; None: every block is kept.

    Raises:
        ValueError: an option is unknown or out of its range.
    """
    options = engine_options(model_config)
    may_be_untested(model_config)  # refuses another value than true or false
    if isinstance(options, Mapping):
        options = {name: value for name, value in options.items() if name != UNTESTED}
    return _resolve(options, None)


def may_be_untested(model_config: Any) -> bool:
    """Whether the engine was started with permission to prune in a version of vLLM that was not tested.

    Raises:
        ValueError: the permission is neither true nor false; or as `engine_options`.
    """
    options = engine_options(model_config)
    value = options.get(UNTESTED, False) if isinstance(options, Mapping) else False
    if not isinstance(value, bool):
        raise ValueError(f"{KEY}: {UNTESTED} must be true or false, got {value!r}")
    return value


def announcement(model_config: Any, architecture: str) -> str | None:
    """One line for the log about what the engine was started with; None if nothing was requested."""
    if not is_asked(model_config):
        return None
    config = engine_config(model_config)
    if config is None:
        return f"pixelprune {__version__} is off by default for {architecture}; requests can enable it"
    options = ", ".join(f"{name}={value}" for name, value in config.to_dict().items() if value is not None)
    return f"pixelprune {__version__} prunes images for {architecture}: {options}"


def split(kwargs: Mapping[str, Any], config: PruneConfig | None) -> tuple[PruneConfig | None, dict[str, Any]]:
    """The resolved options of a request, and what is left of its `mm_processor_kwargs` for the stock processor.

    Raises:
        ValueError: an option is unknown, out of its range or only for engines, or the key is misspelled.

    Example:
        >>> split({"pixelprune": {"threshold": 0.02}, "fps": 2}, None)[1]
        {'fps': 2}
        >>> split({"pixelprune": False}, PruneConfig())[0] is None
        True
    """
    rest = dict(kwargs)
    requested = rest.pop(KEY, None)
    check_names(rest)
    if isinstance(requested, Mapping) and UNTESTED in requested:
        raise ValueError(
            f"{KEY}: {UNTESTED} is an option of the engine, not of a request; leave it out of the request, and start "
            f'the server with --hf-overrides \'{{"{KEY}": {{"{UNTESTED}": true}}}}\' if it is needed'
        )
    return _resolve(requested, config), rest


def check_names(options: Mapping[str, Any]) -> None:
    """Raise a ValueError for options that are meant for us but would be ignored, so that images stay unpruned.

    Example:
        >>> check_names({"pixel_prune": True})
        Traceback (most recent call last):
            ...
        ValueError: unknown option 'pixel_prune'; did you mean 'pixelprune'?
    """
    for name, value in options.items():
        if name == KEY:
            continue
        if name in _NAMES:
            raise ValueError(f'{name!r} is an option of {KEY}; write {{"{KEY}": {{"{name}": {value!r}}}}}')
        if difflib.get_close_matches(name.lower().replace("_", "").replace("-", ""), [KEY], cutoff=0.8):
            raise ValueError(f"unknown option {name!r}; did you mean {KEY!r}?")
        if isinstance(value, Mapping) and KEY in value:
            raise ValueError(f"{KEY!r} is nested inside {name!r}; move it up, next to {name!r}")


def _resolve(requested: Any, config: PruneConfig | None) -> PruneConfig | None:
    if requested is not None and not isinstance(requested, bool | Mapping):
        raise ValueError(f"{KEY} must be an object of options, true or false, got {requested!r}")
    try:
        return resolve(requested, config)
    except OptionError as error:
        # Read by people who send requests, not by those who write Python.
        raise ValueError(f"{KEY}: {error.worded(error.option)}") from None
    except ValueError as error:
        raise ValueError(f"{KEY}: {error}") from None


def fingerprint(config: PruneConfig) -> dict[str, Any]:
    """What distinguishes an image that was pruned with `config` in vLLM's caches."""
    return {"revision": _REVISION, **config.to_dict()}
