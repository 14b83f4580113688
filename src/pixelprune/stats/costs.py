"""What a model computes and stores for an image, counted from its config: no weights, no framework.

Floating-point operations are those of matrix products and of attention, two for each multiplication with its
addition, as torch's counter counts them. Attention is quadratic, so costs are summed image by image; a mean number of
tokens would give too little.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixelprune.selection.errors import OptionError, not_one_of

Section = Mapping[str, Any]

# Bytes of a number in the KV cache: 16 bits.
_BYTES = 2


@dataclass(frozen=True)
class Encoder:
    """Sizes of a vision encoder.

    Attributes:
        patch, merge: P and m.
        embedding: weights that embed a patch.
        depth: layers.
        hidden: width.
        layer: weights of a layer.
        merging: weights that make a token of m² patches, those for inner layers of the language model included.
        window: side of the windows that attention is confined to, in blocks; 0: none.
        full: layers whose attention has no windows.
    """

    patch: int
    merge: int
    embedding: int
    depth: int
    hidden: int
    layer: int
    merging: int
    window: int
    full: int

    @property
    def block(self) -> int:
        """B, side of a block in pixels."""
        return self.patch * self.merge

    def flops(self, blocks: int, windows: int = 0) -> int:
        """Operations for an image of which `blocks` blocks are computed.

        Args:
            blocks: N, or K if the others are pruned.
            windows: sum of the squares of the blocks computed in each window; counts only if there are windows.
        """
        patches = self.merge**2
        weights = patches * (self.embedding + self.depth * self.layer) + self.merging
        pairs = patches**2 * (self.full * blocks**2 + (self.depth - self.full) * windows)
        return 2 * blocks * weights + 4 * self.hidden * pairs


@dataclass(frozen=True)
class Language:
    """Sizes of a language model.

    Attributes:
        layers: how many.
        queries: width of all heads of queries together.
        keys: width of all heads of keys together.
        weights: what one token is multiplied with in all layers; of experts, those that are active.
    """

    layers: int
    queries: int
    keys: int
    weights: int

    def flops(self, tokens: int) -> int:
        """Operations to read `tokens` tokens in one go; the output head is left out."""
        return 2 * tokens * self.weights + 2 * self.layers * self.queries * tokens**2

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of the KV cache, in 16 bits."""
        return 2 * _BYTES * self.layers * self.keys * tokens


@dataclass(frozen=True)
class Costs:
    """What one image costs: operations of the encoder and of the language model, and bytes of its KV cache."""

    vision_flops: int = 0
    language_flops: int = 0
    kv_bytes: int = 0

    def __add__(self, other: Costs) -> Costs:
        mine, theirs = asdict(self), asdict(other)
        return Costs(**{name: mine[name] + theirs[name] for name in mine})


@dataclass(frozen=True)
class Geometry:
    """Sizes of a vision-language model, from its config.

    Example:
        >>> text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        >>> vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "patch_size": 16, "spatial_merge_size": 2}
        >>> vision |= {"out_hidden_size": 64, "deepstack_visual_indexes": [0]}
        >>> config = {"model_type": "qwen3_vl", "vision_config": vision}
        >>> geometry = Geometry.of({**config, "text_config": {**text, "num_key_value_heads": 2}})
        >>> full, pruned = geometry.costs(1961, 1961), geometry.costs(965, 965)
        >>> round(pruned.kv_bytes / full.kv_bytes, 2), round(pruned.vision_flops / full.vision_flops, 2)
        (0.49, 0.26)
    """

    model_type: str
    encoder: Encoder
    language: Language

    @classmethod
    def of(cls, config: Section) -> Geometry:
        """Read a config as transformers writes it.

        Raises:
            OptionError: it is of a model whose operations are not counted, or a size is missing.
        """
        model_type = config.get("model_type")
        if model_type not in _FAMILIES:
            raise not_one_of("model_type", model_type, _FAMILIES)
        vision = config.get("vision_config")
        if not isinstance(vision, Mapping):
            raise OptionError(
                "vision_config", f"must be an object, got {vision!r}", "pass the config of the whole model"
            )
        with _named("vision_config"):
            encoder = _FAMILIES[model_type](vision)
        # Older configs have the sizes of the language model at the top.
        text = config.get("text_config")
        with _named("text_config"):
            language = _language(text if isinstance(text, Mapping) else config, experts=model_type in _WITH_EXPERTS)
        return cls(model_type, encoder, language)

    def costs(self, blocks: int, tokens: int, windows: int = 0) -> Costs:
        """Costs of an image of which the encoder computes `blocks` and the language model gets `tokens`.

        Args:
            blocks, windows: as for `Encoder.flops`.
            tokens: L.
        """
        encoder = self.encoder.flops(blocks, windows)
        return Costs(encoder, self.language.flops(tokens), self.language.kv_bytes(tokens))


def read_geometry(path: Path) -> Geometry:
    """The geometry in a config.json, or in a folder with one.

    Raises:
        OptionError: there is none, or it is of a model whose operations are not counted.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionError("config", f"must be a config.json or its folder, got {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise OptionError("config", f"must be a JSON file, got {path}, which is not one") from None
    try:
        if not isinstance(config, dict):
            raise OptionError("the content", f"must be an object, got {type(config).__name__}")
        return Geometry.of(config)
    except OptionError as error:
        hint = "leave --config out to get all but the operations"
        raise OptionError("config", f"cannot be used: in {file}, {error}", hint) from None


@contextmanager
def _named(section: str) -> Iterator[None]:
    """Say in which section of the config an entry is wrong."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{section}.{error.option}", error.problem, error.hint) from None


def _size(section: Section, *names: str, default: int | None = None) -> int:
    """The first of these entries that a section has."""
    for name in names:
        value = section.get(name)
        if value is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise OptionError(name, f"must be a whole number of at least 1, got {value!r}")
            return value
    if default is None:
        raise OptionError(names[0], "must be given, got nothing")
    return default


def _places(section: Section, name: str) -> int:
    """How many layers a list names."""
    value = section.get(name)
    if not isinstance(value, list):
        raise OptionError(name, f"must be a list of layers, got {value!r}")
    return len(set(value))


def _encoder(
    vision: Section,
    *,
    width: str = "hidden_size",
    mlp: int,
    out: int,
    mergers: int = 1,
    window: int = 0,
    full: int = -1,
) -> Encoder:
    hidden, patch, merge = _size(vision, width), _size(vision, "patch_size"), _size(vision, "spatial_merge_size")
    channels = _size(vision, "in_channels", "in_chans", default=3)
    depth = _size(vision, "depth")
    merged = hidden * merge**2
    return Encoder(
        patch=patch,
        merge=merge,
        embedding=channels * _size(vision, "temporal_patch_size", default=2) * patch**2 * hidden,
        depth=depth,
        hidden=hidden,
        layer=4 * hidden**2 + mlp,
        merging=mergers * (merged**2 + merged * out),
        window=window,
        full=depth if full < 0 else full,
    )


def _qwen2_vl(vision: Section) -> Encoder:
    width, ratio = _size(vision, "embed_dim"), vision.get("mlp_ratio", 4)
    return _encoder(vision, width="embed_dim", mlp=2 * width * int(width * ratio), out=_size(vision, "hidden_size"))


def _qwen2_5_vl(vision: Section) -> Encoder:
    gated = 3 * _size(vision, "hidden_size") * _size(vision, "intermediate_size")
    window = _size(vision, "window_size") // (_size(vision, "patch_size") * _size(vision, "spatial_merge_size"))
    full = _places(vision, "fullatt_block_indexes")
    return _encoder(vision, mlp=gated, out=_size(vision, "out_hidden_size"), window=window, full=full)


def _qwen3_vl(vision: Section) -> Encoder:
    mlp = 2 * _size(vision, "hidden_size") * _size(vision, "intermediate_size")
    mergers = 1 + _places(vision, "deepstack_visual_indexes")
    return _encoder(vision, mlp=mlp, out=_size(vision, "out_hidden_size"), mergers=mergers)


# Each is compared with torch's counter on a model of its family.
_FAMILIES = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl,
}
_WITH_EXPERTS = {"qwen3_vl_moe"}


def model_types() -> list[str]:
    """The `model_type` of the configs that can be read."""
    return [*_FAMILIES]


def _language(text: Section, *, experts: bool) -> Language:
    hidden, layers = _size(text, "hidden_size"), _size(text, "num_hidden_layers")
    heads = _size(text, "num_attention_heads")
    head = _size(text, "head_dim", default=hidden // heads)
    queries, keys = heads * head, _size(text, "num_key_value_heads", default=heads) * head
    if other := set(text.get("layer_types") or ()) - {"full_attention"}:
        raise OptionError("layer_types", f"must be full_attention, which is counted, got {', '.join(sorted(other))}")
    mlps = sum(_experts(text, hidden, layer) if experts else _dense(text, hidden) for layer in range(layers))
    return Language(layers, queries, keys, layers * hidden * (2 * queries + 2 * keys) + mlps)


def _dense(text: Section, hidden: int) -> int:
    return 3 * hidden * _size(text, "intermediate_size")


def _experts(text: Section, hidden: int, layer: int) -> int:
    """Weights that one token is multiplied with in a layer: the router and the active experts, or a dense MLP."""
    step = _size(text, "decoder_sparse_step", default=1)
    if layer in text.get("mlp_only_layers", []) or (layer + 1) % step:
        return _dense(text, hidden)
    active = _size(text, "num_experts_per_tok") * 3 * _size(text, "moe_intermediate_size")
    return hidden * (active + _size(text, "num_experts", "num_local_experts"))
