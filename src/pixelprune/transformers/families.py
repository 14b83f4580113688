"""The model families that can be pruned: what differs between them, one short entry each."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import transformers
from packaging.version import InvalidVersion, Version

from pixelprune.selection._registry import Registry
from pixelprune.selection.errors import check_name, not_one_of

_CHOICES = {"patch_order": ("block", "row"), "positions": ("mrope", "1d")}


@dataclass(frozen=True)
class Family:
    """How models of one `config.model_type` lay out an image.

    Attributes:
        name: the `model_type`.
        tower: name of the vision encoder within the base model.
        merge: name of m within the vision config; a pair counts as its first number.
        patch_order: order of the patches that the processor makes: "block" (block after block) or
            "row" (row by row).
        regrouped: whether the encoder cuts the blocks out of the patches itself, by the grid.
        sizes_first: whether the encoder reads true sizes from the grid as well as lengths.
        positions: language-model positions: "mrope" (three axes, after `get_rope_index`) or "1d".
        transposed_table: whether the encoder's position table has width before height.
        since: the first version of transformers in which the family passes the conformance suite.
        until: the first later version in which it no longer does; None if there is none.

    Raises:
        ValueError: a field has a value that it cannot have.

    Example:
        >>> Family("my_vl", tower="vision_tower", positions="1d").patch_order
        'block'
    """

    name: str
    tower: str = "visual"
    merge: str = "spatial_merge_size"
    patch_order: str = "block"
    regrouped: bool = False
    sizes_first: bool = False
    positions: str = "mrope"
    transposed_table: bool = False
    since: str = "5.18.0"
    until: str | None = None

    def __post_init__(self) -> None:
        for argument in ("name", "tower", "merge"):
            check_name(getattr(self, argument), argument)
        for argument, known in _CHOICES.items():
            if getattr(self, argument) not in known:
                raise not_one_of(argument, getattr(self, argument), known)
        for argument in (field.name for field in fields(self) if field.type == "bool"):
            if not isinstance(getattr(self, argument), bool):
                raise ValueError(f"{argument} must be True or False, got {getattr(self, argument)!r}")
        since = _version("since", self.since)
        if self.until is not None and _version("until", self.until) <= since:
            raise ValueError(f"until must be a later version than since ({self.since}), got {self.until!r}")

    def merge_size(self, model: Any, image_merge_sizes: Any = None) -> int:
        """m of this model; `image_merge_sizes` wins where the model takes it as an input."""
        if image_merge_sizes is not None:
            return int(image_merge_sizes[0])
        size = getattr(model.config.vision_config, self.merge, None)
        if size is None:
            raise ValueError(
                f"image_merge_sizes is missing; models of {self.name} need it, so pass everything "
                "that their processor returns"
            )
        return int(size if isinstance(size, int) else size[0])


def _version(argument: str, text: Any) -> Version:
    try:
        return Version(text)
    except (InvalidVersion, TypeError):
        raise ValueError(f"{argument} must be a version such as '5.18.0', got {text!r}") from None


_registry = Registry(
    "model family",
    option="family",
    where="pixelprune.transformers",
    built_in=(
        Family("qwen2_vl"),
        Family("qwen2_5_vl"),
        Family("qwen3_vl"),
        Family("qwen3_vl_moe"),
        Family("qwen3_5"),
        Family("qwen3_5_moe"),
        Family("qwen4_exp", since="5.23.0"),
        Family("qwen2_5_omni_thinker"),
        Family("qwen3_omni_moe_thinker"),
        Family("cohere_compass"),
        Family("cosmos3_omni"),
        Family("glm4v", sizes_first=True),
        Family("glm4v_moe", sizes_first=True),
        Family("glm46v", sizes_first=True),
        Family("glm_ocr"),
        Family("glm5_next", positions="1d"),
        Family("paddleocr_vl", patch_order="row", regrouped=True, since="5.21.0"),
        Family("ernie4_5_vl_moe", tower="vision_tower"),
        Family("video_llama_3", tower="vision_model", positions="1d"),
        Family("exaone4_5", positions="1d"),
        Family("hyperclovax_vision_v2", tower="vision_model", positions="1d"),
        Family("dots3_note", tower="vision_tower", positions="1d"),
        Family("kimi_k25", tower="vision_tower", merge="merge_kernel_size", patch_order="row", positions="1d"),
        Family(
            "muse_glimmer",
            tower="vision_tower",
            merge="merge_size",
            patch_order="row",
            positions="1d",
            # Before, its table was looked up with height first.
            transposed_table=Version(transformers.__version__) >= Version("5.24.0"),
        ),
        Family(
            "muse_spark",
            tower="vision_tower",
            merge="merge_size",
            patch_order="row",
            positions="1d",
            transposed_table=True,
        ),
        Family("minimax_m3_vl", tower="vision_tower", positions="1d", since="5.23.0"),
    ),
)


def names() -> list[str]:
    """The `model_type` of every family that can be pruned, built-in ones first."""
    return _registry.names()


def get(name: str) -> Family:
    """The family whose `model_type` is `name`.

    Raises:
        OptionError: there is none; the text lists the known ones.
    """
    return _registry.get(name)


def register(family: Family) -> None:
    """Add a family; `enable` then takes models of its `model_type`.

    Run the conformance suite on it before you trust it: docs/transformers.md says how.

    Raises:
        ValueError: `family` is not a Family, or its name is taken; a built-in family cannot be replaced.

    Example:
        >>> register(Family("my_vl"))
        >>> names()[-1]
        'my_vl'
        >>> unregister("my_vl")
    """
    if not isinstance(family, Family):
        raise ValueError(f"family must be a Family, got {family!r}")
    _registry.register(family)


def unregister(name: str) -> None:
    """Remove a family that was added with `register`.

    Raises:
        ValueError: `name` is unknown or built in.
    """
    _registry.unregister(name)


def family_of(model: Any) -> Family:
    """The family of a model.

    Raises:
        ValueError: there is none; the text says how to add one.
    """
    model_type = getattr(model.config, "model_type", None)
    if model_type in names():
        return get(model_type)
    hint = ""
    if hasattr(model, "thinker"):
        hint = " For an omni model, enable the part that reads images, model.thinker, and generate with that."
    raise ValueError(
        f"model has model_type {model_type!r}, which pixelprune does not know.{hint} "
        f"Known: {', '.join(names())}. To add one, describe it with pixelprune.transformers.Family and "
        "pass it to pixelprune.transformers.register; docs/transformers.md says how to check it"
    )
