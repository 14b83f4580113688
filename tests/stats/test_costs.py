"""Costs by formula, against what torch counts when random models of each family run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pixelprune.bench._flops import counted_flops  # noqa: E402
from pixelprune.plan.token_map import TokenMap  # noqa: E402
from pixelprune.stats.costs import Costs, Geometry, model_types, read_geometry  # noqa: E402
from pixelprune.stats.images import window_squares  # noqa: E402
from pixelprune.transformers import families  # noqa: E402
from pixelprune.transformers.encoding import encode_images  # noqa: E402
from tests.support import tiny_models  # noqa: E402

# Rows and columns of blocks; windows of the tiny model are 2 x 2 blocks, so some are cut.
GRID = (7, 9)


def geometry_of(model: Any, folder: Path) -> Geometry:
    model.config.save_pretrained(folder)
    return read_geometry(folder)


@pytest.mark.parametrize("name", model_types())
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_encoder(name: str, share: float, tmp_path: Path) -> None:
    model = tiny_models.build(tiny_models.ALL[name], "sdpa")
    geometry = geometry_of(model, tmp_path)
    keep = np.random.default_rng(0).random(GRID) < share
    keep[0, 0] = True
    grid = torch.tensor([[1, 2 * GRID[0], 2 * GRID[1]]])
    blocks = int(keep.sum())
    pixels = torch.rand(4 * blocks, 3 * 2 * 4 * 4)
    image_map = torch.where(torch.tensor(keep.ravel()), torch.arange(keep.size), -1).int()

    def encode() -> None:
        if keep.all():
            model.base_model.get_image_features(pixels, grid, return_dict=True)
        else:
            tokens = TokenMap.of_grids(image_map, grid, merge=2)
            encode_images(model, families.get(name), pixels, grid, tokens, None)

    with torch.no_grad():
        counted = counted_flops(encode)
    assert geometry.encoder.flops(blocks, window_squares(keep, geometry.encoder.window)) == counted


@pytest.mark.parametrize("name", model_types())
@pytest.mark.parametrize("tokens", [16, 150])
def test_language_model(name: str, tokens: int, tmp_path: Path) -> None:
    # Torch does not count the product that computes all experts at once.
    model = tiny_models.build(tiny_models.ALL[name], "sdpa", experts_implementation="eager")
    geometry = geometry_of(model, tmp_path)
    language = model.base_model.language_model
    embedded = torch.rand(1, tokens, model.config.text_config.hidden_size)
    with torch.no_grad():
        output = language(inputs_embeds=embedded)
        counted = counted_flops(lambda: language(inputs_embeds=embedded))
    assert geometry.language.flops(tokens) == counted
    cache = output.past_key_values
    elements = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert geometry.language.kv_bytes(tokens) == 2 * elements


def test_flat_config_of_older_files() -> None:
    """The files of Qwen2-VL have the language model's sizes at the top, and other names for channels."""
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 4, "in_chans": 3, "num_heads": 2}
    vision |= {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
    text = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    text |= {"num_key_value_heads": 2}
    flat = Geometry.of({"model_type": "qwen2_vl", "vision_config": vision, **text})
    assert flat == Geometry.of({"model_type": "qwen2_vl", "vision_config": vision, "text_config": text})
    assert flat.language.kv_bytes(10) == 2 * 2 * 3 * 32 * 10
    assert flat.encoder.block == 28


def test_experts_in_some_layers_only(tmp_path: Path) -> None:
    def change(config: Any) -> None:
        config.text_config.decoder_sparse_step, config.text_config.mlp_only_layers = 2, [3]

    model = tiny_models.build(tiny_models.ALL["qwen3_vl_moe"], "sdpa", change, experts_implementation="eager")
    embedded = torch.rand(1, 20, 64)
    with torch.no_grad():
        counted = counted_flops(lambda: model.base_model.language_model(inputs_embeds=embedded))
    assert geometry_of(model, tmp_path).language.flops(20) == counted


def test_costs_add_up() -> None:
    assert Costs(1, 2, 3) + Costs(10, 20, 30) == Costs(11, 22, 33)


_OLD = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "patch_size": 14, "spatial_merge_size": 2}
_SLIDING = {"layer_types": ["full_attention", "sliding_attention"], "hidden_size": 64, "num_attention_heads": 4}
_OTHER = {"model_type": "qwen2_vl", "vision_config": _OLD, **_SLIDING, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "config must be a JSON file, got"),
        ("[]", "the content must be an object, got list"),
        (
            {"model_type": "llava"},
            "model_type must be one of 'qwen2_vl', 'qwen2_5_vl', 'qwen3_vl', 'qwen3_vl_moe', got",
        ),
        ({"model_type": "qwen3_vl"}, "vision_config must be an object, got None; pass the config of the whole model"),
        (
            {"model_type": "qwen3_vl", "vision_config": {"hidden_size": 0}},
            "vision_config.hidden_size must be a whole number of",
        ),
        (_OTHER, "text_config.layer_types must be full_attention, which is counted, got sliding_attention"),
        (
            {"model_type": "qwen3_vl", "vision_config": {"hidden_size": 8}},
            "vision_config.intermediate_size must be given, got nothing",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused(content: Any, said: str, tmp_path: Path) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config") as error:
        read_geometry(tmp_path)
    assert said in str(error.value)


def test_no_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config must be a config.json or its folder, got .*: No such file"):
        read_geometry(tmp_path)
